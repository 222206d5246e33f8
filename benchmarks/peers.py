"""What users would pick instead, in an environment of its own (``peers.txt``): ``peers.py FOLDER PEER OUT``.

``implicit``: alternating least squares, then ``recommend`` for all users, seen items filtered. One stage: no features,
no ranker, no sampling, no point in time; its lists stay in memory.

``rectools``: the two-stage ``CandidateRankingModel`` over the same factors, re-ranked by CatBoost. Two stages and
candidates as here; without features it ranks by the first stage's score and rank. No sampling; lists stay in memory.

Fitting is told apart from recommending, which alone is compared.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from implicit.als import AlternatingLeastSquares
from scipy import sparse
from threadpoolctl import threadpool_limits

FACTORS, ITERATIONS, CANDIDATES, TOP_K = 64, 5, 100, 10
USERS_A_CALL = 10_000
NEGATIVES = 3


def main() -> None:
    """Measure one peer and write its seconds."""
    folder, peer, out = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    interactions = pd.read_parquet(folder / "data" / "interactions.parquet")
    users = pd.read_parquet(folder / "data" / "users.parquet")["user_id"].drop_duplicates()
    measured = {"implicit": implicit, "rectools": rectools}[peer](interactions, users)
    out.write_text(json.dumps(measured))


def implicit(interactions: pd.DataFrame, users: pd.Series) -> dict[str, float]:
    """Fit and recommend with implicit alone."""
    known, row = np.unique(interactions["user_id"], return_inverse=True)
    _, column = np.unique(interactions["item_id"], return_inverse=True)
    seen = sparse.csr_matrix((np.ones(len(row), np.float32), (row, column)))
    model = AlternatingLeastSquares(FACTORS, iterations=ITERATIONS, random_state=0)
    start = time.perf_counter()
    with threadpool_limits(1, "blas"):
        model.fit(seen, show_progress=False)
    fitted = time.perf_counter()
    rows = np.searchsorted(known, users[users.isin(known)])
    listed = 0
    for first in range(0, len(rows), USERS_A_CALL):
        some = rows[first : first + USERS_A_CALL]
        ids, _ = model.recommend(some, seen[some], N=TOP_K, filter_already_liked_items=True)
        listed += len(ids)
    return _measured(start, fitted, listed)


def rectools(interactions: pd.DataFrame, users: pd.Series) -> dict[str, float]:
    """Fit and recommend with RecTools' two stages."""
    from catboost import CatBoostClassifier
    from rectools import Columns
    from rectools.dataset import Dataset
    from rectools.model_selection import TimeRangeSplitter
    from rectools.models import ImplicitALSWrapperModel
    from rectools.models.ranking import (
        CandidateGenerator,
        CandidateRankingModel,
        CatBoostReranker,
        PerUserNegativeSampler,
    )

    names = {"user_id": Columns.User, "item_id": Columns.Item, "event_timestamp": Columns.Datetime}
    table = interactions.rename(columns=names)[[*names.values()]].assign(**{Columns.Weight: 1.0})
    table[Columns.Datetime] = table[Columns.Datetime].dt.tz_localize(None)
    dataset = Dataset.construct(table)
    factors = AlternatingLeastSquares(FACTORS, iterations=ITERATIONS, random_state=0)
    model = CandidateRankingModel(
        candidate_generators=[
            CandidateGenerator(ImplicitALSWrapperModel(factors), CANDIDATES, keep_ranks=True, keep_scores=True)
        ],
        splitter=TimeRangeSplitter("7D", n_splits=1),
        reranker=CatBoostReranker(
            CatBoostClassifier(iterations=100, verbose=False, random_state=0, allow_writing_files=False)
        ),
        sampler=PerUserNegativeSampler(NEGATIVES, random_state=0),
    )
    start = time.perf_counter()
    model.fit(dataset)
    fitted = time.perf_counter()
    wanted = users[users.isin(table[Columns.User].unique())].to_numpy()
    lists = model.recommend(wanted, dataset, k=TOP_K, filter_viewed=True)
    return _measured(start, fitted, lists[Columns.User].nunique())


def _measured(start: float, fitted: float, users: int) -> dict[str, float]:
    done = time.perf_counter()
    return {"fit": fitted - start, "recommend": done - fitted, "users": users}


if __name__ == "__main__":
    main()
