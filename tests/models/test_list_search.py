"""Search by list finds what Faiss finds query by query, with the bits of one product at a time."""

import faiss
import numpy as np
import pytest

from batchrec.models import list_search
from batchrec.models.index import ItemIndex
from batchrec.models.list_search import ListSearch
from batchrec.models.probes import Probes

DIMENSION, N_ITEMS, N_LISTS = 24, 4000, 40


def vectors(rows, seed):
    """Vectors around forty centres of unequal weight: lists of a few and of several hundred vectors."""
    centres = np.random.default_rng(7).normal(size=(40, DIMENSION))
    random = np.random.default_rng(seed)
    chosen = (40 * random.random(rows) ** 2).astype(int)
    return (centres[chosen] + 0.5 * random.normal(size=(rows, DIMENSION))).astype(np.float32)


ITEMS, QUERIES = vectors(N_ITEMS, 1), vectors(150, 2)


def inverted_file(items=ITEMS, lists=N_LISTS, quantizer=faiss.IndexFlatIP):
    index = faiss.IndexIVFFlat(quantizer(items.shape[1]), items.shape[1], lists, faiss.METRIC_INNER_PRODUCT)
    index.train(items)
    index.add(items)
    return index


@pytest.fixture(scope="module")
def ivf():
    return inverted_file()


def by_faiss(ivf, query, nprobe):
    """All that one query finds, sorted by score, then position."""
    faiss.cvar.distance_compute_blas_threshold = np.iinfo(np.int32).max
    scores, positions = ivf.search(query[None, :], ivf.ntotal, params=faiss.SearchParametersIVF(nprobe=nprobe))
    scores, positions = scores[positions >= 0], positions[positions >= 0]
    order = np.lexsort((positions, -scores))
    return scores[order], positions[order]


def assert_as_by_faiss(ivf, queries, depth, nprobe):
    scores, positions = ListSearch.of(ivf)(queries, depth, nprobe)
    assert scores.shape == positions.shape == (len(queries), depth)
    for row, query in enumerate(queries):
        expected_scores, expected = by_faiss(ivf, query, nprobe)
        n = min(depth, len(expected))
        assert positions[row].tolist() == expected[:n].tolist() + [-1] * (depth - n)
        assert scores[row, :n].tobytes() == expected_scores[:n].tobytes()
        assert (scores[row, n:] == -np.inf).all()


@pytest.mark.parametrize("depth", [1, 20, 300, N_ITEMS + 3])
@pytest.mark.parametrize("nprobe", [1, 3, 17, N_LISTS])
def test_every_query_finds_what_faiss_finds_for_it_alone(ivf, depth, nprobe):
    assert_as_by_faiss(ivf, QUERIES[:40], depth, nprobe)


def test_lists_with_nothing_in_them():
    assert_as_by_faiss(inverted_file(np.repeat(ITEMS[:30], 50, axis=0), lists=60), QUERIES[:20], 70, 9)


def test_equal_items_at_the_end_of_a_row_come_in_the_order_of_their_positions(ivf):
    items = ITEMS.copy()
    items[1000:1400] = 3 * QUERIES[0]
    scores, positions = ListSearch.of(inverted_file(items))(QUERIES[:1], 250, 5)
    assert positions.tolist() == [list(range(1000, 1250))]
    assert len(np.unique(scores)) == 1


def test_items_that_all_score_alike():
    """Nothing can be left out by its score, whatever the search proposes."""
    items = np.tile(ITEMS[:1], (2000, 1))
    items[:, 0] = np.linspace(-1, 1, 2000)
    query = np.zeros((1, DIMENSION), np.float32)
    query[0, 1] = 1
    assert_as_by_faiss(inverted_file(items, lists=8), query, 30, 3)


def test_blocks_do_not_matter(ivf, monkeypatch):
    together = ListSearch.of(ivf)(QUERIES, 100, 9)
    monkeypatch.setattr(list_search, "TILES_A_BLOCK", 1)
    apart = ListSearch.of(ivf)(QUERIES, 100, 9)
    assert [one.tobytes() for one in together] == [one.tobytes() for one in apart]


def test_a_query_that_is_not_a_number_finds_nothing_and_harms_nobody(ivf):
    queries = QUERIES[:9].copy()
    queries[4, 2] = np.nan
    scores, positions = ListSearch.of(ivf)(queries, 12, 4)
    assert (positions[4] == -1).all()
    assert (scores[4] == -np.inf).all()
    expected = ListSearch.of(ivf)(QUERIES[:9], 12, 4)[1]
    assert np.array_equal(np.delete(positions, 4, axis=0), np.delete(expected, 4, axis=0))


@pytest.mark.parametrize("factory", ["IVF16,SQ8", "IVF16,PQ8x4", "IVF16_HNSW8,Flat"])
def test_other_inverted_files_are_left_to_faiss(factory):
    index = faiss.index_factory(DIMENSION, factory, faiss.METRIC_INNER_PRODUCT)
    index.train(ITEMS)
    index.add(ITEMS)
    assert not ListSearch.can_search(index)
    scores, positions = ItemIndex(index, Probes(16, 10))(QUERIES, 10)
    raw_scores, _ = index.search(QUERIES, 10, params=faiss.SearchParametersIVF(nprobe=16))
    assert (positions >= 0).all()
    np.testing.assert_allclose(scores, raw_scores, rtol=1e-5)
