import threading

import faiss
import numpy as np
import pytest

from batchrec.errors import ArtifactError
from batchrec.models.bundle_format import IndexFormat
from batchrec.models.index import ItemIndex, build_index, recall_of, write_index
from batchrec.models.probes import Probes
from tests.models.support import exact_top

DIMENSION = 24
N_ITEMS = 3000


def clustered(rows, seed):
    """Vectors around common centres, as embeddings lie: an inverted file then has something to find."""
    centres = np.random.default_rng(99).normal(size=(40, DIMENSION))
    random = np.random.default_rng(seed)
    return (centres[random.integers(0, 40, rows)] + 0.4 * random.normal(size=(rows, DIMENSION))).astype(np.float32)


EMBEDDINGS = clustered(N_ITEMS, 1)
QUERIES = clustered(200, 2)


@pytest.fixture(scope="module")
def ivf():
    return build_index(EMBEDDINGS, QUERIES, 20, 0.95, flat_up_to=100)


@pytest.fixture(params=["flat", "ivf"])
def search(request, ivf):
    if request.param == "flat":
        return ItemIndex(build_index(EMBEDDINGS, QUERIES, 20, 0.95, flat_up_to=N_ITEMS).index)
    return ItemIndex(ivf.index, ivf.probes)


def share_found(found, exact):
    """Recall by Python sets."""
    return sum(len(set(a) & set(b)) for a, b in zip(found.tolist(), exact.tolist(), strict=True)) / exact.size


def same_bits(one, other):
    return all(a.tobytes() == b.tobytes() and a.dtype == b.dtype for a, b in zip(one, other, strict=True))


def described(**values):
    return IndexFormat(
        **{"path": "index.faiss", "kind": "x", "nprobe": 1, "recall": 1.0, "recall_at": 20, "queries": 0} | values
    )


def read(path, n_items=N_ITEMS, dimension=DIMENSION, **values):
    return ItemIndex.read(path, described(**values), n_items, dimension)


def test_flat_up_to_the_threshold():
    assert build_index(EMBEDDINGS[:500], QUERIES, 10, 0.9, flat_up_to=500).kind == "Flat"
    assert build_index(EMBEDDINGS[:500], QUERIES, 10, 0.9, flat_up_to=499).kind.startswith("IVF")


def test_flat_finds_what_plain_multiplication_finds():
    tuned = build_index(EMBEDDINGS, QUERIES, 20, 0.99, flat_up_to=N_ITEMS)
    assert (tuned.nprobe, tuned.recall, tuned.recall_at, tuned.queries) == (1, 1.0, 20, 200)
    scores, positions = ItemIndex(tuned.index)(QUERIES, 50)
    exact, all_scores = exact_top(QUERIES, EMBEDDINGS, 50)
    np.testing.assert_array_equal(positions, exact)
    np.testing.assert_allclose(scores, np.take_along_axis(all_scores, exact, axis=1), rtol=1e-5, atol=1e-5)
    assert scores.dtype == np.float32
    assert positions.dtype == np.int64


def test_the_recorded_recall_is_what_a_search_finds(ivf):
    exact, _ = exact_top(QUERIES, EMBEDDINGS, 20)
    _, found = ItemIndex(ivf.index, ivf.probes)(QUERIES, 20)
    assert 1 < ivf.nprobe < ivf.index.nlist
    assert 0.95 <= ivf.recall < 1
    assert ivf.recall == pytest.approx(share_found(found, exact), abs=1e-9)
    assert ivf.queries == 200


def test_half_the_lists_would_not_have_been_enough(ivf):
    exact, _ = exact_top(QUERIES, EMBEDDINGS, 20)
    _, found = ivf.index.search(QUERIES, 20, params=faiss.SearchParametersIVF(nprobe=ivf.nprobe // 2))
    assert share_found(found, exact) < 0.95


def test_a_target_of_one_is_reached():
    random = np.random.default_rng(0).normal(size=(600, DIMENSION)).astype(np.float32)
    tuned = build_index(random, random[:50] * -1, 100, 1.0, flat_up_to=0)
    exact, _ = exact_top(random[:50] * -1, random, 100)
    assert tuned.recall == 1.0
    assert share_found(ItemIndex(tuned.index, tuned.probes)(random[:50] * -1, 100)[1], exact) == 1.0


def test_deeper_searches_keep_the_recall(ivf):
    search = ItemIndex(ivf.index, ivf.probes)
    for depth in (40, 160, 640):
        exact, _ = exact_top(QUERIES, EMBEDDINGS, depth)
        assert share_found(search(QUERIES, depth)[1], exact) >= 0.95


def test_without_queries_items_stand_in():
    tuned = build_index(EMBEDDINGS, np.zeros((0, DIMENSION), np.float32), 20, 0.95, flat_up_to=0)
    assert tuned.queries == 0
    assert tuned.recall >= 0.95


@pytest.mark.parametrize("n_items", [1, 2, 5, 38, 39, 80])
def test_tiny_catalogues(n_items):
    for flat_up_to in (0, 100):
        tuned = build_index(EMBEDDINGS[:n_items], QUERIES, 100, 0.99, flat_up_to)
        assert tuned.recall_at == n_items
        assert tuned.recall >= 0.99
        _, positions = ItemIndex(tuned.index, tuned.probes)(QUERIES, n_items)
        assert (np.sort(positions, axis=1) == np.arange(n_items)).all()


@pytest.mark.parametrize("seed", range(5))
def test_recall_by_sets(seed):
    random = np.random.default_rng(seed)
    exact = np.stack([random.permutation(30)[:8] for _ in range(20)])
    found = np.stack([random.permutation(40)[:8] for _ in range(20)])
    found[random.random(found.shape) < 0.2] = -1
    assert recall_of(found, exact) == pytest.approx(share_found(found, exact))


def test_recall_by_hand():
    assert recall_of(np.array([[1, 0], [-1, -1]]), np.array([[0, 1], [2, 3]])) == 0.5
    # A position that belongs to the row above or below is no hit.
    assert recall_of(np.array([[4, 5], [0, 1]]), np.array([[0, 1], [4, 5]])) == 0
    assert recall_of(np.zeros((0, 5), np.int64), np.zeros((0, 5), np.int64)) == 1


@pytest.mark.parametrize("depth", [1, 20, 100, 333, N_ITEMS + 10])
def test_a_result_does_not_depend_on_its_neighbours(search, depth):
    one = QUERIES[:1]
    alone = search(one, depth)
    rest = clustered(70, 3)
    for others in (rest[:1], rest[:18], rest[:19], rest):
        for place in {0, 1, len(others) // 2, len(others)}:
            batch = np.concatenate([others[:place], one, others[place:]])
            assert same_bits(alone, [part[place : place + 1] for part in search(batch, depth)])


def test_a_result_does_not_depend_on_wide_vectors_in_small_catalogues():
    """128 dimensions, 50 items: where Faiss's own batched path gives other bits at other places of the batch."""
    random = np.random.default_rng(0)
    items, queries = (random.normal(size=(rows, 128)).astype(np.float32) for rows in (50, 1024))
    search = ItemIndex(build_index(items, queries, 10, 0.99, 100).index)
    together = search(queries, 10)
    for row in (0, 1, 511, 512, 1021, 1023):
        assert same_bits(search(queries[row : row + 1], 10), [part[row : row + 1] for part in together])


def test_a_result_does_not_depend_on_the_number_of_threads(search):
    before = faiss.omp_get_max_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            faiss.omp_set_num_threads(threads)
            results.append(search(QUERIES, 100))
    finally:
        faiss.omp_set_num_threads(before)
    assert same_bits(results[0], results[1])
    assert same_bits(results[0], results[2])


def test_searches_in_several_threads_at_once(search):
    depths = [10, 50, 400, 20]
    expected = [search(QUERIES, depth) for depth in depths]
    found = {}

    def work(number):
        for _ in range(5):
            found[number] = search(QUERIES, depths[number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(same_bits(found[number], expected[number]) for number in range(4))


def test_rows_are_best_first_and_distinct(search):
    scores, positions = search(QUERIES, 500)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert all(len(set(row)) == 500 for row in positions.tolist())
    np.testing.assert_allclose(scores, np.take_along_axis(QUERIES @ EMBEDDINGS.T, positions, axis=1), atol=1e-4)


def test_deeper_than_the_catalogue_is_padded(search):
    scores, positions = search(QUERIES[:3], N_ITEMS + 7)
    assert scores.shape == positions.shape == (3, N_ITEMS + 7)
    assert (np.sort(positions[:, :N_ITEMS], axis=1) == np.arange(N_ITEMS)).all()
    assert (positions[:, N_ITEMS:] == -1).all()
    assert (scores[:, N_ITEMS:] == -np.inf).all()
    assert scores.dtype == np.float32


def test_rows_whose_lists_run_dry_are_completed(ivf):
    _, raw = ivf.index.search(QUERIES, 500, params=faiss.SearchParametersIVF(nprobe=1))
    assert (raw[:, -1] < 0).any()
    # Tuned for a depth beyond the one asked for, so that one list alone is probed at first.
    _, positions = ItemIndex(ivf.index, Probes(1, N_ITEMS))(QUERIES, 500)
    assert (positions >= 0).all()


@pytest.mark.parametrize(("rows", "depth"), [(0, 5), (3, 0), (0, 0)])
def test_nothing_asked_nothing_found(search, rows, depth):
    scores, positions = search(QUERIES[:rows], depth)
    assert scores.shape == positions.shape == (rows, depth)
    assert (scores.dtype, positions.dtype) == (np.float32, np.int64)


def test_a_query_of_nan_finds_nothing_and_harms_nobody(search):
    queries = QUERIES[:3].copy()
    queries[1] = np.nan
    found = search(queries, 10)
    assert (found[1][1] == -1).all()
    assert (found[0][1] == -np.inf).all()
    assert same_bits([part[::2] for part in found], search(queries[::2], 10))


def test_written_and_read(ivf, search, tmp_path):
    write_index(ivf.index, tmp_path / "index.faiss")
    again = read(tmp_path / "index.faiss", nprobe=ivf.nprobe, recall_at=ivf.recall_at, deeper=ivf.deeper)
    assert same_bits(again(QUERIES, 30), ItemIndex(ivf.index, ivf.probes)(QUERIES, 30))


def test_builds_give_the_same_bytes_with_any_number_of_threads():
    before = faiss.omp_get_max_threads()
    try:
        built = []
        for threads in (1, 2, 2):
            faiss.omp_set_num_threads(threads)
            built.append(faiss.serialize_index(build_index(EMBEDDINGS, QUERIES, 20, 0.95, 100).index).tobytes())
    finally:
        faiss.omp_set_num_threads(before)
    assert built[0] == built[1] == built[2]


def flat(vectors=EMBEDDINGS, make=faiss.IndexFlatIP):
    index = make(vectors.shape[1])
    index.add(vectors)
    return index


def other_ids():
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(DIMENSION), DIMENSION, 4, faiss.METRIC_INNER_PRODUCT)
    index.train(EMBEDDINGS)
    index.add_with_ids(EMBEDDINGS, np.arange(N_ITEMS, dtype=np.int64) * 1000)
    return index


def mapped():
    index = faiss.IndexIDMap(faiss.IndexFlatIP(DIMENSION))
    index.add_with_ids(EMBEDDINGS, np.arange(N_ITEMS, dtype=np.int64) + 7)
    return index


def untrained():
    return faiss.IndexIVFFlat(faiss.IndexFlatIP(DIMENSION), DIMENSION, 4, faiss.METRIC_INNER_PRODUCT)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: flat(EMBEDDINGS[:, :8].copy()), "dimension 8, the bundle's catalogue is 3000 items of dimension 24"),
        (lambda: flat(EMBEDDINGS[:10]), "holds 10 vectors"),
        (untrained, "holds 0 vectors"),
        (lambda: flat(make=faiss.IndexFlatL2), "does not use the inner product"),
        (mapped, "is a Faiss IndexIDMap"),
        (other_ids, "each item position from 0 to 2999 once"),
        (lambda: flat(make=lambda d: faiss.IndexHNSWFlat(d, 4, faiss.METRIC_INNER_PRODUCT)), "IndexHNSWFlat"),
    ],
)
def test_an_index_of_another_kind(make, words, tmp_path):
    write_index(make(), tmp_path / "index.faiss")
    with pytest.raises(ArtifactError, match=words) as caught:
        read(tmp_path / "index.faiss")
    assert "batchrec index" in caught.value.remedy


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "zeros", "noise", "parquet", "cut", "binary"])
def test_a_file_that_is_no_index(kind, ivf, tmp_path):
    path = tmp_path / "index.faiss"
    whole = faiss.serialize_index(ivf.index).tobytes()
    if kind == "binary":
        faiss.write_index_binary(faiss.IndexBinaryFlat(64), str(path))
    elif kind != "missing":
        contents = {
            "empty": b"",
            "text": b"index: yes\n" * 100,
            "zeros": bytes(10_000),
            "noise": np.random.default_rng(0).bytes(10_000),
            "parquet": b"PAR1" + bytes(100) + b"PAR1",
            "cut": whole[: len(whole) // 2],
        }
        path.write_bytes(contents[kind])
    with pytest.raises(ArtifactError, match=r"index\.faiss cannot be read by Faiss"):
        read(path)
