"""Every stage leaves its arrays on the device they came from (array-api-strict refuses to mix devices)."""

import array_api_strict as xp
import numpy as np
import pytest

from batchrec.arrays import Ragged
from batchrec.stages.anti_join import anti_join
from batchrec.stages.order import order
from batchrec.stages.rank import rank
from batchrec.stages.retrieve import retrieve
from batchrec.stages.sample import sample
from batchrec.stages.unroll import unroll

DEVICE = xp.Device("device1")


def there(values, dtype):
    return xp.asarray(np.asarray(values), dtype=dtype, device=DEVICE)


POSITIONS = there([[2, 0, -1], [1, 2, 0]], xp.int64)
SCORES = there([[0.1, 0.2, 0.3], [0.6, 0.5, 0.4]], xp.float32)
SEEN = Ragged(there([0, 1, 1], xp.int64), there([2], xp.int64))
ELIGIBLE = there([True, True, True], xp.bool)
HASHES = there([5, 6, 7], xp.uint64)


def keep(positions, rows):
    return anti_join(positions, SEEN.take(rows), ELIGIBLE)


def search(queries, depth):
    first = there(list(range(3)) + [-1] * (depth - 3), xp.int64)
    rows = queries.shape[0]
    positions = xp.broadcast_to(first, (rows, depth))
    return xp.astype(-positions, xp.float32), positions


STAGES = {
    "anti_join": lambda: [keep(POSITIONS, there([0, 1], xp.int64))],
    "order": lambda: order(POSITIONS, SCORES),
    "rank": lambda: [
        rank({"u": SCORES[:, 0]}, {"i": SCORES[0, :]}, POSITIONS, lambda p: p["u"] + p["i"], 3, unroll=unroll)
    ],
    "rank nothing": lambda: [rank({}, {}, POSITIONS[:0, :], lambda p: p["u"], 3, unroll=unroll)],
    "retrieve": lambda: retrieve(SCORES, search, keep, SEEN.lengths, 3, 3),
    "retrieve nothing": lambda: retrieve(SCORES[:0, :], search, keep, SEEN.lengths[:0], 3, 3),
    "sample": lambda: sample(SCORES, POSITIONS, HASHES[:2], HASHES, 5, 20.0, 0),
    "sort": lambda: sample(SCORES, POSITIONS, HASHES[:2], HASHES, 2, float("inf"), 0),
    "unroll": lambda: unroll({"u": SCORES}, {"i": HASHES}, POSITIONS).values(),
}


@pytest.mark.parametrize("stage", STAGES)
def test_results_stay_on_the_device(stage):
    assert {array.device for array in STAGES[stage]()} == {DEVICE}
