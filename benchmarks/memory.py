"""Measure that memory does not grow with the number of users: ``python benchmarks/memory.py --output memory.json``.

The demo's data are generated for each number of users, over one and the same catalogue, and one bundle, trained on the
smallest, makes a run over each. What is measured is the peak of the resident memory of every process of the run, as the
Linux kernel keeps it (``VmHWM``). The full form::

    python benchmarks/memory.py --users 100000 2000000 --cluster local processes:1 --output memory.json
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
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
FEAST = Path(sys.executable).parent / "feast"
MEGABYTE = 1_000_000
SAMPLE_EVERY_SECONDS = 0.1


def main() -> None:
    """Measure every combination and write what was found."""
    options = parsed()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        report = measured(options, Path(folder))
    options.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for run in report["runs"]:
        print(f"{run['users']:>10,} users, {run['cluster']}: {run['peak_megabytes']} MB, {run['seconds']} s")


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Measure the peak memory of runs over more and more users.")
    parser.add_argument("--users", type=int, nargs="+", default=[20_000, 200_000], help="numbers of users, ascending")
    parser.add_argument("--items", type=int, default=2000, help="items of the catalogue (default: %(default)s)")
    parser.add_argument("--cluster", nargs="+", default=["local"], help="as of `batchrec run` (default: local)")
    parser.add_argument("--users-per-partition", type=int, default=10_000, help="default: %(default)s")
    parser.add_argument("--folder", type=Path, help="where the data are generated (default: the system's own)")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    return parser.parse_args()


def measured(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Make data and bundle, and return what the runs over them needed."""
    sizes = sorted(options.users)
    repos = {users: prepared(folder / str(users), users, options.items) for users in sizes}
    bundle = trained(folder / "bundle", repos[sizes[0]])
    runs = []
    for cluster in options.cluster:
        for users in sizes:
            arguments = [f"--cluster={cluster}", f"--users-per-partition={options.users_per_partition}"]
            output = folder / "output" / f"{users}-{cluster.replace(':', '-')}"
            found = run_of(repos[users], bundle, output, arguments)
            runs.append({"users": users, "cluster": cluster} | found)
            shutil.rmtree(output)
    return {"conditions": conditions(options), "runs": runs}


def prepared(folder: Path, users: int, items: int) -> Path:
    """Generate data for so many users and apply a feature repository over them; return the repository."""
    data, repo = folder / "data", folder / "feature_repo"
    sizes = ["--users", str(users), "--items", str(items), "--output", str(data)]
    called([sys.executable, str(ROOT / "jobs" / "demo_data.py"), *sizes])
    shutil.copytree(ROOT / "feature_repo", repo, ignore=shutil.ignore_patterns("data", "__pycache__"))
    called([str(FEAST), "-c", str(repo), "apply"], BATCHREC_FEATURE_DATA=str(data))
    return repo


def trained(bundle: Path, repo: Path) -> Path:
    """Train for one pass, which is enough to have models of the usual size."""
    data = repo.parent / "data"
    called(
        batchrec(
            "train",
            f"--interactions={data / 'interactions.parquet'}",
            f"--items={data / 'items.parquet'}",
            f"--feature-repo={repo}",
            f"--output={bundle}",
            "--epochs=1",
        )
    )
    called(batchrec("index", str(bundle)))
    return bundle


def run_of(repo: Path, bundle: Path, output: Path, arguments: list[str]) -> dict[str, Any]:
    """Make one run and return the peaks of its processes, the first one its own."""
    data = repo.parent / "data"
    cutoff = json.loads((data / "prepared.json").read_text(encoding="utf-8"))["cutoff"]
    command = batchrec(
        "run",
        f"--users={data / 'users.parquet'}",
        f"--bundle={bundle}",
        f"--feature-repo={repo}",
        f"--as-of={cutoff}",
        f"--output={output}",
        *arguments,
    )
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)  # noqa: S603
    peaks = watched(process)
    said = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    summary = json.loads(said.splitlines()[-1])
    return {
        "peak_megabytes": [round(peak / MEGABYTE) for peak in peaks],
        "seconds": summary["seconds"],
        "users_per_second": summary["users_per_second"],
        "parts": summary["parts"],
    }


def watched(process: subprocess.Popen[str]) -> list[int]:
    """Wait for a process; return its peak memory in bytes, then that of each process that it started, largest first."""
    peaks: dict[int, int] = {}
    while process.poll() is None:
        for pid in family(process.pid):
            peaks[pid] = max(peaks.get(pid, 0), high_water(pid))
        time.sleep(SAMPLE_EVERY_SECONDS)
    own = peaks.pop(process.pid)
    return [own, *sorted(peaks.values(), reverse=True)]


def family(pid: int) -> list[int]:
    """Return a process and all below it."""
    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return [pid]


def high_water(pid: int) -> int:
    """Return the most bytes that were ever resident in a process; 0 where it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def conditions(options: argparse.Namespace) -> dict[str, Any]:
    """Say under which conditions it was measured."""
    return {
        "items": options.items,
        "users_per_partition": options.users_per_partition,
        "cores": os.cpu_count(),
        "memory_megabytes": round(psutil.virtual_memory().total / MEGABYTE),
        "load_average_at_the_end": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def batchrec(*arguments: str) -> list[str]:
    """Return the command that runs this checkout's batchrec."""
    return [sys.executable, "-m", "batchrec", *arguments]


def environment(**more: str) -> dict[str, str]:
    """Return the environment of this process, with this checkout first among the places of packages."""
    return os.environ | {"PYTHONPATH": str(ROOT)} | more


def called(command: list[str], **more: str) -> None:
    """Run a command and end with it where it fails."""
    subprocess.run(command, env=environment(**more), stdout=subprocess.DEVNULL, check=True)  # noqa: S603


if __name__ == "__main__":
    main()
