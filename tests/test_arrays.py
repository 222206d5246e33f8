import itertools

import numpy as np
import pytest

from batchrec.arrays import Ragged, gather, pad_columns, splitmix64
from tests.stages import reference
from tests.stages.support import ragged, same


def as_lists(rows):
    offsets, values = np.asarray(rows.offsets).tolist(), np.asarray(rows.values).tolist()
    return [values[start:end] for start, end in itertools.pairwise(offsets)]


@pytest.mark.parametrize("rows", [[], [0], [3, 1], [2, 2, 0, 3], [1, 1]])
def test_taking_rows_of_a_ragged_array(xp, rows):
    lists = [[5, 6], [], [7], [8, 9, 8]]
    taken = ragged(xp, lists).take(xp.asarray(rows, dtype=xp.int64))
    assert as_lists(taken) == [lists[row] for row in rows]
    assert taken.offsets.dtype == taken.values.dtype == xp.int64


def test_taking_rows_of_a_slice(xp):
    # Offsets as a slice of a larger column has them: they start past zero and end before the last value.
    rows = Ragged(xp.asarray([2, 4, 5], dtype=xp.int64), xp.asarray([0, 1, 2, 3, 4, 5], dtype=xp.int64))
    assert as_lists(rows.take(xp.asarray([1, 0], dtype=xp.int64))) == [[4], [2, 3]]


def test_lengths_and_owners(xp):
    rows = ragged(xp, [[], [5, 6], [], [7], []])
    same(rows.lengths, [0, 2, 0, 1, 0], np.int64)
    same(rows.owners, [1, 1, 3], np.int64)


def test_gather_follows_the_shape_of_the_indices(xp):
    x = np.arange(24).reshape(4, 3, 2)
    indices = np.array([[3, 0], [1, 1], [2, 3]])
    same(gather(xp.asarray(x), xp.asarray(indices)), x[indices])


def test_pad_columns_keeps_dtype_and_never_cuts(xp):
    x = xp.asarray([[1.0, 2.0]], dtype=xp.float32)
    same(pad_columns(x, 4, -np.inf), [[1.0, 2.0, -np.inf, -np.inf]], np.float32)
    same(pad_columns(x, 1, 0), [[1.0, 2.0]], np.float32)


@pytest.mark.filterwarnings("error")
def test_splitmix64_wraps_as_modular_arithmetic_does(xp):
    values = [0, 1, 2**63, 2**64 - 1, 0x61C8864680B583EB]
    same(
        splitmix64(xp.asarray(values, dtype=xp.uint64)), np.array([reference.splitmix64(v) for v in values], np.uint64)
    )
