import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrec.models import ranker_training
from batchrec.models.ranker import ITEM_CODE, ITEM_EMBEDDING, QUERY_EMBEDDING
from batchrec.models.ranker_training import Impressions, ItemTable, ListBatches

N_ITEMS = 40
EMBEDDINGS = np.random.default_rng(0).normal(size=(N_ITEMS, 4)).astype(np.float32)


def impressions(offered, taken):
    n = len(offered)
    queries = np.arange(4 * n, dtype=np.float32).reshape(n, 4)
    age = {"age": np.arange(n, dtype=np.int32)}
    return Impressions(np.array(offered), np.array(taken, bool), queries, age, np.arange(n, dtype=np.int64))


def one_version():
    position = np.arange(N_ITEMS)
    return ItemTable(position, 0 * position, {"brand": position.astype(np.int32) % 7}, EMBEDDINGS)


INPUTS = {"age", "brand", ITEM_CODE, QUERY_EMBEDDING, ITEM_EMBEDDING}


@given(st.data())
def test_an_item_is_read_as_it_was_known_at_the_time(data):
    n_items = 4
    further = data.draw(st.lists(st.tuples(st.integers(0, n_items - 1), st.integers(1, 20)), max_size=12, unique=True))
    versions = data.draw(st.permutations([(item, 0) for item in range(n_items)] + further))
    position, since = np.array(versions).T
    table = ItemTable(position, since, {"version": np.arange(len(since), dtype=np.int32)}, EMBEDDINGS[:n_items])
    asked = data.draw(st.lists(st.tuples(st.integers(0, n_items - 1), st.integers(-3, 25)), min_size=1, max_size=12))
    items, times = np.array(asked).T
    found = table.pairs(items, times)["version"]
    for item, time, version in zip(items, times, found, strict=True):
        past = [s for p, s in versions if p == item and s <= time]
        assert (position[version], since[version]) == (item, max(past, default=0))


def test_a_list_holds_its_positives_then_offered_then_random_items(monkeypatch):
    monkeypatch.setattr(ranker_training, "MOST_POSITIVES", 2)
    offered = np.arange(20)[None] + np.zeros((6, 1), np.int64)
    taken = np.isin(offered, [3, 5, 7])
    batches = ListBatches(impressions(offered, taken), one_version(), INPUTS, 6, 12, seed=0)
    inputs, share, weight = batches[0]
    positions = inputs[ITEM_CODE].reshape(6, 12) - 1
    assert weight.tolist() == [1] * 6
    for row in range(6):
        assert share[row, :2].tolist() == [0.5, 0.5]
        assert share[row, 2:].sum() == 0
        assert set(positions[row, :2].tolist()) <= {3, 5, 7}
        assert set(positions[row, 2:9].tolist()) <= set(range(20)) - {3, 5, 7}
        assert len(set(positions[row, :9].tolist())) == 9
    assert positions[:, 9:].max() >= 20


def test_what_there_is_nothing_to_learn_from_gives_way_to_random_items():
    offered = np.full((1, 20), -1)
    offered[0, 4], offered[0, 9] = 30, 31
    batches = ListBatches(impressions(offered, offered == 30), one_version(), INPUTS, 1, 8, seed=0)
    inputs, share, _ = batches[0]
    positions = inputs[ITEM_CODE] - 1
    assert positions[:2].tolist() == [30, 31]
    assert np.all((positions >= 0) & (positions < N_ITEMS))
    assert share.tolist() == [[1] + [0] * 7]


def test_pairs_belong_to_their_impression():
    offered = np.arange(30).reshape(3, 10)
    data = impressions(offered, np.eye(3, 10))
    inputs, _, weight = ListBatches(data, one_version(), INPUTS, 4, 8, seed=5)[0]
    assert set(inputs) == INPUTS
    assert weight.tolist() == [1, 1, 1, 0]
    row = inputs["age"]
    assert np.array_equal(row.reshape(4, 8), np.repeat(row[::8, None], 8, axis=1))
    assert np.array_equal(inputs[QUERY_EMBEDDING], data.queries[row])
    assert np.array_equal(inputs[ITEM_EMBEDDING], EMBEDDINGS[inputs[ITEM_CODE] - 1])
    assert np.array_equal(inputs["brand"], (inputs[ITEM_CODE] - 1) % 7)


def test_an_epoch_shows_every_impression_once():
    n = 11
    data = impressions(np.arange(n)[:, None] + np.arange(9), np.ones((n, 9)) * (np.arange(9) == 0))
    batches = ListBatches(data, one_version(), INPUTS, 4, 8, seed=1)
    shown = []
    for index in range(len(batches)):
        inputs, share, weight = batches[index]
        shown += inputs["age"][::8][weight > 0].tolist()
        assert share.sum(axis=1) == pytest.approx(1)
    assert sorted(shown) == list(range(n))
