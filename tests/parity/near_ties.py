"""When lists of two devices count as equal.

Devices add in different orders, so a score may differ in its last bits: by :data:`TOLERANCE` times one more than its
size at most. Two items of one user are a near-tie if what they are sorted by is no further apart than such differences
can carry them: twice the tolerance. Lists are equal if

- at every place both have an item or neither has,
- at every place the sort keys of both are within the tolerance of each other, and
- an item that only one of them holds is a near-tie with that list's last item: it stood at the very end.

Nothing else is forgiven. Two lists that order a near-tie differently pass, whatever the items.
"""

import numpy as np

TOLERANCE = 1e-5


def close(found, expected):
    """Assert that scores are within the tolerance, relative and absolute; infinities must be the same."""
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


def same_lists(found, expected, found_keys, expected_keys, scale=1.0):
    """Assert that lists are equal but for near-ties.

    Parameters
    ----------
    found, expected
        Items, (n, k), -1 past the end of a list.
    found_keys, expected_keys
        What each list is sorted by, highest first, (n, k).
    scale
        Factor from scores to keys: the temperature.
    """
    real = expected >= 0
    np.testing.assert_array_equal(found >= 0, real)
    allowed = scale * TOLERANCE * (1 + np.abs(np.where(real, expected_keys, 0)) / scale)
    apart = np.abs(np.where(real, found_keys, 0) - np.where(real, expected_keys, 0))
    assert (apart <= allowed).all(), f"sort keys differ by up to {apart.max()}"
    for row in np.flatnonzero((found != expected).any(axis=1)):
        for items, keys, others in (
            (found[row], found_keys[row], expected[row]),
            (expected[row], expected_keys[row], found[row]),
        ):
            last = np.flatnonzero(items >= 0)[-1]
            alone = (items >= 0) & ~np.isin(items, others)
            assert (keys[alone] - keys[last] <= 2 * allowed[row].max()).all(), f"row {row} holds other items"
