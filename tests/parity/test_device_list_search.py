"""Search by list on a device: what Faiss finds in the same lists, whatever the blocks."""

import faiss
import numpy as np
import pytest

from batchrec.models import device_list_search
from batchrec.models.device_index import DeviceIndex
from batchrec.models.probes import Probes
from tests.parity.near_ties import close, same_lists

N_ITEMS, DIMENSION, LISTS = 4000, 10, 50
RANDOM = np.random.default_rng(3)
CENTRES = RANDOM.normal(size=(LISTS, DIMENSION)).astype(np.float32)
SHARES = np.concatenate([[0.3], np.full(LISTS - 3, 0.7 / (LISTS - 3)), [0.0, 0.0]])
"""Of items: a list that is much longer than all others, and two without any."""
OF_ITEM = RANDOM.choice(LISTS, N_ITEMS, p=SHARES)
EMBEDDINGS = (CENTRES[OF_ITEM] + 0.3 * RANDOM.normal(size=(N_ITEMS, DIMENSION))).astype(np.float32)
QUERIES = (CENTRES[RANDOM.integers(0, LISTS, 200)] + 0.3 * RANDOM.normal(size=(200, DIMENSION))).astype(np.float32)


def inverted_file(embeddings, of_item, centres=CENTRES):
    quantizer = faiss.IndexFlatIP(centres.shape[1])
    quantizer.add(centres)
    ivf = faiss.IndexIVFFlat(quantizer, centres.shape[1], len(centres), faiss.METRIC_INNER_PRODUCT)
    ivf.is_trained = True
    for number in range(len(centres)):
        ids = np.flatnonzero(of_item == number)
        if len(ids):
            codes = np.ascontiguousarray(embeddings[ids]).view(np.uint8)
            ivf.invlists.add_entries(number, len(ids), faiss.swig_ptr(ids), faiss.swig_ptr(codes))
    ivf.ntotal = len(embeddings)
    quantizer.this.disown()
    ivf.own_fields = True
    return ivf


IVF = inverted_file(EMBEDDINGS, OF_ITEM)


@pytest.fixture(params=[7, 64])
def search(request, device, monkeypatch):
    """With few products a call and few queries a product, so that there are several of each."""
    monkeypatch.setattr(device_list_search, "PRODUCTS_A_CALL", request.param)
    return by_list(IVF, device)


def by_list(ivf, device):
    index = DeviceIndex(ivf, Probes(), device.placement, device.put, lambda: None)
    assert index._by_list is not None

    def search(queries, depth, nprobe):
        return [device.fetch(array) for array in index._by_list(device.put(queries), depth, nprobe)]

    return search


@pytest.mark.parametrize("depth", [1, 30, 300, 2000])
@pytest.mark.parametrize("nprobe", [1, 9, LISTS])
def test_finds_what_faiss_finds(search, depth, nprobe):
    scores, positions = search(QUERIES, depth, nprobe)
    parameters = faiss.SearchParametersIVF()
    parameters.nprobe = nprobe
    expected_scores, expected = IVF.search(QUERIES, depth, params=parameters)
    expected_scores = np.where(expected < 0, -np.inf, expected_scores)
    same_lists(positions, expected, scores, expected_scores)
    close(scores, expected_scores)


def test_a_row_depends_on_its_query_depth_and_lists_alone(search, monkeypatch):
    whole = search(QUERIES, 40, 9)
    monkeypatch.setattr(device_list_search, "QUERIES_A_BLOCK", 33)
    for rows in (slice(0, 1), slice(7, 90), slice(None)):
        for found, expected in zip(search(QUERIES[rows], 40, 9), whole, strict=True):
            np.testing.assert_array_equal(found, expected[rows])


def test_scores_that_are_all_alike_are_proposed_in_parts(device, monkeypatch):
    """Every one of 4,000 items reaches the floor of every query."""
    monkeypatch.setattr(device_list_search, "MOST_PROPOSED", 3 * N_ITEMS)
    search = by_list(inverted_file(np.ones_like(EMBEDDINGS), OF_ITEM), device)
    scores, positions = search(QUERIES[:20], 30, LISTS)
    close(scores, np.repeat(QUERIES[:20].sum(axis=1, keepdims=True), 30, axis=1))
    assert all(len(set(row)) == 30 and min(row) >= 0 for row in positions.tolist())
    assert (np.diff(positions, axis=1) > 0).all()


def test_lists_that_hold_too_few_items(device):
    """Scores below zero count for more than the places without an item."""
    embeddings = np.array([[-2, 0], [-1, 0], [5, 5]], np.float32)
    ivf = inverted_file(embeddings, np.array([0, 0, 1]), np.array([[1, 0], [0, 1]], np.float32))
    scores, positions = by_list(ivf, device)(np.array([[1, 0]], np.float32), 4, 1)
    assert positions.tolist() == [[1, 0, -1, -1]]
    assert scores.tolist() == [[-1, -2, -np.inf, -np.inf]]


def test_a_query_that_is_no_number(search):
    queries = QUERIES[:3].copy()
    queries[1] = np.nan
    scores, positions = search(queries, 5, 4)
    assert (positions[1] == -1).all()
    assert (scores[1] == -np.inf).all()
    for found, expected in zip((scores, positions), search(QUERIES[:3], 5, 4), strict=True):
        np.testing.assert_array_equal(found[[0, 2]], expected[[0, 2]])
