"""What a run must publish, computed one user at a time with dictionaries, lists and loops.

Written from the contracts (DESIGN §3 and §5), not from the package: nothing of batchrec is imported. Slow and obvious.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

MASK = 2**64 - 1


@dataclass(frozen=True)
class Row:
    """One user's list, and what tells how near other lists came.

    Parameters
    ----------
    items, scores, propensities, status
        As published.
    keys
        Sampling key of every candidate: relevance times temperature plus noise.
    retrieved
        Dot product of every item that the user may get.
    weakest
        Lowest dot product among the candidates.
    """

    items: list[int]
    scores: list[float]
    propensities: list[float]
    status: str
    keys: dict[int, float]
    retrieved: dict[int, float]
    weakest: float


class ReferenceRun:
    """The whole line over one prepared data folder and one bundle, as of one time."""

    def __init__(self, data: Path, bundle: Path, as_of: datetime) -> None:
        import keras

        self.bundle = json.loads((bundle / "bundle.json").read_text())
        self.users = history(data / "user_features.parquet", "user_id_raw")
        self.items = history(data / "item_features.parquet", "item_id_raw")
        self.seen = history(data / "item_id_seen.parquet", "user_id_raw")
        self.as_of = as_of
        rows = pq.read_table(bundle / "item_embeddings.parquet").to_pylist()
        self.catalogue = [row["item_id"] for row in rows]
        self.embedding = {row["item_id"]: row["embedding"] for row in rows}
        self.code = {item: place + 1 for place, item in enumerate(self.catalogue)}
        rows = pq.read_table(bundle / "popularity.parquet").to_pylist()
        self.popularity = {row["item_id"]: row["interactions"] for row in rows}
        self.tower = keras.saving.load_model(bundle / self.bundle["query_tower"]["path"])
        self.ranker = keras.saving.load_model(bundle / self.bundle["ranker"]["path"])
        self.vocabulary = {
            one["name"]: pq.read_table(bundle / one["vocabulary"])["value"].to_pylist()
            for one in self.bundle["ranker"]["user_inputs"] + self.bundle["ranker"]["item_inputs"]
            if one["kind"] == "categorical"
        }
        self.item_now = {item: latest(self.items, item, as_of) for item in self.catalogue}
        self.eligible = [item for item in self.catalogue if self.item_now[item] is not None]

    def run(self, user: int, *, candidates: int, top_k: int, temperature: float, seed: int) -> Row:
        """Make one user's list."""
        features, seen_row = latest(self.users, user, self.as_of), latest(self.seen, user, self.as_of)
        if features is None and seen_row is None:
            popular = sorted(self.eligible, key=lambda item: (-self.popularity[item], item))[:top_k]
            counts = [float(self.popularity[item]) for item in popular]
            return Row(popular, counts, [1.0] * len(popular), "fallback", {}, {}, -math.inf)
        seen = seen_row["item_id_seen"] if seen_row else []
        query = self.query(features or {}, seen)
        allowed = [item for item in self.eligible if item not in seen]
        retrieved = {
            item: math.fsum(a * b for a, b in zip(query, self.embedding[item], strict=True)) for item in allowed
        }
        chosen = sorted(allowed, key=lambda item: (-retrieved[item], item))[:candidates]
        relevance = self.relevance(features or {}, query, chosen)
        keys = {item: self.key(user, item, relevance[item], temperature, seed) for item in chosen}
        order = sorted(chosen, key=lambda item: (*(-part for part in keys[item]), item))
        items = order[:top_k]
        propensities = []
        for place, item in enumerate(items):
            if math.isinf(temperature):
                propensities.append(1.0)
                continue
            highest = max(relevance[other] for other in order[place:])
            total = sum(math.exp((relevance[other] - highest) * temperature) for other in order[place:])
            propensities.append(math.exp((relevance[item] - highest) * temperature) / total)
        return Row(
            items,
            [relevance[item] for item in items],
            propensities,
            "ok" if len(items) == top_k else "short",
            {item: key[0] for item, key in keys.items()},
            retrieved,
            min((retrieved[item] for item in chosen), default=-math.inf),
        )

    def query(self, features: dict[str, Any], seen: list[int]) -> list[float]:
        """Embed one user: a batch of one."""
        length = self.bundle["query_tower"]["history_length"]
        codes = [self.code[item] for item in seen if item in self.code][-length:]
        inputs = self.inputs(features, self.bundle["query_tower"]["inputs"])
        inputs["history"] = np.array([[0] * (length - len(codes)) + codes], np.int32)
        return [float(value) for value in self.tower.predict_on_batch(inputs)[0]]

    def relevance(self, features: dict[str, Any], query: list[float], items: list[int]) -> dict[int, float]:
        """Score one user's pairs: a batch of as many."""
        if not items:
            return {}
        described = self.bundle["ranker"]
        pairs = []
        for item in items:
            pair = self.inputs(features, described["user_inputs"])
            pair |= self.inputs(self.item_now[item], described["item_inputs"])
            pair[described["item_code"]] = np.array([self.code[item]], np.int32)
            pair[described["query_embedding"]] = np.array([query], np.float32)
            pair[described["item_embedding"]] = np.array([self.embedding[item]], np.float32)
            pairs.append(pair)
        batch = {name: np.concatenate([pair[name] for pair in pairs]) for name in pairs[0]}
        scores = self.ranker.predict_on_batch(batch)
        return {item: float(score) for item, score in zip(items, scores.reshape(-1), strict=True)}

    def inputs(self, features: dict[str, Any], described: list[dict[str, Any]]) -> dict[str, np.ndarray]:
        """Encode one row of features."""
        found: dict[str, np.ndarray] = {}
        for one in described:
            value = features.get(one["feature"])
            if one["kind"] == "categorical":
                words = self.vocabulary[one["name"]]
                found[one["name"]] = np.array([words.index(value) + 1 if value in words else 0], np.int32)
            else:
                number = 0.0 if value is None else (value - one["mean"]) / one["std"]
                found[one["name"]] = np.array([number], np.float32)
        return found

    def key(self, user: int, item: int, relevance: float, temperature: float, seed: int) -> tuple[float, ...]:
        """Sampling key: what sorting the candidates by, falling, draws the list."""
        if math.isinf(temperature):
            return (relevance,)
        bits = splitmix64(splitmix64(splitmix64(seed) ^ splitmix64(user & MASK)) ^ splitmix64(item & MASK))
        uniform = ((bits >> 12) + 0.5) * 2.0**-52
        noise = -math.log(-math.log(uniform))
        return (relevance * temperature + noise, noise)


def history(path: Path, key: str) -> dict[int, list[dict[str, Any]]]:
    """Rows of a feature file by entity."""
    rows: dict[int, list[dict[str, Any]]] = {}
    for row in pq.read_table(path).to_pylist():
        rows.setdefault(row[key], []).append(row)
    return rows


def latest(rows: dict[int, list[dict[str, Any]]], entity: int, as_of: datetime) -> dict[str, Any] | None:
    """The newest row of an entity that is not after a time."""
    past = [row for row in rows.get(entity, []) if row["event_timestamp"] <= as_of]
    return max(past, key=lambda row: row["event_timestamp"], default=None)


def splitmix64(value: int) -> int:
    """First output of SplitMix64 seeded with a value (Steele, Lea, Flood 2014)."""
    z = (value + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)
