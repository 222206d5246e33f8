import numpy as np

from batchrec.arrays import Ragged


def ragged(xp, lists):
    offsets = [0]
    for values in lists:
        offsets.append(offsets[-1] + len(values))
    flat = [value for values in lists for value in values]
    return Ragged(xp.asarray(offsets, dtype=xp.int64), xp.asarray(flat, dtype=xp.int64))


def integers(xp, rows):
    return xp.asarray(np.asarray(rows, dtype=np.int64))


def same(array, expected, dtype=None):
    """Assert equality in shape and value (NaN equals NaN), and of dtype where one is given."""
    found = np.asarray(array)
    if dtype is not None:
        assert found.dtype == dtype
    np.testing.assert_array_equal(found, np.asarray(expected, dtype=found.dtype).reshape(found.shape), strict=True)
