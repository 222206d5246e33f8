"""A bundle: the folder that ``train`` writes and ``run`` reads, with the sum of every file.

Nothing in it is unpickled. Every file is summed before any library parses it, so a damaged one ends with a sentence and
not inside a C++ parser.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ValidationError

from batchrec.errors import ArtifactError
from batchrec.models.bundle_format import BUNDLE_FILE, FORMAT, BundleFormat, FeatureInput
from batchrec.schema import EMBEDDING, INTERACTIONS, ITEM_ID, id_type, is_id_type

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

ITEM_EMBEDDINGS = "item_embeddings.parquet"
POPULARITY = "popularity.parquet"
QUERY_SAMPLE = "query_sample.parquet"
VALUE = "value"
"""Column of a vocabulary file."""

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
    fingerprint
        SHA-256 of ``bundle.json``, which holds the sums of all else.
    """

    folder: Path
    format: BundleFormat
    fingerprint: str

    @classmethod
    def open(cls, folder: Path, *, check_index: bool = True) -> Bundle:
        """Read ``bundle.json``, check every file it names against its sum, and see that the tables fit.

        Parameters
        ----------
        folder
            The bundle.
        check_index
            False leaves out the file of the index, for whoever replaces it anyway.

        Raises
        ------
        ArtifactError
            If the folder is no bundle, a file is missing, lies outside, has no sum or another sum, or a table does not
            fit the description.
        """
        bundle = cls(folder, *_read(folder))
        index = bundle.format.index
        bundle._check_paths()
        for name, expected in bundle.format.files.items():
            if check_index or index is None or name != index.path:
                _check_sum(folder, name, expected)
        bundle._check_catalogue()
        bundle._check_side_tables()
        return bundle

    @cached_property
    def item_ids(self) -> pa.Array:
        """Raw item ids (N,), ascending (strings by their UTF-8 bytes): the catalogue; an item position indexes it."""
        return _plain(self._column(ITEM_EMBEDDINGS, ITEM_ID))

    @cached_property
    def item_embeddings(self) -> npt.NDArray[np.float32]:
        """Item embeddings (N, d) float32, in catalogue order."""
        return self._embeddings(ITEM_EMBEDDINGS)

    @cached_property
    def popularity(self) -> npt.NDArray[np.int64] | None:
        """Number of interactions of each item until the training cut-off (N,), where the bundle knows it."""
        if POPULARITY not in self.format.files:
            return None
        return np.asarray(self._column(POPULARITY, INTERACTIONS).to_numpy(zero_copy_only=False), dtype=np.int64)

    @cached_property
    def query_sample(self) -> npt.NDArray[np.float32]:
        """A sample of real query embeddings (m, d), to measure an index with; m may be 0."""
        if QUERY_SAMPLE not in self.format.files:
            return np.zeros((0, self.format.embedding_dimension), np.float32)
        return self._embeddings(QUERY_SAMPLE)

    def vocabulary(self, feature: FeatureInput) -> pa.Array:
        """Return the vocabulary (v,) of a categorical input, ascending.

        Raises
        ------
        ArtifactError
            If it is missing, has another size than described, or is not ascending.
        """
        if feature.vocabulary is None:
            raise ArtifactError(
                f"bundle {self.folder} gives no vocabulary for the categorical input {feature.name!r}",
                f"name its vocabulary file in {BUNDLE_FILE}",
            )
        values = self._column(feature.vocabulary, VALUE)
        path, size = self.folder / feature.vocabulary, len(values) + 1
        if size != feature.vocabulary_size:
            raise ArtifactError(
                f"{path} makes {size} codes (one for unknown values included), "
                f"{BUNDLE_FILE} says {feature.vocabulary_size} for the input {feature.name!r}",
                _REMEDY,
            )
        if not (is_id_type(values.type) or pa.types.is_boolean(values.type)) or not _is_ascending(values):
            raise ArtifactError(
                f"{path} is no vocabulary: its values ({values.type}) are not integers, strings or booleans that are "
                "unique and ascending",
                "sort them and drop doubles and nulls, as they were when the model was trained",
            )
        return values

    def _embeddings(self, name: str) -> npt.NDArray[np.float32]:
        try:
            return read_embeddings(pa.chunked_array([self._column(name, EMBEDDING)]))
        except ArtifactError as error:
            raise ArtifactError(f"{self.folder / name}: {error.problem}", error.remedy) from error

    def _column(self, name: str, column: str) -> pa.Array:
        path = self.folder / name
        if name not in self.format.files:
            raise ArtifactError(f"bundle {self.folder} has no sum for {name} in {BUNDLE_FILE}", _REMEDY)
        try:
            with pq.ParquetFile(path) as file:
                columns = file.schema_arrow.names
                if column in columns:
                    return file.read([column])[column].combine_chunks()
        except (pa.ArrowException, OSError) as error:
            raise ArtifactError(f"{path} cannot be read as Parquet ({error})", _REMEDY) from error
        raise ArtifactError(f"{path} has no column {column!r}; it has {', '.join(columns)}", _REMEDY)

    def _check_paths(self) -> None:
        """See that every file a library will parse has a sum, also each one inside a model's folder."""
        needed = [ITEM_EMBEDDINGS]
        needed += [one.vocabulary for one in self.format.feature_inputs if one.vocabulary is not None]
        needed += [] if self.format.index is None else [self.format.index.path]
        needed += [file for model in self.format.models for file in self._files_of_model(model)]
        for name in needed:
            if name not in self.format.files:
                raise ArtifactError(f"bundle {self.folder} has no sum for {name} in {BUNDLE_FILE}", _REMEDY)

    def _files_of_model(self, name: str) -> Iterator[str]:
        path = self.folder / name
        if not path.is_dir():
            yield name
            return
        listed = [file for file in self.format.files if file.startswith(f"{name}/")]
        # A folder with nothing but sub-folders would otherwise pass for a model.
        yield from listed or [name]
        for root, folders, files in os.walk(path):
            for inner in (Path(root) / folder for folder in folders):
                if inner.is_symlink():  # not walked, so nothing in it would need a sum
                    raise ArtifactError(
                        f"{inner} is a link to {inner.readlink()}, inside a model",
                        "put the folder itself into the bundle",
                    )
            yield from ((Path(root) / file).relative_to(self.folder).as_posix() for file in files)

    def _check_catalogue(self) -> None:
        """See that the catalogue has the size, order, dimension and id type that ``bundle.json`` says."""
        path, embeddings, ids = self.folder / ITEM_EMBEDDINGS, self.item_embeddings, self.item_ids
        expected = (self.format.catalogue_size, self.format.embedding_dimension)
        if embeddings.shape != expected:
            raise ArtifactError(
                f"{path} holds embeddings of shape {embeddings.shape}, {BUNDLE_FILE} says {expected}", _REMEDY
            )
        if str(ids.type) != self.format.item_id_type:
            raise ArtifactError(
                f"item ids in {path} are {ids.type}, {BUNDLE_FILE} says {self.format.item_id_type}", _REMEDY
            )
        if not _is_ascending(ids):
            raise ArtifactError(f"item ids in {path} are not unique and ascending", "sort them and drop doubles")

    def _check_side_tables(self) -> None:
        """See that vocabularies, popularity and sample queries fit the models and the catalogue."""
        for feature in self.format.feature_inputs:
            if feature.kind == "categorical":
                self.vocabulary(feature)
        if self.query_sample.shape[1] != self.format.embedding_dimension:
            raise ArtifactError(
                f"{self.folder / QUERY_SAMPLE} holds embeddings of dimension {self.query_sample.shape[1]}, "
                f"{BUNDLE_FILE} says {self.format.embedding_dimension}",
                _REMEDY,
            )
        if POPULARITY in self.format.files:
            self._check_popularity()

    def _check_popularity(self) -> None:
        path = self.folder / POPULARITY
        ids, counts = _plain(self._column(POPULARITY, ITEM_ID)), self._column(POPULARITY, INTERACTIONS)
        if ids != self.item_ids:
            raise ArtifactError(f"{path} does not list the items of the catalogue in its order", _REMEDY)
        if not pa.types.is_integer(counts.type) or counts.null_count:
            raise ArtifactError(f"column {INTERACTIONS!r} of {path} holds something else than whole numbers", _REMEDY)


def read_format(folder: Path) -> BundleFormat:
    """Read ``bundle.json`` alone, without looking at the files it names.

    Raises
    ------
    ArtifactError
        If there is none, or it does not describe a bundle.
    """
    return _read(folder)[0]


def parse_format(data: bytes, place: str | Path) -> BundleFormat:
    """Return what the bytes of a ``bundle.json`` say.

    Parameters
    ----------
    data
        The bytes.
    place
        Folder or URL of the bundle, for messages.

    Raises
    ------
    ArtifactError
        They do not describe a bundle.
    """
    path = f"{place}/{BUNDLE_FILE}"
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} cannot be read as JSON ({error})", _REMEDY) from error
    if isinstance(content, dict) and content.get("format", FORMAT) != FORMAT:
        raise ArtifactError(
            f"bundle {place} is of format {content['format']!r}, this version reads format {FORMAT}",
            "install the version of batchrec that made it, or make the bundle again with `batchrec train`",
        )
    try:
        return BundleFormat.model_validate(content)
    except ValidationError as error:
        raise ArtifactError(
            f"{path} does not describe a bundle of format {FORMAT}: {_first(error)}", _REMEDY
        ) from error


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

    Raises
    ------
    ArtifactError
        If this would not describe a bundle; nothing is written then.
    """
    sums = {name: sha256(folder / name) for name in sorted(files)}
    try:
        checked = BundleFormat.model_validate(content | {"files": sums})
    except ValidationError as error:
        raise ArtifactError(
            f"what was to be written as {folder / BUNDLE_FILE} does not describe a bundle: {_first(error)}",
            "correct the description",
        ) from error
    save_format(folder, checked)


def save_format(folder: Path, content: BundleFormat) -> None:
    """Write ``bundle.json`` in one step: whatever happens, its old bytes are there or all of the new ones."""
    temporary = folder / f".{BUNDLE_FILE}.{secrets.token_hex(8)}.tmp"
    try:
        with temporary.open("x", encoding="utf-8") as file:
            file.write(content.model_dump_json(indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / BUNDLE_FILE)
    finally:
        temporary.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_embeddings(column: pa.ChunkedArray) -> npt.NDArray[np.float32]:
    """Turn a list column of n embeddings of one length d into (n, d) float32.

    Raises
    ------
    ArtifactError
        If the column is no list of floats, its lists differ in length, or a value is null, NaN or infinite.
    """
    array = column.combine_chunks()
    dtype = array.type
    is_fixed = pa.types.is_fixed_size_list(dtype)
    if not (is_fixed or pa.types.is_list(dtype) or pa.types.is_large_list(dtype)) or not pa.types.is_floating(
        dtype.value_type
    ):
        raise ArtifactError(f"column {EMBEDDING!r} is {dtype}, expected a list of float32", _REMEDY)
    if len(array) == 0:
        return np.zeros((0, dtype.list_size if is_fixed else 0), np.float32)
    lengths = [dtype.list_size] if is_fixed else pc.unique(pc.list_value_length(array)).to_pylist()
    if array.null_count or len(lengths) > 1:
        raise ArtifactError(f"column {EMBEDDING!r} holds nulls or lists of different length", _REMEDY)
    # flatten() copies, which for lists of one length nothing needs: their values lie behind each other.
    inner = array.values.slice(array.offset * lengths[0], len(array) * lengths[0]) if is_fixed else array.flatten()
    values = inner.to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore"):
        values = values.astype(np.float32, copy=False)
    if not np.isfinite(values).all():
        raise ArtifactError(f"column {EMBEDDING!r} holds values that are null, NaN or infinite as float32", _REMEDY)
    return np.ascontiguousarray(values.reshape(len(array), lengths[0]))


def write_embeddings(path: Path, columns: dict[str, pa.Array], embeddings: npt.NDArray[np.float32]) -> None:
    """Write columns beside an ``embedding`` column of fixed-size lists."""
    flat = pa.array(embeddings.reshape(-1), pa.float32())
    vectors = pa.FixedSizeListArray.from_arrays(flat, embeddings.shape[1])
    pq.write_table(pa.table(columns | {EMBEDDING: vectors}), path, compression="zstd")


def _read(folder: Path) -> tuple[BundleFormat, str]:
    """Return what ``bundle.json`` says, and the SHA-256 of the very bytes that say it."""
    path = folder / BUNDLE_FILE
    if not path.is_file():
        found = "there is no such folder" if not folder.is_dir() else f"it holds no {BUNDLE_FILE}"
        raise ArtifactError(f"{folder} is not a bundle: {found}", "make one with `batchrec train`, or name another")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error})", _REMEDY) from error
    return parse_format(data, folder), hashlib.sha256(data).hexdigest()


def _check_sum(folder: Path, name: str, expected: str) -> None:
    path = folder / name
    try:
        is_inside = path.resolve().is_relative_to(folder.resolve())
        found = sha256(path) if is_inside and path.is_file() else None
    except (OSError, RuntimeError) as error:
        raise ArtifactError(f"{path} cannot be read ({error})", _REMEDY) from error
    if not is_inside:
        raise ArtifactError(
            f"{path} is a link to {path.resolve()}, outside the bundle", "put the file itself into the bundle"
        )
    if found is None:
        raise ArtifactError(f"bundle {folder} lacks the file {name}", _REMEDY)
    if found != expected:
        raise ArtifactError(
            f"{path} is damaged: its SHA-256 is {found[:12]}…, {BUNDLE_FILE} expects {expected[:12]}…", _REMEDY
        )


def _plain(ids: pa.Array) -> pa.Array:
    """Return ids in the one type that they are carried in."""
    return ids.cast(id_type(ids.type)) if is_id_type(ids.type) else ids


def _is_ascending(values: pa.Array) -> bool:
    """Tell whether values are unique, ascending and without null; strings by their UTF-8 bytes."""
    if values.null_count:
        return False
    if pa.types.is_boolean(values.type):  # Arrow does not compare these
        values = values.cast(pa.uint8())
    return bool(pc.all(pc.less(values[:-1], values[1:]), min_count=0).as_py())


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "the whole"
    return f"{where}: {first['msg']}"
