"""Models and index over device arrays: what they give on the host, whatever the batches."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import faiss
import keras
import numpy as np
import pytest
from ml_dtypes import bfloat16

from batchrec.engine.device import Choice
from batchrec.errors import ArtifactError
from batchrec.models import device_index, device_models, device_ranking
from batchrec.models.device_index import DeviceIndex
from batchrec.models.device_models import DeviceTower, device_pair_scorer
from batchrec.models.device_ranking import DeviceRanking
from batchrec.models.dlrm import take_apart
from batchrec.models.index import ItemIndex, build_index
from batchrec.models.index_pieces import Placement, placed
from batchrec.models.precision import in_precision, to_bfloat16
from batchrec.models.probes import Probes
from batchrec.models.serving import Model, load_model
from batchrec.models.tensors import on_device
from tests.models.test_ranking_algebra import SHAPES, by_keras, candidates, item_inputs, trained_like, user_inputs
from tests.parity.devices import again
from tests.parity.near_ties import close, same_lists

N_ITEMS, DIMENSION = 3000, 16


def clustered(rows, seed):
    centres = np.random.default_rng(9).normal(size=(40, DIMENSION))
    random = np.random.default_rng(seed)
    return (centres[random.integers(0, 40, rows)] + 0.4 * random.normal(size=(rows, DIMENSION))).astype(np.float32)


EMBEDDINGS, QUERIES = clustered(N_ITEMS, 1), clustered(300, 2)


@pytest.fixture(scope="module", params=["flat", "ivf"])
def tuned(request):
    return build_index(EMBEDDINGS, QUERIES, 20, 0.95, flat_up_to=N_ITEMS if request.param == "flat" else 100)


@pytest.fixture
def index(tuned, device):
    return device_index_of(tuned.index, tuned.probes, device)


def device_index_of(index, probes, device, vectors=EMBEDDINGS):
    return DeviceIndex(index, probes, device.placement, device.put, lambda: device.put(vectors))


def found_by(index, device, queries, depth):
    scores, positions = (device.fetch(array) for array in index(device.put(queries), depth))
    assert (scores.dtype, positions.dtype) == (np.float32, np.int64)
    assert scores.shape == positions.shape == (len(queries), depth)
    return scores, positions


class TestIndex:
    @pytest.mark.parametrize("depth", [1, 20, 333, 2048])
    def test_finds_what_the_host_finds(self, tuned, index, device, depth, monkeypatch):
        monkeypatch.setattr(device_index, "QUERIES_A_SEARCH", 128)
        scores, positions = found_by(index, device, QUERIES, depth)
        expected_scores, expected = ItemIndex(tuned.index, tuned.probes)(QUERIES, depth)
        same_lists(positions, expected, scores, expected_scores)
        close(scores, expected_scores)

    @pytest.mark.parametrize("depth", [2049, N_ITEMS, N_ITEMS + 9])
    def test_deeper_than_faiss_goes_it_is_exact(self, index, device, depth, monkeypatch):
        monkeypatch.setattr(device_index, "NUMBERS_AT_A_TIME", 7 * N_ITEMS)
        scores, positions = found_by(index, device, QUERIES[:10], depth)
        exact = QUERIES[:10].astype(np.float64) @ EMBEDDINGS.T.astype(np.float64)
        expected = np.argsort(-exact, axis=1, kind="stable")[:, :depth]
        keys = np.take_along_axis(exact, expected, axis=1)
        real = slice(0, min(depth, N_ITEMS))
        same_lists(positions[:, real], expected, scores[:, real], keys)
        assert (positions[:, N_ITEMS:] == -1).all()
        assert (scores[:, N_ITEMS:] == -np.inf).all()

    def test_lists_that_hold_too_few_items_are_not_the_end(self, tuned, device):
        index = device_index_of(tuned.index, Probes(1, 10**6), device)
        scores, positions = found_by(index, device, QUERIES, 1000)
        assert (positions >= 0).all()
        assert all(len(set(row)) == 1000 for row in positions.tolist())
        close(scores, np.take_along_axis(QUERIES @ EMBEDDINGS.T, positions, axis=1))

    def test_equal_scores_beyond_faiss_stand_by_position(self, device, monkeypatch):
        monkeypatch.setattr(device_index, "DEEPEST", 2)
        index, vectors = faiss.IndexFlatIP(2), np.array([[1, 0], [2, 0], [1, 0], [2, 0]], np.float32)
        index.add(vectors)
        search = device_index_of(index, Probes(), device, vectors)
        assert found_by(search, device, np.array([[1, 0]], np.float32), 4)[1].tolist() == [[1, 3, 0, 2]]

    @pytest.mark.parametrize("depth", [5, 2500])
    def test_a_query_that_is_no_number_finds_nothing(self, index, device, depth):
        queries = QUERIES[:3].copy()
        queries[1] = np.nan
        scores, positions = found_by(index, device, queries, depth)
        assert (positions[1] == -1).all()
        assert (scores[1] == -np.inf).all()
        assert (positions[[0, 2], :5] >= 0).all()

    def test_whatever_faiss_says_of_no_number(self, device, monkeypatch):
        """Its kernels need not agree; what is not a number is no hit."""
        flat = faiss.IndexFlatIP(DIMENSION)
        flat.add(EMBEDDINGS)
        index = device_index_of(flat, Probes(), device)

        def search(_index, _queries, scores, positions, _nprobe):
            scores[...], positions[...] = np.nan, 7

        monkeypatch.setattr(device_index, "search_in_place", search)
        scores, positions = found_by(index, device, QUERIES[:2], 3)
        assert (positions == -1).all()
        assert (scores == -np.inf).all()

    @pytest.mark.parametrize(("rows", "depth"), [(0, 5), (3, 0)])
    def test_nothing_asked(self, index, device, rows, depth):
        found_by(index, device, QUERIES[:rows], depth)


def cut(device, gpus, storage="fp32"):
    """The device with its index in pieces, all on its first GPU."""

    opened = again(device, Choice("gpu", index_storage=storage))

    def place(index, _):
        return opened.placement.place(index, 0)

    return replace(device, placement=Placement(place, device.placement.wait, storage, gpus))


class TestPieces:
    @pytest.mark.parametrize("gpus", [2, 7])
    @pytest.mark.parametrize("depth", [1, 20, 1500])
    def test_pieces_find_what_the_whole_finds(self, tuned, index, device, gpus, depth, monkeypatch):
        monkeypatch.setattr(device_index, "QUERIES_A_SEARCH", 128)
        pieces = device_index_of(tuned.index, tuned.probes, cut(device, gpus))
        (scores, positions), (expected_scores, expected) = (
            found_by(one, device, QUERIES, depth) for one in (pieces, index)
        )
        same_lists(positions, expected, scores, expected_scores)
        close(scores, expected_scores)

    def test_a_row_depends_on_its_query_and_depth_alone(self, tuned, device):
        faiss.cvar.distance_compute_blas_threshold = np.iinfo(np.int32).max  # BLAS looks at the place in the batch
        pieces = device_index_of(tuned.index, tuned.probes, cut(device, 3))
        whole = found_by(pieces, device, QUERIES, 30)
        for rows in (slice(0, 1), slice(100, 107), slice(200, 300)):
            for found, expected in zip(found_by(pieces, device, QUERIES[rows], 30), whole, strict=True):
                np.testing.assert_array_equal(found, expected[rows])

    def test_no_piece_holds_another_s_items(self, tuned):
        held = []
        placed(tuned.index, Placement(lambda piece, number: held.append((number, piece)), lambda: None, "fp32", 4))
        assert [(number, piece.ntotal) for number, piece in held] == [(number, N_ITEMS // 4) for number in range(4)]

    def test_equal_scores_of_several_pieces_stand_by_position(self, device):
        index, vectors = faiss.IndexFlatIP(2), np.array([[1, 0], [2, 0], [1, 0], [2, 0], [1, 0]], np.float32)
        index.add(vectors)
        search = device_index_of(index, Probes(), cut(device, 2), vectors)
        assert found_by(search, device, np.array([[1, 0]], np.float32), 6)[1].tolist() == [[1, 3, 0, 2, 4, -1]]

    def test_lists_that_hold_too_few_items_are_not_the_end(self, tuned, device):
        search = device_index_of(tuned.index, Probes(1, 10**6), cut(device, 3))
        _, positions = found_by(search, device, QUERIES[:8], 1000)
        assert all(len(set(row)) == 1000 and min(row) >= 0 for row in positions.tolist())

    def test_a_compressed_index_is_not_cut(self, device):
        index = faiss.index_factory(DIMENSION, "IVF8,SQ8", faiss.METRIC_INNER_PRODUCT)
        index.train(EMBEDDINGS)
        with pytest.raises(ArtifactError, match="IndexIVFScalarQuantizer, expected IndexFlat or IndexIVFFlat"):
            device_index_of(index, Probes(), cut(device, 2))


class TestHalf:
    @pytest.mark.parametrize("gpus", [1, 3])
    def test_scores_are_those_of_float32(self, tuned, index, device, gpus, monkeypatch):
        monkeypatch.setattr(device_index, "QUERIES_A_SEARCH", 64)
        monkeypatch.setattr(device_index, "NUMBERS_AT_A_TIME", 20_000)
        half = device_index_of(tuned.index, tuned.probes, cut(device, gpus, "fp16"))
        scores, positions = found_by(half, device, QUERIES, 100)
        close(scores, np.take_along_axis(QUERIES @ EMBEDDINGS.T, positions, axis=1))
        assert (np.diff(scores) <= 0).all()
        _, expected = found_by(index, device, QUERIES, 100)
        shared = np.mean([len(set(one) & set(other)) for one, other in zip(positions, expected, strict=True)]) / 100
        assert shared > 0.99

    def test_it_is_half_that_is_searched(self, tuned):
        (piece,) = placed(tuned.index, Placement(lambda index, _: index, lambda: None, "fp16"))
        if isinstance(tuned.index, faiss.IndexIVF):
            assert piece.index.code_size == 2 * DIMENSION
            stored = piece.index.reconstruct_n(0, N_ITEMS)
            np.testing.assert_array_equal(stored, EMBEDDINGS.astype(np.float16).astype(np.float32))
        else:
            assert piece.index is tuned.index  # Faiss itself stores half of a flat index


class TestRanking:
    @pytest.mark.parametrize("kind", SHAPES)
    def test_scores_are_those_of_keras(self, device, kind):
        ranker, users, items = trained_like(kind), user_inputs(kind, 60, 2), item_inputs(kind)
        positions = candidates(60, 40)
        score = DeviceRanking(take_apart(ranker), items, device.put)
        found = score({name: device.put(values) for name, values in users.items()}, device.put(positions))
        assert device.fetch(found).dtype == np.float32
        close(device.fetch(found), by_keras(ranker, users, items, positions))

    def test_blocks_leave_no_trace(self, device, monkeypatch):
        users = {name: device.put(values) for name, values in user_inputs("all", 50, 4).items()}
        score = DeviceRanking(take_apart(trained_like("all")), item_inputs("all"), device.put)
        positions = device.put(candidates(50, 30))
        whole = device.fetch(score(users, positions))
        for pairs in (1, 31, 200, 50 * 30):
            monkeypatch.setattr(device_ranking, "PAIRS_A_BLOCK", pairs)
            close(device.fetch(score(users, positions)), whole)

    def test_blocks_of_items_leave_no_trace(self, device, monkeypatch):
        parts, items = take_apart(trained_like("all")), item_inputs("all")
        users = {name: device.put(values) for name, values in user_inputs("all", 50, 4).items()}
        positions = device.put(candidates(50, 30))
        whole = device.fetch(DeviceRanking(parts, items, device.put)(users, positions))
        for block in (1, 7, len(next(iter(items.values())))):
            monkeypatch.setattr(device_ranking, "ITEMS_A_BLOCK", block)
            close(device.fetch(DeviceRanking(parts, items, device.put)(users, positions)), whole)

    def test_an_item_code_outside_the_vocabulary(self, device):
        parts, items = take_apart(trained_like("all")), dict(item_inputs("all"))
        name = next(iter(parts.item.tables))
        items[name] = items[name].copy()
        items[name][2] = 10**6
        with pytest.raises(ArtifactError, match=f"'{name}' has codes up to 1000000"):
            DeviceRanking(parts, items, device.put)

    def test_in_bfloat16(self, device):
        """The layers' operands are rounded; what is no layer's is not."""
        ranker, users, items = trained_like("all"), user_inputs("all", 60, 2), item_inputs("all")
        positions, parts = candidates(60, 40), take_apart(ranker)
        users = {name: device.put(values) for name, values in users.items()}
        exact, rounded = (
            device.fetch(DeviceRanking(parts, items, device.put, precision)(users, device.put(positions)))
            for precision in ("fp32", "bf16")
        )
        real = positions >= 0
        assert rounded.dtype == np.float32
        error = np.abs(rounded - exact)[real] / (1 + np.abs(exact[real]))
        assert 1e-4 < error.max() < 0.1
        assert (rounded[~real] == -np.inf).all()

    def test_a_code_outside_the_vocabulary(self, device):
        score = DeviceRanking(take_apart(trained_like("all")), item_inputs("all"), device.put)
        users = user_inputs("all", 5, 4)
        users["city"][3] = 30
        with pytest.raises(ArtifactError, match="'city' has codes up to 30"):
            score({name: device.put(values) for name, values in users.items()}, device.put(candidates(5, 4)))

    @pytest.mark.parametrize(("n", "width"), [(0, 5), (4, 0)])
    def test_nothing_to_score(self, device, n, width):
        score = DeviceRanking(take_apart(trained_like("all")), item_inputs("all"), device.put)
        users = {name: device.put(values) for name, values in user_inputs("all", n, 4).items()}
        assert device.fetch(score(users, device.put(np.zeros((n, width), np.int64)))).shape == (n, width)


def small_model(outputs):
    history, age = keras.Input((4,), dtype="int32", name="history"), keras.Input((), name="age")
    items = keras.ops.sum(keras.layers.Embedding(20, 6)(history), 1)
    hidden = keras.layers.Dense(8, "relu")(keras.layers.Concatenate()([items, keras.ops.expand_dims(age, -1)]))
    model = keras.Model({"history": history, "age": age}, keras.layers.Dense(outputs)(hidden))
    random = np.random.default_rng(outputs)
    model.set_weights([random.normal(size=weights.shape) for weights in model.get_weights()])
    return model


def small_inputs(n):
    random = np.random.default_rng(n)
    return {
        "history": random.integers(0, 20, (n, 4)).astype(np.int32),
        "age": random.normal(size=n).astype(np.float32),
    }


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A tower and a ranker of pairs, each with the files it is saved in: for Keras, and TensorFlow if it is here."""
    folder, made = tmp_path_factory.mktemp("models"), {}
    for name, outputs in {"tower": 5, "ranker": 1}.items():
        made[name] = small_model(outputs)
        made[name].save(folder / f"{name}.keras")
        if find_spec("tensorflow"):
            made[name].export(folder / name, verbose=False)
    return folder, made


SAVED_MODEL = pytest.param("", marks=pytest.mark.skipif(not find_spec("tensorflow"), reason="TensorFlow is not here"))


@pytest.mark.parametrize("suffix", [".keras", SAVED_MODEL])
class TestKeras:
    def test_a_tower_over_any_number_of_users(self, models, device, suffix, monkeypatch):
        monkeypatch.setattr(device_models, "USERS_A_BATCH", 32)
        folder, made = models
        tower = DeviceTower(on_device(load_model(folder / f"tower{suffix}", {"history", "age"})), 5)
        for n in (1, 31, 32, 100):
            inputs = small_inputs(n)
            found = tower({name: device.put(values) for name, values in inputs.items()})
            assert isinstance(found, type(device.put(np.zeros(1))))
            close(device.fetch(found), made["tower"].predict(inputs, verbose=0))

    def test_a_ranker_of_pairs(self, models, device, suffix):
        folder, made = models
        score = device_pair_scorer(on_device(load_model(folder / f"ranker{suffix}", {"history", "age"})))
        inputs = small_inputs(40)
        found = device.fetch(score({name: device.put(values) for name, values in inputs.items()}))
        assert (found.shape, found.dtype) == ((40,), np.float32)
        close(found, made["ranker"].predict(inputs, verbose=0)[:, 0])

    def test_a_model_of_another_shape_than_described(self, models, device, suffix):
        function = on_device(load_model(models[0] / f"tower{suffix}", {"history", "age"}))
        inputs = {name: device.put(values) for name, values in small_inputs(8).items()}
        n = device_models.USERS_A_BATCH
        with pytest.raises(ArtifactError, match=rf"the query tower gives shape \({n}, 5\), expected \({n}, 7\)"):
            DeviceTower(function, 7)(inputs)
        with pytest.raises(ArtifactError, match=r"the ranker gives shape \(8, 5\) for 8 pairs"):
            device_pair_scorer(function)(inputs)

    def test_inputs_that_the_model_refuses(self, models, device, suffix):
        function = on_device(load_model(models[0] / f"tower{suffix}", {"history", "age"}))
        inputs = {name: device.put(values) for name, values in small_inputs(8).items()}
        inputs["history"] = inputs["history"][:3, :]
        with pytest.raises(ArtifactError, match=r"cannot be run on age \S*float32\[8\], history \S*int32\[3, 4\]"):
            function(inputs)


class TestBfloat16:
    def test_values_are_those_of_bfloat16(self, device):
        values = np.random.default_rng(3).normal(size=5000).astype(np.float32) * np.float32(10) ** np.arange(
            -10, 10, 0.004
        )
        values = np.concatenate([values, [0.0, -0.0, 1.0, 255.0, 257.0]]).astype(np.float32)
        found = device.fetch(to_bfloat16(device.put(values)))
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, found.astype(bfloat16).astype(np.float32))
        np.testing.assert_allclose(np.abs(found - values), np.abs(values.astype(bfloat16).astype(np.float32) - values))

    def test_a_layer_multiplies_in_it(self, device):
        inputs = keras.Input((6,), name="x")
        model = keras.Model({"x": inputs}, keras.layers.Dense(5)(inputs))
        weights, x = model.get_weights()[0], np.random.default_rng(1).normal(size=(32, 6)).astype(np.float32)
        tensors = lambda one: keras.ops.convert_to_numpy(model(one["x"]))  # noqa: E731
        loaded = Model(Path("model"), tensors, lambda one: model({"x": one["x"]}, training=False), model)
        found = device.fetch(on_device(in_precision(loaded, "bf16"))({"x": device.put(x)}))
        product = x.astype(bfloat16).astype(np.float32) @ weights.astype(bfloat16).astype(np.float32)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, found.astype(bfloat16).astype(np.float32))
        np.testing.assert_allclose(found, product, rtol=2**-7, atol=1e-6)
        np.testing.assert_array_equal(model.get_weights()[0], weights)

    def test_scores_are_not_rounded(self, models, device):
        """A layer of one unit gives scores; eight bits of them would tie."""
        inputs = {name: device.put(values) for name, values in small_inputs(200).items()}
        exact, rounded = (
            device.fetch(
                on_device(in_precision(load_model(models[0] / "ranker.keras", set(inputs)), precision))(inputs)
            )
            for precision in ("fp32", "bf16")
        )
        assert len(np.unique(rounded)) == len(np.unique(exact))
        assert 0 < np.abs(rounded - exact).max() < 0.05 * np.abs(exact).max()

    @pytest.mark.skipif(not find_spec("tensorflow"), reason="TensorFlow is not here")
    def test_a_saved_model_cannot(self, models):
        with pytest.raises(ArtifactError, match="is a SavedModel, which cannot compute in bf16: save it with"):
            in_precision(load_model(models[0] / "tower", {"history", "age"}), "bf16")


def test_what_a_model_gives_is_the_caller_s_own(device):
    """Its library may write into the memory of its output as soon as the next call begins."""
    given = []

    def run(tensors):
        given.append(keras.ops.add(tensors["x"], 1.0))
        return given[-1]

    function = on_device(Model(Path("model"), run, run))
    found = function({"x": device.put(np.zeros(1000, np.float32))})
    np.testing.assert_array_equal(device.fetch(found), 1.0)
    assert not np.shares_memory(np.asarray(given[0]), device.fetch(found))


def aligned(values, offset=0):
    """Return float32 values in host memory that begins at a multiple of 64 bytes, plus an offset in bytes."""
    raw = np.zeros(len(values) * 4 + 128, np.uint8)
    start = -raw.ctypes.data % 64 + offset
    array = raw[start : start + len(values) * 4].view(np.float32)
    array[:] = values
    return array


def test_tensors_share_the_memory_of_arrays():
    """Nothing passes through a copy where memory begins as TensorFlow wants it, and it is copied where it does not."""
    from batchrec.models.tensors import _to_tensor, address

    in_place, elsewhere = aligned(range(50)), aligned(range(50), offset=16)
    assert address(in_place) == in_place.ctypes.data
    for array, shared in ((in_place, True), (elsewhere, False)):
        tensor = _to_tensor()(array)
        assert np.shares_memory(np.from_dlpack(tensor), array) is shared
        np.testing.assert_array_equal(np.asarray(tensor), np.arange(50))
