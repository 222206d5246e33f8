"""What stands in ``bundle.json``: which models a bundle holds, what they read, and the sum of every file."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - pydantic reads the annotation at run time
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, PositiveInt

FORMAT = 1


def _inside(path: str) -> str:
    """Refuse a path that could leave the bundle's folder."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path:
        raise ValueError("must be a relative path inside the bundle")
    return path


InnerPath = Annotated[str, AfterValidator(_inside)]


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
    mean: float = 0.0
    std: float = 1.0


class Seen(_Strict):
    """The feature that lists the items a user has seen, oldest first: history for the tower, anti-join for the lists."""

    view: str
    feature: str
    dtype: str


class QueryTowerFormat(_Strict):
    """The query tower: feature inputs (n,), ``history`` (n, L) int32 item codes, newest last, to (n, d) float32."""

    path: InnerPath
    inputs: tuple[FeatureInput, ...]
    history_length: PositiveInt


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


class IndexFormat(_Strict):
    """The Faiss index, and how near it came to exact search on real queries."""

    path: InnerPath
    kind: str
    nprobe: PositiveInt
    recall: float = Field(ge=0, le=1)
    recall_at: PositiveInt
    queries: int = Field(ge=0)


class BundleFormat(_Strict):
    """The whole of ``bundle.json``."""

    format: Literal[1]
    created_by: str
    trained_until: Annotated[datetime, AwareDatetime]
    embedding_dimension: PositiveInt
    metric: Literal["inner_product"]
    user_id_type: Literal["int64", "string"]
    item_id_type: Literal["int64", "string"]
    catalogue_size: PositiveInt
    seen: Seen
    query_tower: QueryTowerFormat
    ranker: RankerFormat
    index: IndexFormat | None = None
    figures: dict[str, float] = {}
    files: dict[InnerPath, str]

    @property
    def feature_inputs(self) -> tuple[FeatureInput, ...]:
        """Every feature input of both models, users' first; one feature may stand here twice."""
        return (*self.query_tower.inputs, *self.ranker.user_inputs, *self.ranker.item_inputs)
