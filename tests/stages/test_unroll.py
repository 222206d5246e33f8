import numpy as np
import pytest

from batchrec.errors import FeatureError
from batchrec.stages.unroll import unroll
from tests.stages.support import integers, same


def test_pairs_are_row_major(xp):
    user = {"age": xp.asarray([30, 40], dtype=xp.int32)}
    item = {"price": xp.asarray([1.0, 2.0, 3.0], dtype=xp.float32)}
    pairs = unroll(user, item, integers(xp, [[2, 0], [1, 1]]))
    assert pairs.keys() == {"age", "price"}
    same(pairs["age"], [30, 30, 40, 40], np.int32)
    same(pairs["price"], [3.0, 1.0, 2.0, 2.0], np.float32)


def test_a_missing_candidate_reads_the_first_item(xp):
    pairs = unroll({}, {"price": xp.asarray([5.0, 6.0])}, integers(xp, [[-1, 1]]))
    same(pairs["price"], [5.0, 6.0])


def test_features_of_any_trailing_shape(xp):
    random = np.random.default_rng(0)
    user = {"u0": random.random(3), "u1": random.random((3, 4)), "u2": random.integers(0, 9, (3, 2, 5))}
    item = {"i0": random.random(6), "i1": random.random((6, 4)), "i2": random.integers(0, 9, (6, 2, 5))}
    positions = random.integers(-1, 6, (3, 7))
    pairs = unroll(
        {name: xp.asarray(values) for name, values in user.items()},
        {name: xp.asarray(values) for name, values in item.items()},
        xp.asarray(positions),
    )
    for name, values in user.items():
        same(pairs[name], [values[row] for row in range(3) for _ in range(7)], values.dtype)
    for name, values in item.items():
        same(pairs[name], [values[max(positions[row, column], 0)] for row in range(3) for column in range(7)])


@pytest.mark.parametrize(("rows", "width"), [(0, 3), (2, 0)])
def test_empty_shapes(xp, rows, width):
    pairs = unroll({"u": xp.zeros((rows, 2))}, {"i": xp.zeros((4, 5))}, xp.zeros((rows, width), dtype=xp.int64))
    assert pairs["u"].shape == (0, 2)
    assert pairs["i"].shape == (0, 5)


def test_a_name_on_both_sides_is_an_error(xp):
    with pytest.raises(FeatureError, match=r"\['geo'\]"):
        unroll({"geo": xp.zeros(1), "age": xp.zeros(1)}, {"geo": xp.zeros(1)}, xp.zeros((1, 1), dtype=xp.int64))
