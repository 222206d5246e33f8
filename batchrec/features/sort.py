"""Feature files sorted by entity key: whether they are, from statistics alone, and how they become so."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from batchrec.errors import FeatureError
from batchrec.features.layout import ROWS_PER_GROUP, TableWriter
from batchrec.features.refs import brief
from batchrec.features.sources import version_of
from batchrec.temporary import temporary_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchrec.features.sources import FeatureFile

MOST_ROWS_PER_GROUP = 8 * ROWS_PER_GROUP
"""A row group is read whole or not at all; beyond this many rows a partition's users would be few of them."""

_BATCH_ROWS = 8192
_ROW = "batchrec_row"


def why_not_sorted(source: Path | BinaryIO, key: str) -> str | None:
    """Say why joins by key ranges read more of a Parquet file than they need, or None where they do not.

    Only the footer is read: row groups whose ranges of keys do not overlap can be skipped, in whatever order they
    lie and whatever the order within one.

    Parameters
    ----------
    source
        The file, or its path.
    key
        Its column of entity keys.

    Raises
    ------
    OSError, pyarrow.ArrowException
        If the file cannot be read or is not Parquet.
    """
    footer = pq.read_metadata(source)
    columns = [footer.schema.column(number).path for number in range(footer.num_columns)]
    if key not in columns:
        return None  # the join will name the column it misses
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    longest = max((group.num_rows for group in groups), default=0)
    if longest > MOST_ROWS_PER_GROUP:
        return f"has row groups of up to {longest:,} rows"
    statistics = [group.column(columns.index(key)).statistics for group in groups if group.num_rows]
    if len(groups) > 1 and any(one is None for one in statistics):
        return f"has no statistics of {key}"
    # A group of nulls has no range; it is never read.
    ranges = sorted((one.min, one.max) for one in statistics if one is not None and one.has_min_max)
    if any(before[1] > after[0] for before, after in pairwise(ranges)):
        return f"is not sorted by {key}"
    return None


def sort_source(path: Path, key: str, then: Sequence[str] = (), memory: str = "1GB") -> int:
    """Sort a Parquet file by entity key and replace it in one step; rows that compare equal keep their order.

    Schema and values stay as they are; compression becomes zstd, and row groups get `ROWS_PER_GROUP` rows. Rows stream
    through DuckDB, which sorts on the disk that the file lies on once `memory` is full.

    Parameters
    ----------
    path
        A file on this machine. Nobody may write it meanwhile; whoever reads it goes on with the old one.
    key
        Column of entity keys.
    then
        Further columns to sort by, such as the event timestamp.
    memory
        Most memory that DuckDB takes, as it writes sizes.

    Returns
    -------
    int
        Rows of the file.

    Raises
    ------
    FeatureError
        If the file cannot be read, sorted or replaced, or has changed meanwhile; it is then as it was.
    """
    path = Path(path).resolve()  # a link stays a link, to the sorted file
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        before = path.stat()
        rows = _write_sorted(path, str(path), temporary, [key, *then], memory)
        after = path.stat()
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise _changed(str(path))
        shutil.copymode(path, temporary)
        temporary.replace(path)
    except (OSError, pa.ArrowException, duckdb.Error) as error:
        raise _failed(str(path), key, error, "its folder has room for it twice") from error
    finally:
        temporary.unlink(missing_ok=True)
    return rows


def sort_remote(file: FeatureFile, key: str, then: Sequence[str] = (), memory: str = "1GB") -> int:
    """Sort a Parquet file of an object store as :func:`sort_source` does, and put it in place of the old one.

    It is sorted in a folder for temporary files of this machine. The put is one step: readers get the old object or the
    new one, and those that have read a part of the old one get an error and read anew. What the store keeps about the
    object besides its bytes (content type, tags) is not carried over.

    Returns
    -------
    int
        Rows of the file.

    Raises
    ------
    FeatureError
        If the file cannot be read, sorted or put, or has changed meanwhile; it is then as it was.
    """
    with temporary_folder("batchrec-sorting-") as folder:
        target = folder / "sorted.parquet"
        try:
            before = version_of(file.files.info(file.path))
            with file.files.open(file.path, "rb") as source:
                rows = _write_sorted(source, file.shown, target, [key, *then], memory)
            _put_unless_changed(file, before, target)
        except FeatureError:
            raise
        except Exception as error:  # file systems raise what the libraries under them do
            raise _failed(file.shown, key, error, "the folder for temporary files has room for it twice") from error
    return rows


def _put_unless_changed(file: FeatureFile, before: str, target: Path) -> None:
    if version_of(file.files.info(file.path)) != before:
        raise _changed(file.shown)
    file.files.put_file(str(target), file.path)


def _changed(shown: str) -> FeatureError:
    return FeatureError(f"{shown} has changed while it was being sorted", "sort it when nobody writes it")


def _failed(shown: str, key: str, error: Exception, room: str) -> FeatureError:
    return FeatureError(
        f"{shown} could not be sorted by {key} ({brief(error)})",
        f"see that it is a Parquet file with this column and that {room}, or sort it where it is written",
    )


def _write_sorted(file: Path | BinaryIO, shown: str, target: Path, order: list[str], memory: str) -> int:
    with pq.ParquetFile(file) as source, tempfile.TemporaryDirectory(prefix=".sorting-", dir=target.parent) as spill:
        schema = source.schema_arrow
        missing = [name for name in order if name not in schema.names]
        if missing:
            raise FeatureError(
                f"{shown} has no column {missing[0]!r}; it has {', '.join(schema.names)}", "name one of these"
            )
        config = {"memory_limit": memory, "temp_directory": spill, "preserve_insertion_order": False}
        with duckdb.connect(":memory:", config=config) as connection, TableWriter(target, schema) as writer:
            connection.execute("SET enable_progress_bar = false")
            connection.register("rows", _numbered(source))
            places = [f"c{schema.names.index(name)}" for name in order]
            query = f"SELECT * EXCLUDE ({_ROW}) FROM rows ORDER BY {', '.join([*places, _ROW])}"  # noqa: S608 - our names
            for batch in connection.sql(query).to_arrow_reader(_BATCH_ROWS):
                columns = [_as_before(*pair) for pair in zip(batch.columns, schema.types, strict=True)]
                writer.write(pa.Table.from_arrays(columns, schema=schema))
        expected = source.metadata.num_rows
    if writer.rows != expected:
        raise FeatureError(f"{shown} has {expected} rows, but {writer.rows} came out of sorting", "report this")
    with target.open("rb") as written:
        os.fsync(written.fileno())
    return writer.rows


def _numbered(source: pq.ParquetFile) -> pa.RecordBatchReader:
    """Return the rows of a file with their numbers, columns named c0, c1 and so on, as DuckDB gives them back."""
    names = [f"c{number}" for number in range(len(source.schema_arrow))]
    types = [_carried_type(dtype) for dtype in source.schema_arrow.types]
    schema = pa.schema([*zip(names, types, strict=True), (_ROW, pa.int64())])

    def batches() -> Iterator[pa.RecordBatch]:
        rows = 0
        for batch in source.iter_batches(_BATCH_ROWS):
            columns: list[Any] = [_carried(*pair) for pair in zip(batch.columns, types, strict=True)]
            columns.append(pa.array(range(rows, rows + batch.num_rows), pa.int64()))
            rows += batch.num_rows
            yield pa.RecordBatch.from_arrays(columns, schema=schema)

    return pa.RecordBatchReader.from_batches(schema, batches())


def _carried_type(dtype: pa.DataType) -> pa.DataType:
    """Return the type in which DuckDB carries a column: times as whole numbers, whatever their unit and zone."""
    if pa.types.is_dictionary(dtype):
        return dtype.value_type
    return pa.int64() if pa.types.is_timestamp(dtype) else dtype


def _carried(column: pa.Array, dtype: pa.DataType) -> pa.Array:
    return column.view(dtype) if pa.types.is_timestamp(column.type) else column.cast(dtype)


def _as_before(column: pa.Array, dtype: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(dtype):
        return column.dictionary_encode().cast(dtype)
    return column.view(dtype) if pa.types.is_timestamp(dtype) else column.cast(dtype)
