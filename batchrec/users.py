"""The users of a run: read from Parquet, made distinct, sorted, and cut into partitions.

Memory does not grow with the number of users: ids and kept columns are streamed into DuckDB, which sorts on disk beyond
its memory limit, and the sorted rows are streamed out again.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from contextlib import closing, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batchrec.errors import ConfigError, SchemaError, SinkError
from batchrec.hashing import IdFingerprint
from batchrec.id_source import kept_schema, row_batches
from batchrec.kept_columns import from_sortable, to_hashable, to_sortable
from batchrec.output.atomic import sink_error, temporary_name
from batchrec.output.storage import is_url, open_storage
from batchrec.redact import redact
from batchrec.schema import USER_ID

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

USERS = "users.parquet"
"""Name of the prepared users file inside the work folder."""

LARGEST_PARTITION = 2**24
"""Most users a partition may have."""

_SORT_OPTIONS: dict[str, Any] = {"threads": 4, "preserve_insertion_order": False}
_SORT_BYTES = 512_000_000
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
        Names the set of distinct ids with their kept values, whatever their order, repetitions and files; see
        :class:`RowsFingerprint`.
    ids_fingerprint
        Names the set of distinct ids alone; see :class:`~batchrec.hashing.IdFingerprint`.
    kept
        Names and types of the kept columns.
    """

    input_rows: int
    null_rows: int
    duplicate_rows: int
    distinct_users: int
    id_type: pa.DataType
    fingerprint: str
    ids_fingerprint: str
    kept: pa.Schema


class RowsFingerprint:
    """SHA-256 over a stream of rows, the same however the stream is cut.

    Without kept columns that of :class:`IdFingerprint`. With them the digest of that one in hexadecimal, then of each
    column a JSON list: name, type, and the fingerprints of which values there are (int64, 0 or 1) and of the values
    (int64 or string, see :func:`~batchrec.kept_columns.to_hashable`).

    Parameters
    ----------
    id_type
        int64 or string.
    kept
        Names and types of the kept columns.
    """

    def __init__(self, id_type: pa.DataType, kept: pa.Schema) -> None:
        self._ids = IdFingerprint(id_type)
        self._kept = [(field, IdFingerprint(pa.int64()), IdFingerprint(_hashed_type(field.type))) for field in kept]

    def update(self, rows: pa.RecordBatch) -> None:
        """Go on with (n,) `rows`: ids, then the kept columns in their sortable form."""
        ids, *kept = rows.columns
        self._ids.update(ids)
        for (_, present, values), column in zip(self._kept, kept, strict=True):
            present.update(column.is_valid().cast(pa.int64()))
            values.update(to_hashable(column))

    def ids_hexdigest(self) -> str:
        """Return the digest of the ids of all rows so far."""
        return self._ids.hexdigest()

    def hexdigest(self) -> str:
        """Return the digest of all rows so far."""
        if not self._kept:
            return self._ids.hexdigest()
        whole = hashlib.sha256(self._ids.hexdigest().encode())
        for field, present, values in self._kept:
            whole.update(json.dumps([field.name, str(field.type), present.hexdigest(), values.hexdigest()]).encode())
        return whole.hexdigest()


class _Collected(NamedTuple):
    rows: int
    nulls: int
    id_type: pa.DataType


def prepare_users(
    source: str,
    column: str,
    work: Path,
    users_per_partition: int,
    keep: Sequence[str] = (),
    memory_limit: int | None = None,
) -> tuple[UsersSummary, Path]:
    """Write the sorted distinct ids of `source` into one Parquet file whose row group i is partition i.

    The file is the same to the byte whatever the order, repetitions, row groups and files of the input. Where an id is
    repeated with other values in the kept columns, the row that sorts first by them, in the order given and nulls last,
    is the one that counts.

    Parameters
    ----------
    source, column
        Where the ids are, as :func:`~batchrec.id_source.row_batches` takes them.
    work
        Folder for the result and for DuckDB's temporary files.
    users_per_partition
        Rows of every row group but the last, which may have fewer; 1 to 2**24.
    keep
        Columns to carry along, none of them called ``user_id``; see :func:`~batchrec.id_source.kept_schema`.
    memory_limit
        Bytes that the process may hold; None for 1024 MB. Half of them are DuckDB's to sort in, which sorts on disk
        beyond that; the other half is for what stands around it.

    Returns
    -------
    summary : UsersSummary
    path : Path
        Column ``user_id``, int64 or string, ascending; strings in the order of their UTF-8 bytes. Then the kept
        columns.

    Raises
    ------
    ConfigError
        `users_per_partition` is out of range, or fsspec cannot open URLs of this kind.
    SchemaError
        The ids or the kept columns cannot be read (see :mod:`batchrec.id_source`), or there is not a single id.
    SinkError
        The result or DuckDB's temporary files could not be written.
    """
    if not 1 <= users_per_partition <= LARGEST_PARTITION:
        raise ConfigError(
            f"--users-per-partition is {users_per_partition}", f"give a number from 1 to {LARGEST_PARTITION}"
        )
    path = work / USERS
    kept = kept_schema(source, keep)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="sort-", dir=work) as spill,
            _connect(spill, memory_limit) as connection,
        ):
            collected = _collect(connection, row_batches(source, column, kept), kept, f"column {column!r} of {source}")
            fingerprint = RowsFingerprint(collected.id_type, kept)
            partitions = cut(_sorted_rows(connection, len(kept)), users_per_partition)
            schema = pa.schema([pa.field(USER_ID, collected.id_type, nullable=False), *kept])
            distinct = _write(partitions, path, schema, fingerprint)
    except duckdb.Error as error:
        reason = str(error).splitlines()[0]
        raise SinkError(
            f"cannot sort the users in {work} ({reason})",
            "free space there, or allow more with --memory-limit, and run again",
        ) from error
    except OSError as error:
        raise sink_error(path, error) from error
    duplicates = collected.rows - collected.nulls - distinct
    summary = UsersSummary(
        collected.rows,
        collected.nulls,
        duplicates,
        distinct,
        collected.id_type,
        fingerprint.hexdigest(),
        fingerprint.ids_hexdigest(),
        kept,
    )
    return summary, path


def partition_count(path: Path) -> int:
    """Return the number of partitions in a file that :func:`prepare_users` wrote."""
    return int(pq.read_metadata(path).num_row_groups)


def partition_sizes(path: Path) -> list[int]:
    """Return the users of each partition in a file that :func:`prepare_users` wrote."""
    metadata = pq.read_metadata(path)
    return [int(metadata.row_group(number).num_rows) for number in range(metadata.num_row_groups)]


def read_partition(place: Path | str, index: int) -> pa.Table:
    """Return the n rows of one partition, user ids ascending, kept columns beside them; nothing else is read.

    Parameters
    ----------
    place
        Path of the file that :func:`prepare_users` wrote, or the URL of a copy of it.
    index
        Which partition.

    Raises
    ------
    SchemaError
        There is no such file.
    SinkError
        The object store did not give it.
    """
    try:
        with _opened(place) as source, pq.ParquetFile(source) as file:
            return file.read_row_group(index).combine_chunks()
    except FileNotFoundError as error:
        raise SchemaError(
            f"the prepared users {redact(str(place))} are not there",
            "let all workers reach the output folder by the same path, or give --output an object store",
        ) from error


def cut(batches: Iterable[pa.RecordBatch], size: int) -> Iterator[pa.RecordBatch]:
    """Cut a stream of batches anew: every batch has `size` rows, the last one what is left."""
    pending: list[pa.RecordBatch] = []
    room = size
    for batch in batches:
        rest = batch
        while rest.num_rows >= room:
            yield pa.concat_batches([*pending, rest[:room]])
            rest, pending, room = rest[room:], [], size
        if rest.num_rows:
            pending.append(rest)
            room -= rest.num_rows
    if pending:
        yield pa.concat_batches(pending)


def _opened(place: Path | str) -> AbstractContextManager[Any]:
    text = str(place)
    if not is_url(text):
        return nullcontext(place)
    folder, _, name = text.rpartition("/")
    return closing(open_storage(folder).open(name))


def _connect(spill: str, memory_limit: int | None) -> duckdb.DuckDBPyConnection:
    most = _SORT_BYTES if memory_limit is None else memory_limit // 2
    options = {**_SORT_OPTIONS, "memory_limit": f"{most}B", "temp_directory": spill}
    connection = duckdb.connect(":memory:", config=options)
    connection.execute("SET enable_progress_bar = false")  # a run shows one of its own
    return connection


def _collect(
    connection: duckdb.DuckDBPyConnection, batches: Iterable[pa.RecordBatch], kept: pa.Schema, what: str
) -> _Collected:
    """Fill table ``users`` with all rows whose id is not null."""
    rows = nulls = 0
    dtype: pa.DataType | None = None
    for batch in batches:
        ids = batch.column(0)
        rows += len(ids)
        nulls += ids.null_count
        if pa.types.is_null(ids.type):
            continue
        connection.register("batch", _sortable(batch, kept))
        if dtype is None:
            dtype = ids.type
            connection.execute("CREATE TABLE users AS SELECT * FROM batch LIMIT 0")
        connection.execute("INSERT INTO users SELECT * FROM batch")
    if rows == 0:
        raise SchemaError(f"{what} holds no rows", "give at least one user")
    if dtype is None or rows == nulls:
        raise SchemaError(f"{what} holds no id, all of its {rows} rows are null", "give at least one user")
    return _Collected(rows, nulls, dtype)


def _sortable(batch: pa.RecordBatch, kept: pa.Schema) -> pa.Table:
    """Rows that have an id, in columns ``id``, ``kept_0``, ``kept_1`` and so on: names that need no quotes."""
    ids, *columns = batch.columns
    columns = [to_sortable(column, field.type) for column, field in zip(columns, kept, strict=True)]
    table = pa.Table.from_arrays([ids, *columns], names=["id", *_kept_names(len(kept))])
    return table.filter(ids.is_valid()) if ids.null_count else table


def _kept_names(count: int) -> list[str]:
    return [f"kept_{number}" for number in range(count)]


def _sorted_rows(connection: duckdb.DuckDBPyConnection, kept: int) -> Iterator[pa.RecordBatch]:
    """One row a distinct id, ascending."""
    # DuckDB's collation is binary unless asked otherwise: strings in the order of their UTF-8 bytes.
    if kept:
        # DuckDB's DISTINCT ON would hold every group in memory; its sort does not.
        order = ", ".join(["id", *(f"{name} ASC NULLS LAST" for name in _kept_names(kept))])
        relation = connection.sql(f"SELECT * FROM users ORDER BY {order}")  # noqa: S608 - names of our own
        return _first_of_each(relation.to_arrow_reader(_SORTED_BATCH_ROWS))
    return iter(connection.sql("SELECT DISTINCT id FROM users ORDER BY id").to_arrow_reader(_SORTED_BATCH_ROWS))


def _first_of_each(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Keep the first row of each id; the rows of an id follow one another, also from one batch to the next."""
    last: pa.Array | None = None
    for batch in batches:
        ids = batch.column(0)
        before = pa.concat_arrays([pa.nulls(1, ids.type) if last is None else last, ids[:-1]])
        yield batch.filter(pc.fill_null(pc.not_equal(ids, before), True))
        last = ids[-1:]


def _write(partitions: Iterable[pa.RecordBatch], path: Path, schema: pa.Schema, fingerprint: RowsFingerprint) -> int:
    temporary = temporary_name(path)
    distinct = 0
    try:
        with pq.ParquetWriter(temporary, schema, version="2.6", compression="zstd") as writer:
            for rows in partitions:
                fingerprint.update(rows)
                columns = [from_sortable(*pair) for pair in zip(rows.columns, schema.types, strict=True)]
                writer.write_table(pa.Table.from_arrays(columns, schema=schema), row_group_size=rows.num_rows)
                distinct += rows.num_rows
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return distinct


def _hashed_type(dtype: pa.DataType) -> pa.DataType:
    return pa.string() if pa.types.is_string(dtype) or pa.types.is_decimal(dtype) else pa.int64()
