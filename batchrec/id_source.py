"""Ids, and columns kept beside them, out of Parquet files wherever fsspec can reach them, a batch at a time."""

from __future__ import annotations

import os
from contextlib import contextmanager
from glob import has_magic
from typing import TYPE_CHECKING, Any, NamedTuple

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from batchrec.errors import ConfigError, SchemaError
from batchrec.kept_columns import kept_type
from batchrec.schema import id_type, is_id_type

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_BATCH_ROWS = 2**18
# Without a buffer pyarrow reads the column of a whole row group at once, and a file may be one row group. With one it
# believes what a damaged page header says of the page's size, and takes as much as 2 GiB for it; so small chunks go
# without.
_READ_BUFFER_BYTES = 2**20
_UNBUFFERED_UP_TO_BYTES = 2**26
_SHOWN_COLUMNS = 20


class _Kind(NamedTuple):
    """The type a column is carried in, and the file that said so."""

    dtype: pa.DataType
    file: str


def kept_schema(source: str, columns: Sequence[str]) -> pa.Schema:
    """Return names and types of the columns to keep, out of the footers of all files.

    Parameters
    ----------
    source
        As for :func:`row_batches`.
    columns
        Top-level columns of integers, floats, booleans, strings, dates, timestamps or decimals.

    Returns
    -------
    pa.Schema
        The columns in the order given, as :func:`~batchrec.kept_columns.kept_type` carries them.

    Raises
    ------
    ConfigError
        fsspec cannot open URLs of this kind.
    SchemaError
        A file cannot be read; a column is missing, of a type that cannot be kept, of two types in two files, or without
        a type because it holds only nulls.
    """
    if not columns:
        return pa.schema([])
    kinds: dict[str, _Kind | None] = dict.fromkeys(columns)
    filesystem, paths = _find(source)
    for path in paths:
        name = _shown(filesystem, path)
        with _opened(filesystem, path) as file:
            for column in columns:
                found = _Kind(_kept_type(file.schema_arrow, column, name), name)
                kinds[column] = _agreed(kinds[column], found, column, "this column one type")
    return pa.schema([_typed(column, kind, source) for column, kind in kinds.items()])


def row_batches(source: str, column: str, kept: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Stream the ids of a data set, nulls and duplicates included, and the kept columns; no other column is read.

    Parameters
    ----------
    source
        A Parquet file, a folder of them or a glob (in both, names that start with ``.`` or ``_`` are passed over); a
        local path or a URL that fsspec knows.
    column
        Top-level column of integers or strings, plain or dictionary-encoded. Widths may differ from file to file.
    kept
        As :func:`kept_schema` gave it.

    Yields
    ------
    pa.RecordBatch
        First the ids, int64 in every batch or string in every batch; type null for files in which pyarrow found only
        nulls. Then the kept columns, as `kept` says.

    Raises
    ------
    ConfigError
        fsspec cannot open URLs of this kind.
    SchemaError
        The source is missing, unreadable or not Parquet; the column is missing, not of ids, of integers in one file
        and strings in another, beyond int64, or not UTF-8; a kept column is not UTF-8.
    """
    filesystem, paths = _find(source)
    kind: _Kind | None = None
    for path in paths:
        name = _shown(filesystem, path)
        with _opened(filesystem, path, [column, *kept.names]) as file:
            dtype = _carried_type(file.schema_arrow, column, name)
            kind = _agreed(kind, _Kind(dtype, name), column, "ids of one kind")
            for batch in file.iter_batches(_BATCH_ROWS, columns=[column, *kept.names]):
                ids = _carried(batch.column(column), dtype, column, name)
                values = [_carried_kept(batch.column(field.name), field, name) for field in kept]
                yield pa.RecordBatch.from_arrays([ids, *values], names=[column, *kept.names])


def column_names(source: str) -> list[str]:
    """Return the columns of the first file of a data set; raises as :func:`row_batches` does."""
    filesystem, paths = _find(source)
    with _opened(filesystem, paths[0]) as file:
        return list(file.schema_arrow.names)


@contextmanager
def _opened(filesystem: Any, path: str, columns: Sequence[str] = ()) -> Iterator[pq.ParquetFile]:
    """Open a file, ready to read the pages of these columns."""
    try:
        with filesystem.open(path, "rb") as handle:
            metadata = pq.read_metadata(handle)
            is_large = _largest_chunk(metadata, columns) > _UNBUFFERED_UP_TO_BYTES
            buffer_size = _READ_BUFFER_BYTES if is_large else 0
            with pq.ParquetFile(handle, metadata=metadata, buffer_size=buffer_size, pre_buffer=False) as file:
                yield file
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(_shown(filesystem, path), error) from error


def _largest_chunk(metadata: pq.FileMetaData, columns: Sequence[str]) -> int:
    """Bytes of the largest column chunk among those of some top-level columns; 0 where there is none."""
    places = [place for place in range(metadata.num_columns) if metadata.schema.column(place).path in columns]
    groups = map(metadata.row_group, range(metadata.num_row_groups))
    return max((group.column(place).total_compressed_size for group in groups for place in places), default=0)


def _find(source: str) -> tuple[Any, list[str]]:
    try:
        filesystem, path = fsspec.core.url_to_fs(source)
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"cannot open {source} ({error})", "install the fsspec package for this kind of URL, or give a local path"
        ) from error
    try:
        return filesystem, _expand(filesystem, path, source)
    except OSError as error:
        raise _unreadable(source, error) from error


def _expand(filesystem: Any, path: str, source: str) -> list[str]:
    exists = filesystem.exists(path)
    if not exists and not has_magic(path):
        raise SchemaError(f"{source} does not exist", "give a Parquet file, a folder of them, or a glob")
    roots = [path] if exists else [root for root in filesystem.glob(path) if not _is_hidden(root.rsplit("/", 1)[-1])]
    files = [file for root in roots for file in _files_under(filesystem, root)]
    if not files:
        what = "is a folder without Parquet files" if exists else "matches no file"
        raise SchemaError(f"{source} {what}", "give a Parquet file, a folder of them, or a glob")
    return sorted(files)


def _files_under(filesystem: Any, root: str) -> list[str]:
    if not filesystem.isdir(root):
        return [root]
    return [file for file in filesystem.find(root) if not _is_hidden(os.path.relpath(file, root))]


def _is_hidden(relative: str) -> bool:
    return any(name.startswith((".", "_")) for name in relative.split("/"))


def _shown(filesystem: Any, path: str) -> str:
    return path if isinstance(filesystem, LocalFileSystem) else str(filesystem.unstrip_protocol(path))


def _carried_type(schema: pa.Schema, column: str, name: str) -> pa.DataType:
    """Return the type that the ids of one file are carried in: int64, string, or null."""
    dtype = _type_of(schema, column, name, "name the id column")
    values = dtype.value_type if pa.types.is_dictionary(dtype) else dtype
    if pa.types.is_null(values):
        return values
    if is_id_type(values) or pa.types.is_string_view(values):
        return id_type(values)
    remedy = "cast it to int64 or string"
    if pa.types.is_floating(values):
        remedy += "; pandas turns integers with nulls into floats unless they are of type Int64"
    raise SchemaError(f"column {column!r} of {name} is {dtype}, ids are integers or strings", remedy)


def _kept_type(schema: pa.Schema, column: str, name: str) -> pa.DataType:
    dtype = _type_of(schema, column, name, "keep columns that every file has")
    kept = kept_type(dtype)
    if kept is None:
        raise SchemaError(
            f"column {column!r} of {name} is {dtype}, which cannot be kept",
            "keep integers, floats, booleans, strings, dates, timestamps or decimals of up to 38 digits",
        )
    return kept


def _type_of(schema: pa.Schema, column: str, name: str, remedy: str) -> pa.DataType:
    indices = schema.get_all_field_indices(column)
    if not indices:
        there = ", ".join(schema.names[:_SHOWN_COLUMNS]) or "none"
        raise SchemaError(f"{name} has no column {column!r} (its columns: {there})", remedy)
    if len(indices) > 1:
        raise SchemaError(f"{name} has {len(indices)} columns {column!r}", "give one of them another name")
    return schema.field(indices[0]).type


def _agreed(kind: _Kind | None, found: _Kind, column: str, wanted: str) -> _Kind | None:
    if pa.types.is_null(found.dtype):
        return kind
    if kind is not None and kind.dtype != found.dtype:
        raise SchemaError(
            f"column {column!r} is {kind.dtype} in {kind.file} and {found.dtype} in {found.file}",
            f"give all files of one data set {wanted}",
        )
    return found


def _typed(column: str, kind: _Kind | None, source: str) -> pa.Field:
    if kind is None:
        raise SchemaError(
            f"column {column!r} of {source} holds only nulls and has no type", "cast it to a type, or do not keep it"
        )
    return pa.field(column, kind.dtype)


def _carried(ids: pa.Array, dtype: pa.DataType, column: str, name: str) -> pa.Array:
    if pa.types.is_dictionary(ids.type):
        ids = ids.dictionary_decode()
    try:
        ids.validate(full=True)
        return ids.cast(dtype)
    except pa.ArrowInvalid as error:
        raise SchemaError(
            f"column {column!r} of {name} holds ids that are not {dtype} ({error})",
            "give integers below 2**63 or strings in UTF-8",
        ) from error


def _carried_kept(values: pa.Array, field: pa.Field, name: str) -> pa.Array:
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    try:
        values.validate(full=True)
    except pa.ArrowInvalid as error:
        raise SchemaError(
            f"column {field.name!r} of {name} holds values that are not {field.type} ({error})",
            "write it anew, strings in UTF-8",
        ) from error
    return values.cast(field.type)


def _unreadable(name: str, error: Exception) -> SchemaError:
    if isinstance(error, PermissionError):
        return SchemaError(f"{name} may not be read by this user", "give this user the right to read it")
    if isinstance(error, FileNotFoundError):
        return SchemaError(f"{name} does not exist", "give a Parquet file, a folder of them, or a glob")
    reason = " ".join(str(error).split())
    return SchemaError(
        f"{name} is not a readable Parquet file ({reason})",
        "give Parquet; a folder may hold nothing else, and a glob can choose from it",
    )
