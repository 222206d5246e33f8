"""History: the last items a user has seen, as the query tower reads them."""

from __future__ import annotations

from array_api_compat import array_namespace

from batchrec.arrays import Array, Ragged, gather


def history(seen: Ragged, length: int) -> Array:
    """Take each row's last items, newest last.

    Parameters
    ----------
    seen
        Item positions of n rows, oldest first within a row; negative ones (items outside the catalogue) are skipped.
    length
        L, how many items back.

    Returns
    -------
    (n, L) int32
        Item codes (position + 1), left-padded with 0.
    """
    xp = array_namespace(seen.offsets, seen.values)
    known = seen.values >= 0
    values = seen.values[known]
    before = xp.concat([xp.zeros((1,), dtype=xp.int64), xp.cumulative_sum(xp.astype(known, xp.int64))])
    offsets = gather(before, seen.offsets)
    index = offsets[1:, None] + xp.arange(-length, 0, dtype=xp.int64)[None, :]
    inside = index >= offsets[:-1, None]
    # One spare value at the end gives every index something to read, also where there is no history at all.
    padded = xp.concat([values, xp.full((1,), -1, dtype=values.dtype)])
    items = gather(padded, xp.where(inside, index, values.shape[0]))
    return xp.astype(xp.where(inside, items, -1) + 1, xp.int32)
