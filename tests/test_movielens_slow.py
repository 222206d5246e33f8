"""The whole line on MovieLens, through the command line, as a user would type it. Minutes long."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("BATCHREC_DATA", ROOT.parent / "shared" / "data"))
pytestmark = pytest.mark.slow


def batchrec(*arguments: str | Path, cwd: Path) -> dict:
    """Run a command and return the JSON of its last line."""
    command = [sys.executable, "-m", "batchrec", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, f"{command} ended with {done.returncode}"
    return json.loads(done.stdout.splitlines()[-1])


def prepared(name: str, tmp_path: Path) -> Path:
    """Prepare a MovieLens data set, split per user in time, and register its features."""
    source = DATA / name
    if not source.is_dir():
        pytest.skip(f"no {name} in {DATA}; set BATCHREC_DATA to a folder that holds it")
    subprocess.run(
        [sys.executable, ROOT / "jobs" / "movielens.py", source, "--output", "data"], cwd=tmp_path, check=True
    )
    subprocess.run(
        [Path(sys.executable).parent / "feast", "-c", "data/feature_repo", "apply"], cwd=tmp_path, check=True
    )
    return tmp_path


def trained_and_run(folder: Path, *train_options: str) -> tuple[dict, float]:
    """Train, index and run; return the run's summary and the minutes that training took."""
    begun = time.monotonic()
    batchrec(
        *("train", "--interactions", "data/interactions.parquet", "--items", "data/items.parquet"),
        *("--feature-repo", "data/feature_repo", "--output", "bundle", *train_options),
        cwd=folder,
    )
    minutes = (time.monotonic() - begun) / 60
    batchrec("index", "bundle", cwd=folder)
    summary = batchrec(
        *("run", "--users", "data/users.parquet", "--bundle", "bundle", "--feature-repo", "data/feature_repo"),
        *("--run-id", "ranked", "--as-of", json.loads((folder / "data" / "prepared.json").read_text())["cutoff"]),
        cwd=folder,
    )
    return summary, minutes


def evaluated(folder: Path) -> dict[str, float]:
    report = batchrec(
        *("evaluate", "output/ranked", "--holdout", "data/holdout.parquet"),
        *("--interactions", "data/interactions.parquet", "--items", "data/items.parquet"),
        cwd=folder,
    )
    return {system["name"]: system["figures"]["recall"]["estimate"] for system in report["systems"]}


def unseen_lists_of_ten(folder: Path, n_users: int) -> None:
    """Every user has ten distinct items, none of which stands in the training log."""
    rows = pq.read_table(folder / "output" / "current").to_pylist()
    log = pq.read_table(folder / "data" / "interactions.parquet").to_pydict()
    seen: dict[int, set[int]] = {}
    for user, item in zip(log["user_id"], log["item_id"], strict=True):
        seen.setdefault(user, set()).add(item)
    assert len({row["user_id"] for row in rows}) == len(rows) == n_users
    for row in rows:
        assert len(set(row["item_ids"])) == 10
        assert not seen.get(row["user_id"], set()) & set(row["item_ids"])


def test_movielens_100k_in_time_order_reaches_its_bar(tmp_path: Path) -> None:
    folder = prepared("ml-100k", tmp_path)
    summary, _ = trained_and_run(folder)
    assert summary["by_status"] == {"ok": 943}
    unseen_lists_of_ten(folder, 943)
    recall = evaluated(folder)
    assert recall["popularity"] == pytest.approx(0.060, abs=0.001)
    assert recall["ranked"] >= 0.09


def test_movielens_1m_serves_every_user_within_twenty_minutes_of_training(tmp_path: Path) -> None:
    folder = prepared("ml-1m", tmp_path)
    summary, minutes = trained_and_run(folder)
    assert minutes <= 20
    assert summary["by_status"] == {"ok": 6040}
    unseen_lists_of_ten(folder, 6040)
    recall = evaluated(folder)
    assert recall["ranked"] > recall["popularity"]
