"""The benchmark on a GPU: ``python benchmarks/gpu.py``, or ``python benchmarks/gpu.py --size R1 --with-cpu``.

Measures in one go: the device's floor, runs end to end in each precision, their stages one by one, and how far their
lists are from those of float32; runs the tests of both devices and keeps what they print. Writes JSON and a table after
every step, so that what was measured is kept where the time ends, and goes on with what it finds of the same day.
Without a usable GPU it ends with exit code 2.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow.parquet as pq
import workload
from bench import necessary, run
from gpu_report import write_table
from lists import change

from batchrec.models.threads import cores
from batchrec.versions import versions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

HERE = Path(__file__).parent
ROOT = HERE.parent
PRECISIONS = ("fp32", "tf32", "bf16")
USERS_A_PARTITION = 65_536
"""Default of the benchmark: fewer calls of Python a user than with a run's own default, which is for CPUs."""
MATRIX, BYTES = 8192, 1 << 30
"""Of the floor: large enough to fill a GPU, and more than its caches."""
EVERY = 0.1
"""Seconds between two looks at the GPU's memory."""


class Variant(NamedTuple):
    """A run to measure: device and precision, and at most one further option of ``batchrec run``, as NAME=VALUE."""

    device: str
    precision: str
    option: str = ""

    @property
    def name(self) -> str:
        """Of the run, in figures and as its id."""
        return "-".join([self.device, self.precision, *re.findall(r"\w+", self.option)])

    @property
    def options(self) -> dict[str, str]:
        """Of the run, by flag."""
        further = dict([self.option.split("=", 1)]) if self.option else {}
        return {"device": self.device, "precision": self.precision} | further


def main() -> None:
    """Measure one workload."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=workload.SIZES, default="R2")
    parser.add_argument(
        "--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS, help="the first is held on to"
    )
    parser.add_argument("--stages-of", nargs="*", choices=PRECISIONS, default=PRECISIONS, help="measured one by one")
    parser.add_argument("--users-per-partition", type=int, default=USERS_A_PARTITION)
    parser.add_argument(
        "--with-option",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="one more run with each, in the first precision",
    )
    parser.add_argument("--with-cpu", action="store_true", help="a run on the CPU beside it, over the same users")
    parser.add_argument("--without-parity", action="store_true", help="leave out the tests of both devices")
    parser.add_argument("--folder", type=Path, default=Path("build/bench"), help="where workloads are kept")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    asked = parser.parse_args()
    refuse_without_gpu()
    report = Report(asked.results / f"{datetime.now(UTC):%Y-%m-%d}-gpu-{asked.size}")
    report.add("machine", machine())
    if not asked.without_parity and "parity" not in report.found:
        report.add("parity", parity(report.path.with_name(f"{report.path.name}-parity.txt")))
    size = workload.SIZES[asked.size]
    start = time.perf_counter()
    made = workload.make(asked.folder.resolve() / asked.size, size)
    report.add("workload", {"name": asked.size, "users": size.users, "items": size.items, "k": workload.TOP_K})
    report.found.setdefault("seconds to make it", time.perf_counter() - start)
    variants = [
        *(Variant("gpu", precision) for precision in asked.precisions),
        *(Variant("gpu", asked.precisions[0], option) for option in asked.with_option),
        *[Variant("cpu", "fp32")] * asked.with_cpu,
    ]
    measure(made, variants, asked.users_per_partition, used_memory, report, stages_of=asked.stages_of)
    print(report.path.with_suffix(".md").read_text())


class Report:
    """Figures that are written to a JSON file and a table whenever one is added, beginning with those in the file.

    Parameters
    ----------
    path
        Of both files, without their endings.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, Any] = {"date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "runs": {}}
        if path.with_suffix(".json").exists():
            self.found = json.loads(path.with_suffix(".json").read_text())

    def add(self, name: str, value: Any) -> None:
        """Add a figure, or of a run ``runs/…`` a part of its figures."""
        where = self.found
        *folders, name = name.split("/")
        for folder in folders:
            where = where.setdefault(folder, {})
        where[name] = value
        self.path.with_suffix(".json").write_text(json.dumps(self.found, indent=2) + "\n")
        write_table(self.found, self.path.with_suffix(".md"))


def measure(
    made: workload.Workload,
    variants: list[Variant],
    users_a_partition: int,
    used: Callable[[], int],
    report: Report,
    matrix: int = MATRIX,
    size: int = BYTES,
    stages_of: Sequence[str] = PRECISIONS,
) -> None:
    """Measure runs over a workload; not again what the report holds.

    Parameters
    ----------
    made
        The workload.
    variants
        The runs. Lists of the others are held against those of the first, whose device's floor is measured.
    users_a_partition
        Of the runs; stages are measured on one partition.
    used
        Tells how many bytes of the device's memory are in use.
    report
        Takes the figures.
    matrix, size
        Of the floor: rows of the matrices that are multiplied, bytes that are moved.
    stages_of
        Precisions in which stages are measured one by one.
    """
    first = variants[0]
    users = pq.read_metadata(made.data / "users.parquet").num_rows
    report.add("necessary", necessary(made, min(users, users_a_partition)))
    if "floor" not in report.found:
        report.add("floor", _step("floor", lambda: _probe(made.folder, "floor", first.device, matrix, size)))
    for variant in variants:
        name = variant.name
        if name in report.found["runs"]:
            continue
        with peak_of(used) as peak:
            ran = _step(name, partial(run, made, name, users_per_partition=users_a_partition, **variant.options))
        output = made.folder / "output"
        steady = users_a_second(output / name)
        report.add(f"runs/{name}/run", ran | {"peak bytes of the device": peak[0], "steady users/s": steady})
        asked = ("stages", made.folder, variant.device, variant.precision, users_a_partition)
        if variant.precision in stages_of and not variant.option:
            report.add(f"runs/{name}/stages", _step(f"{name}, stage by stage", partial(_probe, made.folder, *asked)))
        if variant != first:
            k = workload.TOP_K
            changed = change(output / name, output / first.name, k)._asdict()
            report.add(f"runs/{name}/change", changed | {"from": first.name})


def refuse_without_gpu() -> None:
    """End with the sentence of ``batchrec doctor`` where the GPU cannot be used."""
    doctor = [sys.executable, "-m", "batchrec", "doctor", "--device", "gpu"]
    said = subprocess.run(doctor, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    if said.returncode:
        print(said.stderr.strip().splitlines()[-1], file=sys.stderr)
        raise SystemExit(2)


def machine() -> dict[str, Any]:
    """Return what a measurement is made on."""
    query = "--query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit"
    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "unknown")
    return {
        "gpus": _nvidia_smi(query, "--format=csv,noheader").splitlines(),
        "nvidia-smi": _nvidia_smi(),
        "cpu": model.split(":")[-1].strip(),
        "cores": cores(),
        "kernel": platform.release(),
        "keras backend": os.environ.get("KERAS_BACKEND", "tensorflow"),
        "versions": versions(),
    }


def parity(path: Path) -> dict[str, Any]:
    """Run the tests of both devices and keep what they print, raw."""
    at_once = ["-n", str(min(cores(), 8))]
    command = [sys.executable, "-m", "pytest", "tests/parity", "-rs", "-vv", "-p", "no:cacheprovider", *at_once]
    with path.open("w") as file:
        code = subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, check=False).returncode  # noqa: S603
    last = path.read_text().strip().splitlines()[-1]
    return {"exit code": code, "last line": last, "output": path.name}


def users_a_second(run_folder: Path) -> float | None:
    """Return the users a second between the end of the first part and that of the last, by the times of their files.

    What every run spends once is left out so: importing, loading, compiling. None where there are fewer than 3 parts.
    """
    parts = sorted(run_folder.glob("part-*.parquet"), key=lambda part: part.stat().st_mtime_ns)
    if len(parts) < 3:
        return None
    users = sum(pq.read_metadata(part).num_rows for part in parts[1:])
    return users / ((parts[-1].stat().st_mtime_ns - parts[0].stat().st_mtime_ns) / 1e9)


@contextmanager
def peak_of(used: Callable[[], int]) -> Iterator[list[int]]:
    """Give a list whose only number is, at the end, the most that was in use beyond what was at the beginning."""
    before, done = used(), threading.Event()
    peak = [0]

    def watch() -> None:
        while not done.wait(EVERY):
            peak[0] = max(peak[0], used() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def used_memory() -> int:
    """Return the bytes of memory in use on the first GPU, by all programs."""
    return int(_nvidia_smi("--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0")) << 20


def _nvidia_smi(*arguments: str) -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        raise SystemExit("there is no nvidia-smi to ask for driver and memory")
    return subprocess.run([program, *arguments], check=True, capture_output=True, text=True).stdout.strip()  # noqa: S603


def _probe(folder: Path, *arguments: Any) -> dict[str, Any]:
    results = folder / "probe.json"
    command = [sys.executable, HERE / "probe.py", *map(str, arguments), results]
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | quiet)  # noqa: S603 - our own script
    return json.loads(results.read_text())


def _step(name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    print(f"{name} …", file=sys.stderr, flush=True)
    return work()


if __name__ == "__main__":
    main()
