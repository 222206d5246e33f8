"""Compact: close the gaps that a filter left in the lists of candidates."""

from __future__ import annotations

import math

from array_api_compat import array_namespace

from batchrec.arrays import MISSING, Array, pad_columns


def compact(positions: Array, scores: Array, keep: Array, width: int) -> tuple[Array, Array]:
    """Move the kept candidates of each row to the left, in the order they stand in.

    Parameters
    ----------
    positions
        Item positions, ``(n, K)`` int64, -1 where there is none; those are never kept.
    scores
        ``(n, K)`` floats.
    keep
        ``(n, K)`` bool.
    width
        Columns of the result: further kept candidates are cut off, missing ones are padded.

    Returns
    -------
    tuple of Array
        Positions ``(n, width)`` int64 and scores ``(n, width)``, -1 and -inf past a row's last candidate.
    """
    xp = array_namespace(positions, scores, keep)
    dropped = ~keep | (positions < 0)
    kept_first = xp.argsort(xp.astype(dropped, xp.int8), axis=-1, stable=True)
    kept_first = kept_first[:, : min(width, positions.shape[1])]
    positions = xp.take_along_axis(xp.where(dropped, MISSING, positions), kept_first, axis=-1)
    scores = xp.take_along_axis(xp.where(dropped, -math.inf, scores), kept_first, axis=-1)
    return pad_columns(positions, width, MISSING), pad_columns(scores, width, -math.inf)
