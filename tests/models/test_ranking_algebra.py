"""The ranker by parts: Keras' own scores, and the same bits whatever stands beside a user and however many threads."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from batchrec.errors import ArtifactError
from batchrec.models.dlrm import take_apart
from batchrec.models.ranker import ITEM_CODE, ITEM_EMBEDDING, QUERY_EMBEDDING, RankerShape, build_ranker
from batchrec.models.ranking_algebra import RankingAlgebra, prepare
from batchrec.models.ranking_loops import PAIRS_A_CHUNK

N_ITEMS, DIMENSION = 500, 64
SHAPES = {
    "all": ({"age": 7, "city": 30}, {"brand": 20, "kind": 5}, ("spend", "visits"), ("price",), (128, 64, 32)),
    "no dense": ({"age": 7}, {"brand": 20}, (), (), (16,)),
    "user dense": ({}, {"brand": 20}, ("spend",), (), (32, 16)),
    "item dense": ({"age": 7}, {}, (), ("price", "weight"), (32, 16)),
    "embeddings alone": ({}, {}, (), (), (8,)),
    "many user features": ({f"user{n}": 3 + n for n in range(20)}, {"brand": 20}, ("spend",), (), (40, 20)),
    "no hidden layer": ({"age": 7}, {"brand": 20}, ("spend",), ("price",), ()),
}


def shape(kind):
    user, item, user_dense, item_dense, top = SHAPES[kind]
    return RankerShape(N_ITEMS, user, item, user_dense, item_dense, DIMENSION, top)


def trained_like(kind):
    """A ranker with weights of the sizes that training gives: no zeros or ones left, relevance of a few units."""
    random = np.random.default_rng(1)
    ranker = build_ranker(shape(kind))
    for layer in ranker.layers:
        if layer.name.startswith("norm_"):
            layer.set_weights([1 + 0.2 * random.normal(size=DIMENSION), 0.2 * random.normal(size=DIMENSION)])
        elif weights := layer.get_weights():
            size = 0.15 if isinstance(layer, keras.layers.Embedding) else np.sqrt(2 / weights[0].shape[0])
            layer.set_weights([size * random.normal(size=weight.shape) for weight in weights])
    return ranker


def user_inputs(kind, n, seed):
    random = np.random.default_rng(seed)
    vocabularies, _, dense, _, _ = SHAPES[kind]
    inputs = {name: random.integers(0, size, n).astype(np.int32) for name, size in vocabularies.items()}
    inputs |= {name: random.normal(size=n).astype(np.float32) for name in dense}
    return inputs | {QUERY_EMBEDDING: random.normal(size=(n, DIMENSION)).astype(np.float32) / 8}


def item_inputs(kind):
    random = np.random.default_rng(5)
    _, vocabularies, _, dense, _ = SHAPES[kind]
    inputs = {name: random.integers(0, size, N_ITEMS).astype(np.int32) for name, size in vocabularies.items()}
    inputs |= {name: random.normal(size=N_ITEMS).astype(np.float32) for name in dense}
    inputs[ITEM_EMBEDDING] = random.normal(size=(N_ITEMS, DIMENSION)).astype(np.float32)
    return inputs | {ITEM_CODE: np.arange(1, N_ITEMS + 1, dtype=np.int32)}


def candidates(n, width, seed=3):
    positions = np.random.default_rng(seed).integers(0, N_ITEMS, (n, width))
    positions[::7, width // 2 :] = -1
    return positions


def by_keras(ranker, users, items, positions):
    """Relevance of every pair, each pair a row of one table, by `model.predict`."""
    n, width = positions.shape
    rows, columns = np.repeat(np.arange(n), width), np.maximum(positions, 0).reshape(-1)
    pairs = {name: values[rows] for name, values in users.items()}
    pairs |= {name: values[columns] for name, values in items.items()}
    scores = ranker.predict(pairs, batch_size=4096, verbose=0).reshape(n, width)
    return np.where(positions < 0, -np.inf, scores)


def algebra(kind):
    return RankingAlgebra(prepare(take_apart(trained_like(kind)), item_inputs(kind)))


@pytest.fixture(scope="module")
def whole():
    return algebra("all")


@pytest.mark.parametrize("kind", SHAPES)
def test_scores_are_those_of_keras(kind):
    ranker, users, items = trained_like(kind), user_inputs(kind, 60, 2), item_inputs(kind)
    positions = candidates(60, 40)
    found = RankingAlgebra(prepare(take_apart(ranker), items))(users, positions)
    expected = by_keras(ranker, users, items, positions)
    assert found.dtype == np.float32
    assert found.shape == positions.shape
    assert expected[expected > -np.inf].std() > 0.3
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("width", [1, 3, 99, 100, PAIRS_A_CHUNK + 7])
def test_bits_do_not_depend_on_the_other_users(whole, width):
    n = 70
    users, positions = user_inputs("all", n, 4), candidates(n, width)
    relevance = whole(users, positions)
    order = np.random.default_rng(6).permutation(n)
    for rows in ([0], [n - 1], np.arange(9), np.arange(13, n), [5, 5, 5], order):
        found = whole({name: values[rows] for name, values in users.items()}, positions[rows])
        assert found.tobytes() == relevance[rows].tobytes()


def test_bits_do_not_depend_on_the_other_candidates(whole):
    users, positions = user_inputs("all", 9, 4), candidates(9, 2 * PAIRS_A_CHUNK + 5)
    relevance = whole(users, positions)
    order = np.random.default_rng(6).permutation(positions.shape[1])
    for columns in ([0], order[:4], order[:50], order):
        assert whole(users, positions[:, columns]).tobytes() == relevance[:, columns].tobytes()


def test_more_candidates_than_fit_into_a_chunk(whole):
    users, positions = user_inputs("all", 3, 4), candidates(3, 2 * PAIRS_A_CHUNK + 5)
    expected = by_keras(trained_like("all"), users, item_inputs("all"), positions)
    np.testing.assert_allclose(whole(users, positions), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("n", "width"), [(0, 5), (4, 0), (0, 0)])
def test_nothing_to_score(whole, n, width):
    found = whole(user_inputs("all", n, 4), np.zeros((n, width), np.int64))
    assert found.shape == (n, width)
    assert found.dtype == np.float32


@pytest.mark.parametrize("code", [-1, 30])
def test_a_code_outside_the_vocabulary(whole, code):
    users = user_inputs("all", 5, 4)
    users["city"][3] = code
    with pytest.raises(ArtifactError, match="'city' has codes"):
        whole(users, candidates(5, 4))


def test_values_that_are_not_numbers_stay_with_their_user(whole):
    users, positions = user_inputs("all", 12, 4), candidates(12, 10)
    before = whole(users, positions)
    users[QUERY_EMBEDDING][4] = np.nan
    after = whole(users, positions)
    assert np.isnan(after[4][positions[4] >= 0]).all()
    others = np.arange(12) != 4
    assert after[others].tobytes() == before[others].tobytes()


SCORE = """
import sys
from tests.models.test_ranking_algebra import algebra, candidates, user_inputs
users, positions = user_inputs("all", 200, 8), candidates(200, 100)
sys.stdout.buffer.write(algebra("all")(users, positions).tobytes())
"""


def test_bits_do_not_depend_on_the_number_of_threads():
    def scored(**environment):
        command = [sys.executable, "-c", SCORE]
        return subprocess.run(command, check=True, capture_output=True, env=os.environ | environment).stdout

    found = {
        threads: scored(OMP_NUM_THREADS=threads, OPENBLAS_NUM_THREADS=threads, TF_NUM_INTRAOP_THREADS=threads)
        for threads in ("1", "5")
    }
    assert len(found["1"]) == 200 * 100 * 4
    assert found["1"] == found["5"]
