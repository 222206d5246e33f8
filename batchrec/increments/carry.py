"""Lists that are carried over from an earlier run, as the dense arrays that a partition is computed in."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchrec.features.encode import positions_of
from batchrec.increments.previous import read_rows
from batchrec.output.digests import DIGEST, read_digests
from batchrec.schema import ITEM_ID, USER_ID
from batchrec.stages.sample import Sampled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    from batchrec.increments.previous import Previous

    Int64 = npt.NDArray[np.int64]


class Carried(NamedTuple):
    """Users of a partition whose inputs are those of the previous run, and their lists there.

    Attributes
    ----------
    rows
        Which of the partition's users, (c,) int64 ascending.
    lists
        Their lists, (c, k).
    """

    rows: Int64
    lists: Sampled

    def completed(self, users: int, compute: Callable[[Int64 | None], Sampled]) -> Sampled:
        """Let the lists of all other users be computed; return those of everybody, (n, k).

        Parameters
        ----------
        users
            n.
        compute
            Rows of users, (m,) ascending, to their lists; None for all.
        """
        rest = np.setdiff1d(np.arange(users), self.rows)
        if not len(self.rows):
            return compute(None)
        if not len(rest):
            return self.lists
        order = np.argsort(np.concatenate([self.rows, rest]))
        pairs = zip(self.lists, compute(rest), strict=True)
        return Sampled(*(np.concatenate(pair)[order] for pair in pairs))


def carry_over(
    previous: Previous | None, user_ids: pa.Array, digests: pa.Array, item_ids: pa.Array, top_k: int
) -> Carried:
    """Find the users of a partition whose inputs are those of the previous run.

    Parameters
    ----------
    previous
        The previous run, whose lists share all else with this one's; None carries nobody over.
    user_ids, digests
        (n,) each, ids ascending.
    item_ids
        (N,) the catalogue.
    top_k
        Items of a full list.

    Raises
    ------
    ArtifactError, SinkError
        The previous run cannot be read any more.
    """
    found = [] if previous is None else list(_unchanged(previous, user_ids, digests))
    if not found:
        return Carried(np.zeros(0, np.int64), _empty(0, top_k))
    rows = [places for places, _ in found]
    lists = [_dense(table, user_ids.take(pa.array(places)), item_ids, top_k) for places, table in found]
    return Carried(np.concatenate(rows), Sampled(*map(np.concatenate, zip(*lists, strict=True))))


def _unchanged(previous: Previous, user_ids: pa.Array, digests: pa.Array) -> Iterator[tuple[Int64, pa.Table]]:
    """Yield, part by part, which users are unchanged, and rows of the previous run with theirs among them."""
    first, last = user_ids[0].as_py(), user_ids[-1].as_py()
    for known in previous.digests:
        if known.first <= last and first <= known.last:
            part = known.record.name.rpartition("/")[2]
            before = read_digests(previous.folder, part)
            places = pc.index_in(before[USER_ID], value_set=user_ids)
            is_same = pc.and_(places.is_valid(), pc.equal(before[DIGEST], digests.take(pc.fill_null(places, 0))))
            same = places.filter(is_same).to_numpy().astype(np.int64)
            if len(same):
                yield same, read_rows(previous.folder, part)


def _dense(table: pa.Table, user_ids: pa.Array, item_ids: pa.Array, top_k: int) -> Sampled:
    """Return the lists (c, k) of users (c,) out of a part of either layout; where there is no row, nothing."""
    rows = table.filter(pc.is_in(table[USER_ID], value_set=user_ids))
    if ITEM_ID in rows.column_names:
        owners, places = _owners(rows, user_ids), rows["rank"].to_numpy() - 1
        names = (ITEM_ID, "score", "propensity")
    else:
        lengths = pc.list_value_length(rows["item_ids"]).to_numpy()
        owners = np.repeat(_owners(rows, user_ids), lengths)
        places = np.arange(len(owners)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        names = ("item_ids", "scores", "propensities")
    lists = _empty(len(user_ids), top_k)
    for array, name in zip(lists, names, strict=True):
        if name in rows.column_names:  # propensities stand in sampled runs only
            column = rows[name].combine_chunks()
            flat = column.flatten() if pa.types.is_list(column.type) else column
            array[owners, places] = positions_of(flat, item_ids) if array is lists.positions else flat.to_numpy()
    return lists


def _owners(rows: pa.Table, user_ids: pa.Array) -> Int64:
    """Return which of the users (c,) each row belongs to."""
    return np.asarray(pc.index_in(rows[USER_ID], value_set=user_ids).to_numpy(), dtype=np.int64)


def _empty(users: int, top_k: int) -> Sampled:
    shape = (users, top_k)
    return Sampled(np.full(shape, -1), np.full(shape, -np.inf, np.float32), np.zeros(shape, np.float32))
