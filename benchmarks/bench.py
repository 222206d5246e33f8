"""The benchmark: ``make bench``, or ``python benchmarks/bench.py R1``.

Makes the workload once, then measures in one go: the machine's floor, the afternoon's script between two runs of this
project, whose mean counts since the speed of a shared machine drifts, one user at a time in two ways, and ranking and
retrieval side by side with what they replace. Writes JSON, a table and a plot.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import floor
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import workload
from report import write_plot, write_table

from batchrec.models.threads import cores

HERE = Path(__file__).parent
LIBRARIES = ("numpy", "tensorflow-cpu", "keras", "faiss-cpu", "feast", "duckdb", "pyarrow", "dask", "pandas")
REQUESTS = {"tuned": 200, "as the script": 100}
"""Users who are answered one at a time, by the way to do it."""
LAUNCHER = """
import json, os, sys
quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
_, status, usage = os.wait4(os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=quiet), 0)
print(json.dumps({"processor": usage.ru_utime + usage.ru_stime, "peak bytes": usage.ru_maxrss * 1024}))
sys.exit(os.waitstatus_to_exitcode(status) != 0)
"""
"""Starts a command and says what it used. Linux counts the memory of the process that starts another one towards that
one's peak, so it must be a small one."""
PEERS = ("implicit", "rectools")
PEERS_PYTHON = HERE.parent / ".venv-peers" / "bin" / "python"
"""Their environment, which `make bench` makes; without it they are left out."""


def main() -> None:
    """Measure one workload."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("size", choices=workload.SIZES, nargs="?", default="R0")
    parser.add_argument("--folder", type=Path, default=Path("build/bench"), help="where workloads are kept")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    asked = parser.parse_args()
    made = workload.make(asked.folder.resolve() / asked.size, workload.SIZES[asked.size])
    found = {"workload": asked.size, "users": workload.SIZES[asked.size].users} | machine()
    found["floor"] = _step("floor", floor.measure)
    before = _step("batchrec run", lambda: run(made))
    found["script"] = _step("the afternoon's script", lambda: _peer("baseline_script.py", made, made.folder / "lists"))
    after = _step("batchrec run", lambda: run(made))
    found["batchrec runs"], found["batchrec"] = [before, after], mean_of(before, after)
    one = _step("one user at a time", lambda: _peer("per_request.py", made, *REQUESTS.values()))
    found["one at a time"] = one["seconds"]
    found["peers"] = {
        peer: _step(peer, lambda peer=peer: _library(made, peer)) for peer in PEERS if PEERS_PYTHON.exists()
    }
    found["side by side"] = _step("side by side", lambda: _peer("side_by_side.py", made)["seconds"])
    found["necessary"] = necessary(made, found["users"])
    found["load average after"] = os.getloadavg()
    name = f"{datetime.now(UTC):%Y-%m-%d}-{asked.size}"
    (asked.results / f"{name}.json").write_text(json.dumps(found, indent=2) + "\n")
    write_table(found, asked.results / f"{name}.md")
    write_plot(found, asked.results / f"{name}.svg")
    print((asked.results / f"{name}.md").read_text())


def _step(name: str, work: Any) -> Any:
    print(f"{name} …", file=sys.stderr, flush=True)
    return work()


def machine() -> dict[str, Any]:
    """Return what a measurement was made on, and when."""
    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "unknown")
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "machine": {"cpu": model.split(":")[-1].strip(), "cores": cores(), "python": platform.python_version()},
        "versions": {name: version(name) for name in LIBRARIES},
        "load average before": os.getloadavg(),
    }


def run(made: workload.Workload, run_id: str = "bench", **more: Any) -> dict[str, Any]:
    """Run this project over a workload, as a user would; see :func:`arguments`."""
    taken = measured([sys.executable, "-m", "batchrec", *arguments(made, run_id, **more)])
    manifest = json.loads((made.folder / "output" / run_id / "_manifest.json").read_text())
    return taken | {"seconds": manifest["seconds"]}


def arguments(made: workload.Workload, run_id: str, **more: Any) -> list[str]:
    """Return the command line of a run, whose folder is not there; further options by the names of their flags."""
    output = made.folder / "output"
    shutil.rmtree(output / run_id, ignore_errors=True)
    options = {
        "users": made.data / "users.parquet",
        "bundle": made.bundle,
        "feature-repo": made.repo,
        "as-of": made.as_of.isoformat(),
        "output": output,
        "candidates": workload.CANDIDATES,
        "top-k": workload.TOP_K,
        "run-id": run_id,
        **{name.replace("_", "-"): value for name, value in more.items()},
    }
    return ["run", *(f"--{name}={value}" for name, value in options.items())]


def mean_of(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return the mean of two runs, of what they took by name; of the peak memory the larger."""
    found = {
        name: mean_of(value, other[name]) if isinstance(value, dict) else (value + other[name]) / 2
        for name, value in one.items()
    }
    return found | {name: max(one[name], other[name]) for name in ("peak bytes",) if name in one}


def _peer(script: str, made: workload.Workload, *arguments: Any) -> dict[str, Any]:
    results = made.folder / f"{script}.json"
    taken = measured([sys.executable, HERE / script, made.folder, *map(str, arguments), results])
    return taken | {"seconds": json.loads(results.read_text())}


def _library(made: workload.Workload, peer: str) -> dict[str, Any]:
    results = made.folder / f"{peer}.json"
    taken = measured([PEERS_PYTHON, HERE / "peers.py", made.folder, peer, results])
    return taken | {"seconds": json.loads(results.read_text())}


def measured(command: list[Any]) -> dict[str, float]:
    """Run a command; its seconds by the clock and of processors, start-up included, and its peak memory in bytes."""
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(  # noqa: S603 - this folder's scripts
            [sys.executable, "-c", LAUNCHER, *map(str, command)],
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        )
        usage, _ = process.communicate()
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"failed: {' '.join(map(str, command))}\n{said.read()[-2000:]}")
    return {"wall": time.perf_counter() - start} | json.loads(usage)


def necessary(made: workload.Workload, users: int) -> dict[str, dict[str, float]]:
    """Count what :func:`floor.necessary` counts, for the first so many users of a workload by their ids."""
    described = json.loads((made.bundle / "bundle.json").read_text())
    index, items = described["index"], described["catalogue_size"]
    lists = 1 if index["kind"] == "Flat" else int(index["kind"].removeprefix("IVF").split(",")[0])
    read = items if lists == 1 else lists + items * index["nprobe"] / lists
    user_vectors = len(workload.USER_CODES) + bool(workload.USER_DENSE) + 1
    return floor.necessary(history_lengths(made, users), read, user_vectors, len(workload.ITEM_CODES) + 2)


def history_lengths(made: workload.Workload, users: int) -> np.ndarray:
    """Return (users,) int64: how many places of its history the query tower reads of each, at least 1."""
    ids = np.sort(pq.read_table(made.data / "users.parquet")["user_id"].to_numpy())[:users]
    table = pq.read_table(made.data / "item_id_seen.parquet")
    rows = table.select(["user_id_raw", "event_timestamp"]).to_pandas()
    rows["length"] = pc.list_value_length(table["item_id_seen"]).to_numpy()
    latest = rows.sort_values("event_timestamp").groupby("user_id_raw")["length"].last()
    return latest.reindex(ids, fill_value=0).clip(1, workload.HISTORY).to_numpy(np.int64)


if __name__ == "__main__":
    main()
