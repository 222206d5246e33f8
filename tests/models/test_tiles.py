"""Products by tile: every score of every list that a query asks for, and nothing else."""

import numpy as np
import pytest

from batchrec.models.tiles import TILE, Tiles

SIZES = [0, 1, TILE - 1, TILE, TILE + 1, 0, 3 * TILE + 5, 7]
DIMENSION = 9


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(0).normal(size=(sum(SIZES), DIMENSION)).astype(np.float32)


@pytest.mark.parametrize("queries", [0, 1, 16, 17, 300])
@pytest.mark.parametrize("probes", [1, 3, len(SIZES)])
def test_a_query_meets_every_vector_of_its_lists_once(vectors, queries, probes):
    random = np.random.default_rng(probes)
    bounds = np.concatenate([[0], np.cumsum(SIZES)])
    asked = random.normal(size=(queries, DIMENSION)).astype(np.float32)
    lists = np.array([random.permutation(len(SIZES))[:probes] for _ in range(queries)], np.int64).reshape(-1, probes)
    lists[::5, -1] = -1
    tiles = Tiles(vectors, bounds)
    tile_of, scores = tiles.multiply(asked, lists)
    for row in range(queries):
        of_lists = [range(bounds[one], bounds[one + 1]) for one in lists[row] if one >= 0]
        places = np.array([place for places in of_lists for place in places], np.int64)
        found = np.flatnonzero(scores[row] > -np.inf)
        starts = tiles.starts[tile_of[row, found // TILE]]
        assert sorted(starts + found % TILE) == sorted(places)
        expected = vectors[starts + found % TILE].astype(np.float64) @ asked[row].astype(np.float64)
        np.testing.assert_allclose(scores[row, found], expected, rtol=0, atol=1e-5)


def test_a_list_that_very_many_ask_for(vectors):
    tiles = Tiles(vectors[:5], np.array([0, 5]))
    asked = np.random.default_rng(1).normal(size=(40_000, DIMENSION)).astype(np.float32)
    _, scores = tiles.multiply(asked, np.zeros((len(asked), 1), np.int64))
    np.testing.assert_allclose(scores[:, :5], asked @ vectors[:5].T, rtol=0, atol=1e-5)
    assert np.isneginf(scores[:, 5:]).all()
