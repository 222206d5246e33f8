"""History: the last items a user has seen, as the query tower reads them."""

from __future__ import annotations

from array_api_compat import array_namespace, device

from batchrec.arrays import MISSING, Array, Ragged, gather


def history(seen: Ragged, length: int) -> Array:
    """Take each row's last items, newest last.

    Parameters
    ----------
    seen
        Item positions of n rows, oldest first within a row; negative ones (items outside the catalogue) are skipped.
    length
        L, how many items back, at least 1.

    Returns
    -------
    Array
        ``(n, L)`` int32: item codes (position + 1), left-padded with 0.
    """
    xp = array_namespace(seen.offsets, seen.values)
    place = device(seen.values)
    known = seen.values >= 0
    values = gather(seen.values, xp.nonzero(known)[0])
    known_before = xp.cumulative_sum(xp.astype(known, xp.int64), include_initial=True)
    offsets = gather(known_before, seen.offsets)
    index = offsets[1:, None] + xp.arange(-length, 0, dtype=xp.int64, device=place)[None, :]
    # One spare value at the end gives every index something to read, also where there is no history at all.
    padded = xp.concat([values, xp.full((1,), MISSING, dtype=values.dtype, device=place)])
    items = gather(padded, xp.where(index >= offsets[:-1, None], index, values.shape[0]))
    return xp.astype(items + 1, xp.int32)
