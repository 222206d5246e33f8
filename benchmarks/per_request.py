"""One user at a time, as an online ensemble answers: the same models and index, a batch of one user and its 100 pairs.

Two ways in one process. *Tuned*: features lie encoded in memory and models are called by `predict_on_batch`, as fast as
a good engineer makes it. *As the script*: what baseline_script.py calls is called for each request: features and seen
items are read from Feast's online store, encoded, and models are called by `predict`. The store is Feast's default,
SQLite in a local file, which holds no more than the users asked; so a network, and other users, are left out in favour
of this way of working. ``python per_request.py WORKLOAD USERS_TUNED USERS_AS_THE_SCRIPT TIMES.json``
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import faiss
import keras
import keras_rs  # noqa: F401 - registers the ranker's layer
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import workload
from baseline_script import CANDIDATES, PAIR_BATCH, SPARE, TEMPERATURE, TOP_K, Times
from feast import FeatureStore

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

WARM_UP = 5
"""Requests that do not count: functions are traced and files opened in them."""
TOLERANCE = 1e-5
"""Of relevance, between two ways to call the same model."""
KEY, SEEN = "user_id_raw", "item_id_seen"

Features = dict[str, np.ndarray]


class Way(NamedTuple):
    """One way to answer.

    Parameters
    ----------
    read
        Returns, for a user's id, what is known of the user, and the ids of seen items, oldest first.
    encode
        Makes model inputs, arrays of one, of what is known.
    call
        Calls a model on a batch and returns its outputs.
    """

    read: Callable[[int], tuple[Any, Sequence[int]]]
    encode: Callable[[Any], Features]
    call: Callable[[Any, Features], np.ndarray]


class Answer(NamedTuple):
    """Positions of a user's candidates (k) in the catalogue, their relevance (k), and the ids that are recommended."""

    candidates: np.ndarray
    relevance: np.ndarray
    items: np.ndarray


class Encoder:
    """Makes model inputs of features; vocabularies are kept in memory.

    Parameters
    ----------
    inputs
        The bundle's description of them.
    bundle
        Its folder.
    """

    def __init__(self, inputs: list[dict[str, Any]], bundle: Path) -> None:
        self._inputs = {one["name"]: one for one in inputs}
        self._known = {
            name: pq.read_table(bundle / one["vocabulary"])["value"].to_numpy()
            for name, one in self._inputs.items()
            if one["kind"] == "categorical"
        }

    def __call__(self, table: Mapping[str, Any]) -> Features:
        """Encode the columns of a table (n rows each): int32 codes, 0 for what is unknown, and float32 numbers."""
        return {name: self._encoded(name, np.asarray(table[one["feature"]])) for name, one in self._inputs.items()}

    def _encoded(self, name: str, values: np.ndarray) -> np.ndarray:
        one = self._inputs[name]
        if one["kind"] != "categorical":
            return ((values - one["mean"]) / one["std"]).astype(np.float32)
        known = self._known[name]
        place = np.minimum(np.searchsorted(known, values), len(known) - 1)
        return np.where(known[place] == values, place + 1, 0).astype(np.int32)


class Ensemble:
    """Models, index and item features of a workload, loaded."""

    def __init__(self, made: workload.Workload) -> None:
        bundle = made.bundle
        self.said = json.loads((bundle / "bundle.json").read_text())
        self.tower = keras.saving.load_model(bundle / self.said["query_tower"]["path"], compile=False)
        self.ranker = keras.saving.load_model(bundle / self.said["ranker"]["path"], compile=False)
        self.index = faiss.read_index(str(bundle / self.said["index"]["path"]))
        if hasattr(self.index, "nprobe"):
            self.index.nprobe = self.said["index"]["nprobe"]
        faiss.omp_set_num_threads(1)  # Faiss shares out queries, so more than one thread a query only wait
        catalogue = pq.read_table(bundle / "item_embeddings.parquet")
        self.item_ids = catalogue["item_id"].to_numpy()
        table = pq.read_table(made.data / "item_features.parquet").sort_by("item_id_raw").to_pydict()
        self.items = Encoder(self.said["ranker"]["item_inputs"], bundle)(table) | {
            "item_code": np.arange(1, len(self.item_ids) + 1, dtype=np.int32),
            "item_embedding": np.stack(catalogue["embedding"].to_numpy()).astype(np.float32),
        }
        self.tower_names = [one["name"] for one in self.said["query_tower"]["inputs"]]
        self.user_names = [one["name"] for one in self.said["ranker"]["user_inputs"]]

    @property
    def user_inputs(self) -> list[dict[str, Any]]:
        """Description of what both models read of a user, each feature once."""
        both = self.said["query_tower"]["inputs"] + self.said["ranker"]["user_inputs"]
        return list({one["name"]: one for one in both}.values())

    def answer(self, user: int, way: Way, random: np.random.Generator, times: Times) -> Answer:
        """Recommend to one user, counting seconds by part."""
        known, seen = way.read(user)
        times("read")
        one, past = way.encode(known), np.searchsorted(self.item_ids, seen)
        inputs = {name: one[name] for name in self.tower_names} | {"history": self._history(past)}
        times("encode")
        query = np.asarray(way.call(self.tower, inputs))
        times("query tower")
        _, found = self.index.search(query, CANDIDATES + SPARE)
        offered = found[0][~np.isin(found[0], past) & (found[0] >= 0)][:CANDIDATES]
        times("retrieve and filter")
        relevance = np.asarray(way.call(self.ranker, self._pairs(one, query, offered)))
        times("rank")
        keys = relevance * TEMPERATURE - np.log(-np.log(random.random(len(offered))))
        items = self.item_ids[offered[np.argsort(-keys)[:TOP_K]]]
        times("sample")
        return Answer(offered, relevance, items)

    def _history(self, past: np.ndarray) -> np.ndarray:
        length = self.said["query_tower"]["history_length"]
        history = np.zeros((1, length), np.int32)
        if len(past):
            history[0, -min(length, len(past)) :] = past[-length:] + 1
        return history

    def _pairs(self, user: Features, query: np.ndarray, offered: np.ndarray) -> Features:
        sides = {name: user[name] for name in self.user_names} | {"query_embedding": query}
        pairs = {name: np.repeat(value, len(offered), axis=0) for name, value in sides.items()}
        return pairs | {name: column[offered] for name, column in self.items.items()}


def latest(made: workload.Workload, view: str) -> pd.DataFrame:
    """Return the latest row of every user, in the order of users, as materialising takes it."""
    rows = pd.read_parquet(made.data / f"{view}.parquet")
    return rows[rows["event_timestamp"] <= made.as_of].sort_values([KEY, "event_timestamp"]).groupby(KEY).tail(1)


def tuned(encoder: Encoder, features: pd.DataFrame, seen: pd.DataFrame) -> Way:
    """Features encoded beforehand, models called on a batch as it is."""
    columns = encoder({name: features[name].to_numpy() for name in features.columns})
    ids = features[KEY].tolist()
    rows = {user: {name: column[row : row + 1] for name, column in columns.items()} for row, user in enumerate(ids)}
    past = dict(zip(seen[KEY], seen[SEEN], strict=True))
    return Way(
        lambda user: (rows[user], past.get(user, ())),
        lambda row: row,
        lambda model, batch: model.predict_on_batch(batch),
    )


def as_the_script(encoder: Encoder, store: FeatureStore, names: list[str]) -> Way:
    """Features read from the online store and encoded at each request, models called by ``predict``."""

    def read(user: int) -> tuple[dict[str, list[Any]], Sequence[int]]:
        known = store.get_online_features(names, [{KEY: user}]).to_dict()
        return known, known[SEEN][0] or ()

    return Way(read, encoder, lambda model, batch: model.predict(batch, batch_size=PAIR_BATCH, verbose=0))


def online_store(repo: Path, made: workload.Workload, views: dict[str, pd.DataFrame]) -> FeatureStore:
    """Apply the workload's features in a folder of their own, and write these rows of its views to its online store."""
    workload.apply(repo, made.data)
    store = FeatureStore(str(repo))
    for view, rows in views.items():
        store.write_to_online_store(view, df=rows)
    return store


def timed(ensemble: Ensemble, way: Way, users: list[int]) -> tuple[list[Answer], dict[str, Any]]:
    """Answer for some users, models warm; the answers, and seconds a user, all and by part."""
    random = np.random.default_rng(0)
    for user in users[:WARM_UP]:
        ensemble.answer(user, way, random, Times())
    start, times = time.perf_counter(), Times()
    answers = [ensemble.answer(user, way, random, times) for user in users]
    taken = (time.perf_counter() - start) / len(users)
    parts = {part: seconds / len(users) for part, seconds in times.seconds.items()}
    return answers, {"users": len(users), "seconds a user": taken, "parts": parts}


def check_same(users: list[int], one: list[Answer], other: list[Answer]) -> None:
    """See that two ways answer alike for the users that both had.

    Raises
    ------
    SystemExit
        They do not: their times must not be compared.
    """
    for user, a, b in zip(users, one, other, strict=False):
        if not np.array_equal(a.candidates, b.candidates):
            alone = len(np.setxor1d(a.candidates, b.candidates))
            raise SystemExit(
                f"user {user} has other candidates as the script than tuned, {alone} of them in one alone, expected "
                "the same in the same order; see that both read the same features"
            )
        difference = np.abs(a.relevance - b.relevance).max(initial=0)
        if difference > TOLERANCE:
            raise SystemExit(
                f"relevance for user {user} differs by {difference:.2g} between tuned and as the script, expected at "
                f"most {TOLERANCE}; see that both read the same features and call the same model"
            )


def main(folder: Path, n_tuned: int, n_script: int, times_file: Path) -> None:
    """Answer for some users in both ways and write the figures."""
    made = workload.Workload(folder)
    ensemble = Ensemble(made)
    features, seen = latest(made, "user_features"), latest(made, SEEN)
    users = features[KEY].tolist()
    encoder = Encoder(ensemble.user_inputs, made.bundle)
    names = [f"{one['view']}:{one['feature']}" for one in ensemble.user_inputs] + [f"{SEEN}:{SEEN}"]
    asked = users[:n_script]
    views = {"user_features": features[features[KEY].isin(asked)], SEEN: seen[seen[KEY].isin(asked)]}
    with tempfile.TemporaryDirectory() as repo:
        store = online_store(Path(repo), made, views)
        answers, found = timed(ensemble, tuned(encoder, features, seen), users[:n_tuned])
        script_answers, script_found = timed(ensemble, as_the_script(encoder, store, names), asked)
    check_same(users, answers, script_answers)
    times_file.write_text(json.dumps({"tuned": found, "as the script": script_found}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
