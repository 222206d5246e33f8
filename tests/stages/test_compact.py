import math

import numpy as np
import pytest

from batchrec.stages.compact import compact
from tests.stages import reference
from tests.stages.support import integers, same

INF = math.inf


def test_kept_candidates_close_up_in_their_order(xp):
    positions = integers(xp, [[5, 3, 9, 1], [4, 2, 8, -1]])
    scores = xp.asarray([[0.9, 0.8, 0.7, 0.6], [0.5, 0.4, 0.3, -INF]], dtype=xp.float32)
    keep = xp.asarray([[False, True, False, True], [True, True, True, False]])
    positions, scores = compact(positions, scores, keep, 3)
    same(positions, [[3, 1, -1], [4, 2, 8]], np.int64)
    same(scores, [[0.8, 0.6, -INF], [0.5, 0.4, 0.3]], np.float32)


def test_cuts_to_a_smaller_width_and_pads_to_a_larger(xp):
    positions, scores = integers(xp, [[5, 3, 9]]), xp.asarray([[3.0, 2.0, 1.0]], dtype=xp.float32)
    keep = xp.asarray([[True, False, True]])
    same(compact(positions, scores, keep, 1)[0], [[5]])
    padded = compact(positions, scores, keep, 5)
    same(padded[0], [[5, 9, -1, -1, -1]])
    same(padded[1], [[3.0, 1.0, -INF, -INF, -INF]])


def test_a_missing_candidate_is_not_kept(xp):
    positions, scores = integers(xp, [[-1, 3]]), xp.asarray([[-INF, 2.0]], dtype=xp.float32)
    same(compact(positions, scores, xp.asarray([[True, True]]), 2)[0], [[3, -1]])


def test_a_kept_score_of_minus_infinity_stays_in_its_place(xp):
    positions, scores = integers(xp, [[7, 3, 1]]), xp.asarray([[-INF, 2.0, 1.0]], dtype=xp.float32)
    same(compact(positions, scores, xp.asarray([[True, False, True]]), 3)[0], [[7, 1, -1]])


@pytest.mark.parametrize(("rows", "columns", "width"), [(0, 3, 2), (2, 0, 2), (2, 3, 0), (0, 0, 0)])
def test_empty_shapes(xp, rows, columns, width):
    positions, scores = compact(
        xp.zeros((rows, columns), dtype=xp.int64),
        xp.zeros((rows, columns), dtype=xp.float32),
        xp.ones((rows, columns), dtype=xp.bool),
        width,
    )
    assert positions.shape == scores.shape == (rows, width)
    same(positions, np.full((rows, width), -1 if columns == 0 else 0))


@pytest.mark.parametrize("width", [1, 7, 30])
def test_agrees_with_the_reference_at_random(xp, width):
    random = np.random.default_rng(3)
    positions, scores = random.integers(0, 99, (50, 20)), random.standard_normal((50, 20)).astype(np.float32)
    keep = random.random((50, 20)) < 0.5
    found = compact(xp.asarray(positions), xp.asarray(scores), xp.asarray(keep), width)
    expected = reference.compact(positions.tolist(), scores.tolist(), keep.tolist(), width)
    same(found[0], expected[0])
    same(found[1], expected[1])
