"""Order: candidates by score, ties by item."""

from __future__ import annotations

from array_api_compat import array_namespace

from batchrec.arrays import Array, best_first, masked_scores


def order(positions: Array, scores: Array) -> tuple[Array, Array]:
    """Sort each row by score, highest first, then by item position, lowest first; missing candidates come last.

    Parameters
    ----------
    positions
        Item positions, ``(n, K)`` int64, -1 where there is none.
    scores
        ``(n, K)`` floats. NaN counts as -inf; a real candidate at -inf still stands before a missing one.

    Returns
    -------
    tuple of Array
        Positions ``(n, K)`` int64 and scores ``(n, K)``; -inf where the position is -1 or the score was NaN.
    """
    xp = array_namespace(positions, scores)
    scores = masked_scores(scores, positions)
    permutation = best_first(positions, scores)
    return xp.take_along_axis(positions, permutation, axis=-1), xp.take_along_axis(scores, permutation, axis=-1)
