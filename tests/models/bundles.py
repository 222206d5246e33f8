"""A small bundle whose models are mere bytes: for what looks at bundles and not into models."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batchrec.models.bundle import ITEM_EMBEDDINGS, POPULARITY, QUERY_SAMPLE, sha256, write_embeddings, write_format

CITIES = ["Aarau", "Zug", "Łódź"]
"""Ascending by their UTF-8 bytes, though not in a dictionary's order."""


def make_bundle(folder, *, item_ids=None, dimension=4, queries=5, seed=0):
    """Write a bundle of 6 items (or the given ones); return its folder."""
    random = np.random.default_rng(seed)
    item_ids = pa.array([10, 20, 30, 40, 50, 60]) if item_ids is None else item_ids
    for name in ("query_tower", "ranker/variables", "vocabularies"):
        (folder / name).mkdir(parents=True)
    (folder / "query_tower/model.keras").write_bytes(b"query tower")
    (folder / "ranker/saved_model.pb").write_bytes(b"graph")
    (folder / "ranker/variables/variables.index").write_bytes(b"weights")
    pq.write_table(pa.table({"value": CITIES}), folder / "vocabularies/city.parquet")
    embeddings = random.normal(size=(len(item_ids), dimension)).astype(np.float32)
    write_embeddings(folder / ITEM_EMBEDDINGS, {"item_id": item_ids}, embeddings)
    write_embeddings(folder / QUERY_SAMPLE, {}, random.normal(size=(queries, dimension)).astype(np.float32))
    counts = random.integers(0, 100, len(item_ids))
    pq.write_table(pa.table({"item_id": item_ids, "interactions": counts}), folder / POPULARITY)
    write_format(folder, description(len(item_ids), dimension, str(item_ids.type)), files_of(folder))
    return folder


def files_of(folder):
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != "bundle.json")
    return [path.relative_to(folder).as_posix() for path in paths]


def description(n_items=6, dimension=4, item_id_type="int64"):
    city = {
        "name": "city",
        "view": "user_features",
        "feature": "city",
        "dtype": "string",
        "kind": "categorical",
        "vocabulary": "vocabularies/city.parquet",
        "vocabulary_size": len(CITIES) + 1,
    }
    price = {"name": "price", "view": "item_features", "feature": "price", "dtype": "double", "kind": "dense"}
    return {
        "format": 1,
        "created_by": "tests",
        "trained_until": "2024-03-01T00:00:00Z",
        "embedding_dimension": dimension,
        "metric": "inner_product",
        "user_id_type": "int64",
        "item_id_type": item_id_type,
        "catalogue_size": n_items,
        "seen": {"view": "item_id_seen", "feature": "item_id_seen", "dtype": f"list<{item_id_type}>"},
        "query_tower": {"path": "query_tower/model.keras", "inputs": [city], "history_length": 5},
        "ranker": {"path": "ranker", "user_inputs": [city], "item_inputs": [price], "item_code": "item_code"},
    }


def read_json(folder):
    return json.loads((folder / "bundle.json").read_text())


def edit(folder, change):
    """Change bundle.json by hand: ``change`` gets its content and may alter it."""
    content = read_json(folder)
    change(content)
    (folder / "bundle.json").write_text(json.dumps(content))


def replace_file(folder, name, write):
    """Write another file in place of one, and its right sum into bundle.json."""
    write(folder / name)
    edit(folder, lambda content: content["files"].update({name: sha256(folder / name)}))
