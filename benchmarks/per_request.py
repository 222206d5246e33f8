"""One user at a time, as an online ensemble answers: the same models and index, a batch of one user and its 100 pairs.

Features are looked up in memory, so the latency of an online store is left out, in favour of this way of working.
``python per_request.py WORKLOAD USERS TIMES.json``
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import faiss
import keras
import keras_rs  # noqa: F401 - registers the ranker's layer
import numpy as np
import pyarrow.parquet as pq

CANDIDATES, SPARE, TOP_K, TEMPERATURE = 100, 128, 10, 20.0


def codes(table: dict[str, list], inputs: list[dict], bundle: Path) -> dict[str, np.ndarray]:
    """Encode the columns of a table."""
    found = {}
    for one in inputs:
        values = np.asarray(table[one["feature"]])
        if one["kind"] == "categorical":
            known = pq.read_table(bundle / one["vocabulary"])["value"].to_numpy()
            found[one["name"]] = (np.searchsorted(known, values) + 1).astype(np.int32)
        else:
            found[one["name"]] = ((values - one["mean"]) / one["std"]).astype(np.float32)
    return found


def main(workload: Path, n_users: int, times_file: Path) -> None:
    """Answer for some users and report seconds a user, models loaded and warm."""
    bundle, data = workload / "bundle", workload / "data"
    said = json.loads((bundle / "bundle.json").read_text())
    tower = keras.saving.load_model(bundle / said["query_tower"]["path"], compile=False)
    ranker = keras.saving.load_model(bundle / said["ranker"]["path"], compile=False)
    index = faiss.read_index(str(bundle / said["index"]["path"]))
    if hasattr(index, "nprobe"):
        index.nprobe = said["index"]["nprobe"]
    catalogue = pq.read_table(bundle / "item_embeddings.parquet")
    item_ids = catalogue["item_id"].to_numpy()
    embeddings = np.stack(catalogue["embedding"].to_numpy()).astype(np.float32)
    item_table = pq.read_table(data / "item_features.parquet").sort_by("item_id_raw").to_pydict()
    items = codes(item_table, said["ranker"]["item_inputs"], bundle)
    user_table = pq.read_table(data / "user_features.parquet")[:n_users].to_pydict()
    users = codes(user_table, said["ranker"]["user_inputs"], bundle)
    seen_table = pq.read_table(data / "item_id_seen.parquet").to_pydict()
    seen = dict(zip(seen_table["user_id_raw"], seen_table["item_id_seen"], strict=True))
    tower_names, length = [one["name"] for one in said["query_tower"]["inputs"]], said["query_tower"]["history_length"]
    random = np.random.default_rng(0)

    def answer(row: int) -> np.ndarray:
        past = np.searchsorted(item_ids, seen.get(user_table["user_id_raw"][row], []))
        history = np.zeros((1, length), np.int32)
        if len(past):
            history[0, -min(length, len(past)) :] = past[-length:] + 1
        one = {name: column[row : row + 1] for name, column in users.items()}
        query = np.asarray(tower.predict_on_batch({name: one[name] for name in tower_names} | {"history": history}))
        _, found = index.search(query, CANDIDATES + SPARE)
        offered = found[0][~np.isin(found[0], past) & (found[0] >= 0)][:CANDIDATES]
        n = len(offered)
        pairs = {name: np.repeat(column, n) for name, column in one.items()}
        pairs |= {name: column[offered] for name, column in items.items()}
        pairs |= {"item_code": (offered + 1).astype(np.int32), "item_embedding": embeddings[offered]}
        relevance = ranker.predict_on_batch(pairs | {"query_embedding": np.repeat(query, n, axis=0)})
        keys = relevance * TEMPERATURE - np.log(-np.log(random.random(n)))
        return item_ids[offered[np.argsort(-keys)[:TOP_K]]]

    for row in range(5):
        answer(row)
    start = time.perf_counter()
    for row in range(n_users):
        answer(row)
    times_file.write_text(json.dumps({"seconds a user": (time.perf_counter() - start) / n_users}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
