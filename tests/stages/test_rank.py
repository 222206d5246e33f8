import math

import numpy as np
import pytest

from batchrec.stages.rank import rank
from batchrec.stages.unroll import unroll
from tests.stages.support import same

USERS = np.random.default_rng(1).standard_normal((7, 3)).astype(np.float32)
ITEMS = np.random.default_rng(2).standard_normal((11, 3)).astype(np.float32)
POSITIONS = np.random.default_rng(3).integers(-1, 11, (7, 4))


def scorer(xp, calls):
    def score_pairs(pairs):
        calls.append({name: np.asarray(values) for name, values in pairs.items()})
        return pairs["user"][:, 0] * 10 + pairs["item"][:, 1]

    return score_pairs


def ranked(xp, users, positions, users_per_batch, calls=None):
    return rank(
        {"user": xp.asarray(users)},
        {"item": xp.asarray(ITEMS)},
        xp.asarray(positions),
        scorer(xp, calls if calls is not None else []),
        users_per_batch,
        unroll=unroll,
    )


@pytest.mark.parametrize("users_per_batch", [1, 2, 3, 7, 50])
def test_relevance_of_each_pair(xp, users_per_batch):
    expected = [
        [
            -math.inf if position == -1 else USERS[row, 0] * np.float32(10) + ITEMS[position, 1]
            for position in POSITIONS[row]
        ]
        for row in range(7)
    ]
    same(ranked(xp, USERS, POSITIONS, users_per_batch), expected, np.float32)


@pytest.mark.parametrize("rows", [1, 3, 4, 7])
def test_every_call_has_the_same_shape(xp, rows):
    calls = []
    ranked(xp, USERS[:rows], POSITIONS[:rows], 3, calls)
    assert len(calls) == math.ceil(rows / 3)
    for pairs in calls:
        assert pairs["user"].shape == pairs["item"].shape == (3 * 4, 3)


def test_padding_repeats_real_users(xp):
    calls = []
    ranked(xp, USERS[:4], POSITIONS[:4], 3, calls)
    same(calls[1]["user"], np.repeat(USERS[[3, 3, 3]], 4, axis=0))


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_bits_do_not_depend_on_the_other_users(xp, rows):
    whole = np.asarray(ranked(xp, USERS, POSITIONS, 3))
    same(ranked(xp, USERS[:rows], POSITIONS[:rows], 3), whole[:rows])


def test_a_column_of_scores_and_wider_floats_are_accepted(xp):
    relevance = rank(
        {"user": xp.asarray(USERS)},
        {"item": xp.asarray(ITEMS)},
        xp.asarray(POSITIONS),
        lambda pairs: xp.astype(pairs["item"][:, :1], xp.float64),
        4,
        unroll=unroll,
    )
    same(relevance, np.where(POSITIONS < 0, -np.inf, ITEMS[POSITIONS, 0]), np.float32)


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0)])
def test_empty_shapes_call_no_ranker(xp, shape):
    calls = []
    relevance = ranked(xp, USERS[: shape[0]], np.zeros(shape, dtype=np.int64), 2, calls)
    assert relevance.shape == shape
    assert relevance.dtype == xp.float32
    assert not calls
