"""One part file: the Arrow table of a partition's lists, and its bytes on disk."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batchrec.errors import ConfigError
from batchrec.output.record import PartRecord
from batchrec.schema import Status, list_of, list_schema, long_schema

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from batchrec.output.storage import Storage

    Words = Sequence[str] | npt.NDArray[np.str_]

Layout = Literal["list", "long"]
"""``list``: one row a user. ``long``: one row an item of a list."""

_LARGEST_OFFSET = np.iinfo(np.int32).max


def build_table(
    *,
    user_ids: pa.Array,
    item_ids: pa.Array,
    positions: npt.NDArray[np.int64],
    scores: npt.NDArray[np.float32],
    propensities: npt.NDArray[np.float32] | None,
    status: Words,
    source: Words,
    layout: Layout,
    kept: pa.Table | None = None,
) -> pa.Table:
    """Turn a partition's dense lists into the rows that leave the program.

    Parameters
    ----------
    user_ids
        (n,) raw user ids, ascending.
    item_ids
        (N,) raw item ids of the catalogue; the item at position p has id ``item_ids[p]``.
    positions
        (n, k) item positions, best first, -1 where there is no item.
    scores
        (n, k) relevance of each item; what stands beside -1 is dropped.
    propensities
        (n, k) probability with which each item was drawn, or None in runs that do not sample.
    status, source
        (n,) :class:`~batchrec.schema.Status` and :class:`~batchrec.schema.Source` of each user; not part of layout
        ``long``.
    layout
        ``list`` or ``long``.
    kept
        n rows, in the order of `user_ids`: columns of the users file that come after all others; None for none.

    Returns
    -------
    pa.Table
        As :func:`~batchrec.schema.list_schema` or :func:`~batchrec.schema.long_schema` says, rows in the order of
        `user_ids`, then rank.

    Raises
    ------
    ConfigError
        The lists of this partition hold more items than one Arrow list column can (2**31 - 1).
    """
    present = positions >= 0
    lengths = present.sum(axis=1, dtype=np.int64)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    if offsets[-1] > _LARGEST_OFFSET:
        raise ConfigError(
            f"a partition of {len(user_ids)} users has {offsets[-1]} list items, more than {_LARGEST_OFFSET}",
            "give a smaller --users-per-partition",
        )
    items = item_ids.take(pa.array(positions[present]))
    values = [pa.array(column[present], pa.float32()) for column in (scores, propensities) if column is not None]
    if layout == "long":
        table = _long_table(user_ids, lengths, offsets, items, values)
        return table if kept is None else _beside(table, kept.take(_user_of_row(lengths)))
    table = _list_table(user_ids, offsets, items, values, status, source)
    return table if kept is None else _beside(table, kept)


def count_by_status(status: Words) -> dict[str, int]:
    """Count users by status: every :class:`~batchrec.schema.Status` in its order, zeros included."""
    names, counts = np.unique(np.asarray(status, dtype=np.str_), return_counts=True)
    found = dict(zip(names.tolist(), counts.tolist(), strict=True))
    return {str(name): found.get(str(name), 0) for name in Status}


def write_part(table: pa.Table, storage: Storage, name: str) -> PartRecord:
    """Write one part file: all of it or nothing, with bytes that depend on the table's values alone.

    Raises
    ------
    SinkError
        The file could not be written; nothing is left of it.
    """
    data = memoryview(_parquet_bytes(table))
    storage.write(name, data)
    return PartRecord(name, table.num_rows, data.nbytes, hashlib.sha256(data).hexdigest())


def _long_table(
    user_ids: pa.Array,
    lengths: npt.NDArray[np.int64],
    offsets: npt.NDArray[np.int64],
    items: pa.Array,
    values: list[pa.Array],
) -> pa.Table:
    users = user_ids.take(_user_of_row(lengths))
    rank = np.arange(1, offsets[-1] + 1) - np.repeat(offsets[:-1], lengths)
    schema = long_schema(user_ids.type, items.type, sampled=len(values) > 1)
    return pa.Table.from_arrays([users, pa.array(rank, pa.int32()), items, *values], schema=schema)


def _user_of_row(lengths: npt.NDArray[np.int64]) -> pa.Array:
    """Row of the user (m,) whom each item belongs to."""
    return pa.array(np.repeat(np.arange(len(lengths)), lengths))


def _beside(table: pa.Table, kept: pa.Table) -> pa.Table:
    for field, column in zip(kept.schema, kept.columns, strict=True):
        table = table.append_column(field, column)
    return table


def _list_table(
    user_ids: pa.Array,
    offsets: npt.NDArray[np.int64],
    items: pa.Array,
    values: list[pa.Array],
    status: Words,
    source: Words,
) -> pa.Table:
    starts = pa.array(offsets, pa.int32())
    lists = [pa.ListArray.from_arrays(starts, column, type=list_of(column.type)) for column in (items, *values)]
    words = [pa.array(np.asarray(column, dtype=np.str_), pa.string()) for column in (status, source)]
    schema = list_schema(user_ids.type, items.type, sampled=len(values) > 1)
    return pa.Table.from_arrays([user_ids, *lists, *words], schema=schema)


def _parquet_bytes(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    # Where data pages end depends on where Arrow chunks end: the same values in other chunks would give other bytes.
    pq.write_table(
        table.combine_chunks(),
        sink,
        version="2.6",
        compression="zstd",
        compression_level=3,
        row_group_size=max(table.num_rows, 1),
    )
    return sink.getvalue()
