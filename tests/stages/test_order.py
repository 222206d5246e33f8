import math

import numpy as np
import pytest

from batchrec.stages.order import order
from tests.stages import reference
from tests.stages.support import integers, same

INF, NAN = math.inf, math.nan


def test_score_first_then_position_then_missing(xp):
    positions = integers(xp, [[9, -1, 4, 2, 7]])
    scores = xp.asarray([[1.0, 8.0, 2.0, 1.0, 1.0]], dtype=xp.float32)
    positions, scores = order(positions, scores)
    same(positions, [[4, 2, 7, 9, -1]], np.int64)
    same(scores, [[2.0, 1.0, 1.0, 1.0, -INF]], np.float32)


def test_infinite_and_undefined_scores(xp):
    positions = integers(xp, [[5, 4, -1, 3, 2, 1]])
    scores = xp.asarray([[NAN, -INF, NAN, INF, -3e38, INF]], dtype=xp.float32)
    positions, scores = order(positions, scores)
    same(positions, [[1, 3, 2, 4, 5, -1]])
    same(scores, [[INF, INF, -3e38, -INF, -INF, -INF]])


def test_signed_zeros_tie(xp):
    positions, _ = order(integers(xp, [[3, 1, 2]]), xp.asarray([[0.0, -0.0, 0.0]], dtype=xp.float32))
    same(positions, [[1, 2, 3]])


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0)])
def test_empty_shapes(xp, shape):
    positions, scores = order(xp.zeros(shape, dtype=xp.int64), xp.zeros(shape, dtype=xp.float32))
    assert positions.shape == scores.shape == shape


def test_agrees_with_the_reference_at_random(xp):
    random = np.random.default_rng(5)
    positions = np.argsort(random.random((60, 30)), axis=1)
    positions[random.random(positions.shape) < 0.2] = -1
    scores = random.integers(-3, 3, positions.shape).astype(np.float32)
    found = order(xp.asarray(positions), xp.asarray(scores))
    expected = reference.order(positions.tolist(), scores.tolist())
    same(found[0], expected[0])
    same(found[1], expected[1])
