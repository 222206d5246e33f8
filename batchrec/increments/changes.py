"""What differs between a run and the one that it was computed since: found by comparing rows, whatever was computed."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchrec.increments.previous import read_rows
from batchrec.output.changes import KINDS, Increment, changes_name
from batchrec.output.part import write_part
from batchrec.output.ranges import id_ranges
from batchrec.progress import say
from batchrec.redact import redact
from batchrec.schema import USER_ID

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from batchrec.increments.previous import Previous
    from batchrec.output.ranges import Id
    from batchrec.output.record import PartRecord
    from batchrec.output.storage import Storage

    Bools = npt.NDArray[np.bool_]


def write_changes(
    folder: Storage, parts: Sequence[PartRecord], previous: Previous, carried: int, computed: int
) -> Increment:
    """Compare a run's finished parts with the previous run and write what differs, a part at a time.

    Of each list the first file is always written, also without rows, so that there is a table to read; after that only
    files with rows.

    Parameters
    ----------
    folder
        The run folder.
    parts
        Its parts as they are to be published, at least one.
    previous
        What they are compared with.
    carried, computed
        Users whose lists were carried over from it, and all others.

    Raises
    ------
    ArtifactError
        The previous run cannot be read any more.
    SinkError
        A file could not be written.
    """
    users = dict.fromkeys(KINDS, 0)
    files: dict[str, list[PartRecord]] = {kind: [] for kind in KINDS}
    for part, lower, upper in _stretches(folder, parts):
        now = read_rows(folder, part.name)
        found = list(previous.rows_between(lower, upper))
        before = pa.concat_tables(found) if found else None
        for kind, rows in zip(KINDS, compared(now, before), strict=True):
            if len(rows) or not files[kind]:
                files[kind].append(write_part(rows, folder, changes_name(kind, part.name)))
            users[kind] += len(rows[USER_ID].unique())
    say(
        f"since run {previous.run_id}: {carried:,} lists carried over, {computed:,} computed; users "
        + ", ".join(f"{kind} {count:,}" for kind, count in users.items())
    )
    place = redact(previous.place)
    return Increment(previous.run_id, place, previous.manifest, carried, computed, users, files)


def compared(now: pa.Table, before: pa.Table | None) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Compare the rows of two runs over one stretch of users.

    Values count, not bits: all that is not a number is equal, and so are null and null.

    Parameters
    ----------
    now, before
        Rows of either layout, ids ascending; None for no rows.

    Returns
    -------
    tuple of pa.Table
        Rows of users who are in `now` alone, of users in both whose rows differ, as they are in `now`, and the ids of
        users who are in `before` alone.
    """
    now_ids = now[USER_ID].combine_chunks().unique()
    before_ids = pa.array([], now_ids.type) if before is None else before[USER_ID].combine_chunks().unique()
    inserted = now_ids.filter(pc.invert(pc.is_in(now_ids, value_set=before_ids)))
    both = now_ids.filter(pc.is_in(now_ids, value_set=before_ids))
    removed = before_ids.filter(pc.invert(pc.is_in(before_ids, value_set=now_ids)))
    changed = both if before is None else both.filter(pa.array(_differ(_of(now, both), _of(before, both))))
    return _of(now, inserted), _of(now, changed), pa.table({USER_ID: removed})


def _stretches(folder: Storage, parts: Sequence[PartRecord]) -> Iterator[tuple[PartRecord, Id | None, Id | None]]:
    """Yield each part with rows, and its stretch of ids: to the next part's first; together they leave no id out."""
    known = id_ranges(folder, parts)
    bounds: list[Id | None] = [None, *(part.first for part in known[1:]), None]
    records = [part.record for part in known] or parts[:1]
    for record, (lower, upper) in zip(records, pairwise(bounds), strict=True):
        yield record, lower, upper


def _of(rows: pa.Table, users: pa.Array) -> pa.Table:
    return rows.filter(pc.is_in(rows[USER_ID], value_set=users))


def _differ(now: pa.Table, before: pa.Table) -> Bools:
    """Tell which of the users (m,), the same ones on both sides, have other rows."""
    if not now.schema.equals(before.schema):
        return np.ones(len(now[USER_ID].unique()), bool)
    if "rank" in now.column_names:
        now, before = _by_user(now), _by_user(before)
    differ = np.zeros(len(now), bool)
    for one, other in zip(now.columns, before.columns, strict=True):
        differ |= _values_differ(one.combine_chunks(), other.combine_chunks())
    return differ


def _by_user(rows: pa.Table) -> pa.Table:
    """Gather each user's rows, which follow one another, into a list a column."""
    ids = rows[USER_ID].combine_chunks()
    starts = np.flatnonzero(_starts(ids))
    offsets = pa.array(np.append(starts, len(ids)), pa.int32())
    lists = [pa.ListArray.from_arrays(offsets, column.combine_chunks()) for column in rows.columns]
    return pa.table(lists, names=rows.column_names)


def _starts(ids: pa.Array) -> Bools:
    if not len(ids):
        return np.zeros(0, bool)
    is_new = np.asarray(pc.not_equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False), dtype=bool)
    starts: Bools = np.append(True, is_new)
    return starts


def _values_differ(one: pa.Array, other: pa.Array) -> Bools:
    """Tell where two columns (n,) of one type hold different values, lists among them."""
    if pa.types.is_list(one.type):
        lengths, others = _lengths(one), _lengths(other)
        alike = lengths == others
        owners = np.repeat(np.flatnonzero(alike), lengths[alike])
        mask = pa.array(alike)
        within = owners[_values_differ(one.filter(mask).flatten(), other.filter(mask).flatten())]
        differ: Bools = ~alike | (np.bincount(within, minlength=len(one)) > 0)
        return differ
    equal = pc.fill_null(pc.equal(one, other), False)
    equal = pc.or_(equal, pc.and_(one.is_null(nan_is_null=True), other.is_null(nan_is_null=True)))
    if pa.types.is_floating(one.type):
        equal = pc.and_(equal, pc.equal(one.is_null(), other.is_null()))
    return ~np.asarray(equal.to_numpy(zero_copy_only=False), dtype=bool)


def _lengths(lists: pa.Array) -> npt.NDArray[np.int64]:
    return np.asarray(pc.list_value_length(lists).to_numpy(zero_copy_only=False), dtype=np.int64)
