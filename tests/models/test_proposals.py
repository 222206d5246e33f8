"""What can be among a row's best is proposed; what is left out provably is not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrec.models.proposals import propose


def columns_of(proposed):
    return [sorted(row[row >= 0].tolist()) for row in proposed]


@given(
    st.integers(1, 5),
    st.sampled_from([128, 512, 1024, 1152, 4992, 16_384]),
    st.integers(1, 700),
    st.integers(0, 2**32 - 1),
    st.sampled_from([3, 10**6]),
)
def test_all_that_reach_a_floor_which_enough_reach(rows, width, count, seed, values):
    random = np.random.default_rng(seed)
    scores = random.integers(-values, values, (rows, width)).astype(np.float32)
    scores[random.random(scores.shape) < 0.2] = -np.inf
    floors, proposed = propose(scores, count, width)
    for row, floor, columns in zip(scores, floors, columns_of(proposed), strict=True):
        assert columns == np.flatnonzero((row >= floor) & (row > -np.inf)).tolist()
        real = np.sort(row[row > -np.inf])
        assert len(columns) >= min(count, len(real))
        assert floor == -np.inf or len(columns) >= count


def test_a_floor_is_close_to_the_best_asked_for():
    scores = np.random.default_rng(1).normal(size=(50, 8192)).astype(np.float32)
    _, proposed = propose(scores, 200, 8192)
    assert max(map(len, columns_of(proposed))) < 400


@pytest.mark.parametrize("place", [0, 511, 8191])
def test_a_row_with_something_that_is_not_a_number_is_given_up(place):
    scores = np.random.default_rng(2).normal(size=(3, 8192)).astype(np.float32)
    scores[1, place] = np.nan
    floors, proposed = propose(scores, 10, 8192)
    assert np.isnan(floors).tolist() == [False, True, False]
    assert [len(row) >= 10 for row in columns_of(proposed)] == [True, False, True]


def test_a_row_of_equals_is_given_up():
    scores = np.random.default_rng(3).normal(size=(3, 8192)).astype(np.float32)
    scores[2] = 5
    floors, proposed = propose(scores, 10, 80)
    assert np.isnan(floors).tolist() == [False, False, True]
    assert columns_of(proposed)[2] == []
    assert proposed.shape[1] <= 80
