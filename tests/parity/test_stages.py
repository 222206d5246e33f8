"""Every stage on a device: what it gives with NumPy, on inputs of some size, and left on the device."""

import numpy as np
import pytest
from array_api_compat import array_namespace

from batchrec.arrays import Ragged
from batchrec.stages.anti_join import anti_join
from batchrec.stages.history import history
from batchrec.stages.order import order
from batchrec.stages.rank import rank
from batchrec.stages.retrieve import retrieve
from batchrec.stages.sample import sample
from batchrec.stages.unroll import unroll
from tests.parity.near_ties import close, same_lists
from tests.stages import reference

N_USERS, N_ITEMS, WIDTH, K = 150, 400, 40, 10
RANDOM = np.random.default_rng(11)

POSITIONS = np.stack([RANDOM.permutation(N_ITEMS)[:WIDTH] for _ in range(N_USERS)])
POSITIONS[::6, WIDTH // 2 :] = -1
SCORES = RANDOM.normal(size=(N_USERS, WIDTH)).astype(np.float32)
QUERIES, ITEMS = (RANDOM.normal(size=(n, 8)).astype(np.float32) for n in (N_USERS, N_ITEMS))
LENGTHS = RANDOM.integers(0, 60, N_USERS)
SEEN = Ragged(np.concatenate([[0], np.cumsum(LENGTHS)]).astype(np.int64), RANDOM.integers(-1, N_ITEMS, LENGTHS.sum()))
ELIGIBLE = RANDOM.random(N_ITEMS) < 0.9
USER_HASH, ITEM_HASH = (RANDOM.integers(0, 2**64, n, dtype=np.uint64) for n in (N_USERS, N_ITEMS))
AGE, PRICE = (RANDOM.normal(size=n).astype(np.float32) for n in (N_USERS, N_ITEMS))


def search(queries, items, depth):
    """Exact search by the array API alone."""
    xp = array_namespace(queries)
    scores = queries @ items.T
    best = xp.argsort(scores, axis=1, descending=True, stable=True)[:, :depth]
    rest = depth - best.shape[1]
    scores, best = xp.take_along_axis(scores, best, axis=1), xp.astype(best, xp.int64)
    if rest <= 0:
        return scores, best
    rows = queries.shape[0]
    return (
        xp.concat([scores, xp.full((rows, rest), -xp.inf, dtype=xp.float32)], axis=1),
        xp.concat([best, xp.full((rows, rest), -1, dtype=xp.int64)], axis=1),
    )


def retrieved(put):
    queries, items, seen, eligible = put(QUERIES), put(ITEMS), Ragged(*map(put, SEEN)), put(ELIGIBLE)
    return retrieve(
        queries,
        lambda some, depth: search(some, items, depth),
        lambda positions, rows: anti_join(positions, seen.take(rows), eligible),
        seen.lengths,
        WIDTH,
        N_ITEMS,
    )


def ranked(put):
    return rank(
        {"age": put(AGE)},
        {"price": put(PRICE)},
        put(POSITIONS),
        lambda pairs: pairs["age"] * pairs["price"],
        7,
        unroll=unroll,
    )


def sampled(put, temperature):
    return sample(put(SCORES), put(POSITIONS), put(USER_HASH), put(ITEM_HASH), K, temperature, 5)


EXACT = {
    "history": lambda put: [history(Ragged(*map(put, SEEN)), 20)],
    "anti_join": lambda put: [anti_join(put(POSITIONS), Ragged(*map(put, SEEN)), put(ELIGIBLE))],
    "unroll": lambda put: unroll({"age": put(AGE)}, {"price": put(PRICE)}, put(POSITIONS)).values(),
    "order": lambda put: order(put(POSITIONS), put(SCORES)),
    "sort": lambda put: sampled(put, float("inf")),
}
"""Stages that compare and copy and do no arithmetic: not a bit may differ."""


def on_both(stage, device):
    on_device = list(stage(device.put))
    assert len({type(array) for array in on_device}) == 1
    assert isinstance(on_device[0], type(device.put(AGE)))
    return [device.fetch(array) for array in on_device], list(stage(np.asarray))


@pytest.mark.parametrize("stage", EXACT)
def test_no_bit_differs(stage, device):
    for found, expected in zip(*on_both(EXACT[stage], device), strict=True):
        np.testing.assert_array_equal(found, expected, strict=True)


def test_rank(device):
    (found,), (expected,) = on_both(lambda put: [ranked(put)], device)
    close(found, expected)


def test_retrieve(device):
    (positions, scores), (expected, expected_scores) = on_both(retrieved, device)
    same_lists(positions, expected, scores, expected_scores)
    assert (expected >= 0).any(axis=1).all()


@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_sample(device, temperature):
    found, expected = on_both(lambda put: sampled(put, temperature), device)

    def keys(positions, relevance):
        noise = np.array(
            [
                [reference.gumbel(5, int(USER_HASH[row]), int(ITEM_HASH[item])) for item in items]
                for row, items in enumerate(positions)
            ]
        )
        return np.where(positions < 0, -np.inf, relevance.astype(np.float64) * temperature + noise)

    same_lists(found[0], expected[0], keys(*found[:2]), keys(*expected[:2]), scale=temperature)
    same = found[0] == expected[0]
    assert same.mean() > 0.999
    close(np.where(same, found[1], 0), np.where(same, expected[1], 0))
    close(found[2][same.all(axis=1)], expected[2][same.all(axis=1)])
