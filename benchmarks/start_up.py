"""What a short run takes against what it cannot do without: ``python benchmarks/start_up.py``, after ``make demo``.

A run over a thousand users of the demo, everything included, and a bare process that imports TensorFlow and loads the
bundle's models and index; each as a process of its own, in turns, the best of several turns. The target is a ratio of
1.5 by the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
from bench import measured

ROOT = Path(__file__).parents[1]
DATA, REPO, BUNDLE = ROOT / "feature_repo" / "data", ROOT / "feature_repo", ROOT / "bundles" / "demo"
USERS = 1000

BARE = """
import sys
from pathlib import Path

import tensorflow
from batchrec.models.bundle import Bundle
from batchrec.models.index import ItemIndex
from batchrec.models.serving import load_model

bundle = Bundle.open(Path(sys.argv[1]))
said = bundle.format
tower, ranker, index = said.query_tower, said.ranker, said.index
inputs = {one.name for one in (*ranker.user_inputs, *ranker.item_inputs)}
load_model(bundle.folder / tower.path, {one.name for one in tower.inputs} | {"history"})
load_model(bundle.folder / ranker.path, inputs | {ranker.item_code, ranker.item_embedding, ranker.query_embedding})
ItemIndex.read(bundle.folder / index.path, index, said.catalogue_size, said.embedding_dimension)
"""


def main() -> None:
    """Measure both in turns and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=5, help="default: %(default)s")
    turns, before = parser.parse_args().turns, os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        bare = [sys.executable, "-c", BARE, str(BUNDLE)]
        found = [(measured(bare), measured(run_command(Path(folder), turn))) for turn in range(turns)]
    print(f"Best of {turns} in turns, load average {before:.1f} before, {os.getloadavg()[0]:.1f} after.\n")
    print("| seconds | bare | run | ratio |\n|---|---|---|---|")
    for what in ("wall", "processor"):
        one, other = (min(turn[way][what] for turn in found) for way in (0, 1))
        print(f"| {what} | {one:.2f} | {other:.2f} | {other / one:.2f} |")


def run_command(folder: Path, turn: int) -> list[str]:
    """Return the command of a run over the first thousand users, into a place of its own."""
    users = folder / "users.parquet"
    pq.write_table(pq.read_table(DATA / "users.parquet")[:USERS], users)
    options = {
        "users": users,
        "bundle": BUNDLE,
        "feature-repo": REPO,
        "as-of": json.loads((DATA / "prepared.json").read_text())["cutoff"],
        "output": folder / "output",
        "run-id": f"turn-{turn}",
    }
    return [sys.executable, "-m", "batchrec", "run", *(f"--{name}={value}" for name, value in options.items())]


if __name__ == "__main__":
    main()
