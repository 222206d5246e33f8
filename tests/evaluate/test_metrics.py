import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrec.evaluate import metrics

NAMES, DEPTHS, SEEDS = ("recall", "ndcg", "hit_rate", "mrr"), (1, 3, 10), range(3)

BY_RANX = """
import json, sys
import numpy, ranx
found = []
for qrels, run, names in json.load(sys.stdin):
    values = ranx.evaluate(ranx.Qrels(qrels), ranx.Run(run), names, return_mean=False)
    found.append({name: values[name].tolist() for name in names})
json.dump(found, sys.stdout)
"""


@pytest.fixture(scope="module")
def by_ranx():
    """What ranx says of each seed's world, by seed and metric; in a process of its own, where it compiles nothing."""
    asked = []
    for seed in SEEDS:
        lists, held_out = random_world(seed)
        qrels = {f"{user:03}": {str(item): 1 for item in mine} for user, mine in enumerate(held_out)}
        # ranx wants something in every list: an item that nobody holds.
        run = {
            f"{user:03}": {str(item): 100.0 - rank for rank, item in enumerate(row) if item >= 0} or {"none": 0.0}
            for user, row in enumerate(lists)
        }
        asked.append((qrels, run, [f"{name}@{k}" for name in NAMES for k in DEPTHS]))
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}  # compiling takes ten times as long as this whole module
    command = [sys.executable, "-c", BY_RANX]
    done = subprocess.run(command, input=json.dumps(asked), env=environment, check=True, capture_output=True, text=True)
    return dict(zip(SEEDS, json.loads(done.stdout), strict=True))


def random_world(seed, users=60, items=40, k=10):
    """Lists of 0 to k items, and 1 to 15 held-out items a user."""
    draw = np.random.default_rng(seed)
    lists = np.full((users, k), -1)
    for row in lists:
        length = draw.integers(k + 1)
        row[:length] = draw.permutation(items)[:length]
    held_out = [draw.permutation(items)[: draw.integers(1, 16)].tolist() for _ in range(users)]
    return lists, held_out


def keys_of(held_out, items):
    return np.sort([user * items + item for user, mine in enumerate(held_out) for item in mine]).astype(np.int64)


def per_user(lists, held_out, items):
    hit = metrics.hits(lists, keys_of(held_out, items), items)
    counts = np.array([len(mine) for mine in held_out])
    return {
        "recall": metrics.recall(hit, counts),
        "ndcg": metrics.ndcg(hit, counts),
        "hit_rate": metrics.hit_rate(hit),
        "mrr": metrics.mrr(hit),
    }


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("k", DEPTHS)
def test_agrees_with_ranx_user_by_user(by_ranx, seed, k):
    lists, held_out = random_world(seed)
    ours = per_user(lists[:, :k], held_out, items=40)
    assert set(ours) == set(NAMES)
    for name, values in ours.items():
        np.testing.assert_allclose(values, by_ranx[seed][f"{name}@{k}"], err_msg=name)
    assert 0 < ours["recall"].mean() < 1


def test_a_case_by_hand():
    # Ranks 2 and 3 hit, three held out; the ideal list of three places has all three.
    values = per_user(np.array([[4, 1, 2]]), [[1, 2, 3]], items=5)
    half = 1 / np.log2(3)
    assert values["recall"] == pytest.approx([2 / 3])
    assert values["ndcg"] == pytest.approx([(half + 1 / 2) / (1 + half + 1 / 2)])
    assert values["hit_rate"] == pytest.approx([1.0])
    assert values["mrr"] == pytest.approx([1 / 2])


def test_more_held_out_items_than_places():
    values = per_user(np.array([[0, 1]]), [[0, 1, 2, 3]], items=5)
    assert values["recall"] == pytest.approx([0.5])
    assert values["ndcg"] == pytest.approx([1.0])


def test_no_held_out_item_in_the_catalogue():
    hit = metrics.hits(np.array([[0, 1]]), np.array([], dtype=np.int64), 2)
    assert not hit.any()


def test_the_missing_item_is_never_a_hit():
    # Key of (user 1, position -1) = key of (user 0, last item).
    assert not metrics.hits(np.array([[-1], [-1]]), keys_of([[2], [0]], 3), 3).any()


@pytest.mark.parametrize("seed", range(3))
def test_coverage_against_sets(seed):
    lists, _ = random_world(seed, users=5)
    union = {item for row in lists.tolist() for item in row} - {-1}
    assert metrics.coverage(lists, 40) == len(union) / 40


@pytest.mark.parametrize("seed", range(3))
def test_sole_items_are_what_the_union_loses_without_the_user(seed):
    lists, _ = random_world(seed, users=8)
    sets = [set(row) - {-1} for row in lists.tolist()]
    whole = len(set().union(*sets))
    lost = [whole - len(set().union(*sets[:user], *sets[user + 1 :])) for user in range(len(sets))]
    assert sum(lost) > 0
    assert metrics.sole_items(lists, 40).tolist() == lost


ITEMS = 12
held_out_items = st.sets(st.integers(0, ITEMS - 1), min_size=1)
list_of_items = st.permutations(range(ITEMS)).flatmap(
    lambda order: st.integers(0, 5).map(lambda length: list(order[:length]) + [-1] * (5 - length))
)


@given(st.lists(st.tuples(list_of_items, held_out_items), min_size=1, max_size=6))
def test_every_figure_lies_between_0_and_1(world):
    lists = np.array([row for row, _ in world])
    for values in per_user(lists, [list(mine) for _, mine in world], ITEMS).values():
        assert ((values >= 0) & (values <= 1 + 1e-12)).all()
    assert 0 <= metrics.coverage(lists, ITEMS) <= 1


@given(st.lists(held_out_items, min_size=1, max_size=6))
def test_a_perfect_run_is_1(held_out):
    lists = np.array([(sorted(mine) + sorted(set(range(ITEMS)) - mine))[:5] for mine in held_out])
    values = per_user(lists, [list(mine) for mine in held_out], ITEMS)
    for name in ("ndcg", "hit_rate", "mrr"):
        np.testing.assert_allclose(values[name], 1.0)
    np.testing.assert_allclose(values["recall"], [min(5, len(mine)) / len(mine) for mine in held_out])


@given(st.lists(st.tuples(list_of_items, held_out_items), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_users_may_stand_in_any_order(world, random):
    order = list(range(len(world)))
    random.shuffle(order)
    lists, held_out = np.array([row for row, _ in world]), [list(mine) for _, mine in world]
    before = per_user(lists, held_out, ITEMS)
    after = per_user(lists[order], [held_out[user] for user in order], ITEMS)
    for name, values in before.items():
        np.testing.assert_array_equal(values[order], after[name])
    np.testing.assert_array_equal(metrics.sole_items(lists, ITEMS)[order], metrics.sole_items(lists[order], ITEMS))
