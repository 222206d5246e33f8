"""Late suppression: users and items that must not be in the output, whatever was computed.

Opt-outs, erasures and recalls reach a team while the night's run is under way. They are read after the last list is
made and taken out of the finished parts, before anything is proven and published.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchrec.errors import SchemaError
from batchrec.hashing import IdFingerprint
from batchrec.id_source import column_names, row_batches
from batchrec.schema import ITEM_ID, USER_ID, Status

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Bools = npt.NDArray[np.bool_]

_NOTHING_KEPT = pa.schema([])


@dataclass(frozen=True)
class Suppression:
    """What must not be published.

    Parameters
    ----------
    items, users
        Raw ids, distinct and ascending.
    """

    items: pa.Array
    users: pa.Array

    @property
    def fingerprint(self) -> str:
        """Names both sets of ids."""
        digests = []
        for ids in (self.items, self.users):
            one = IdFingerprint(ids.type)
            one.update(ids)
            digests.append(one.hexdigest())
        return "-".join(digests)


class Suppressed(NamedTuple):
    """A part without what must not be in it.

    Attributes
    ----------
    table
        The rows that are left.
    status
        Of the users that are left, (m,).
    users, items
        How many users lost their row, and how many items were taken out of lists that stay.
    untouched
        Of all users of the part, (n,): who kept the row and every item.
    """

    table: pa.Table
    status: npt.NDArray[np.str_]
    users: int
    items: int
    untouched: Bools


def read_suppression(sources: Sequence[str], user_type: pa.DataType, item_type: pa.DataType) -> Suppression | None:
    """Read suppression lists; None where none is given.

    Parameters
    ----------
    sources
        Parquet files, folders or globs, each with a column ``item_id`` or ``user_id`` (not both). A list may be empty,
        and may name ids that the run does not know. Nulls are passed over.
    user_type, item_type
        int64 or string, as in the output.

    Raises
    ------
    SchemaError
        A source cannot be read, has neither column or both, or its ids are of the other kind.
    """
    if not sources:
        return None
    found: dict[str, list[pa.Array]] = {ITEM_ID: [], USER_ID: []}
    types = {ITEM_ID: item_type, USER_ID: user_type}
    for source in sources:
        column = _id_column(source)
        for batch in row_batches(source, column, _NOTHING_KEPT):
            found[column].append(_typed(batch.column(0).drop_null(), types[column], column, source))
    return Suppression(*(_distinct(found[column], types[column]) for column in (ITEM_ID, USER_ID)))


def suppress(table: pa.Table, user_ids: pa.Array, status: npt.NDArray[np.str_], suppression: Suppression) -> Suppressed:
    """Take suppressed users and items out of one part.

    A list that loses items keeps the order, scores and propensities of the others, and is not filled up: ``ok`` becomes
    ``short``. In layout ``long`` ranks are counted anew.

    Parameters
    ----------
    table
        The part, of either layout.
    user_ids, status
        (n,) users of the partition, ascending, and what became of each.
    suppression
        What must go.
    """
    gone = _is_in(user_ids, suppression.users)
    kept = table.filter(pa.array(~_is_in(table[USER_ID], suppression.users)))
    stays = user_ids.filter(pa.array(~gone))
    left, shortened, items = (_without_from_lists if "item_ids" in table.column_names else _without_from_rows)(
        kept, suppression.items
    )
    status = status[~gone]
    is_shortened = _is_in(stays, shortened)
    status = np.where(is_shortened & (status == Status.OK), str(Status.SHORT), status)
    if "status" in left.column_names:
        place = left.column_names.index("status")
        left = left.set_column(place, left.schema.field(place), pa.array(status.tolist(), pa.string()))
    untouched = ~gone
    untouched[~gone] = ~is_shortened
    return Suppressed(left, status, int(gone.sum()), items, untouched)


def _without_from_lists(table: pa.Table, items: pa.Array) -> tuple[pa.Table, pa.Array, int]:
    """Return layout ``list`` without items, the users whose lists lost any, and how many were lost."""
    lists = table["item_ids"].combine_chunks()
    before = lists.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
    stays = ~_is_in(lists.flatten(), items)
    owners = np.repeat(np.arange(len(before)), before)
    after = np.bincount(owners[stays], minlength=len(before))
    offsets = pa.array(np.concatenate([np.zeros(1, np.int64), np.cumsum(after)]), pa.int32())
    for place, field in enumerate(table.schema):
        if field.name in {"item_ids", "scores", "propensities"}:
            values = table.column(place).combine_chunks().flatten().filter(pa.array(stays))
            table = table.set_column(place, field, pa.ListArray.from_arrays(offsets, values).cast(field.type))
    return table, table[USER_ID].filter(pa.array(after < before)), int((~stays).sum())


def _without_from_rows(table: pa.Table, items: pa.Array) -> tuple[pa.Table, pa.Array, int]:
    """Return layout ``long`` without items, the users whose lists lost any, and how many were lost."""
    gone = _is_in(table[ITEM_ID], items)
    left = table.filter(pa.array(~gone))
    place = left.column_names.index("rank")
    return (
        left.set_column(place, left.schema.field(place), _ranks(left[USER_ID].combine_chunks())),
        table[USER_ID].filter(pa.array(gone)).unique(),
        int(gone.sum()),
    )


def _ranks(user_ids: pa.Array) -> pa.Array:
    """Count the rows of each user from 1; the rows of a user follow one another."""
    rows = np.arange(len(user_ids))
    if not len(rows):
        return pa.array(rows, pa.int32())
    is_first = np.concatenate([[True], pc.not_equal(user_ids[1:], user_ids[:-1]).to_numpy(zero_copy_only=False)])
    return pa.array(rows - np.maximum.accumulate(np.where(is_first, rows, 0)) + 1, pa.int32())


def _is_in(values: pa.Array | pa.ChunkedArray, ids: pa.Array | pa.ChunkedArray) -> Bools:
    return np.asarray(pc.is_in(values, value_set=ids).to_numpy(zero_copy_only=False), dtype=bool)


def _id_column(source: str) -> str:
    names = column_names(source)
    columns = [column for column in (ITEM_ID, USER_ID) if column in names]
    if len(columns) != 1:
        raise SchemaError(
            f"the suppression list {source} has the columns {', '.join(names) or 'none'}; expected either {ITEM_ID} "
            f"or {USER_ID}",
            "give one file of items or one of users, with its ids in that column",
        )
    return columns[0]


def _typed(ids: pa.Array, dtype: pa.DataType, column: str, source: str) -> pa.Array:
    if pa.types.is_null(ids.type) or ids.type == dtype:
        return ids.cast(dtype)
    raise SchemaError(
        f"column {column!r} of the suppression list {source} holds {ids.type} ids, those of the run are {dtype}",
        "cast the column",
    )


def _distinct(found: list[pa.Array], dtype: pa.DataType) -> pa.Array:
    ids = pa.chunked_array(found, dtype).unique()
    return ids.take(pc.sort_indices(ids))
