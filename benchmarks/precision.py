"""The change in lists of ``--precision bf16``, without a GPU: ``python benchmarks/precision.py R0``.

Both runs compute with array-api-strict in the place of CuPy, as the tests of both devices do: operands are rounded to
bfloat16 as on a GPU and multiplied in float32. Their seconds mean nothing. TensorFloat-32 has no stand-in.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

import workload
from bench import arguments
from lists import change

sys.path.insert(0, str(Path(__file__).parents[1]))

from batchrec import cli
from batchrec.engine import device as devices
from tests.parity.devices import strict

PRECISIONS = ("fp32", "bf16")


def main() -> None:
    """Make lists in both precisions and hold them against each other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("size", choices=workload.SIZES, nargs="?", default="R0")
    parser.add_argument("--folder", type=Path, default=Path("build/bench"), help="where workloads are kept")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    asked = parser.parse_args()
    size = workload.SIZES[asked.size]
    made = workload.make(asked.folder.resolve() / asked.size, size)
    devices._OPEN["gpu"] = strict  # noqa: SLF001 - as the tests do
    devices.first_problem = lambda *_: None
    output = made.folder / "output"
    for precision in PRECISIONS:
        run(made, precision)
    found = change(output / PRECISIONS[1], output / PRECISIONS[0], workload.TOP_K)
    lines = [
        f"# Lists in bf16 held against those in fp32, {asked.size}, {datetime.now(UTC):%Y-%m-%d}",
        "",
        f"{size.users:,} users, {size.items:,} items, models untrained; array-api-strict in the place of CuPy.",
        "",
        "| equal | first item equal | overlap | largest score difference |",
        "|---|---|---|---|",
        f"| {found.equal:.2%} | {found.first_equal:.2%} | {found.overlap:.2%} | {found.score:.2g} |",
        "",
    ]
    path = asked.results / f"{datetime.now(UTC):%Y-%m-%d}-precision-{asked.size}.md"
    path.write_text("\n".join(lines))
    print(path.read_text())


def run(made: workload.Workload, precision: str) -> None:
    """Make lists as ``batchrec run`` does, in this process, whose GPU is made up."""
    sys.argv = ["batchrec", *arguments(made, precision, precision=precision, device="gpu")]
    try:
        cli.main()
    except SystemExit as left:
        if left.code:
            raise


if __name__ == "__main__":
    main()
