"""The composition of the stages, with models small enough to compute by hand."""

import numpy as np
import pytest

from batchrec.arrays import Ragged
from batchrec.pipeline import LANES, PAIRS_PER_BATCH, Line, Options, Users, batch_of_users, recommend
from batchrec.stopwatch import Stopwatch

ITEMS = 6
EMBEDDINGS = np.arange(ITEMS, dtype=np.float32)[:, None]
"""The retrieval score of item p for taste t is t·p."""


def search(queries, depth):
    scores = queries @ EMBEDDINGS.T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
    pad = ((0, 0), (0, depth - order.shape[1]))
    found = np.take_along_axis(scores, order, axis=1).astype(np.float32)
    return np.pad(found, pad, constant_values=-np.inf), np.pad(order, pad, constant_values=-1)


def line(score_pairs, query_name=None, eligible=None):
    return Line(
        query_tower=lambda inputs: inputs["taste"][:, None].astype(np.float32),
        search=search,
        score_pairs=score_pairs,
        query_name=query_name,
        item_inputs={"price": np.arange(ITEMS, dtype=np.float32)},
        eligible=np.ones(ITEMS, bool) if eligible is None else eligible,
        item_hash=np.arange(ITEMS, dtype=np.uint64),
        history_length=2,
    )


def users(*seen, taste=1.0):
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in seen])]).astype(np.int64)
    n = len(seen)
    return Users(
        query_inputs={"taste": np.full(n, taste)},
        ranker_inputs={"taste": np.full(n, taste)},
        seen=Ragged(offsets, np.array([item for one in seen for item in one], np.int64)),
        id_hash=np.arange(n, dtype=np.uint64),
    )


def options(**changed):
    given = {"candidates": 3, "top_k": 2, "temperature": float("inf"), "seed": 0, "rank_by": "ranker"}
    return Options(**(given | changed))


def cheapest_first(pairs):
    return -pairs["price"]


def test_ranker_reorders_what_retrieval_found():
    found = recommend(users([]), line(cheapest_first), options(), Stopwatch())
    # Retrieval offers 5, 4, 3; of these the cheapest are 3 and 4.
    assert found.positions.tolist() == [[3, 4]]
    assert found.relevance.tolist() == [[-3, -4]]


def test_retrieval_alone():
    found = recommend(users([]), line(None), options(rank_by="retrieval"), Stopwatch())
    assert found.positions.tolist() == [[5, 4]]
    assert found.relevance.tolist() == [[5, 4]]


def test_seen_and_ineligible_items_make_room_for_others():
    eligible = np.array([True, True, True, True, False, True])
    found = recommend(
        users([5], [5, 3, 2, 1], range(6)), line(cheapest_first, eligible=eligible), options(), Stopwatch()
    )
    assert found.positions.tolist() == [[1, 2], [0, -1], [-1, -1]]


def test_more_candidates_than_items_cost_no_more_than_all_items():
    scored = []

    def cheapest(pairs):
        scored.append(len(pairs["price"]))
        return cheapest_first(pairs)

    found = recommend(users([0], range(6)), line(cheapest), options(candidates=100_000, top_k=8), Stopwatch())
    assert found.positions.tolist() == [[1, 2, 3, 4, 5, -1, -1, -1], [-1] * 8]
    assert max(scored) <= PAIRS_PER_BATCH


def test_ranker_gets_the_query_embedding_where_it_asks_for_it():
    def by_query(pairs):
        assert pairs["query"].shape[1:] == (1,)
        return pairs["query"][:, 0] * pairs["price"]

    found = recommend(users([], taste=-2.0), line(by_query, query_name="query"), options(), Stopwatch())
    # A taste of -2 retrieves 0, 1, 2.
    assert found.relevance.tolist() == [[0, -2]]


def test_a_ranker_that_needs_no_pairs_gets_users_and_positions():
    from dataclasses import replace

    def score(inputs, positions):
        assert set(inputs) == {"taste", "query"}
        return np.where(positions < 0, -np.inf, inputs["query"] * -positions).astype(np.float32)

    found = recommend(
        users([], [5, 3, 2, 1, 0]),
        replace(line(None, query_name="query"), score_candidates=score),
        options(),
        Stopwatch(),
    )
    assert found.positions.tolist() == [[3, 4], [4, -1]]
    assert found.relevance.tolist() == [[-3, -4], [-4, -np.inf]]


def test_query_tower_gets_features_and_the_latest_history():
    got = {}

    def tower(inputs):
        got.update(inputs)
        return np.ones((2, 1), np.float32)

    from dataclasses import replace

    recommend(users([3, 1, 4], []), replace(line(cheapest_first), query_tower=tower), options(), Stopwatch())
    assert set(got) == {"taste", "history"}
    assert got["history"].tolist() == [[2, 5], [0, 0]]


def test_every_stage_is_timed():
    stopwatch = Stopwatch()
    recommend(users([]), line(cheapest_first), options(), stopwatch)
    assert list(stopwatch.seconds) == ["query tower", "retrieve and filter", "rank", "sample"]
    assert all(seconds >= 0 for seconds in stopwatch.seconds.values())


@pytest.mark.parametrize("candidates", [1, 2, 3, 10, 30, 99, 100, 101, 1000, 16_384, 16_385, 100_000])
def test_batches_of_pairs_fill_vector_registers(candidates):
    pairs = batch_of_users(candidates) * candidates
    assert pairs > 0
    assert pairs % LANES == 0
    assert pairs <= max(PAIRS_PER_BATCH, LANES * candidates)
