"""The rows of a part, of either layout, as one row a user, a batch at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batchrec.errors import ArtifactError
from batchrec.schema import ITEM_ID, USER_ID, list_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchrec.output.storage import Storage

RANK = "rank"
_LIST_NAMES = {ITEM_ID: "item_ids", "score": "scores", "propensity": "propensities"}
"""Columns of layout ``long`` that are a list in layout ``list``, and their names there."""

ITEMS_A_BATCH = 200_000
"""Items of lists that are in memory at a time; a batch of long lists has fewer users."""


def pushed_schema(schema: pa.Schema) -> pa.Schema:
    """Return the columns that :func:`user_rows` gives for parts of this schema."""
    if RANK not in schema.names:
        return schema
    return pa.schema(
        [
            pa.field(_LIST_NAMES[field.name], list_of(field.type)) if field.name in _LIST_NAMES else field
            for field in schema
            if field.name != RANK
        ]
    )


def user_rows(folder: Storage, part: str, users: int) -> Iterator[pa.Table]:
    """Yield the rows of a part in order, one a user, in tables of about so many users.

    In layout ``long`` the rows of a user become lists; kept columns are those of the user's first row.

    Raises
    ------
    ArtifactError
        The part cannot be read.
    SinkError
        The storage does not answer.
    """
    try:
        with folder.open(part) as file:
            parquet = pq.ParquetFile(file)
            if RANK in parquet.schema_arrow.names:
                yield from _gathered(parquet, users)
            else:
                yield from _cut(parquet, users)
    except (FileNotFoundError, pa.ArrowException) as error:
        raise ArtifactError(f"{folder.shown(part)} cannot be read ({error})", "restore it, or publish anew") from error


def _cut(parquet: pq.ParquetFile, users: int) -> Iterator[pa.Table]:
    for batch in parquet.iter_batches(batch_size=users):
        longest = max(1, *(len(one.values) // len(batch) + 1 for one in batch.columns if pa.types.is_list(one.type)))
        size = max(1, ITEMS_A_BATCH // longest)
        for begin in range(0, len(batch), size):
            yield pa.Table.from_batches([batch.slice(begin, size)])


def _gathered(parquet: pq.ParquetFile, users: int) -> Iterator[pa.Table]:
    """Gather the rows of each user; those of the last one wait for the next batch, where more of them may stand."""
    waiting = None
    for batch in parquet.iter_batches(batch_size=min(ITEMS_A_BATCH, 10 * users)):
        rows = pa.Table.from_batches([batch])
        rows = rows if waiting is None else pa.concat_tables([waiting, rows])
        starts = _starts(rows)
        waiting = rows.slice(starts[-1])
        if len(starts) > 1:
            yield _lists(rows.slice(0, starts[-1]), starts[:-1])
    if waiting is not None and len(waiting):
        yield _lists(waiting, np.zeros(1, np.int64))


def _starts(rows: pa.Table) -> np.ndarray:
    """Return the row at which each user begins; a user's rows stand together."""
    ids = rows[USER_ID].combine_chunks()
    is_new = ids.slice(1).to_numpy(zero_copy_only=False) != ids.slice(0, len(ids) - 1).to_numpy(zero_copy_only=False)
    return np.concatenate([[0], np.flatnonzero(is_new) + 1])


def _lists(rows: pa.Table, starts: np.ndarray) -> pa.Table:
    offsets = pa.array(np.append(starts, len(rows)), pa.int32())
    first = rows.take(pa.array(starts))
    columns = {
        name: pa.ListArray.from_arrays(offsets, rows[name].combine_chunks()) if name in _LIST_NAMES else first[name]
        for name in rows.column_names
        if name != RANK
    }
    return pa.table({_LIST_NAMES.get(name, name): column for name, column in columns.items()})
