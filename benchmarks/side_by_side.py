"""Ranking and retrieval against what they replace, in turns within one process: ratios that a busy machine bends least.

``python side_by_side.py WORKLOAD RESULTS.json``
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np

from batchrec.models.bundle import Bundle
from batchrec.models.dlrm import take_apart
from batchrec.models.index import ItemIndex
from batchrec.models.ranking_algebra import RankingAlgebra, prepare
from batchrec.models.serving import as_pair_scorer, load_model
from batchrec.models.threads import cores
from batchrec.pipeline import batch_of_users
from batchrec.stages.rank import rank
from batchrec.stages.unroll import unroll

if TYPE_CHECKING:
    from collections.abc import Callable

TURNS, USERS, QUERIES, CANDIDATES = 5, 480, 4096, 100
PREDICT_BATCHES = (1024, 4096, 16_384)


def in_turns(ways: dict[str, Callable[[], object]], n: int) -> dict[str, dict[str, float]]:
    """Time every way once a turn, after one turn that does not count; microseconds for one of n."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(TURNS + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if turn:
                seconds[name].append((time.perf_counter() - start) / n * 1e6)
    return {name: {"best": min(found), "median": statistics.median(found)} for name, found in seconds.items()}


def ranking(bundle: Bundle) -> dict[str, Any]:
    """Score pairs by `model.predict` at several batch sizes, by the general unroll, and by the algebra."""
    described, n_items, random = bundle.format.ranker, bundle.format.catalogue_size, np.random.default_rng(0)

    def drawn(inputs: Any, n: int) -> dict[str, np.ndarray]:
        return {
            one.name: random.integers(0, one.vocabulary_size, n).astype(np.int32)
            if one.kind == "categorical"
            else random.normal(size=n).astype(np.float32)
            for one in inputs
        }

    users = drawn(described.user_inputs, USERS)
    users[described.query_embedding] = bundle.item_embeddings[random.integers(0, n_items, USERS)]
    items = drawn(described.item_inputs, n_items)
    items |= {described.item_code: np.arange(1, n_items + 1, dtype=np.int32)}
    items |= {described.item_embedding: bundle.item_embeddings}
    positions = random.integers(0, n_items, (USERS, CANDIDATES))
    model = load_model(bundle.folder / described.path, users.keys() | items.keys())
    pairs, score = unroll(users, items, positions), as_pair_scorer(model)
    by_parts = RankingAlgebra(prepare(take_apart(model.keras), items))
    predict = {
        f"predict, batch {size}": lambda size=size: model.keras.predict(pairs, batch_size=size, verbose=0)
        for size in PREDICT_BATCHES
    }
    general = {
        "general unroll": lambda: rank(users, items, positions, score, batch_of_users(CANDIDATES), unroll=unroll)
    }
    difference = np.abs(by_parts(users, positions).reshape(-1) - model.keras.predict(pairs, verbose=0)).max()
    found = in_turns(predict | general | {"algebra": lambda: by_parts(users, positions)}, USERS * CANDIDATES)
    return {"microseconds a pair": found, "largest difference from Keras": float(difference)}


def retrieval(bundle: Bundle) -> dict[str, Any]:
    """Search the index as Faiss does by itself, and as this project does."""
    described, random = bundle.format.index, np.random.default_rng(1)
    path = bundle.folder / described.path
    default = faiss.cvar.distance_compute_blas_threshold
    index = faiss.read_index(str(path))
    ours = ItemIndex.read(path, described, bundle.format.catalogue_size, bundle.format.embedding_dimension)
    rows = random.integers(0, bundle.format.catalogue_size, QUERIES)
    queries = bundle.item_embeddings[rows] + 0.3 * random.normal(size=(QUERIES, index.d)).astype(np.float32)
    if hasattr(index, "nprobe"):
        index.nprobe = described.nprobe

    def raw() -> object:
        faiss.cvar.distance_compute_blas_threshold = default
        faiss.omp_set_num_threads(cores())
        return index.search(queries, CANDIDATES)

    found = in_turns({"raw Faiss": raw, "ours": lambda: ours(queries, CANDIDATES)}, QUERIES)
    return {
        "microseconds a query": found,
        "kind": described.kind,
        "nprobe": described.nprobe,
        "recall": described.recall,
    }


def main(workload: Path, results: Path) -> None:
    """Measure both and write the figures."""
    bundle = Bundle.open(workload / "bundle")
    results.write_text(json.dumps({"ranking": ranking(bundle), "retrieval": retrieval(bundle)}))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
