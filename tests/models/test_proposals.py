"""What can be among a row's best is proposed; what is left out provably is not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec.models.proposals import Running, propose


def columns_of(proposed):
    return [sorted(row[row >= 0].tolist()) for row in proposed]


@settings(deadline=None)  # the first example waits for the compiler
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


def test_scores_far_apart_have_a_close_floor_as_well():
    """A few scores beyond all measure must not keep a bisection from the many."""
    scores = np.random.default_rng(4).normal(size=(20, 8192)).astype(np.float32)
    scores[:, :3] = [3e38, np.inf, 1e30]
    floors, proposed = propose(scores, 200, 8192)
    assert max(map(len, columns_of(proposed))) < 400
    assert np.isfinite(floors).all()


def in_pieces(scores, count, width=64, *, order=1):
    """Proposals from a matrix that comes in pieces: a tile for each piece of each row, multiplied with the number 1."""
    m, pieces = len(scores), scores.shape[1] // width
    tiles = np.zeros((m, pieces, 2, width), np.float32)
    tiles[:, :, 0] = np.where(scores > -np.inf, scores, 0).reshape(m, pieces, width)
    tiles[:, :, 0][np.isnan(scores).reshape(m, pieces, width)] = np.nan
    tiles[:, :, 1] = np.where(scores == -np.inf, -np.inf, 0).reshape(m, pieces, width)
    rows, piece = (numbers.reshape(-1) for numbers in np.indices((pieces, m))[::-1])
    tiles, rows, firsts = (np.ascontiguousarray(array[::order]) for array in (tiles[rows, piece], rows, piece * width))
    running = Running(m, count, width)
    running.multiply(np.ones((m, 1), np.float32), tiles, rows, np.arange(1, len(rows) + 1), firsts)
    return running.proposals()


@settings(deadline=None)
@given(
    st.integers(1, 5),
    st.sampled_from([64, 128, 1024, 4992]),
    st.integers(1, 700),
    st.integers(0, 2**32 - 1),
    st.sampled_from([20, 10**6]),
)
def test_scores_in_pieces_leave_out_only_what_is_below_a_floor_that_enough_reach(rows, width, count, seed, values):
    random = np.random.default_rng(seed)
    scores = random.normal(size=(rows, width)).astype(np.float32).round(3 if values > 20 else 1)
    scores[random.random(scores.shape) < 0.2] = -np.inf
    floors, proposed = in_pieces(scores, count)
    for row, floor, columns in zip(scores, floors, columns_of(proposed), strict=True):
        if np.isnan(floor):  # more alike than there is room for
            assert columns == []
            continue
        assert columns == np.flatnonzero((row >= floor) & (row > -np.inf)).tolist()
        assert len(columns) >= min(count, np.isfinite(row).sum())
        assert floor == -np.inf or len(columns) >= count


@pytest.mark.parametrize("order", [1, -1])
def test_scores_in_rising_and_falling_order_are_all_looked_at(order):
    scores = np.sort(np.random.default_rng(5).normal(size=(3, 6400)).astype(np.float32), axis=1)
    floors, proposed = in_pieces(scores, 100, order=order)
    for row, floor, columns in zip(scores, floors, columns_of(proposed), strict=True):
        assert columns == np.flatnonzero(row >= floor).tolist()
        assert 100 <= len(columns) <= 120


@pytest.mark.parametrize("queries", [1, 5, 6, 7, 48, 49, 100])
def test_tiles_are_multiplied_with_whoever_asks_for_them(queries):
    """Every second tile by all queries, the others by one; some vectors of each are missing."""
    random = np.random.default_rng(queries)
    depth, width, n_tiles = 9, 64, 12
    given = random.normal(size=(queries, depth)).astype(np.float32)
    tiles = random.normal(size=(n_tiles, depth + 1, width)).astype(np.float32)
    tiles[:, depth] = np.where(random.random((n_tiles, width)) < 0.3, -np.inf, 0)
    asking = [np.arange(queries) if tile % 2 else np.array([tile % queries]) for tile in range(n_tiles)]
    running = Running(queries, 40, width)
    ends, firsts = np.cumsum([len(rows) for rows in asking]), 1000 - np.arange(n_tiles) * width
    running.multiply(given, tiles, np.concatenate(asking), ends, firsts)
    floors, proposed = running.proposals()
    for query in range(queries):
        columns = np.concatenate([firsts[tile] + np.arange(width) for tile in range(n_tiles) if query in asking[tile]])
        mine = np.concatenate([tiles[tile] for tile in range(n_tiles) if query in asking[tile]], axis=1)
        scores = given[query].astype(np.float64) @ mine[:depth] + mine[depth]
        found = np.isin(columns, proposed[query])
        assert found.sum() == (proposed[query] >= 0).sum() >= min(40, np.isfinite(scores).sum())
        assert (scores[found] >= floors[query] - 1e-5).all()
        assert (scores[~found] < floors[query] + 1e-5).all()


def test_pieces_of_equals_and_of_what_is_no_number_are_given_up():
    scores = np.random.default_rng(6).normal(size=(4, 6400)).astype(np.float32)
    scores[1] = 5
    scores[2, 6000] = np.nan
    floors, proposed = in_pieces(scores, 100)
    assert np.isnan(floors).tolist() == [False, True, True, False]
    assert [len(columns) >= 100 for columns in columns_of(proposed)] == [True, False, False, True]
