"""A world that may be changed between two runs, and what a run since another must be."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from tests.runs import published, tree
from tests.world import FEAST, World

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LIFETIME = "timedelta(days=40)"
"""Time to live of the user features: some have expired as of the cut-off, others do a day later."""

KINDS = ("inserted", "changed", "removed")


@dataclass(frozen=True)
class Shop:
    """A copy of the world: same bundle, files of its own behind the feature views."""

    world: World
    pristine: Path

    def rewrite(self, name: str, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
        """Change the rows of a feature file, which stays sorted."""
        path = self.world.data / f"{name}.parquet"
        table = pq.read_table(path)
        changed = pa.Table.from_pylist(change(table.to_pylist()), table.schema)
        key = "item_id_raw" if name == "item_features" else "user_id_raw"
        pq.write_table(changed.sort_by([(key, "ascending"), ("event_timestamp", "ascending")]), path)

    def restore(self) -> None:
        """Put the feature files back as they were."""
        for path in self.pristine.iterdir():
            shutil.copy(path, self.world.data / path.name)


def make_shop(world: World, folder: Path) -> Shop:
    """Copy the world's data and apply a repository over it."""
    data, repo = folder / "data", folder / "feature_repo"
    shutil.copytree(world.data, data)
    shutil.copytree(world.repo, repo, ignore=shutil.ignore_patterns("data", "__pycache__", "*.db"))
    definitions = repo / "definitions.py"
    text = definitions.read_text()
    head, view, tail = text.partition("user_features = FeatureView(")
    assert view
    definitions.write_text(head + view + tail.replace("ttl=FOREVER", f"ttl={LIFETIME}", 1))
    subprocess.run(
        [FEAST, "-c", repo, "apply"],
        env=os.environ | {"BATCHREC_FEATURE_DATA": str(data)},
        check=True,
        capture_output=True,
        timeout=120,
    )
    shop = Shop(replace(world, data=data, repo=repo), folder / "pristine")
    # Nothing becomes true after the cut-off, so that a later as-of time changes no item.
    shop.rewrite("item_features", lambda rows: [row for row in rows if row["event_timestamp"] <= world.cutoff])
    shutil.copytree(data, shop.pristine)
    return shop


def kept_files(run: Path) -> dict[str, bytes | str]:
    """Parts and digests of a run, by name."""
    return {name: data for name, data in tree(run).items() if name.endswith(".parquet") and "_changes" not in name}


def by_user(table: pa.Table) -> dict[Any, list[dict[str, Any]]]:
    """Rows of each user."""
    rows: dict[Any, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        rows.setdefault(row["user_id"], []).append(row)
    return rows


def expected_changes(before: Path, now: Path) -> dict[str, dict[Any, list[dict[str, Any]]]]:
    """What the lists of changes must hold, by dictionaries."""
    old, new = by_user(published(before)), by_user(published(now))
    return {
        "inserted": {user: rows for user, rows in new.items() if user not in old},
        "changed": {user: rows for user, rows in new.items() if user in old and rows != old[user]},
        "removed": {user: [{"user_id": user}] for user in old if user not in new},
    }


def found_changes(run: Path) -> dict[str, dict[Any, list[dict[str, Any]]]]:
    """What they hold, read as a downstream job does."""
    return {kind: by_user(ds.dataset(run / "_changes" / kind).to_table()) for kind in KINDS}
