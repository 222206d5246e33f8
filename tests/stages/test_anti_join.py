import numpy as np
import pytest

from batchrec.arrays import Ragged
from batchrec.stages.anti_join import anti_join
from tests.stages import reference
from tests.stages.support import integers, ragged, same


def test_seen_ineligible_and_missing_candidates_go(xp):
    positions = integers(xp, [[0, 1, 2, 3], [0, 1, 2, -1]])
    seen = ragged(xp, [[2, 0], [1]])
    eligible = xp.asarray([True, True, True, False])
    keep = anti_join(positions, seen, eligible)
    same(keep, [[False, True, False, False], [True, False, True, False]], np.bool_)


def test_what_one_user_saw_is_kept_for_the_others(xp):
    positions = integers(xp, [[0, 1]] * 3)
    keep = anti_join(positions, ragged(xp, [[], [0, 1], []]), xp.asarray([True, True]))
    same(keep, [[True, True], [False, False], [True, True]])


@pytest.mark.parametrize("outside", [-1, -2, 3, 4, 2**62])
def test_seen_items_outside_the_catalogue_touch_nobody(xp, outside):
    positions = integers(xp, [[0, 1, 2]] * 3)
    keep = anti_join(positions, ragged(xp, [[outside]] * 3), xp.asarray([True] * 3))
    assert np.all(np.asarray(keep))


def test_repeated_and_unsorted_seen_items(xp):
    positions = integers(xp, [[4, 2, 0]])
    keep = anti_join(positions, ragged(xp, [[4, 0, 4, -1, 0]]), xp.asarray([True] * 5))
    same(keep, [[False, True, False]])


def test_nobody_has_seen_anything(xp):
    keep = anti_join(integers(xp, [[0, -1], [1, 0]]), ragged(xp, [[], []]), xp.asarray([True, True]))
    same(keep, [[True, False], [True, True]])


def test_values_that_no_offset_reaches_belong_to_nobody(xp):
    seen = Ragged(xp.asarray([2, 3, 3], dtype=xp.int64), xp.asarray([0, 1, 2, 0, 1], dtype=xp.int64))
    keep = anti_join(integers(xp, [[0, 1, 2], [0, 1, 2]]), seen, xp.asarray([True] * 3))
    same(keep, [[True, True, False], [True, True, True]])


def test_keys_beyond_32_bits(xp):
    rows, catalogue = 5000, 1_000_003
    positions = integers(xp, [[catalogue - 1, 0]] * rows)
    lists = [[]] * (rows - 1) + [[catalogue - 1]]
    keep = np.asarray(anti_join(positions, ragged(xp, lists), xp.ones((catalogue,), dtype=xp.bool)))
    assert keep.sum() == 2 * rows - 1
    assert not keep[-1, 0]


@pytest.mark.parametrize(("rows", "width"), [(0, 3), (2, 0), (0, 0)])
def test_empty_shapes(xp, rows, width):
    positions = xp.zeros((rows, width), dtype=xp.int64)
    keep = anti_join(positions, ragged(xp, [[1]] * rows), xp.asarray([True, True]))
    assert keep.shape == (rows, width)


def test_an_empty_catalogue_keeps_nothing(xp):
    keep = anti_join(integers(xp, [[-1, -1]]), ragged(xp, [[-1]]), xp.zeros((0,), dtype=xp.bool))
    same(keep, [[False, False]])


def test_agrees_with_the_reference_at_random(xp):
    random = np.random.default_rng(7)
    positions = random.integers(-1, 50, (40, 20))
    lists = [list(map(int, random.integers(-1, 50, random.integers(0, 60)))) for _ in range(40)]
    eligible = random.random(50) < 0.8
    keep = anti_join(integers(xp, positions), ragged(xp, lists), xp.asarray(eligible))
    same(keep, reference.anti_join(positions.tolist(), lists, eligible.tolist()))
