"""Measurements in a process of their own, so that what one takes of a device is given back before the next.

``python probe.py floor cpu|gpu MATRIX BYTES RESULTS.json``
``python probe.py stages WORKLOAD cpu|gpu PRECISION USERS RESULTS.json``
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import device_floor
import pyarrow.parquet as pq
import workload

from batchrec.engine.device import Choice, Device, open_device
from batchrec.models.precision import Precision
from batchrec.pipeline import Options, recommend
from batchrec.resources import resources
from batchrec.schema import USER_ID
from batchrec.stages.sample import Sampled
from batchrec.stopwatch import Stopwatch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchrec.pipeline import Users
    from batchrec.resources import Resources

ROUNDS = 5
OPTIONS = Options(workload.CANDIDATES, workload.TOP_K, 20.0, 0, "ranker")


class Waiting(Stopwatch):
    """A stopwatch that stops when the device has done what it was given, and not when it has been given it."""

    def __init__(self, device: Device) -> None:
        super().__init__()
        self._device = device

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Count the time inside the block for `stage`."""
        with super().__call__(stage):
            yield
            self._device.placement.wait()


def stages(made: workload.Workload, choice: Choice, n_users: int) -> dict[str, Any]:
    """Compute one partition again and again, one stage after another; seconds by stage, the best of its rounds.

    A run has two partitions in work, and its seconds by stage are counted where the CPU waits. Here nothing overlaps.
    """
    start = time.perf_counter()
    loaded = resources(made.bundle, made.repo, made.as_of, choice)
    loaded.line()
    found: dict[str, Any] = {"load": time.perf_counter() - start}
    stopwatch = Stopwatch()
    ids = pq.read_table(made.data / "users.parquet")[USER_ID].combine_chunks().sort()[:n_users]
    with stopwatch("read features"):
        features = loaded.features.read(ids)
    with stopwatch("encode"):
        users = loaded.features.encode(ids, features).users
    rounds = [_line(users, loaded) for _ in range(ROUNDS + 1)]
    found["first round"] = sum(rounds[0].values())
    best = {stage: min(seconds[stage] for seconds in rounds[1:]) for stage in rounds[0]}
    return found | {"users": len(ids), "seconds": stopwatch.seconds | best}


def _line(users: Users, loaded: Resources) -> dict[str, float]:
    stopwatch = Waiting(loaded.device)
    made = recommend(users, loaded.line(), OPTIONS, stopwatch)
    with stopwatch("from the device"):
        Sampled(*map(loaded.device.fetch, made))
    return stopwatch.seconds


def main(measured: str, *arguments: str) -> None:
    """Measure and write the figures."""
    *options, results = arguments
    if measured == "floor":
        device, matrix, size = options
        found = device_floor.measure(open_device(Choice(device)), int(matrix), int(size))
    else:
        folder, device, precision, users = options
        if precision not in get_args(Precision):
            raise SystemExit(f"the precision is {precision}, expected one of {', '.join(get_args(Precision))}")
        found = stages(workload.Workload(Path(folder)), Choice(device, precision), int(users))  # type: ignore[arg-type]
    Path(results).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
