from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrec.errors import SchemaError
from batchrec.evaluate.popularity import Train, popularity_lists, read_train
from tests.evaluate.support import write_pairs


def slow_lists(interactions, seen, k):
    """For every user: walk down the items from the most popular, skip what was seen, stop at k."""
    ranking = sorted(range(len(interactions)), key=lambda item: (-interactions[item], item))
    lists = []
    for mine in seen:
        unseen = [item for item in ranking if item not in mine][:k]
        lists.append(unseen + [-1] * (k - len(unseen)))
    return lists


@st.composite
def worlds(draw):
    items = draw(st.integers(1, 12))
    interactions = draw(st.lists(st.integers(0, 4), min_size=items, max_size=items))
    seen = draw(st.lists(st.sets(st.integers(0, items - 1)), min_size=1, max_size=5))
    return interactions, seen, draw(st.integers(1, 14))


@given(worlds())
def test_lists_against_the_slow_walk(world):
    interactions, seen, k = world
    keys = sorted(user * len(interactions) + item for user, mine in enumerate(seen) for item in mine)
    train = Train(np.array(interactions), np.array(keys, dtype=np.int64))
    assert popularity_lists(train, len(seen), k).tolist() == slow_lists(interactions, seen, k)


def test_counts_and_seen_items_against_python(tmp_path):
    draw = np.random.default_rng(0)
    pairs = [(int(user), f"item-{item:02}") for user, item in draw.integers(20, size=(500, 2))]
    users, catalogue = pa.array([3, 7, 19, 99]), pa.array([f"item-{item:02}" for item in range(1, 25)])
    path = write_pairs(tmp_path / "train.parquet", [*pairs, (3, None), (None, "item-01")])
    train = read_train(path, users, catalogue)
    counts = Counter(item for _, item in pairs)
    assert train.interactions.tolist() == [counts[item] for item in catalogue.to_pylist()]
    seen = {(user, item) for user, item in pairs if user in users.to_pylist() and item != "item-00"}
    rows, items = np.divmod(train.seen, len(catalogue))
    found = list(zip(users.take(pa.array(rows)).to_pylist(), catalogue.take(pa.array(items)).to_pylist(), strict=True))
    assert found == sorted(seen)


@pytest.mark.parametrize(("user", "item", "column"), [("u", 1, "user_id"), (1, "i", "item_id")])
def test_ids_of_another_type(tmp_path, user, item, column):
    path = write_pairs(tmp_path / "train.parquet", [(user, item)])
    with pytest.raises(SchemaError, match=f"column {column} of .* has type string, but .* int64"):
        read_train(path, pa.array([1]), pa.array([1]))
