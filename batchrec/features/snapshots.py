"""Seen items with history: what a user had interacted with as of the end of each active stretch of time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]


class Snapshots(NamedTuple):
    """One list of distinct items a row, sorted by user, then time.

    Attributes
    ----------
    event
        Index of the last event a snapshot includes, shape ``(s,)``, int64: its user and its time are the snapshot's.
    offsets
        List ``i`` is ``values[offsets[i]:offsets[i + 1]]``; shape ``(s + 1,)``, int64.
    values
        Items in order of their first interaction, oldest first; shape ``(m,)``, int64.
    """

    event: Int64
    offsets: Int64
    values: Int64


def seen_snapshots(user: Int64, item: Int64, stretch: Int64) -> Snapshots:
    """Return every user's distinct items so far, at the last event of each stretch of time with events of that user.

    Parameters
    ----------
    user, item
        One entry an event, shape ``(e,)``, sorted by user, then time. Any ids.
    stretch
        Number of the stretch of time (day, week) an event falls in; never falls within a user.

    Returns
    -------
    Snapshots
        A snapshot holds the events up to and including its own last one and none after it, so that looking it up as
        of any time at or after that event sees no future.
    """
    if not user.size:
        return Snapshots(np.empty(0, np.int64), np.zeros(1, np.int64), np.empty(0, np.int64))
    first = _is_first(user, item)
    distinct_so_far = np.cumsum(first)
    new_user = np.r_[True, user[1:] != user[:-1]]
    before_user = np.maximum.accumulate(np.where(new_user, distinct_so_far - first, 0))
    last = np.r_[(user[1:] != user[:-1]) | (stretch[1:] != stretch[:-1]), True]
    event = np.flatnonzero(last)
    begin = before_user[event]
    length: Int64 = distinct_so_far[event] - begin
    offsets = np.r_[0, np.cumsum(length)]
    gather = np.repeat(begin - offsets[:-1], length) + np.arange(offsets[-1])
    return Snapshots(event, offsets, item[first][gather])


def _is_first(user: Int64, item: Int64) -> npt.NDArray[np.bool_]:
    """Tell which events are the first of their (user, item) pair, given events in order."""
    order = np.lexsort((item, user))
    new_pair = (user[order][1:] != user[order][:-1]) | (item[order][1:] != item[order][:-1])
    first = np.zeros(user.size, dtype=np.bool_)
    first[order[np.r_[True, new_pair]]] = True
    return first
