"""Interactions as arrays, ordered as training needs them: by user, then time, then item."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
Columns = Mapping[str, npt.NDArray[np.generic]]
"""Encoded features by input name: int32 codes (categorical) or float32 (dense), one value a row."""


@dataclass(frozen=True)
class ItemRows:
    """Every distinct version of every item's features that training has seen.

    Parameters
    ----------
    position
        (R,) int64: the item position each row describes.
    features
        Encoded item features, (R,) each.
    """

    position: IntArray
    features: Columns

    def __len__(self) -> int:
        return len(self.position)


@dataclass(frozen=True)
class Events:
    """First interactions of users with items, sorted by user, time, item.

    Parameters
    ----------
    user
        (E,) int64: user number, ascending.
    time
        (E,) int64: microseconds since 1970, UTC, ascending within a user.
    item
        (E,) int64: item position.
    item_row
        (E,) int64: row of :class:`ItemRows` that was true at the event's time.
    user_features
        Encoded user features as of each event's time, (E,) each.
    """

    user: IntArray
    time: IntArray
    item: IntArray
    item_row: IntArray
    user_features: Columns

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: npt.NDArray[np.generic]) -> Events:
        """Return the events at ``rows`` (indices or mask), which must keep the order."""
        return Events(
            self.user[rows],
            self.time[rows],
            self.item[rows],
            self.item_row[rows],
            {name: column[rows] for name, column in self.user_features.items()},
        )

    def starts(self) -> IntArray:
        """Index of every user's first event, (U,)."""
        if not len(self):
            return np.zeros(0, np.int64)
        return np.flatnonzero(np.concatenate([[True], self.user[1:] != self.user[:-1]]))

    def ranks(self) -> tuple[IntArray, IntArray]:
        """Place of each event within its user's history from 0, and that history's length, (E,) each."""
        starts = self.starts()
        lengths = np.diff(np.append(starts, len(self)))
        return np.arange(len(self)) - np.repeat(starts, lengths), np.repeat(lengths, lengths)


def after_pause(events: Events, share: float) -> npt.NDArray[np.bool_]:
    """Mark the end of every user's events, from the longest pause among the last ``share`` of them on, (E,) bool.

    Lists are made between visits, not in the middle of one: what comes right after a click is another question than
    what comes on the next days. A user with a single event has no end; of equal pauses the last counts.
    """
    rank, length = events.ranks()
    pause = np.diff(events.time, prepend=events.time[:1])
    late = (rank > 0) & (rank >= length - np.maximum(np.rint(length * share), 1))
    order = np.lexsort((rank, np.where(late, pause, -1), events.user))
    # The last of each user in this order has the longest pause; it is rank 0 where no event is late.
    cut = order[np.append(events.starts()[1:], len(events)) - 1] if len(events) else order
    begin = np.where(rank[cut] > 0, rank[cut], length[cut])
    return np.asarray(rank >= np.repeat(begin, length[cut]))


def histories(events: Events, ends: IntArray, length: int) -> IntArray:
    """Return the events before each of ``ends``, newest last, as event indices.

    Parameters
    ----------
    ends
        (n,) indices of events; the history of an event holds its user's earlier events.
    length
        L, how many events back.

    Returns
    -------
    (n, L) int64
        Event indices, left-padded with -1.
    """
    rank, _ = events.ranks()
    back = np.arange(-length, 0)
    return np.where(back[None, :] >= -rank[ends][:, None], ends[:, None] + back[None, :], -1)
