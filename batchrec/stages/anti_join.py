"""Anti-join: which candidates may be shown, i.e. are eligible and not among the user's seen items."""

from __future__ import annotations

from array_api_compat import array_namespace, device

from batchrec.arrays import Array, Ragged, gather


def anti_join(positions: Array, seen: Ragged, eligible: Array) -> Array:
    """Tell which candidates are real, eligible and unseen by the user of their row.

    A pair (user row, item position) becomes one integer key, so that a single sort of the seen keys and a single
    binary search of the candidates' keys answer for all users at once: O((m + n·K) log m) for m seen items.

    Parameters
    ----------
    positions
        Candidates' item positions, ``(n, K)`` int64 below N, -1 where there is none.
    seen
        Seen items' positions, n rows, in any order. Repeated ones do no harm; those outside the catalogue are ignored.
    eligible
        Items that may be recommended at all, ``(N,)`` bool.

    Returns
    -------
    Array
        ``(n, K)`` bool, true where the candidate stays.
    """
    xp = array_namespace(positions, eligible)
    place = device(positions)
    rows, catalogue_size = positions.shape[0], eligible.shape[0]

    outside = (seen.values < 0) | (seen.values >= catalogue_size)
    seen_keys = xp.where(outside, -1, seen.owners * catalogue_size + seen.values)
    # Above every candidate's key: no binary search runs off the end, even where nobody has seen anything.
    ceiling = xp.full((1,), rows * catalogue_size, dtype=xp.int64, device=place)
    seen_keys = xp.sort(xp.concat([seen_keys, ceiling]), stable=False)

    first_keys = xp.arange(rows, dtype=xp.int64, device=place)[:, None] * catalogue_size
    keys = xp.reshape(first_keys + positions, (-1,))
    is_seen = xp.take(seen_keys, xp.searchsorted(seen_keys, keys), axis=0) == keys

    # One place past the catalogue stands for a missing candidate.
    allowed = xp.concat([eligible, xp.zeros((1,), dtype=xp.bool, device=place)])
    is_allowed = gather(allowed, xp.where(positions < 0, catalogue_size, positions))
    return is_allowed & ~xp.reshape(is_seen, positions.shape)
