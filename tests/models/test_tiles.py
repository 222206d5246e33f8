"""Products by tile: every vector of every list that a query asks for can be proposed, and no other."""

import numpy as np
import pytest

from batchrec.models.tiles import TILE, Tiles

SIZES = [0, 1, TILE - 1, TILE, TILE + 1, 0, 3 * TILE + 5, 7]
BOUNDS = np.concatenate([[0], np.cumsum(SIZES)])
DIMENSION = 9


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(0).normal(size=(sum(SIZES), DIMENSION)).astype(np.float32)


def asked(queries, probes, seed=0):
    random = np.random.default_rng(seed)
    lists = np.array([random.permutation(len(SIZES))[:probes] for _ in range(queries)], np.int64).reshape(-1, probes)
    lists[::5, -1] = -1
    return random.normal(size=(queries, DIMENSION)).astype(np.float32), lists


def places_of(lists):
    return np.array([place for one in lists if one >= 0 for place in range(BOUNDS[one], BOUNDS[one + 1])], np.int64)


@pytest.mark.parametrize("queries", [0, 1, 16, 17, 300])
@pytest.mark.parametrize("probes", [1, 3, len(SIZES)])
def test_a_query_meets_every_vector_of_its_lists_once(vectors, queries, probes):
    rows, lists = asked(queries, probes, probes)
    floors, places = Tiles(vectors, BOUNDS).propose(rows, lists, len(vectors))
    assert (floors == -np.inf).all()
    for row in range(queries):
        assert sorted(places[row][places[row] >= 0]) == sorted(places_of(lists[row]))


@pytest.mark.parametrize("count", [1, 5, 60])
def test_what_is_left_out_scores_below_the_floor(vectors, count):
    rows, lists = asked(200, 4)
    floors, places = Tiles(vectors, BOUNDS).propose(rows, lists, count)
    for row, query in enumerate(rows):
        mine = places_of(lists[row])
        scores = vectors[mine].astype(np.float64) @ query.astype(np.float64)
        proposed = np.isin(mine, places[row])
        assert proposed.sum() == (places[row] >= 0).sum() >= min(count, len(mine))
        assert (scores[~proposed] < floors[row] + 1e-5).all()
        assert (scores[proposed] >= floors[row] - 1e-5).all()
    assert (places >= 0).sum() < 200 * (2 * count + 20)


def test_a_list_that_very_many_ask_for(vectors):
    rows = np.random.default_rng(1).normal(size=(40_000, DIMENSION)).astype(np.float32)
    _, places = Tiles(vectors[:5], np.array([0, 5])).propose(rows, np.zeros((len(rows), 1), np.int64), 5)
    assert (np.sort(places, axis=1) == np.arange(5)).all()
