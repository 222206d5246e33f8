"""The workloads R0, R1 and R2: the demo's generated shop at other sizes, with untrained models of the usual sizes.

Taste is planted in the data (jobs/demo_world.py): users click within a few shelves, so histories, embeddings and
candidates are clustered as real ones are. Weights are drawn at random, since their values cost nothing; the item
embeddings lie around one centre a category, and the tower keeps its queries near them, so that the index has clusters
to find.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batchrec.models.backend import import_keras
from batchrec.models.bundle import write_embeddings, write_format
from batchrec.models.index import build_index, write_index
from batchrec.models.stored_parts import store_parts

ROOT = Path(__file__).parents[1]
DIMENSION, HISTORY, CANDIDATES, TOP_K = 64, 50, 100, 10
CLICKS_PER_USER = 128
"""Of which some 50 distinct items are left at the end of the data: users click again, and the last week is held out."""

USER_DENSE = ("user_consumption_2",)
USER_CODES = (
    "user_id", "user_shops", "user_profile", "user_group", "user_gender", "user_age", "user_is_occupied",
    "user_geography", "user_intentions", "user_brands", "user_categories",
)  # fmt: skip
ITEM_CODES = ("item_id", "item_category", "item_shop", "item_brand")


@dataclass(frozen=True)
class Size:
    """Users and items of a workload."""

    users: int
    items: int


SIZES = {"R0": Size(10_000, 10_000), "R1": Size(100_000, 100_000), "R2": Size(1_000_000, 1_000_000)}


@dataclass(frozen=True)
class Workload:
    """Where a workload lies."""

    folder: Path

    @property
    def data(self) -> Path:
        """Feature files, and the users."""
        return self.folder / "data"

    @property
    def repo(self) -> Path:
        """The applied feature repository."""
        return self.folder / "feature_repo"

    @property
    def bundle(self) -> Path:
        """The models and the index."""
        return self.folder / "bundle"

    @property
    def as_of(self) -> datetime:
        """The end of the data."""
        return datetime.fromisoformat(json.loads((self.data / "prepared.json").read_text())["cutoff"])


def make(folder: Path, size: Size, seed: int = 1) -> Workload:
    """Make a workload; one that is there already is kept."""
    made = Workload(folder)
    if (made.bundle / "bundle.json").exists():
        return made
    users, items = str(size.users), str(size.items)
    options = ["--users", users, "--items", items, "--clicks-per-user", str(CLICKS_PER_USER), "--seed", str(seed)]
    script = [sys.executable, ROOT / "jobs/demo_data.py", *options, "--output", made.data]
    subprocess.run(script, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - our script
    apply(made.repo, made.data)
    _make_bundle(made, seed)
    return made


def apply(repo: Path, data: Path) -> None:
    """Make a feature repository in a folder, over feature files in another, and apply it."""
    (repo / "data").mkdir(parents=True, exist_ok=True)
    for name in ("definitions.py", "feature_store.yaml"):
        (repo / name).write_text((ROOT / "feature_repo" / name).read_text())
    environment = os.environ | {"BATCHREC_FEATURE_DATA": str(data)}
    feast = [Path(sys.executable).parent / "feast", "-c", repo, "apply"]
    subprocess.run(feast, check=True, env=environment, capture_output=True)  # noqa: S603 - Feast itself


def _make_bundle(made: Workload, seed: int) -> None:
    folder, random = made.bundle, np.random.default_rng(seed)
    (folder / "vocabularies").mkdir(parents=True, exist_ok=True)
    user_table = pq.read_table(made.data / "user_features.parquet")
    item_table = pq.read_table(made.data / "item_features.parquet").sort_by("item_id_raw")
    users = [_categorical(folder, "user_features", name, user_table) for name in USER_CODES]
    users += [_dense("user_features", name, user_table) for name in USER_DENSE]
    items = [_categorical(folder, "item_features", name, item_table) for name in ITEM_CODES]
    embeddings = _clustered(item_table["item_category"].to_numpy(), random)
    tower_inputs = [one for one in users if one["name"] != "user_id"]
    tower, ranker = _models(tower_inputs, users, items, embeddings, random)
    for name, model in {"query_tower": tower, "ranker": ranker}.items():
        path = folder / f"{name}.keras"
        model.save(path)
        store_parts(model, path)
    item_ids = item_table["item_id_raw"].combine_chunks()
    write_embeddings(folder / "item_embeddings.parquet", {"item_id": item_ids}, embeddings)
    counts = pa.array(random.integers(1, 1000, len(item_ids)))
    pq.write_table(pa.table({"item_id": item_ids, "interactions": counts}), folder / "popularity.parquet")
    tuned = build_index(embeddings, _queries(tower, made, tower_inputs, folder), CANDIDATES, 0.99)
    write_index(tuned.index, folder / "index.faiss")
    description = {
        "format": 1,
        "created_by": "benchmarks",
        "trained_until": datetime(2026, 1, 1, tzinfo=UTC),
        "embedding_dimension": DIMENSION,
        "metric": "inner_product",
        "user_id_type": "int64",
        "item_id_type": "int64",
        "catalogue_size": len(item_ids),
        "seen": {"view": "item_id_seen", "feature": "item_id_seen", "dtype": "list<int64>"},
        "query_tower": {"path": "query_tower.keras", "inputs": tower_inputs, "history_length": HISTORY},
        "ranker": {
            "path": "ranker.keras",
            "user_inputs": users,
            "item_inputs": items,
            "item_code": "item_code",
            "query_embedding": "query_embedding",
            "item_embedding": "item_embedding",
        },
        "index": {
            "path": "index.faiss",
            "kind": tuned.kind,
            "nprobe": tuned.nprobe,
            "recall": tuned.recall,
            "recall_at": tuned.recall_at,
            "queries": tuned.queries,
            "deeper": tuned.deeper,
        },
    }
    write_format(folder, description, [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()])


def _clustered(category: np.ndarray, random: np.random.Generator) -> np.ndarray:
    centres = random.normal(size=(int(category.max()) + 1, DIMENSION))
    return (centres[category] + 0.5 * random.normal(size=(len(category), DIMENSION))).astype(np.float32)


def _models(
    tower_inputs: list[dict[str, Any]],
    users: list[dict[str, Any]],
    items: list[dict[str, Any]],
    embeddings: np.ndarray,
    random: np.random.Generator,
) -> tuple[Any, Any]:
    """Make the project's own query tower and ranker, of random weights."""
    import_keras()
    from batchrec.models.ranker import RankerShape, build_ranker
    from batchrec.models.serving_tower import ITEM_TABLE, serving_model
    from batchrec.models.tower_training import TwoTower
    from batchrec.models.towers import TowerShape

    sizes = {one["name"]: one["vocabulary_size"] for one in tower_inputs if one["kind"] == "categorical"}
    tower = serving_model(TwoTower(TowerShape(len(embeddings), sizes, {}, USER_DENSE, (), DIMENSION, HISTORY)))
    table = np.concatenate([np.zeros((1, DIMENSION), np.float32), embeddings])
    tower.get_layer(ITEM_TABLE).set_weights([table])

    user_sizes, item_sizes = (
        {one["name"]: one["vocabulary_size"] for one in side if one["kind"] == "categorical"} for side in (users, items)
    )
    ranker = build_ranker(RankerShape(len(embeddings), user_sizes, item_sizes, USER_DENSE, (), DIMENSION))
    for layer in ranker.layers:
        layer.set_weights([0.1 * random.normal(size=weight.shape) for weight in layer.get_weights()])
    return tower, ranker


def _queries(tower: Any, made: Workload, inputs: list[dict[str, Any]], folder: Path) -> np.ndarray:
    """Embed a thousand users by the last rows of their features: queries to tune the index on."""
    seen = pq.read_table(made.data / "item_id_seen.parquet")[-1000:]
    catalogue = pq.read_table(folder / "item_embeddings.parquet", columns=["item_id"])["item_id"].to_numpy()
    codes = np.zeros((len(seen), HISTORY), np.int32)
    for row, items in enumerate(seen["item_id_seen"].to_pylist()):
        latest = np.searchsorted(catalogue, items[-HISTORY:]) + 1
        codes[row, HISTORY - len(latest) :] = latest
    random = np.random.default_rng(0)
    rest = {
        one["name"]: random.integers(0, one["vocabulary_size"], len(seen)).astype(np.int32)
        if one["kind"] == "categorical"
        else random.normal(size=len(seen)).astype(np.float32)
        for one in inputs
    }
    return np.asarray(tower.predict_on_batch({"history": codes} | rest))


def _categorical(folder: Path, view: str, name: str, table: pa.Table) -> dict[str, Any]:
    vocabulary = pa.array(np.unique(table[name].to_numpy()))
    pq.write_table(pa.table({"value": vocabulary}), folder / "vocabularies" / f"{name}.parquet")
    described = {"name": name, "view": view, "feature": name, "dtype": "int64", "kind": "categorical"}
    return described | {"vocabulary": f"vocabularies/{name}.parquet", "vocabulary_size": len(vocabulary) + 1}


def _dense(view: str, name: str, table: pa.Table) -> dict[str, Any]:
    values = table[name].to_numpy()
    described = {"name": name, "view": view, "feature": name, "dtype": "int64", "kind": "dense"}
    return described | {"mean": float(values.mean()), "std": float(values.std())}
