import array_api_strict
import numpy as np
import pytest

from batchrec.arrays import Ragged
from batchrec.stages.history import history
from tests.stages.support import ragged, same


def reference(lists, length):
    """Item codes of each row's last known items, one row at a time."""
    rows = []
    for positions in lists:
        codes = [position + 1 for position in positions if position >= 0][-length:]
        rows.append([0] * (length - len(codes)) + codes)
    return rows


def test_by_hand(xp):
    seen = ragged(xp, [[4, 0, 7], [], [-1, 2, -1], [-1], [9]])
    same(history(seen, 2), [[1, 8], [0, 0], [0, 3], [0, 0], [0, 10]], np.int32)
    same(history(seen, 4), [[0, 5, 1, 8], [0] * 4, [0, 0, 0, 3], [0] * 4, [0, 0, 0, 10]], np.int32)


@pytest.mark.parametrize("length", [1, 3, 50])
@pytest.mark.parametrize("seed", range(4))
def test_as_the_reference_says(xp, length, seed):
    random = np.random.default_rng(seed)
    lists = [random.integers(-2, 30, size).tolist() for size in random.integers(0, 12, 25)]
    same(history(ragged(xp, lists), length), reference(lists, length), np.int32)


@pytest.mark.parametrize("lists", [[], [[]], [[], []], [[-1, -1], []]])
def test_nothing_seen(xp, lists):
    found = history(ragged(xp, lists), 3)
    assert found.shape == (len(lists), 3)
    same(found, np.zeros((len(lists), 3)), np.int32)


def test_stays_on_the_device():
    xp = array_api_strict
    there = xp.Device("device1")
    seen = Ragged(*(xp.asarray(values, dtype=xp.int64, device=there) for values in ([0, 2, 3], [5, -1, 2])))
    found = history(seen, 2)
    assert found.device == there
    same(xp.asarray(found, device=xp.Device("CPU_DEVICE")), [[0, 6], [0, 3]], np.int32)
