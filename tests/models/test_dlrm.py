"""The project's own ranker is recognised by its graph; whatever computes something else is not."""

import copy

import keras
import numpy as np
import pytest

from batchrec.models.dlrm import take_apart
from batchrec.models.ranker import ITEM_CODE, ITEM_EMBEDDING, QUERY_EMBEDDING, RankerShape, build_ranker

SHAPE = RankerShape(
    n_items=9,
    user_vocabularies={"age": 4, "city": 6},
    item_vocabularies={"brand": 5},
    user_dense=("spend", "visits"),
    item_dense=("price",),
    dimension=8,
    top=(16, 8),
)


def layer(config, name):
    return next(one for one in config["layers"] if one["name"] == name)


def rebuilt(change):
    """Return the project's ranker with its configuration changed."""
    config = copy.deepcopy(build_ranker(SHAPE).get_config())
    change(config)
    return keras.Model.from_config(config)


def settings(name, **values):
    return lambda config: layer(config, name)["config"].update(values)


def swapped_inputs(name, first, second):
    def change(config):
        inputs = layer(config, name)["inbound_nodes"][0]["args"][0]
        inputs[first], inputs[second] = inputs[second], inputs[first]

    return change


def dropout_rates(config):
    for one in config["layers"]:
        if one["class_name"] == "Dropout":
            one["config"]["rate"] = 0.7


def second_use_of_a_vector(config):
    vectors = layer(config, "interaction")["inbound_nodes"][0]["args"][0]
    vectors[0] = vectors[1]


def test_a_saved_ranker_is_recognised_and_its_sides_read_what_they_should(tmp_path):
    build_ranker(SHAPE).save(tmp_path / "model.keras")
    parts = take_apart(keras.saving.load_model(tmp_path / "model.keras", compile=False))
    assert parts.user.inputs == {"age", "city", "spend", "visits", QUERY_EMBEDDING}
    assert parts.item.inputs == {ITEM_CODE, "brand", "price", ITEM_EMBEDDING}
    # The vectors stand as age, city, item code, brand, the user's dense, the item's dense, query, item.
    assert parts.user.places == (0, 1, 4, 6)
    assert parts.item.places == (2, 3, 5, 7)
    assert [kernel.shape for kernel, _ in parts.top] == [(2 * 8 + 28, 16), (16, 8), (8, 1)]


@pytest.mark.parametrize(
    "change", [settings("top_1", trainable=False), settings("embed_age", embeddings_initializer="zeros"), dropout_rates]
)
def test_what_does_not_count_after_training_does_not_count(change):
    assert take_apart(rebuilt(change)) is not None


def test_features_may_stand_in_another_order():
    parts = take_apart(rebuilt(swapped_inputs("interaction", 0, 1)))
    assert list(parts.user.tables) == ["city", "age"]


@pytest.mark.parametrize(
    "change",
    [
        settings("top_0", activation="gelu"),
        settings("top_1", activation="linear"),
        settings("bottom_user", activation="relu"),
        settings("top_output", activation="sigmoid"),
        settings("norm_item_embedding", epsilon=0.5),
        settings("retrieval_scale", use_bias=True),
        settings("embed_city", mask_zero=True),
        swapped_inputs("interaction", -1, -2),
        swapped_inputs("top_input", 0, 1),
        second_use_of_a_vector,
    ],
)
def test_a_ranker_that_computes_something_else_is_not_recognised(change):
    assert take_apart(rebuilt(change)) is None


def test_other_models_are_not_recognised():
    one = keras.Input((3,), name="one")
    assert take_apart(keras.Model(one, keras.layers.Dense(1)(one))) is None
    assert take_apart(keras.Sequential([keras.layers.Dense(1)])) is None


def test_a_ranker_with_a_step_more_is_not_recognised():
    ranker = build_ranker(SHAPE)
    more = keras.Model(ranker.input, keras.ops.tanh(ranker.output))
    assert take_apart(more) is None


def test_a_ranker_within_another_precision_is_not_recognised():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        ranker = build_ranker(SHAPE)
    finally:
        keras.config.set_dtype_policy("float32")
    assert take_apart(ranker) is None


def test_weights_are_copied_as_they_are():
    ranker = build_ranker(SHAPE)
    random = np.random.default_rng(0)
    ranker.set_weights([random.normal(size=weight.shape) for weight in ranker.get_weights()])
    parts = take_apart(ranker)
    np.testing.assert_array_equal(parts.item.tables["brand"], ranker.get_layer("embed_brand").get_weights()[0])
    np.testing.assert_array_equal(parts.user.bottom[2], ranker.get_layer("bottom_user").get_weights()[0])
    assert parts.retrieval_scale == ranker.get_layer("retrieval_scale").get_weights()[0]
