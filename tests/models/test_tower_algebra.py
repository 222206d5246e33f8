"""The query tower by parts: Keras' own embeddings, and the same bits whatever stands beside a user."""

import copy

import keras
import numpy as np
import pytest

from batchrec.errors import ArtifactError
from batchrec.models.serving import Model, QueryTower, query_tower
from batchrec.models.serving_tower import serving_model
from batchrec.models.tower_algebra import TowerAlgebra
from batchrec.models.tower_parts import take_tower_apart
from batchrec.models.tower_training import TwoTower
from batchrec.models.towers import TowerShape

N_ITEMS, LENGTH = 40, 7
SHAPES = {
    "two blocks": {"user_vocabularies": {"age": 5, "city": 9}, "user_dense": ("spend", "visits")},
    "one block": {"user_vocabularies": {"age": 5}, "user_dense": ("spend",), "blocks": 1},
    "three blocks, four heads": {"user_vocabularies": {"age": 5}, "user_dense": (), "blocks": 3, "heads": 4},
    "no attention": {"user_vocabularies": {}, "user_dense": ("spend", "visits"), "blocks": 0},
    "one dense feature": {"user_vocabularies": {}, "user_dense": ("spend",)},
    "one categorical feature": {"user_vocabularies": {"city": 9}, "user_dense": ()},
    "history alone": {"user_vocabularies": {}, "user_dense": ()},
}


def shape(kind):
    sizes = SHAPES[kind]
    return TowerShape(N_ITEMS, item_vocabularies={}, item_dense=(), dimension=16, history=LENGTH, **sizes)


def trained_like(kind):
    """A query tower none of whose weights is at its start; scores of the attention reach several units."""
    random = np.random.default_rng(2)
    model = serving_model(TwoTower(shape(kind)))
    for weight in model.weights:
        name = weight.path.rsplit("/", 1)[-1]
        noise = random.normal(size=weight.shape)
        if name == "gamma":
            weight.assign(1 + 0.3 * noise)
        elif name in {"beta", "bias", "embeddings"}:
            weight.assign(0.4 * noise)
        else:
            weight.assign(noise * 1.5 / np.sqrt(weight.shape[0]))
    return model


def users(kind, n, seed=3):
    """Users with histories of every length, and some with holes, which the pipeline does not make."""
    random = np.random.default_rng(seed)
    history = random.integers(1, N_ITEMS + 1, (n, LENGTH)).astype(np.int32)
    for row, newest in zip(history, random.integers(0, LENGTH + 1, n), strict=True):
        row[: LENGTH - newest] = 0
    history[::5] *= random.integers(0, 2, history[::5].shape, dtype=np.int32)
    inputs = {"history": history}
    for name, size in SHAPES[kind]["user_vocabularies"].items():
        inputs[name] = random.integers(0, size, n).astype(np.int32)
    return inputs | {name: random.normal(size=n).astype(np.float32) for name in SHAPES[kind]["user_dense"]}


def rows(inputs, which):
    return {name: values[which] for name, values in inputs.items()}


@pytest.fixture(scope="module", params=SHAPES)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def model(kind):
    return trained_like(kind)


def test_embeddings_are_those_of_keras(kind, model):
    inputs = users(kind, 300)
    expected = model.predict(inputs, verbose=0)
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(TowerAlgebra(take_tower_apart(model))(inputs), expected, rtol=1e-5, atol=1e-5)


def test_bits_depend_on_the_user_alone(kind, model):
    embed = TowerAlgebra(take_tower_apart(model))
    inputs = users(kind, 700)
    together = embed(inputs)
    order = np.random.default_rng(0).permutation(700)
    assert np.array_equal(embed(rows(inputs, order)), together[order])
    assert np.array_equal(embed(rows(inputs, slice(0, 33))), together[:33])
    for one in range(9):
        assert np.array_equal(embed(rows(inputs, [one])), together[[one]])


def test_no_users(kind, model):
    assert TowerAlgebra(take_tower_apart(model))(users(kind, 0)).shape == (0, 16)


def test_a_saved_tower_is_recognised_and_others_are_served_by_keras(tmp_path):
    trained_like("two blocks").save(tmp_path / "model.keras")
    model = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    assert isinstance(query_tower(Model(tmp_path, model, model, keras=model), 16), TowerAlgebra)
    assert isinstance(query_tower(Model(tmp_path, model, model, keras=model), 17), QueryTower)
    assert isinstance(query_tower(Model(tmp_path, model, model), 16), QueryTower)


def inside(config, *names):
    for name in names:
        config = next(layer for layer in config["layers"] if layer["name"] == name)["config"]
    return config


def other_activation(config):
    inside(config, "history_encoder", "block0_feedforward")["activation"] = "relu"


def other_activation_in_the_head(config):
    inside(config, "query_head", next(name for name in names(config, "query_head") if name.startswith("dense")))[
        "activation"
    ] = "relu"


def other_epsilon(config):
    inside(config, "history_encoder", "states")["epsilon"] = 0.5


def other_place(config):
    layer = next(layer for layer in config["layers"] if layer["class_name"] == "GetItem")
    args = layer["inbound_nodes"][0]["args"]
    layer["inbound_nodes"][0]["args"] = [args[0], [args[1][0], -2]]


def no_causality(config):
    (node,) = next(
        layer for layer in inside(config, "history_encoder")["layers"] if layer["name"] == "block0_attention"
    )["inbound_nodes"]
    node["kwargs"]["use_causal_mask"] = False


def names(config, model):
    return [layer["name"] for layer in inside(config, model)["layers"]]


@pytest.mark.parametrize(
    "change", [other_activation, other_activation_in_the_head, other_epsilon, other_place, no_causality]
)
def test_a_tower_that_computes_something_else_is_not_recognised(change):
    config = copy.deepcopy(trained_like("two blocks").get_config())
    change(config)
    assert take_tower_apart(keras.Model.from_config(config)) is None


def test_dropout_does_not_count():
    config = copy.deepcopy(trained_like("two blocks").get_config())
    inside(config, "history_encoder", "block0_attention")["dropout"] = 0.7
    assert take_tower_apart(keras.Model.from_config(config)) is not None


@pytest.mark.parametrize(("name", "code"), [("history", N_ITEMS + 1), ("history", -1), ("city", 9), ("age", -1)])
def test_a_code_outside_the_tables_is_told(name, code):
    inputs = users("two blocks", 20)
    inputs[name][3] = code
    with pytest.raises(ArtifactError, match=f"input '{name}'"):
        TowerAlgebra(take_tower_apart(trained_like("two blocks")))(inputs)


def test_a_history_of_another_length_is_told():
    inputs = users("two blocks", 20)
    inputs["history"] = inputs["history"][:, 1:]
    with pytest.raises(ArtifactError, match=r"histories of 7 items, bundle.json says 6"):
        TowerAlgebra(take_tower_apart(trained_like("two blocks")))(inputs)
