"""Ranking metrics of top-k lists: one figure a user, so that users can be averaged and resampled.

Lists are ``(n, k)`` int64 item positions, best first, with -1 after the last item; a list holds an item at most once.
Hits are the ``(n, k)`` bool array that tells which places hold a held-out item of that user. ``held_out`` is the
``(n,)`` int64 number of held-out items a user has, at least 1.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Positions = npt.NDArray[np.int64]
Counts = npt.NDArray[np.int64]
Hits = npt.NDArray[np.bool_]
Values = npt.NDArray[np.float64]

METRICS = ("recall", "ndcg", "hit_rate", "mrr", "coverage")
"""The figures of a report, in its order."""


def pair_keys(user_rows: Positions, item_positions: Positions, catalogue_size: int) -> Positions:
    """Return one int64 a (user, item) pair, ordered by user row, then item position."""
    return user_rows * catalogue_size + item_positions


def hits(lists: Positions, held_out_keys: Positions, catalogue_size: int) -> Hits:
    """Mark the places of each list that hold a held-out item of its user.

    Parameters
    ----------
    lists
        ``(n, k)`` item positions, -1 where a list has ended.
    held_out_keys
        ``(m,)`` :func:`pair_keys` of the held-out pairs, ascending.
    catalogue_size
        Number of items that positions count over.

    Returns
    -------
    Hits
        ``(n, k)`` bool.
    """
    if held_out_keys.size == 0:
        return np.zeros(lists.shape, dtype=np.bool_)
    keys = pair_keys(np.arange(len(lists), dtype=np.int64)[:, None], lists, catalogue_size)
    places = np.minimum(np.searchsorted(held_out_keys, keys), held_out_keys.size - 1)
    found: Hits = (held_out_keys[places] == keys) & (lists >= 0)
    return found


def recall(hit: Hits, held_out: Counts) -> Values:
    """Return hits / held-out items, ``(n,)``. A user with more than k held-out items cannot reach 1."""
    shares: Values = hit.sum(axis=1) / held_out
    return shares


def ndcg(hit: Hits, held_out: Counts) -> Values:
    """Return the normalised discounted cumulative gain, ``(n,)``.

    Gains are binary, the discount at rank r is 1 / log2(r + 1), and the ideal list opens with min(held-out items, k)
    hits (Järvelin and Kekäläinen 2002).
    """
    discounts: Values = np.reciprocal(np.log2(np.arange(2.0, hit.shape[1] + 2)))
    ideal: Values = np.cumsum(discounts)[np.minimum(held_out, hit.shape[1]) - 1]
    gains: Values = hit @ discounts
    return gains / ideal


def hit_rate(hit: Hits) -> Values:
    """Return 1 where a list holds at least one held-out item and 0 elsewhere, ``(n,)``."""
    return np.asarray(hit.any(axis=1), dtype=np.float64)


def mrr(hit: Hits) -> Values:
    """Return 1 / rank of the first hit, and 0 where the list has none, ``(n,)``."""
    first: Values = hit.any(axis=1) / (hit.argmax(axis=1) + 1.0)
    return first


def coverage(lists: Positions, catalogue_size: int) -> float:
    """Return the share of the catalogue that stands in at least one list."""
    return np.count_nonzero(_lists_per_item(lists, catalogue_size)) / catalogue_size


def sole_items(lists: Positions, catalogue_size: int) -> Counts:
    """Return how many items stand in this user's list and in no other, ``(n,)``: what coverage would lose with them."""
    alone = np.append(_lists_per_item(lists, catalogue_size) == 1, False)
    sole: Counts = alone[lists].sum(axis=1)
    return sole


def _lists_per_item(lists: Positions, catalogue_size: int) -> Counts:
    return np.bincount(lists[lists >= 0], minlength=catalogue_size)
