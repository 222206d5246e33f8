"""How good a model is at what users did next: the measure by which training stops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from batchrec.models.events import after_pause

if TYPE_CHECKING:
    import numpy.typing as npt

    from batchrec.models.events import Events, IntArray

MOST_USERS = 3000
"""Most users of whom something is held out; of the others, everything trains."""

LEAST_SHARE = 0.2
"""Share of users who must be there both before and after the moment from which on everything is held out."""

TIME_SHARE, USER_SHARE = 0.1, 0.3
"""Share of the log after that moment, and largest share of a user's history where there is no such moment."""

PLACES = 10

SCORES_AT_ONCE = 1 << 26
"""Scores held in memory at a time, four bytes each."""


@dataclass(frozen=True)
class HeldOut:
    """Users at the moment from which on their events are held out.

    Parameters
    ----------
    moments
        (n,) index of each user's first held-out event.
    wanted, seen
        (pairs, 2) int64 each: row of the user in ``moments`` and item position, held out and before.
    """

    moments: IntArray
    wanted: IntArray
    seen: IntArray

    @classmethod
    def of(cls, events: Events, held: npt.NDArray[np.bool_]) -> HeldOut:
        """Take the users with held-out events and a history before them."""
        rank, _ = events.ranks()
        moments = np.flatnonzero(held & np.concatenate([[False], ~held[:-1]]) & (rank > 0))
        row = np.full(int(events.user.max(initial=0)) + 1, -1)
        row[events.user[moments]] = np.arange(len(moments))
        pairs = np.stack([row[events.user], events.item], axis=1)
        mine = pairs[:, 0] >= 0
        return cls(moments, pairs[mine & held], pairs[mine & ~held])

    def ndcg(self, lists: IntArray) -> float:
        """Mean NDCG at :data:`PLACES` of item positions (n, ≥ PLACES), best first (Järvelin & Kekäläinen 2002).

        0 where nobody is held out.
        """
        if not len(lists):
            return 0.0
        n_items = int(max(lists.max(initial=0), self.wanted[:, 1].max(initial=0))) + 1
        rows = np.arange(len(lists))[:, None]
        top = lists[:, :PLACES]
        hit = np.isin(rows * n_items + top, self.wanted[:, 0] * n_items + self.wanted[:, 1])
        gain = 1 / np.log2(np.arange(2, PLACES + 2))
        ideal = np.cumsum(gain)[np.minimum(np.bincount(self.wanted[:, 0], minlength=len(lists)), PLACES) - 1]
        return float(((hit * gain[: top.shape[1]]).sum(axis=1) / ideal).mean())


def hold_out(events: Events, seed: int) -> npt.NDArray[np.bool_]:
    """Mark what is held out to decide when training stops, (E,) bool: events of at most half the users, at random.

    It is what comes after one moment, as in a run: the last :data:`TIME_SHARE` of the log. Where users come only once
    and so too few are there before and after any moment, it is the end of each user's own history.
    """
    after = events.time > np.quantile(events.time, 1 - TIME_SHARE) if len(events) else np.zeros(0, bool)
    starts = events.starts()
    returning = ~after[starts] & after[np.append(starts[1:], len(events)) - 1]
    if returning.sum() < LEAST_SHARE * len(starts):
        after, returning = after_pause(events, USER_SHARE), np.ones(len(starts), bool)
    users = np.random.default_rng(seed).permutation(np.flatnonzero(returning))[
        : min(MOST_USERS, (len(starts) + 1) // 2)
    ]
    return np.asarray(after & np.isin(events.user, events.user[starts[users]]))


def best_items(
    queries: npt.NDArray[np.float32], items: npt.NDArray[np.float32], hidden: IntArray, width: int
) -> IntArray:
    """Exact top ``width`` of each query without its hidden items.

    Parameters
    ----------
    queries, items
        (n, d) and (N, d) float32.
    hidden
        (pairs, 2) int64: row and item position that must not be returned, sorted by row.

    Returns
    -------
    (n, width) int64
        Item positions, best first; -1 where fewer are left.
    """
    width = min(width, len(items))
    found = np.empty((len(queries), width), np.int64)
    block = max(1, SCORES_AT_ONCE // max(len(items), 1))
    for start in range(0, len(queries), block):
        scores = queries[start : start + block] @ items.T
        mine = hidden[np.searchsorted(hidden[:, 0], start) : np.searchsorted(hidden[:, 0], start + block)]
        scores[mine[:, 0] - start, mine[:, 1]] = -np.inf
        top = np.argpartition(-scores, width - 1, axis=1)[:, :width] if width < len(items) else None
        top = np.broadcast_to(np.arange(len(items)), scores.shape) if top is None else top
        value = np.take_along_axis(scores, top, axis=1)
        order = np.argsort(-value, axis=1, kind="stable")
        top, value = np.take_along_axis(top, order, axis=1), np.take_along_axis(value, order, axis=1)
        found[start : start + block] = np.where(np.isfinite(value), top, -1)
    return found
