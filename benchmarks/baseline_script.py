"""What a good engineer writes in an afternoon: the same models, features, index and lists, without this project's line.

Feast, `model.predict` in big batches, Faiss, a pandas merge as anti-join, a pandas cross join of features, `predict`
again, Gumbel sampling in NumPy, Parquet. No loop over users; users are taken in blocks, so that the pairs of one block
fit into memory. ``python baseline_script.py WORKLOAD OUTPUT.parquet TIMES.json``
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
import pandas as pd
import pyarrow.parquet as pq
from feast import FeatureStore

BLOCK = 50_000
QUERY_BATCH, PAIR_BATCH = 256, 16_384
CANDIDATES, SPARE, TOP_K, TEMPERATURE = 100, 128, 10, 20.0


class Times:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = time.perf_counter()

    def __call__(self, stage: str) -> None:
        """Count the time since the last call for a stage."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self.last
        self.last = now


def encoded(frame: pd.DataFrame, inputs: list[dict], bundle: Path) -> dict[str, np.ndarray]:
    """Turn feature columns into model inputs."""
    found = {}
    for one in inputs:
        values = frame[one["feature"]].to_numpy()
        if one["kind"] == "categorical":
            known = pq.read_table(bundle / one["vocabulary"])["value"].to_numpy()
            place = np.minimum(np.searchsorted(known, values), len(known) - 1)
            found[one["name"]] = np.where(known[place] == values, place + 1, 0).astype(np.int32)
        else:
            found[one["name"]] = ((values - one["mean"]) / one["std"]).astype(np.float32)
    return found


def features(store: FeatureStore, key: str, ids: np.ndarray, as_of: str, names: list[str]) -> pd.DataFrame:
    """Read features as of a time, in the order of the ids."""
    entities = pd.DataFrame({key: ids, "event_timestamp": pd.Timestamp(as_of)})
    frame = store.get_historical_features(entities, names).to_df()
    return frame.set_index(key).loc[ids].reset_index()


def main(workload: Path, output: Path, times_file: Path) -> None:
    """Make all lists."""
    times = Times()
    bundle = workload / "bundle"
    said = json.loads((bundle / "bundle.json").read_text())
    as_of = json.loads((workload / "data" / "prepared.json").read_text())["cutoff"]
    tower = keras.saving.load_model(bundle / said["query_tower"]["path"], compile=False)
    ranker = keras.saving.load_model(bundle / said["ranker"]["path"], compile=False)
    index = faiss.read_index(str(bundle / said["index"]["path"]))
    if hasattr(index, "nprobe"):
        index.nprobe = said["index"]["nprobe"]
    catalogue = pq.read_table(bundle / "item_embeddings.parquet")
    item_ids = catalogue["item_id"].to_numpy()
    store = FeatureStore(str(workload / "feature_repo"))
    times("load models")

    item_inputs = said["ranker"]["item_inputs"]
    names = [f"{one['view']}:{one['feature']}" for one in item_inputs]
    items = pd.DataFrame(encoded(features(store, "item_id_raw", item_ids, as_of, names), item_inputs, bundle))
    items["item_code"] = np.arange(1, len(item_ids) + 1, dtype=np.int32)
    items["position"] = np.arange(len(item_ids))
    embeddings = np.stack(catalogue["embedding"].to_numpy()).astype(np.float32)
    users = np.sort(pq.read_table(workload / "data" / "users.parquet")["user_id"].to_numpy())
    times("read features")

    lists = []
    for start in range(0, len(users), BLOCK):
        ids = users[start : start + BLOCK]
        lists.append(block(ids, said, bundle, store, as_of, tower, ranker, index, items, embeddings, item_ids, times))
    pd.concat(lists).to_parquet(output)
    times("write")
    times_file.write_text(json.dumps(times.seconds))


def block(ids, said, bundle, store, as_of, tower, ranker, index, items, embeddings, item_ids, times) -> pd.DataFrame:
    """Make the lists of one block of users."""
    inputs = {one["name"]: one for one in said["query_tower"]["inputs"] + said["ranker"]["user_inputs"]}
    names = [f"{one['view']}:{one['feature']}" for one in inputs.values()] + ["item_id_seen:item_id_seen"]
    frame = features(store, "user_id_raw", ids, as_of, names)
    times("read features")
    user = encoded(frame, list(inputs.values()), bundle)
    seen = frame["item_id_seen"].explode().dropna().astype(np.int64).rename("item_id").rename_axis("row").reset_index()
    seen["position"] = np.searchsorted(item_ids, seen["item_id"])
    length = said["query_tower"]["history_length"]
    history = np.zeros((len(ids), length), np.int32)
    back = seen.groupby("row").cumcount(ascending=False)
    latest = seen[back < length]
    history[latest["row"], length - 1 - back[back < length]] = latest["position"] + 1
    times("encode")
    tower_names = [one["name"] for one in said["query_tower"]["inputs"]]
    queries = tower.predict(
        {name: user[name] for name in tower_names} | {"history": history}, batch_size=QUERY_BATCH, verbose=0
    )
    times("query tower")
    scores, found = index.search(queries, CANDIDATES + SPARE)
    offered = pd.DataFrame(
        {"row": np.repeat(np.arange(len(ids)), found.shape[1]), "position": found.ravel(), "score": scores.ravel()}
    )
    offered = offered[offered["position"] >= 0].merge(
        seen[["row", "position"]].drop_duplicates(), on=["row", "position"], how="left", indicator=True
    )
    offered = offered[offered["_merge"] == "left_only"].groupby("row", sort=False).head(CANDIDATES)
    times("retrieve and filter")
    user_names = [one["name"] for one in said["ranker"]["user_inputs"]]
    pairs = offered[["row", "position"]].merge(
        pd.DataFrame({name: user[name] for name in user_names} | {"row": np.arange(len(ids))}), on="row"
    )
    pairs = pairs.merge(items, on="position")
    columns = {name: pairs[name].to_numpy() for name in pairs.columns if name not in ("row", "position")}
    columns["query_embedding"] = queries[pairs["row"]]
    columns["item_embedding"] = embeddings[pairs["position"]]
    relevance = ranker.predict(columns, batch_size=PAIR_BATCH, verbose=0)
    times("rank")
    noise = -np.log(-np.log(np.random.default_rng(0).random(len(pairs))))
    drawn = pairs[["row", "position"]].assign(score=relevance, key=relevance * TEMPERATURE + noise)
    best = drawn.sort_values(["row", "key"], ascending=[True, False]).groupby("row", sort=False).head(TOP_K)
    times("sample")
    best = best.assign(item_id=item_ids[best["position"]]).groupby("row").agg({"item_id": list, "score": list})
    best = best.assign(user_id=ids[best.index])
    times("write")
    return best


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
