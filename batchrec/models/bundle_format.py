"""What stands in ``bundle.json``: which models a bundle holds, what they read, and the sum of every file."""

from __future__ import annotations

import unicodedata
from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    PositiveInt,
    StringConstraints,
    model_validator,
)

from batchrec.models.probes import Probes

FORMAT = 1

BUNDLE_FILE = "bundle.json"

HISTORY = "history"
"""Name of the query tower's input of item codes."""

RESERVED_INPUTS = frozenset({HISTORY, "item_code", "query_embedding", "item_embedding"})
"""Inputs of the models that training makes which are no features; no feature may be called so."""


def _inside(path: str) -> str:
    """Refuse a path that could leave the bundle's folder, or that is one of several ways to write a place in it."""
    pure = PurePosixPath(path)
    # Control characters would break an error's one line, and half of a surrogate pair has no bytes to open a file by.
    is_text = not any(unicodedata.category(letter) in {"Cc", "Cs"} for letter in path)
    if str(pure) != path or path == "." or pure.is_absolute() or ".." in pure.parts or "\\" in path or not is_text:
        raise ValueError("must be a plain relative path inside the bundle")
    if path == BUNDLE_FILE:
        raise ValueError(f"must not be {BUNDLE_FILE} itself")
    return path


InnerPath = Annotated[str, AfterValidator(_inside)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FeatureInput(_Strict):
    """One named model input that is filled from one feature.

    ``kind`` says how: ``categorical`` inputs get int32 codes by the vocabulary file (1 + place of the value, 0 for null
    and unknown values), ``dense`` inputs get ``(value - mean) / std`` as float32, 0 for null.
    """

    name: str
    view: str
    feature: str
    dtype: str
    kind: Literal["categorical", "dense"]
    vocabulary: InnerPath | None = None
    vocabulary_size: PositiveInt | None = None
    mean: FiniteFloat = 0.0
    std: Annotated[FiniteFloat, Field(gt=0)] = 1.0

    @model_validator(mode="after")
    def _vocabulary_where_categorical(self) -> Self:
        given = (self.vocabulary is not None, self.vocabulary_size is not None)
        if given != (self.kind == "categorical",) * 2:
            raise ValueError(
                f"input {self.name!r} is {self.kind}; categorical inputs, and no others, have a vocabulary and its size"
            )
        return self


class Seen(_Strict):
    """The feature that lists the items a user has seen, oldest first: the tower's history, and the anti-join's list."""

    view: str
    feature: str
    dtype: str


class QueryTowerFormat(_Strict):
    """The query tower: feature inputs (n,), ``history`` (n, L) int32 item codes, newest last, to (n, d) float32."""

    path: InnerPath
    inputs: tuple[FeatureInput, ...]
    history_length: PositiveInt

    @model_validator(mode="after")
    def _distinct_names(self) -> Self:
        _refuse_repeated([HISTORY, *(one.name for one in self.inputs)])
        return self


class RankerFormat(_Strict):
    """The ranker: inputs of one pair a row to relevance (B,) or (B, 1) float32.

    Besides features it may read the item's code (position + 1), the query embedding and the item embedding; each is
    given under the name that stands here, or not at all.
    """

    path: InnerPath
    user_inputs: tuple[FeatureInput, ...]
    item_inputs: tuple[FeatureInput, ...]
    item_code: str | None = None
    query_embedding: str | None = None
    item_embedding: str | None = None

    @model_validator(mode="after")
    def _distinct_names(self) -> Self:
        features = [one.name for one in (*self.user_inputs, *self.item_inputs)]
        others = (self.item_code, self.query_embedding, self.item_embedding)
        _refuse_repeated([*features, *(name for name in others if name is not None)])
        return self


class IndexFormat(_Strict):
    """The Faiss index, and how near it came to exact search.

    ``nprobe`` lists found the share ``recall`` of the exact top ``recall_at``, on average over ``queries`` real queries
    (0: there were none, and item embeddings stood in). ``deeper`` has the lists that find as much at greater depths.
    """

    path: InnerPath
    kind: str
    nprobe: PositiveInt
    recall: float = Field(ge=0, le=1)
    recall_at: PositiveInt
    queries: int = Field(ge=0)
    deeper: dict[PositiveInt, PositiveInt] = {}

    @property
    def probes(self) -> Probes:
        """Lists to probe by the depth of a search."""
        return Probes(self.nprobe, self.recall_at, self.deeper)


class BundleFormat(_Strict):
    """The whole of ``bundle.json``."""

    format: Literal[1]
    created_by: str
    trained_until: AwareDatetime
    embedding_dimension: PositiveInt
    metric: Literal["inner_product"]
    user_id_type: Literal["int64", "string"]
    item_id_type: Literal["int64", "string"]
    catalogue_size: PositiveInt
    seen: Seen
    query_tower: QueryTowerFormat
    ranker: RankerFormat
    index: IndexFormat | None = None
    figures: dict[str, FiniteFloat] = {}
    files: dict[InnerPath, Sha256]

    @property
    def feature_inputs(self) -> tuple[FeatureInput, ...]:
        """Every feature input of both models, users' first; one feature may stand here twice."""
        return (*self.query_tower.inputs, *self.ranker.user_inputs, *self.ranker.item_inputs)

    @property
    def models(self) -> tuple[str, str]:
        """Paths of query tower and ranker: a file, or the folder of a SavedModel."""
        return self.query_tower.path, self.ranker.path

    @model_validator(mode="after")
    def _one_meaning_a_name(self) -> Self:
        meanings: dict[str, FeatureInput] = {}
        for one in self.feature_inputs:
            if meanings.setdefault(one.name, one) != one:
                raise ValueError(f"input {one.name!r} is described twice, and differently")
        return self

    @model_validator(mode="after")
    def _seen_items_are_items(self) -> Self:
        if self.seen.dtype != f"list<{self.item_id_type}>":
            raise ValueError(f"seen items are {self.seen.dtype}, item ids are {self.item_id_type}")
        return self


def _refuse_repeated(names: list[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"a model has two inputs named {', '.join(repeated)}")
