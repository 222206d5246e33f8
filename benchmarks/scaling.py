"""How a run's time and memory grow with users and items: ``python benchmarks/scaling.py 10000x10000 100000x10000 …``.

Makes the workload of each size once, runs each, and writes a table: what docs/sizing.md is computed from.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import workload
from bench import HERE, machine, run

COLUMNS = ("users", "items", "index", "compute s", "µs a user", "wall s", "processor s", "peak MB", "output MB")


def main() -> None:
    """Measure every size and write JSON and Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sizes", nargs="+", type=size, help="users x items, such as 100000x10000")
    parser.add_argument("--folder", type=Path, default=Path("build/bench"), help="where workloads are kept")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    asked = parser.parse_args()
    found: dict[str, Any] = machine() | {"runs": [measured(asked.folder.resolve(), one) for one in asked.sizes]}
    found["load average after"] = os.getloadavg()
    name = f"{datetime.now(UTC):%Y-%m-%d}-scaling"
    (asked.results / f"{name}.json").write_text(json.dumps(found, indent=2) + "\n")
    (asked.results / f"{name}.md").write_text(table(found))
    print(table(found))


def size(text: str) -> workload.Size:
    """Read users x items."""
    users, items = text.split("x")
    return workload.Size(int(users), int(items))


def measured(folder: Path, asked: workload.Size) -> dict[str, Any]:
    """Make one workload and run it."""
    print(f"{asked.users:,} users, {asked.items:,} items …", file=sys.stderr, flush=True)
    named = {one: name for name, one in workload.SIZES.items()}
    made = workload.make(folder / named.get(asked, f"{asked.users}x{asked.items}"), asked)
    described = json.loads((made.bundle / "bundle.json").read_text())["index"]
    found = run(made)
    parts = sum(path.stat().st_size for path in (made.folder / "output" / "bench").glob("part-*.parquet"))
    return {"users": asked.users, "items": asked.items, "index": described["kind"], "output bytes": parts} | found


def table(found: dict[str, Any]) -> str:
    """Write the runs as Markdown."""
    before, after = (", ".join(f"{load:.1f}" for load in found[f"load average {when}"]) for when in ("before", "after"))
    lines = [
        f"# Time and memory over users and items, {found['date']}",
        "",
        f"{found['machine']['cpu']}, {found['machine']['cores']} cores; load average before {before}, after {after}.",
        "Partitions of 10,000 users, 100 candidates, lists of 10; verification included in wall. One run each.",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "---|" * len(COLUMNS),
    ]
    for one in found["runs"]:
        compute = one["seconds"]["compute"]
        each = 1e6 * compute / one["users"]
        lines.append(
            f"| {one['users']:,} | {one['items']:,} | {one['index']} | {compute:.1f} | {each:.0f} "
            f"| {one['wall']:.1f} | {one['processor']:.1f} | {one['peak bytes'] / 1e6:,.0f} "
            f"| {one['output bytes'] / 1e6:.1f} |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
