import os
import shutil
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

from batchrec.errors import ArtifactError
from batchrec.models.dlrm import take_apart
from batchrec.models.ranker import RankerShape, build_ranker
from batchrec.models.ranking_algebra import RankingAlgebra, prepare
from batchrec.models.serving import (
    HISTORY,
    QUERY_BATCH,
    Model,
    QueryTower,
    as_pair_scorer,
    load_model,
    ranking_by_parts,
)
from batchrec.models.towers import TowerShape, feature_encoder, history_encoder, query_head
from tests.models.support import small_shape

N_ITEMS, LENGTH, DIMENSION = 50, 8, 16
CITIES = 7


def randomised(model, seed):
    """Give every weight a random value: fresh models hold zeros and ones, which hide mistakes."""
    random = np.random.default_rng(seed)
    model.set_weights([random.normal(scale=0.3, size=weight.shape) for weight in model.get_weights()])
    return model


def make_tower():
    """A real query tower: self-attention over the history, beside a categorical feature and a dense one."""
    shape = small_shape(N_ITEMS, user={"city": CITIES}, history=LENGTH, dimension=DIMENSION)
    history = keras.Input((LENGTH,), dtype="int32", name=HISTORY)
    city, age = keras.Input((), dtype="int32", name="city"), keras.Input((), name="age")
    items = keras.layers.Embedding(N_ITEMS + 1, DIMENSION)(history)
    states = history_encoder(shape)({"items": items, "filled": history > 0})
    user = feature_encoder("user", {"city": CITIES}, ("age",), DIMENSION)({"city": city, "age": age})
    query = query_head(shape, with_features=True)({"state": states[:, -1], "user": user})
    return randomised(keras.Model({HISTORY: history, "city": city, "age": age}, query), 0)


def tower_inputs(n, seed):
    random = np.random.default_rng(seed)
    return {
        HISTORY: random.integers(0, N_ITEMS + 1, (n, LENGTH)).astype(np.int32),
        "city": random.integers(0, CITIES, n).astype(np.int32),
        "age": random.normal(size=n).astype(np.float32),
    }


PAIR_INPUTS = {"city", "age", "item_code", "query_embedding", "item_embedding"}


def pair_inputs(n, seed):
    random = np.random.default_rng(seed)
    return {
        "city": random.integers(0, CITIES, n).astype(np.int32),
        "age": random.normal(size=n).astype(np.float32),
        "item_code": random.integers(0, N_ITEMS + 1, n).astype(np.int32),
        "query_embedding": random.normal(size=(n, DIMENSION)).astype(np.float32),
        "item_embedding": random.normal(size=(n, DIMENSION)).astype(np.float32),
    }


@pytest.fixture(scope="module")
def tower():
    return make_tower()


@pytest.fixture(scope="module")
def ranker():
    return randomised(build_ranker(RankerShape(N_ITEMS, {"city": CITIES}, {}, ("age",), (), DIMENSION, (8,))), 1)


@pytest.fixture(scope="module")
def folder(tower, ranker, tmp_path_factory):
    """Both models, each as a .keras file and as a SavedModel."""
    folder = tmp_path_factory.mktemp("models")
    for name, model in {"tower": tower, "ranker": ranker}.items():
        model.save(folder / f"{name}.keras")
        model.export(folder / name, verbose=False)
    return folder


@pytest.fixture(params=["tower.keras", "tower"])
def embed(request, folder):
    return QueryTower(load_model(folder / request.param, {HISTORY, "city", "age"}), DIMENSION)


def test_rows_do_not_depend_on_number_or_order(embed):
    n = 2 * QUERY_BATCH + 100
    inputs = tower_inputs(n, 3)
    queries = embed(inputs)
    assert queries.shape == (n, DIMENSION)
    assert queries.dtype == np.float32
    order = np.random.default_rng(4).permutation(n)
    for rows in (
        [0],
        [n - 1],
        [QUERY_BATCH - 1],
        [5, 5, 5],
        np.arange(QUERY_BATCH),
        np.arange(QUERY_BATCH + 1),
        order[:700],
        order,
    ):
        assert embed({name: column[rows] for name, column in inputs.items()}).tobytes() == queries[rows].tobytes()


def test_rows_differ_and_are_those_of_the_model(embed, tower):
    inputs = tower_inputs(20, 5)
    queries = embed(inputs)
    assert len(np.unique(queries, axis=0)) == 20
    np.testing.assert_allclose(queries, keras.ops.convert_to_numpy(tower(inputs)), rtol=1e-4, atol=1e-5)


def test_no_users(embed):
    queries = embed(tower_inputs(0, 0))
    assert queries.shape == (0, DIMENSION)
    assert queries.dtype == np.float32


EMBED = """
import pathlib, sys
import numpy as np
from batchrec.models.serving import QueryTower, load_model
inputs = dict(np.load(sys.argv[1] + "/inputs.npz"))
queries = QueryTower(load_model(pathlib.Path(sys.argv[1], "tower.keras"), set(inputs)), 64)(inputs)
sys.stdout.buffer.write(queries.tobytes())
"""


def test_bits_do_not_depend_on_the_number_of_threads(tmp_path):
    """A tower of the size that training makes: its products are large enough for TensorFlow to cut them up."""
    shape = TowerShape(N_ITEMS, {}, {}, (), ())
    history = keras.Input((shape.history,), dtype="int32", name=HISTORY)
    items = keras.layers.Embedding(N_ITEMS + 1, shape.dimension)(history)
    states = history_encoder(shape)({"items": items, "filled": history > 0})
    query = query_head(shape, with_features=False)({"state": states[:, -1]})
    randomised(keras.Model({HISTORY: history}, query), 2).save(tmp_path / "tower.keras")
    codes = np.random.default_rng(3).integers(0, N_ITEMS + 1, (QUERY_BATCH + 9, shape.history)).astype(np.int32)
    np.savez(tmp_path / "inputs.npz", **{HISTORY: codes})

    def embedded(threads):
        environment = os.environ | {"OMP_NUM_THREADS": threads}
        command = [sys.executable, "-c", EMBED, str(tmp_path)]
        return subprocess.run(command, check=True, capture_output=True, env=environment).stdout

    alone = embedded("1")
    assert len(alone) == len(codes) * 64 * 4
    assert alone == embedded("2")


@pytest.mark.parametrize("n", [1, QUERY_BATCH, QUERY_BATCH + 1])
def test_the_model_is_always_given_whole_batches(n):
    sizes = []

    def function(inputs):
        sizes.append({len(column) for column in inputs.values()})
        return np.zeros((QUERY_BATCH, DIMENSION), np.float32)

    QueryTower(function, DIMENSION)(tower_inputs(n, 0))
    assert all(size == {QUERY_BATCH} for size in sizes)


def test_a_tower_of_another_dimension(folder):
    embed = QueryTower(load_model(folder / "tower.keras", {HISTORY, "city", "age"}), DIMENSION + 1)
    with pytest.raises(ArtifactError, match=rf"shape \({QUERY_BATCH}, {DIMENSION}\), expected \({QUERY_BATCH}, 17\)"):
        embed(tower_inputs(3, 0))


@pytest.mark.parametrize("name", ["ranker.keras", "ranker"])
def test_both_formats_of_a_ranker_score_as_keras_does(folder, ranker, name):
    pairs = pair_inputs(64, 6)
    scores = as_pair_scorer(load_model(folder / name, PAIR_INPUTS))(pairs)
    assert scores.shape == (64,)
    assert scores.dtype == np.float32
    assert len(np.unique(scores)) > 50
    np.testing.assert_allclose(scores, keras.ops.convert_to_numpy(ranker(pairs)), rtol=1e-4, atol=1e-5)


def test_a_pair_scores_the_same_at_any_place_of_a_batch(folder):
    score = as_pair_scorer(load_model(folder / "ranker.keras", PAIR_INPUTS))
    pairs = pair_inputs(1000, 7)
    scores = score(pairs)
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(1000)
        assert score({name: column[order] for name, column in pairs.items()}).tobytes() == scores[order].tobytes()


ITEM_INPUTS = {"item_code", "item_embedding"}


def by_parts(path, inputs, users, items):
    parts = take_apart(load_model(path, inputs).keras)
    return ranking_by_parts(parts, users, items, lambda parts, items: RankingAlgebra(prepare(parts, items)))


def test_the_own_ranker_is_computed_by_parts(folder, ranker):
    pairs = pair_inputs(N_ITEMS, 8)
    items = {name: pairs.pop(name) for name in ITEM_INPUTS}
    score = by_parts(folder / "ranker.keras", PAIR_INPUTS, set(pairs), items)
    scores = score(pairs, np.arange(N_ITEMS)[:, None])
    expected = ranker.predict(pairs | items, verbose=0)
    np.testing.assert_allclose(scores[:, 0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["ranker", "tower.keras"])
def test_other_models_are_not(folder, name):
    inputs = {HISTORY, "city", "age"} if name == "tower.keras" else PAIR_INPUTS
    items = {name: column for name, column in pair_inputs(9, 8).items() if name in ITEM_INPUTS}
    assert by_parts(folder / name, inputs, inputs - ITEM_INPUTS, items) is None


def test_nor_is_a_ranker_that_reads_a_users_feature_from_the_item(folder):
    pairs = pair_inputs(9, 8)
    items = {name: pairs.pop(name) for name in ITEM_INPUTS | {"city"}}
    assert by_parts(folder / "ranker.keras", PAIR_INPUTS, set(pairs), items) is None


@pytest.mark.parametrize("name", ["tower.keras", "tower"])
def test_two_threads_at_once(folder, name):
    """Dask runs several partitions in one process, all with the same model, the first calls of all at once."""
    for _ in range(3):
        embed = QueryTower(load_model(folder / name, {HISTORY, "city", "age"}), DIMENSION)
        found, start = {}, threading.Barrier(4)

        def work(number, embed=embed, found=found, start=start):
            start.wait()
            found[number] = [embed(tower_inputs(30, number)) for _ in range(4)]

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for number in range(4):
            alone = embed(tower_inputs(30, number)).tobytes()
            assert [queries.tobytes() for queries in found[number]] == [alone] * 4


def test_calls_do_not_overlap():
    """Keras on JAX keeps a model's state beside it during a call, so no two may run at once."""
    running, most = [], []
    gate = threading.Event()

    def predict(inputs):
        running.append(1)
        most.append(len(running))
        gate.wait(0.05)
        running.pop()
        return np.zeros((len(inputs[HISTORY]), DIMENSION))

    function = Model(Path("tower.keras"), predict, predict)
    threads = [threading.Thread(target=function, args=(tower_inputs(2, 0),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1, 1]


@pytest.mark.parametrize("name", ["tower.keras", "tower"])
def test_other_inputs(folder, name):
    with pytest.raises(ArtifactError) as caught:
        load_model(folder / name, {HISTORY, "city", "town", "income"})
    assert "age stand in the model alone, income, town in bundle.json alone" in str(caught.value)
    with pytest.raises(ArtifactError, match=r"city stand in the model alone, none in bundle\.json alone"):
        load_model(folder / name, {HISTORY, "age"})
    with pytest.raises(ArtifactError, match=r"none stand in the model alone, town in bundle\.json alone"):
        load_model(folder / name, {HISTORY, "age", "city", "town"})


@pytest.mark.parametrize("name", ["tower.keras", "tower"])
def test_a_history_of_another_length(folder, name):
    embed = QueryTower(load_model(folder / name, {HISTORY, "city", "age"}), DIMENSION)
    inputs = tower_inputs(3, 0)
    inputs[HISTORY] = inputs[HISTORY][:, 1:]
    with pytest.raises(ArtifactError, match=rf"cannot be run on .*history int32\[{QUERY_BATCH}, {LENGTH - 1}\]"):
        embed(inputs)


def test_inputs_of_a_model_built_on_a_list(tmp_path):
    first, second = keras.Input((), name="first"), keras.Input((), name="second")
    keras.Model([second, first], second - 2 * first).save(tmp_path / "model.keras")
    function = load_model(tmp_path / "model.keras", {"first", "second"})
    inputs = {"first": np.array([1, 2], np.float32), "second": np.array([10, 20], np.float32)}
    assert function(inputs).tolist() == [8, 16]


@pytest.mark.filterwarnings("ignore:When providing `inputs`")
def test_inputs_go_by_the_keys_of_a_model_built_on_a_dictionary(tmp_path):
    a, b = keras.Input((), name="a"), keras.Input((), name="b")
    keras.Model({"first": a, "second": b}, b - 2 * a).save(tmp_path / "model.keras")
    function = load_model(tmp_path / "model.keras", {"first", "second"})
    inputs = {"first": np.array([1, 2], np.float32), "second": np.array([10, 20], np.float32)}
    assert function(inputs).tolist() == [8, 16]


@pytest.mark.parametrize("units", [1, 2])
def test_the_ranker_gives_one_relevance_a_pair(units, tmp_path):
    value = keras.Input((3,), name="value")
    keras.Model({"value": value}, keras.layers.Dense(units)(value)).save(tmp_path / "model.keras")
    score = as_pair_scorer(load_model(tmp_path / "model.keras", {"value"}))
    pairs = {"value": np.ones((5, 3), np.float32)}
    if units == 1:
        assert score(pairs).shape == (5,)
    else:
        with pytest.raises(ArtifactError, match=r"shape \(5, 2\) for 5 pairs"):
            score(pairs)


@pytest.mark.parametrize("name", ["model.keras", "model"])
def test_a_model_of_two_outputs(name, tmp_path):
    value = keras.Input((), name="value")
    model = keras.Model({"value": value}, [value + 1, value + 2])
    model.save(tmp_path / name) if name.endswith(".keras") else model.export(tmp_path / name, verbose=False)
    with pytest.raises(ArtifactError, match="has 2 outputs, expected one"):
        load_model(tmp_path / name, {"value"})


def test_code_in_a_model_is_refused(tmp_path):
    value = keras.Input((), name="value")
    model = keras.Model({"value": value}, keras.layers.Lambda(lambda x: x + 1)(value))
    model.save(tmp_path / "model.keras")
    with pytest.raises(ArtifactError, match=r"model\.keras cannot be loaded by Keras in safe mode .*[Ll]ambda"):
        load_model(tmp_path / "model.keras", {"value"})


@pytest.mark.filterwarnings("ignore")
def test_hdf5_files_are_refused(tower, tmp_path):
    tower.save(tmp_path / "model.h5")
    with pytest.raises(ArtifactError, match=r"neither a \.keras file nor the folder of a SavedModel"):
        load_model(tmp_path / "model.h5", {HISTORY})


@pytest.mark.parametrize("damage", ["missing", "empty", "text", "cut", "no config", "no weights"])
def test_a_damaged_keras_file(folder, tmp_path, damage):
    path = tmp_path / "model.keras"
    whole = (folder / "tower.keras").read_bytes()
    if damage in {"no config", "no weights"}:
        left_out = {"no config": "config.json", "no weights": "model.weights.h5"}[damage]
        with zipfile.ZipFile(folder / "tower.keras") as source, zipfile.ZipFile(path, "w") as target:
            for name in source.namelist():
                if name != left_out:
                    target.writestr(name, source.read(name))
    elif damage != "missing":
        path.write_bytes({"empty": b"", "text": b"a model", "cut": whole[: len(whole) // 2]}[damage])
    with pytest.raises(ArtifactError, match=r"model\.keras cannot be loaded by Keras in safe mode"):
        load_model(path, {HISTORY, "city", "age"})


@pytest.mark.parametrize("damage", ["empty", "no graph", "text", "no weights"])
def test_a_damaged_saved_model(folder, tmp_path, damage):
    path = tmp_path / "model"
    if damage == "empty":
        path.mkdir()
    else:
        shutil.copytree(folder / "tower", path)
    if damage == "no graph":
        (path / "saved_model.pb").unlink()
    if damage == "text":
        (path / "saved_model.pb").write_text("a graph")
    if damage == "no weights":
        shutil.rmtree(path / "variables")
    with pytest.raises(ArtifactError, match="cannot be loaded as a TensorFlow SavedModel"):
        load_model(path, {HISTORY, "city", "age"})


def test_a_ranker_loads_in_a_process_that_has_imported_nothing_else(folder):
    script = (
        "import sys, pathlib; from batchrec.models.serving import load_model;"
        "load_model(pathlib.Path(sys.argv[1]), set(sys.argv[2:])); assert 'tensorflow' in sys.modules"
    )
    command = [sys.executable, "-c", script, str(folder / "ranker.keras"), *PAIR_INPUTS]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
