"""The popularity baseline: to every user the items with the most train interactions that the user has not had."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from batchrec.evaluate.metrics import Counts, Positions, pair_keys
from batchrec.evaluate.tables import IdTable, positions_in
from batchrec.schema import ITEM_ID, USER_ID

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa


@dataclass(frozen=True)
class Train:
    """What popularity knows of the train interactions."""

    interactions: Counts
    """``(N,)`` interactions an item. Events are counted, not users: who came back counts again."""
    seen: Positions
    """Ascending distinct :func:`~batchrec.evaluate.metrics.pair_keys` of the evaluated users' seen items."""


def read_train(path: Path, users: pa.Array, catalogue: pa.Array) -> Train:
    """Count the train interactions of every item, and keep the seen items of the evaluated users.

    The table is streamed; memory grows with the evaluated users' seen items only. Items outside the catalogue and rows
    without a user id or an item id count for nothing.

    Parameters
    ----------
    path
        Train interactions (user_id, item_id; any order).
    users
        ``(n,)`` ids of the evaluated users, ascending.
    catalogue
        ``(N,)`` item ids, ascending.

    Raises
    ------
    SchemaError
        Where the table cannot be read, or its ids are of another type than the users' or the catalogue's.
    """
    table = IdTable.open(path, (USER_ID, ITEM_ID))
    table.require(USER_ID, users.type, "the holdout")
    table.require(ITEM_ID, catalogue.type, "the catalogue")
    interactions = np.zeros(len(catalogue), dtype=np.int64)
    seen = [np.empty(0, dtype=np.int64)]
    for batch in table.batches():
        complete = batch.drop_null()
        items = positions_in(catalogue, complete[ITEM_ID])
        rows = positions_in(users, complete[USER_ID])
        interactions += np.bincount(items[items >= 0], minlength=len(catalogue))
        kept = (items >= 0) & (rows >= 0)
        seen.append(pair_keys(rows[kept], items[kept], len(catalogue)))
    return Train(interactions, _distinct(np.concatenate(seen)))


def popularity_lists(train: Train, users: int, k: int) -> Positions:
    """Recommend to every user the k most popular unseen items of the whole catalogue.

    Ties go to the smaller item id. An item without a train interaction stands behind all others.

    Parameters
    ----------
    train
        Train interactions of N items.
    users
        Number of evaluated users, n.
    k
        Length of a list.

    Returns
    -------
    Positions
        ``(n, k)`` item positions, -1 where the catalogue holds no further unseen item.
    """
    size = len(train.interactions)
    by_popularity = np.argsort(-train.interactions, kind="stable")
    rank_of_item = np.empty(size, dtype=np.int64)
    rank_of_item[by_popularity] = np.arange(size)
    owners, seen_items = np.divmod(train.seen, size)
    owners, seen_ranks = np.divmod(np.sort(pair_keys(owners, rank_of_item[seen_items], size)), size)
    ranks = _first_unseen(owners, seen_ranks, users, k)
    return np.where(ranks < size, by_popularity[np.minimum(ranks, size - 1)], -1)


def _distinct(keys: Positions) -> Positions:
    """Return the distinct keys, ascending."""
    # np.unique hashes integers before it sorts, which takes many times as long on millions of keys.
    ordered = np.sort(keys)
    first = np.ones(ordered.size, dtype=np.bool_)
    first[1:] = ordered[1:] != ordered[:-1]
    return ordered[first]


def _first_unseen(owners: Positions, seen_ranks: Positions, users: int, k: int) -> Positions:
    """Return the k smallest non-negative integers that are not among each user's distinct seen ranks, ``(users, k)``.

    Owners ascend, and so do the seen ranks of one owner: with these s_0 < s_1 < …, exactly s_i - i unseen ranks stand
    before s_i; so the unseen rank number j is j plus the number of i with s_i - i ≤ j.
    """
    starts = np.searchsorted(owners, np.arange(users))
    unseen_before = seen_ranks - (np.arange(owners.size) - starts[owners])
    near = unseen_before < k
    passed = np.bincount(owners[near] * k + unseen_before[near], minlength=users * k).reshape(users, k)
    return np.arange(k) + np.cumsum(passed, axis=1)
