"""Exact search is exact, and its bits are those of one product at a time, whatever BLAS makes of a block."""

import os
import subprocess
import sys

import faiss
import numpy as np
import pytest

from batchrec.models.exact_search import SPARE, ExactSearch
from batchrec.models.index import ItemIndex
from batchrec.models.probes import Probes

DIMENSION, N_ITEMS = 32, 1500


def vectors(rows, seed):
    return np.random.default_rng(seed).normal(size=(rows, DIMENSION)).astype(np.float32)


def searching(embeddings):
    return ExactSearch(embeddings)


def alone(embeddings, query, depth):
    """One query by Faiss without BLAS: scores of all items, sorted by score, then position."""
    faiss.cvar.distance_compute_blas_threshold = np.iinfo(np.int32).max
    index = faiss.IndexFlatIP(embeddings.shape[1])
    index.add(embeddings)
    scores, positions = index.search(query[None, :], len(embeddings))
    order = np.lexsort((positions[0], -scores[0]))[:depth]
    return scores[0][order], positions[0][order]


def assert_alone(embeddings, queries, depth):
    scores, positions = searching(embeddings)(queries, depth)
    for row, query in enumerate(queries):
        expected_scores, expected_positions = alone(embeddings, query, depth)
        np.testing.assert_array_equal(positions[row], expected_positions)
        assert scores[row].tobytes() == expected_scores.tobytes()


@pytest.mark.parametrize("depth", [1, 17, 100, N_ITEMS - SPARE, N_ITEMS - 1, N_ITEMS])
def test_every_query_gets_what_it_gets_alone(depth):
    assert_alone(vectors(N_ITEMS, 1), vectors(40, 2), depth)


def test_items_that_differ_by_less_than_rounding():
    """All scores of a query lie within a few units in the last place: which come first is for the last bit to say."""
    embeddings = np.tile(vectors(1, 3), (N_ITEMS, 1)) * (1 + 1e-7 * np.arange(N_ITEMS)[::-1, None]).astype(np.float32)
    assert_alone(embeddings.astype(np.float32), vectors(10, 4), 50)


def test_equal_items_across_the_end_of_a_list_come_in_the_order_of_their_positions():
    embeddings = vectors(N_ITEMS, 5)
    embeddings[200:400] = 3 * vectors(1, 6)
    scores, positions = searching(embeddings)(3 * vectors(1, 6), 60)
    assert positions.tolist() == [list(range(200, 260))]
    assert len(np.unique(scores)) == 1


def test_deeper_than_the_catalogue():
    scores, positions = searching(vectors(5, 1))(vectors(3, 2), 9)
    assert sorted(positions[0].tolist()) == [-1] * 4 + [0, 1, 2, 3, 4]
    assert (scores[:, 5:] == -np.inf).all()


def test_what_is_not_a_number_finds_nothing():
    queries = vectors(4, 2)
    queries[1, 3] = np.nan
    _, positions = searching(vectors(N_ITEMS, 1))(queries, 10)
    assert positions[1].tolist() == [-1] * 10
    assert (positions[[0, 2, 3]] >= 0).all()


SEARCH = """
import sys
from tests.models.test_exact_search import found_by_all_indexes
sys.stdout.buffer.write(found_by_all_indexes())
"""


def found_by_all_indexes():
    """Bytes of what a flat and an IVF index find for several blocks of queries."""
    embeddings, queries = vectors(N_ITEMS, 1), vectors(300, 2)
    flat = faiss.IndexFlatIP(DIMENSION)
    flat.add(embeddings)
    ivf = faiss.IndexIVFFlat(faiss.IndexFlatIP(DIMENSION), DIMENSION, 32, faiss.METRIC_INNER_PRODUCT)
    ivf.train(embeddings)
    ivf.add(embeddings)
    found = [*ItemIndex(flat)(queries, 50), *ItemIndex(ivf, Probes(4, 50))(queries, 50)]
    return b"".join(array.tobytes() for array in found)


def test_bits_do_not_depend_on_the_number_of_threads():
    def found(threads):
        environment = os.environ | {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        return subprocess.run([sys.executable, "-c", SEARCH], check=True, capture_output=True, env=environment).stdout

    assert found("1") == found("2") == found("5")
