"""Stages as a CPU does them fastest, with the same results.

Where arrays must look at all pairs at once, and so have to sort and to search, a compiled loop looks at one user after
the other. What is left to arrays is cut into pieces of users that stay in a core's cache. It is so little work that the
thread that asks for it does it: in the pool it would wait for others' blocks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from batchrec.arrays import MISSING
from batchrec.models.compiled import compiled
from batchrec.stages import sample as sampling
from batchrec.stages.retrieve import Candidates
from batchrec.stages.sample import Sampled

if TYPE_CHECKING:
    import numpy.typing as npt

    from batchrec.arrays import Array, Ragged

    Bools = npt.NDArray[np.bool_]
    Floats = npt.NDArray[np.float32]
    Integers = npt.NDArray[np.int64]

USERS_A_PIECE = 1024
"""Users sampled at a time. An array of their candidates' numbers is a megabyte: kept when it is freed, where larger
ones go back to the system and must be cleared again for the next."""


def anti_join(positions: Integers, seen: Ragged, eligible: Bools) -> Bools:
    """Do as :func:`batchrec.stages.anti_join.anti_join` does: mark a user's items, look candidates up, unmark.

    Parameters
    ----------
    positions
        (n, K) int64, below N.
    seen
        n rows of item positions; those outside the catalogue are ignored.
    eligible
        (N,) bool.

    Returns
    -------
    ndarray
        (n, K) bool.
    """
    kept = np.empty(positions.shape, np.bool_)
    _anti_join(positions, seen.offsets, seen.values, eligible, np.zeros(len(eligible), np.bool_), kept)
    return kept


def first_kept(scores: Floats, hits: Integers, is_kept: Bools, width: int) -> Candidates:
    """Do as :func:`batchrec.stages.retrieve.first_kept` does.

    Parameters
    ----------
    scores, hits
        (m, depth) float32 and int64, best first.
    is_kept
        (m, depth) bool.
    width
        Candidates a row.

    Returns
    -------
    Candidates
        (m, width) each.
    """
    found = Candidates(np.empty((len(hits), width), np.int64), np.empty((len(hits), width), np.float32))
    _first_kept(scores, hits, is_kept, found.positions, found.scores)
    return found


def sample(
    relevance: Array, positions: Array, user_hash: Array, item_hash: Array, k: int, temperature: float, seed: int
) -> Sampled:
    """Do as :func:`batchrec.stages.sample.sample` does, whose rows do not depend on each other."""

    def draw(start: int) -> Sampled:
        rows = slice(start, start + USERS_A_PIECE)
        return sampling.sample(relevance[rows], positions[rows], user_hash[rows], item_hash, k, temperature, seed)

    # One piece at least, so that a bad temperature is told of and no user's result has its shape too.
    drawn = [draw(start) for start in range(0, max(len(relevance), 1), USERS_A_PIECE)]
    return Sampled(*map(np.concatenate, zip(*drawn, strict=True)))


@compiled
def _anti_join(
    positions: Integers, offsets: Integers, seen: Integers, eligible: Bools, marked: Bools, kept: Bools
) -> None:
    for i in range(positions.shape[0]):
        for j in range(offsets[i], offsets[i + 1]):
            if 0 <= seen[j] < len(marked):
                marked[seen[j]] = True
        for k in range(positions.shape[1]):
            item = positions[i, k]
            kept[i, k] = item >= 0 and eligible[item] and not marked[item]
        for j in range(offsets[i], offsets[i + 1]):
            if 0 <= seen[j] < len(marked):
                marked[seen[j]] = False


@compiled
def _first_kept(scores: Floats, hits: Integers, is_kept: Bools, positions: Integers, found: Floats) -> None:
    for i in range(positions.shape[0]):
        n, k = 0, 0
        while n < positions.shape[1] and k < hits.shape[1]:
            if is_kept[i, k]:
                positions[i, n], found[i, n] = hits[i, k], scores[i, k]
                n += 1
            k += 1
        positions[i, n:] = MISSING
        found[i, n:] = -np.inf
