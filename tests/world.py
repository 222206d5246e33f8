"""A small real world for whole runs: demo data with planted corner cases, an applied repository, an untrained bundle.

The bundle is put together by hand from plain Keras models with seeded random weights, as users do who bring models of
their own; nothing is trained.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import demo_data
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

ROOT = Path(__file__).parents[1]
FEAST = Path(sys.executable).parent / "feast"

USERS, ITEMS = 1000, 300
DIMENSION, HISTORY = 8, 5
USER_CATEGORIES = ("user_gender", "user_age", "user_categories")
ITEM_CATEGORIES = ("item_category", "item_brand")
USER_DENSE, ITEM_DENSE = "user_consumption_2", "item_shop"

NO_FEATURES = 5
"""Users whose features are taken away."""
FIRST_LATE = 10
"""Position of the first item that gets its features late, after the cut-off."""
LATE_ITEMS = 12
"""Items that get their features only after the early as-of time; every other one of them only after the cut-off."""


@dataclass(frozen=True)
class World:
    """Where everything is, and which users are special.

    Parameters
    ----------
    data, repo, bundle
        The prepared data, the applied Feast repository, the bundle with its index.
    cutoff, early
        The end of the data, and a moment that many features are younger than.
    seen_all, seen_all_but_three
        A user who has seen every item, and one to whom three eligible items are left, as of the cut-off.
    unknown
        Users without any features.
    late_items
        Items without features as of `early`.
    """

    data: Path
    repo: Path
    bundle: Path
    cutoff: datetime
    early: datetime
    seen_all: int
    seen_all_but_three: int
    unknown: tuple[int, ...]
    late_items: tuple[int, ...]

    def args(self, output: Path, *more: str) -> list[str]:
        """Arguments of ``batchrec run`` over all users; later ones win."""
        fixed = {
            "users": self.data / "users.parquet",
            "bundle": self.bundle,
            "feature-repo": self.repo,
            "as-of": self.cutoff.isoformat(),
            "output": output,
            "candidates": 30,
            "temperature": 2,
        }
        return ["run", *(f"--{name}={value}" for name, value in fixed.items()), *more]

    def ids(self) -> list[int]:
        """Ids of all users in the data, in the file's order."""
        return list(pq.read_table(self.data / "users.parquet")["user_id"].to_pylist())


def make_world(folder: Path) -> World:
    """Generate, plant, apply and assemble."""
    data, repo, bundle = folder / "data", folder / "feature_repo", folder / "bundle"
    prepared = demo_data.generate(data, users=USERS, items=ITEMS, seed=3)
    cutoff = prepared.cutoff
    early = cutoff - timedelta(days=21, microseconds=1)
    users = sorted(pq.read_table(data / "users.parquet")["user_id"].to_pylist())
    items = sorted(pq.read_table(data / "items.parquet")["item_id"].to_pylist())
    late = tuple(items[FIRST_LATE : FIRST_LATE + 7 * LATE_ITEMS : 7])
    unknown = tuple(users[20 : 20 + NO_FEATURES])
    made = World(data, repo, bundle, cutoff, early, users[3], users[500], unknown, late)
    _plant(made, items)
    shutil.copytree(ROOT / "feature_repo", repo, ignore=shutil.ignore_patterns("data", "__pycache__"))
    applying = subprocess.Popen(
        [FEAST, "-c", repo, "apply"],
        env=os.environ | {"BATCHREC_FEATURE_DATA": str(data)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    make_bundle(bundle, data)
    said, _ = applying.communicate(timeout=120)
    assert applying.returncode == 0, said.decode()
    return made


def _plant(world: World, items: list[int]) -> None:
    gone = pa.array(world.unknown)
    for name in ("user_features", "item_id_seen"):
        path = world.data / f"{name}.parquet"
        table = pq.read_table(path)
        pq.write_table(table.filter(pc.invert(pc.is_in(table["user_id_raw"], gone))), path)

    path = world.data / "item_id_seen.parquet"
    table = pq.read_table(path)
    # A moment before the cut-off, and at the cut-off itself: a value counts from its own time on.
    left = [item for item in items if item not in world.late_items][40:43]
    rows = [
        {
            "user_id_raw": world.seen_all,
            "item_id_seen": items,
            "event_timestamp": world.cutoff - timedelta(microseconds=1),
        },
        {
            "user_id_raw": world.seen_all_but_three,
            "item_id_seen": [item for item in reversed(items) if item not in left],
            "event_timestamp": world.cutoff,
        },
    ]
    table = table.filter(
        pc.invert(
            pc.and_(
                pc.is_in(table["user_id_raw"], pa.array([world.seen_all, world.seen_all_but_three])),
                pc.greater_equal(table["event_timestamp"], pa.scalar(rows[0]["event_timestamp"])),
            )
        )
    )
    table = pa.concat_tables([table, pa.Table.from_pylist(rows, table.schema)])
    pq.write_table(table.sort_by([("user_id_raw", "ascending"), ("event_timestamp", "ascending")]), path)

    path = world.data / "item_features.parquet"
    rows = pq.read_table(path).to_pylist()
    for row in rows:
        if row["item_id_raw"] in world.late_items:
            after_cutoff = world.late_items.index(row["item_id_raw"]) % 2 == 0
            # Exactly at the early time plus a microsecond: the as-of comparison is to the microsecond.
            late = world.early + timedelta(microseconds=1)
            row["event_timestamp"] = world.cutoff + timedelta(microseconds=1) if after_cutoff else late
    pq.write_table(pa.Table.from_pylist(rows, pq.read_schema(path)), path)


def make_bundle(folder: Path, data: Path) -> None:
    """Assemble a bundle from models of one's own: two models, embeddings, an index, and what they read."""
    from batchrec.models.bundle import write_embeddings, write_format
    from batchrec.models.index import build_index, write_index

    item_ids = pa.array(sorted(pq.read_table(data / "items.parquet")["item_id"].to_pylist()))
    user_table = pq.read_table(data / "user_features.parquet")
    item_table = pq.read_table(data / "item_features.parquet")
    folder.mkdir(parents=True)
    (folder / "vocabularies").mkdir()
    user_inputs = [_categorical(folder, "user_features", name, user_table) for name in USER_CATEGORIES]
    user_inputs.append(_dense("user_features", USER_DENSE, user_table))
    item_inputs = [_categorical(folder, "item_features", name, item_table) for name in ITEM_CATEGORIES]
    item_inputs.append(_dense("item_features", ITEM_DENSE, item_table))

    rng = np.random.default_rng(5)
    embeddings = rng.normal(size=(len(item_ids), DIMENSION)).astype(np.float32)
    query_tower, ranker = make_models(user_inputs, item_inputs, embeddings, rng)
    query_tower.save(folder / "query_tower.keras")
    ranker.save(folder / "ranker.keras")
    write_embeddings(folder / "item_embeddings.parquet", {"item_id": item_ids}, embeddings)
    tuned = build_index(embeddings, embeddings[:50], 100, 0.99, 20_000)
    write_index(tuned.index, folder / "index.faiss")
    # Counts with ties, so that popularity's own order among equals shows.
    counts = rng.integers(1, 40, len(item_ids))
    counts[FIRST_LATE] = 100  # the most popular item of all is not eligible
    pq.write_table(pa.table({"item_id": item_ids, "interactions": counts}), folder / "popularity.parquet")
    write_format(
        folder,
        {
            "format": 1,
            "created_by": "a test",
            "trained_until": datetime(2026, 1, 1, tzinfo=UTC),
            "embedding_dimension": DIMENSION,
            "metric": "inner_product",
            "user_id_type": "int64",
            "item_id_type": "int64",
            "catalogue_size": len(item_ids),
            "seen": {"view": "item_id_seen", "feature": "item_id_seen", "dtype": "list<int64>"},
            "query_tower": {"path": "query_tower.keras", "inputs": user_inputs, "history_length": HISTORY},
            "ranker": {
                "path": "ranker.keras",
                "user_inputs": user_inputs,
                "item_inputs": item_inputs,
                "item_code": "item_code",
                "query_embedding": "query_embedding",
                "item_embedding": "item_embedding",
            },
            "index": {
                "path": "index.faiss",
                "kind": tuned.kind,
                "nprobe": tuned.nprobe,
                "recall": tuned.recall,
                "recall_at": 100,
                "queries": tuned.queries,
            },
        },
        [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()],
    )


def make_models(
    user_inputs: list[dict[str, Any]], item_inputs: list[dict[str, Any]], embeddings: np.ndarray, rng: Any
) -> tuple[Any, Any]:
    """Make a query tower that averages the history's item embeddings, and a DLRM of random weights."""
    from batchrec.models.backend import import_keras
    from batchrec.models.ranker import RankerShape, build_ranker

    keras = import_keras()
    user_sizes = {one["name"]: one["vocabulary_size"] for one in user_inputs if one["kind"] == "categorical"}
    item_sizes = {one["name"]: one["vocabulary_size"] for one in item_inputs if one["kind"] == "categorical"}

    history = keras.Input((HISTORY,), dtype="int32", name="history")
    codes = {name: keras.Input((), dtype="int32", name=name) for name in user_sizes}
    dense = keras.Input((), name=USER_DENSE)
    table = keras.layers.Embedding(len(embeddings) + 1, DIMENSION, name="items")
    filled = keras.ops.expand_dims(keras.ops.cast(history > 0, "float32"), -1)
    mean = keras.ops.sum(table(history) * filled, 1) / keras.ops.maximum(keras.ops.sum(filled, 1), 1.0)
    parts = [keras.layers.Embedding(size, DIMENSION)(codes[name]) for name, size in user_sizes.items()]
    parts.append(keras.layers.Dense(DIMENSION)(keras.ops.expand_dims(dense, -1)))
    query = keras.layers.Dense(DIMENSION)(keras.layers.Concatenate()([mean, *parts]))
    tower = keras.Model({"history": history, USER_DENSE: dense} | codes, query)

    shape = RankerShape(
        len(embeddings), user_sizes, item_sizes, (USER_DENSE,), (ITEM_DENSE,), dimension=DIMENSION, top=(16,)
    )
    ranker = build_ranker(shape)
    for model in (tower, ranker):
        for layer in model.layers:
            layer.set_weights([0.5 * rng.normal(size=weights.shape) for weights in layer.get_weights()])
    table.set_weights([np.concatenate([np.zeros((1, DIMENSION), np.float32), embeddings])])
    return tower, ranker


def _categorical(folder: Path, view: str, name: str, table: pa.Table) -> dict[str, Any]:
    # The smallest value is left out, so that a value unknown to the model occurs.
    vocabulary = pa.array(sorted(set(table[name].to_pylist()))[1:])
    pq.write_table(pa.table({"value": vocabulary}), folder / "vocabularies" / f"{name}.parquet")
    return {
        "name": name,
        "view": view,
        "feature": name,
        "dtype": "int64",
        "kind": "categorical",
        "vocabulary": f"vocabularies/{name}.parquet",
        "vocabulary_size": len(vocabulary) + 1,
    }


def _dense(view: str, name: str, table: pa.Table) -> dict[str, Any]:
    values = table[name].to_numpy()
    described = {"name": name, "view": view, "feature": name, "dtype": "int64", "kind": "dense"}
    return described | {"mean": float(values.mean()), "std": float(values.std())}
