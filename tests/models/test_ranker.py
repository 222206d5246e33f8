import subprocess
import sys

import keras
import numpy as np
import pytest

from batchrec.models.ranker import ITEM_CODE, ITEM_EMBEDDING, QUERY_EMBEDDING, RankerShape, build_ranker

SHAPE = RankerShape(
    n_items=9, user_vocabularies={"age": 4}, item_vocabularies={"brand": 5}, user_dense=("spend",),
    item_dense=("price",), dimension=8, top=(16, 8),
)  # fmt: skip


def pairs(n, seed=0):
    random = np.random.default_rng(seed)
    return {
        "age": random.integers(0, 4, n).astype(np.int32),
        "brand": random.integers(0, 5, n).astype(np.int32),
        ITEM_CODE: random.integers(1, 10, n).astype(np.int32),
        "spend": random.normal(size=n).astype(np.float32),
        "price": random.normal(size=n).astype(np.float32),
        QUERY_EMBEDDING: random.normal(size=(n, 8)).astype(np.float32),
        ITEM_EMBEDDING: random.normal(size=(n, 8)).astype(np.float32),
    }


def test_an_untrained_ranker_is_retrieval():
    inputs = pairs(50)
    relevance = build_ranker(SHAPE).predict_on_batch(inputs)
    assert relevance.shape == (50,)
    assert relevance == pytest.approx((inputs[QUERY_EMBEDDING] * inputs[ITEM_EMBEDDING]).sum(axis=1), abs=1e-5)


def test_every_input_matters_once_the_output_is_not_zero():
    keras.utils.set_random_seed(0)
    ranker = build_ranker(SHAPE)
    ranker.set_weights([w + 0.1 * np.random.default_rng(1).normal(size=w.shape) for w in ranker.get_weights()])
    inputs, others = pairs(20), pairs(20, seed=9)
    before = ranker.predict_on_batch(inputs)
    for name in inputs:
        assert not np.allclose(ranker.predict_on_batch(inputs | {name: others[name]}), before), name


def test_features_with_too_many_values_stay_out():
    shape = RankerShape(9, {"user_id": 11, "age": 10}, {"brand": 10, "maker": 11}, (), ("price",))
    assert shape.without_rare(1000).features == {"age", "brand", "price"}


def test_a_saved_ranker_loads_in_safe_mode_without_this_package(tmp_path):
    keras.utils.set_random_seed(0)
    ranker = build_ranker(SHAPE)
    inputs = pairs(5)
    ranker.save(tmp_path / "model.keras")
    np.savez(tmp_path / "pairs.npz", **inputs)
    code = """
import sys, keras, keras_rs, numpy as np
model = keras.saving.load_model(sys.argv[1] + "/model.keras", compile=False, safe_mode=True)
np.save(sys.argv[1] + "/out.npy", model.predict_on_batch(dict(np.load(sys.argv[1] + "/pairs.npz"))))
assert not any(name.split(".")[0] == "batchrec" for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=tmp_path, capture_output=True)
    assert np.load(tmp_path / "out.npy") == pytest.approx(ranker.predict_on_batch(inputs), abs=1e-6)
