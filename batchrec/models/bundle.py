"""A bundle: the folder that ``train`` writes and ``run`` reads, with the sum of every file.

Nothing in it is unpickled. Every file is summed before any library parses it, so a damaged one ends with a sentence and
not inside a C++ parser.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from batchrec.errors import ArtifactError
from batchrec.models.bundle_format import BundleFormat, FeatureInput
from batchrec.schema import EMBEDDING, INTERACTIONS, ITEM_ID

if TYPE_CHECKING:
    import numpy.typing as npt

BUNDLE_FILE = "bundle.json"
ITEM_EMBEDDINGS = "item_embeddings.parquet"
POPULARITY = "popularity.parquet"
QUERY_SAMPLE = "query_sample.parquet"
_REMEDY = "make the bundle again with `batchrec train`, or copy it again from where it was made"


@dataclass(frozen=True)
class Bundle:
    """A verified bundle: what it says of itself, and its tables.

    Parameters
    ----------
    folder
        Where it lies.
    format
        The content of ``bundle.json``.
    """

    folder: Path
    format: BundleFormat

    @classmethod
    def open(cls, folder: Path) -> Bundle:
        """Read ``bundle.json`` and check every file it names against its sum.

        Raises
        ------
        ArtifactError
            If the folder is no bundle, a file is missing or has another sum, or the description does not fit.
        """
        bundle = cls(folder, read_format(folder))
        for name, expected in bundle.format.files.items():
            path = folder / name
            if not path.is_file():
                raise ArtifactError(f"bundle {folder} lacks the file {name}", _REMEDY)
            found = sha256(path)
            if found != expected:
                raise ArtifactError(
                    f"{path} is damaged: its SHA-256 is {found[:12]}…, bundle.json expects {expected[:12]}…", _REMEDY
                )
        bundle._check_shapes()
        return bundle

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of ``bundle.json``, which holds the sums of all else."""
        return sha256(self.folder / BUNDLE_FILE)

    @cached_property
    def item_ids(self) -> pa.Array:
        """Raw item ids (N,), ascending: the catalogue; an item position indexes it."""
        return self._table(ITEM_EMBEDDINGS)[ITEM_ID].combine_chunks()

    @cached_property
    def item_embeddings(self) -> npt.NDArray[np.float32]:
        """Item embeddings (N, d) float32, in catalogue order."""
        return read_embeddings(self._table(ITEM_EMBEDDINGS)[EMBEDDING])

    @cached_property
    def popularity(self) -> npt.NDArray[np.int64] | None:
        """Number of interactions of each item until the training cut-off (N,), where the bundle knows it."""
        if POPULARITY not in self.format.files:
            return None
        return np.asarray(self._table(POPULARITY)[INTERACTIONS].to_numpy(), dtype=np.int64)

    @cached_property
    def query_sample(self) -> npt.NDArray[np.float32]:
        """A sample of real query embeddings (m, d), to measure an index with; m may be 0."""
        if QUERY_SAMPLE not in self.format.files:
            return np.zeros((0, self.format.embedding_dimension), np.float32)
        return read_embeddings(self._table(QUERY_SAMPLE)[EMBEDDING])

    def vocabulary(self, feature: FeatureInput) -> pa.Array:
        """Return the vocabulary (v,) of a categorical input, ascending."""
        if feature.vocabulary is None:
            raise ArtifactError(
                f"bundle {self.folder} gives no vocabulary for the categorical input {feature.name!r}",
                f"name its vocabulary file in {BUNDLE_FILE}",
            )
        return self._table(feature.vocabulary)["value"].combine_chunks()

    def _table(self, name: str) -> pa.Table:
        if name not in self.format.files:
            raise ArtifactError(f"bundle {self.folder} has no sum for {name} in {BUNDLE_FILE}", _REMEDY)
        try:
            return pq.read_table(self.folder / name)
        except (pa.ArrowException, OSError) as error:
            raise ArtifactError(f"{self.folder / name} cannot be read as Parquet ({error})", _REMEDY) from error

    def _check_shapes(self) -> None:
        """See that the catalogue has the size, order and dimension that ``bundle.json`` says."""
        embeddings = self.item_embeddings
        expected = (self.format.catalogue_size, self.format.embedding_dimension)
        if embeddings.shape != expected:
            raise ArtifactError(
                f"{self.folder / ITEM_EMBEDDINGS} holds embeddings of shape {embeddings.shape}, "
                f"{BUNDLE_FILE} says {expected}",
                _REMEDY,
            )
        if str(self.item_ids.type) != self.format.item_id_type:
            raise ArtifactError(
                f"item ids in {self.folder / ITEM_EMBEDDINGS} are {self.item_ids.type}, "
                f"{BUNDLE_FILE} says {self.format.item_id_type}",
                _REMEDY,
            )
        ids = self.item_ids.to_numpy(zero_copy_only=False)
        if self.item_ids.null_count or not np.all(ids[:-1] < ids[1:]):
            raise ArtifactError(
                f"item ids in {self.folder / ITEM_EMBEDDINGS} are not unique and ascending", "sort them and drop doubles"
            )


def read_format(folder: Path) -> BundleFormat:
    """Read ``bundle.json`` alone, without looking at the files it names."""
    path = folder / BUNDLE_FILE
    if not path.is_file():
        found = "there is no such folder" if not folder.is_dir() else f"it holds no {BUNDLE_FILE}"
        raise ArtifactError(f"{folder} is not a bundle: {found}", "make one with `batchrec train`, or name another")
    try:
        return BundleFormat.model_validate(json.loads(path.read_bytes()))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise ArtifactError(f"{path} does not describe a bundle of format 1: {where}: {first['msg']}", _REMEDY) from error
    except (ValueError, RecursionError, OSError) as error:
        raise ArtifactError(f"{path} cannot be read as JSON ({error})", _REMEDY) from error


def write_format(folder: Path, content: dict[str, Any], files: list[str]) -> None:
    """Sum the named files and write ``bundle.json``, last and in one step.

    Parameters
    ----------
    folder
        The bundle.
    content
        Everything of :class:`BundleFormat` but ``files``.
    files
        Paths relative to the folder.
    """
    sums = {name: sha256(folder / name) for name in sorted(files)}
    checked = BundleFormat.model_validate(content | {"files": sums})
    temporary = folder / f".{BUNDLE_FILE}.tmp"
    temporary.write_text(checked.model_dump_json(indent=2) + "\n")
    temporary.replace(folder / BUNDLE_FILE)


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_embeddings(column: pa.ChunkedArray) -> npt.NDArray[np.float32]:
    """Turn a list column of n embeddings of one length d into (n, d) float32.

    Raises
    ------
    ArtifactError
        If the column is no list of floats, or its lists differ in length.
    """
    array = column.combine_chunks()
    if not (pa.types.is_list(array.type) or pa.types.is_fixed_size_list(array.type)):
        raise ArtifactError(f"column {EMBEDDING!r} is {array.type}, expected a list of float32", _REMEDY)
    values = array.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
    if len(array) == 0:
        return values.reshape(0, array.type.list_size if pa.types.is_fixed_size_list(array.type) else 0)
    if len(values) % len(array) or array.null_count or not np.isfinite(values).all():
        raise ArtifactError(f"column {EMBEDDING!r} holds nulls, non-finite values or lists of different length", _REMEDY)
    return np.ascontiguousarray(values.reshape(len(array), -1))


def write_embeddings(path: Path, columns: dict[str, pa.Array], embeddings: npt.NDArray[np.float32]) -> None:
    """Write columns beside an ``embedding`` column of fixed-size lists."""
    flat = pa.array(embeddings.reshape(-1), pa.float32())
    vectors = pa.FixedSizeListArray.from_arrays(flat, embeddings.shape[1])
    pq.write_table(pa.table(columns | {EMBEDDING: vectors}), path, compression="zstd")
