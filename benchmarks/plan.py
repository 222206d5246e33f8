"""Hold plans against what then happens: ``python benchmarks/plan.py R0 --output plan.json``.

For each workload (see workload.py) and size of partitions, ``batchrec plan`` and then ``batchrec run`` with the same
options, one process each. Memory is the peak that the Linux kernel kept of the run's process.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import memory
import workload


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sizes", choices=workload.SIZES, nargs="+")
    parser.add_argument("--users-per-partition", type=int, nargs="+", default=[10_000])
    parser.add_argument("--folder", type=Path, default=Path("build/bench"), help="where workloads are kept")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    asked = parser.parse_args()
    report = []
    for size in asked.sizes:
        made = workload.make(asked.folder.resolve() / size, workload.SIZES[size])
        report += [{"workload": size} | compared(made, partition) for partition in asked.users_per_partition]
    asked.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(table(report))


def compared(made: workload.Workload, partition: int) -> dict[str, Any]:
    """Plan a run and make it."""
    output = made.folder / "planned"
    shutil.rmtree(output, ignore_errors=True)
    options = [
        f"--users={made.data / 'users.parquet'}",
        f"--bundle={made.bundle}",
        f"--feature-repo={made.repo}",
        f"--as-of={made.as_of.isoformat()}",
        f"--output={output}",
        f"--users-per-partition={partition}",
        "--run-id=r",
    ]
    load = os.getloadavg()[0]
    planned, _ = ended(memory.batchrec("plan", *options))
    between = os.getloadavg()[0]
    ran, peak = ended(memory.batchrec("run", *options))
    manifest = json.loads((output / "r" / "_manifest.json").read_text(encoding="utf-8"))
    happened = {
        "partitions": ran["parts"],
        "rows": ran["rows"],
        "output_bytes": sum(part["bytes"] for part in manifest["parts"]),
        "memory_bytes": peak,
        **{name: manifest["seconds"][name] for name in ("read users", "load models", "compute", "verify")},
        "all": ran["seconds"],
    }
    predicted = {name: planned["seconds"].get(name, planned.get(name)) for name in happened}
    loads = [load, between, os.getloadavg()[0]]
    return {"partition": partition, "predicted": predicted, "happened": happened, "loads": loads} | {
        "pilot_users": planned["pilot_users"]
    }


def ended(command: list[str]) -> tuple[dict[str, Any], int]:
    """Run a command; return its summary and the peak of its own memory."""
    process = subprocess.Popen(  # noqa: S603 - our own command
        command, env=memory.environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    peaks = memory.watched(process)
    said = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return json.loads(said.splitlines()[-1]), peaks[0]


def table(report: list[dict[str, Any]]) -> str:
    """Return a table of every figure, predicted and happened."""
    lines = [
        "| workload, users a partition | figure | planned | happened | planned / happened |",
        "|---|---|---|---|---|",
    ]
    for one in report:
        where = f"{one['workload']}, {one['partition']:,} (load {', '.join(f'{load:.1f}' for load in one['loads'])})"
        for name, happened in one["happened"].items():
            planned = one["predicted"][name]
            lines.append(f"| {where} | {name} | {planned:,.2f} | {happened:,.2f} | {planned / happened:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
