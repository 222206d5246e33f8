"""Numbers that reach a floor are put side by side, by one instruction or one by one, whatever the processor."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import numpy as np
from batchrec.models.compiled import compiled
from batchrec.models.lanes import close_up, pack
from batchrec.models.vectors import LANES

@compiled
def packed(row, start, column, floor, values, columns, at):
    return pack(row, start, column, floor, values, columns, at)

@compiled
def closed_up(values, columns, start, floor, at):
    return close_up(values, columns, start, floor, at)

random = np.random.default_rng(0)
for share in (0.0, 0.1, 0.5, 0.9, 1.0):
    for start, at in ((0, 0), (3, 5)):
        row = random.random(40).astype(np.float32) + 1
        row[random.random(40) >= share] = 0
        row[start + 1], row[start + 2] = np.nan, -np.inf
        lanes = row[start : start + LANES]
        wanted = np.flatnonzero(lanes >= 1)
        values, columns = np.full(40, -1, np.float32), np.full(40, -1, np.int32)
        assert packed(row, start, 100, np.float32(1), values, columns, at) == len(wanted)
        assert values[at : at + len(wanted)].tolist() == lanes[wanted].tolist()
        assert columns[at : at + len(wanted)].tolist() == (100 + wanted).tolist()
        for array in (values, columns):  # nothing else was written
            assert (np.delete(array, np.arange(at, at + LANES)) == -1).all()

        values, columns = row.copy(), np.arange(40, dtype=np.int32)
        to = start // 2
        assert closed_up(values, columns, start, np.float32(1), to) == len(wanted)
        assert values[to : to + len(wanted)].tolist() == lanes[wanted].tolist()
        assert columns[to : to + len(wanted)].tolist() == (start + wanted).tolist()
        assert columns[start + LANES :].tolist() == list(range(start + LANES, 40))
"""


@pytest.mark.parametrize("processor", [None, "generic"])
def test_what_reaches_a_floor_comes_side_by_side(processor, tmp_path):
    other = {} if processor is None else {"NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": ""}
    kept = {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, env=os.environ | kept | other)
