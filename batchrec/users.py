"""The users of a run: read from Parquet, made distinct, sorted, and cut into partitions.

Memory does not grow with the number of users: the id column is streamed into DuckDB, which sorts on disk beyond its
memory limit, and the sorted ids are streamed out again.
"""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from batchrec.errors import ConfigError, SchemaError, SinkError
from batchrec.id_source import id_batches
from batchrec.output.atomic import sink_error, temporary_name
from batchrec.schema import USER_ID

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

USERS = "users.parquet"
"""Name of the prepared users file inside the work folder."""

LARGEST_PARTITION = 2**24
"""Most users a partition may have."""

_SORT_OPTIONS: dict[str, Any] = {"memory_limit": "512MB", "threads": 4, "preserve_insertion_order": False}
_SORTED_BATCH_ROWS = 2**16


@dataclass(frozen=True, slots=True)
class UsersSummary:
    """What became of the rows of a users file.

    ``input_rows == null_rows + duplicate_rows + distinct_users``.

    Parameters
    ----------
    input_rows
        Rows read.
    null_rows
        Rows without an id.
    duplicate_rows
        Rows whose id another row had already.
    distinct_users
        Ids that are left.
    id_type
        int64 or string.
    fingerprint
        Names the set of distinct ids, whatever their order, repetitions and files; see :class:`IdFingerprint`.
    """

    input_rows: int
    null_rows: int
    duplicate_rows: int
    distinct_users: int
    id_type: pa.DataType
    fingerprint: str


class IdFingerprint:
    """SHA-256 over a stream of ids, the same however the stream is cut.

    The digest of: the type's name, then the SHA-256 of the values (int64: 8 bytes each, little endian; string: the
    UTF-8 bytes, nothing between), then, for strings, the SHA-256 of their lengths in bytes (int64 each).

    Parameters
    ----------
    dtype
        int64 or string.
    """

    def __init__(self, dtype: pa.DataType) -> None:
        self._dtype = dtype
        self._values = hashlib.sha256()
        self._lengths = hashlib.sha256()

    def update(self, ids: pa.Array) -> None:
        """Go on with (n,) `ids`, none of them null."""
        if pa.types.is_integer(self._dtype):
            self._values.update(ids.to_numpy().astype("<i8", copy=False))
            return
        _, offset_buffer, bytes_buffer = ids.buffers()
        bounds = pa.Array.from_buffers(pa.int32(), len(ids) + 1, [None, offset_buffer], offset=ids.offset).to_numpy()
        if bytes_buffer is not None:  # pyarrow has no buffer where all strings are empty
            self._values.update(memoryview(bytes_buffer)[bounds[0] : bounds[-1]])
        self._lengths.update((bounds[1:] - bounds[:-1]).astype("<i8"))

    def hexdigest(self) -> str:
        """Return the digest of all ids so far."""
        whole = hashlib.sha256(str(self._dtype).encode() + self._values.digest())
        if not pa.types.is_integer(self._dtype):
            whole.update(self._lengths.digest())
        return whole.hexdigest()


class _Collected(NamedTuple):
    rows: int
    nulls: int
    id_type: pa.DataType


def prepare_users(source: str, column: str, work: Path, users_per_partition: int) -> tuple[UsersSummary, Path]:
    """Write the sorted distinct ids of `source` into one Parquet file whose row group i is partition i.

    The file is the same to the byte whatever the order, repetitions, row groups and files of the input.

    Parameters
    ----------
    source, column
        Where the ids are, as :func:`~batchrec.id_source.id_batches` takes them.
    work
        Folder for the result and for DuckDB's temporary files.
    users_per_partition
        Rows of every row group but the last, which may have fewer; 1 to 2**24.

    Returns
    -------
    summary : UsersSummary
    path : Path
        One column ``user_id``, int64 or string, ascending; strings in the order of their UTF-8 bytes.

    Raises
    ------
    ConfigError
        `users_per_partition` is out of range, or fsspec cannot open URLs of this kind.
    SchemaError
        The ids cannot be read (see :func:`~batchrec.id_source.id_batches`), or there is not a single one.
    SinkError
        The result or DuckDB's temporary files could not be written.
    """
    if not 1 <= users_per_partition <= LARGEST_PARTITION:
        raise ConfigError(
            f"--users-per-partition is {users_per_partition}", f"give a number from 1 to {LARGEST_PARTITION}"
        )
    path = work / USERS
    try:
        with tempfile.TemporaryDirectory(prefix="sort-", dir=work) as spill, _connect(spill) as connection:
            collected = _collect(connection, id_batches(source, column), f"column {column!r} of {source}")
            fingerprint = IdFingerprint(collected.id_type)
            partitions = cut(_sorted_distinct(connection), users_per_partition)
            distinct = _write(partitions, path, collected.id_type, fingerprint)
    except duckdb.Error as error:
        reason = str(error).splitlines()[0]
        raise SinkError(f"cannot sort the users in {work} ({reason})", "free space there and run again") from error
    except OSError as error:
        raise sink_error(path, error) from error
    duplicates = collected.rows - collected.nulls - distinct
    summary = UsersSummary(
        collected.rows, collected.nulls, duplicates, distinct, collected.id_type, fingerprint.hexdigest()
    )
    return summary, path


def partition_count(path: Path) -> int:
    """Return the number of partitions in a file that :func:`prepare_users` wrote."""
    return int(pq.read_metadata(path).num_row_groups)


def read_partition(path: Path, index: int) -> pa.Array:
    """Return the (n,) user ids of one partition, ascending; nothing else of the file is read."""
    with pq.ParquetFile(path) as file:
        return file.read_row_group(index).column(USER_ID).combine_chunks()


def cut(arrays: Iterable[pa.Array], size: int) -> Iterator[pa.Array]:
    """Cut a stream of arrays anew: every array has `size` values, the last one what is left."""
    pending: list[pa.Array] = []
    room = size
    for array in arrays:
        rest = array
        while len(rest) >= room:
            yield pa.concat_arrays([*pending, rest[:room]])
            rest, pending, room = rest[room:], [], size
        if len(rest):
            pending.append(rest)
            room -= len(rest)
    if pending:
        yield pa.concat_arrays(pending)


def _connect(spill: str) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(":memory:", config={**_SORT_OPTIONS, "temp_directory": spill})
    connection.execute("SET enable_progress_bar = false")  # a run shows one of its own
    return connection


def _collect(connection: duckdb.DuckDBPyConnection, batches: Iterable[pa.Array], what: str) -> _Collected:
    """Fill table ``ids`` with all ids that are not null."""
    rows = nulls = 0
    dtype: pa.DataType | None = None
    for batch in batches:
        rows += len(batch)
        nulls += batch.null_count
        if pa.types.is_null(batch.type):
            continue
        if dtype is None:
            dtype = batch.type
            connection.execute(f"CREATE TABLE ids (id {'BIGINT' if pa.types.is_integer(dtype) else 'VARCHAR'})")
        connection.register("batch", pa.table({"id": batch.drop_null()}))
        connection.execute("INSERT INTO ids SELECT id FROM batch")
    if rows == 0:
        raise SchemaError(f"{what} holds no rows", "give at least one user")
    if dtype is None or rows == nulls:
        raise SchemaError(f"{what} holds no id, all of its {rows} rows are null", "give at least one user")
    return _Collected(rows, nulls, dtype)


def _sorted_distinct(connection: duckdb.DuckDBPyConnection) -> Iterator[pa.Array]:
    # DuckDB's collation is binary unless asked otherwise: strings in the order of their UTF-8 bytes.
    relation = connection.sql("SELECT DISTINCT id FROM ids ORDER BY id")
    for batch in relation.to_arrow_reader(_SORTED_BATCH_ROWS):
        yield batch.column(0)


def _write(partitions: Iterable[pa.Array], path: Path, dtype: pa.DataType, fingerprint: IdFingerprint) -> int:
    schema = pa.schema([pa.field(USER_ID, dtype, nullable=False)])
    temporary = temporary_name(path)
    distinct = 0
    try:
        with pq.ParquetWriter(temporary, schema, version="2.6", compression="zstd") as writer:
            for ids in partitions:
                fingerprint.update(ids)
                writer.write_table(pa.Table.from_arrays([ids], schema=schema), row_group_size=len(ids))
                distinct += len(ids)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return distinct
