import subprocess
import sys

import keras
import numpy as np
import pytest

from batchrec.models.events import histories
from batchrec.models.serving_tower import ServingTower
from batchrec.models.tower_training import TwoTower, WindowBatches
from tests.models.support import make_events, make_items, small_shape

N_ITEMS = 12
HISTORIES = [[0, 3, 5, 7, 9, 11, 1], [2, 4], [6, 8, 10]]
BRAND = (np.arange(N_ITEMS) % 4 + 1).astype(np.int32)


@pytest.fixture(scope="module")
def world():
    keras.utils.set_random_seed(3)
    shape = small_shape(N_ITEMS, user={"age": 5}, item={"brand": 5}, history=8, dropout=0.2)
    age = np.random.default_rng(0).integers(0, 5, 12).astype(np.int32)
    events = make_events(HISTORIES, user_features={"age": age})
    towers = TwoTower(shape)
    serving = ServingTower(towers, {"brand": BRAND})
    batches = WindowBatches(events, make_items(N_ITEMS, brand=BRAND), shape, 3, seed=0)
    towers.compile(optimizer="adam", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    towers.fit(batches, epochs=2, verbose=0)
    serving.refresh()
    return towers, serving, events, batches


def test_serving_scores_are_the_training_logits_of_the_last_place(world):
    towers, serving, events, batches = world
    inputs, _, weight = batches[0]
    length = inputs["history"].shape[1]
    places = np.array([place for place in np.flatnonzero(weight) if inputs["place"][place] % length == length - 1])
    pool = inputs["pool_code"] > 0
    logits = np.asarray(towers(inputs, training=False)) + inputs["pool_log_chance"]
    moments = np.array([find(events, inputs, place) for place in places])
    queries = serving.embed_moments(events, moments)
    scores = queries @ serving.item_embeddings[inputs["pool_code"][pool] - 1].T
    assert len(places) == len(HISTORIES)
    assert scores == pytest.approx(logits[places][:, pool], abs=1e-4)


def find(events, inputs, place):
    """Event of a place: the one whose history, and features, the place has."""
    row, column = divmod(int(inputs["place"][place]), inputs["history"].shape[1])
    codes = inputs["pool_code"][inputs["history"][row, : column + 1]]
    before = (codes[codes > 0] - 1).tolist()
    for event in range(len(events)):
        h = histories(events, np.array([event]), len(before) + 1)[0]
        if (
            events.item[h[h >= 0]].tolist() == before
            and events.user_features["age"][event] == inputs["user"]["age"][place]
        ):
            return event
    raise AssertionError(before)


def test_the_query_of_a_user_depends_on_nobody_else(world):
    _, serving, events, _ = world
    together = serving.embed_moments(events, np.array([3, 6, 8]))
    assert np.array_equal(serving.embed_moments(events, np.array([6])), together[1:2])


def test_a_saved_tower_loads_in_safe_mode_without_this_package(world, tmp_path):
    _, serving, _, _ = world
    inputs = {"history": np.array([[0] * 5 + [3, 1, 4]], np.int32), "age": np.array([2], np.int32)}
    serving.model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "inputs.npz", **inputs)
    code = """
import sys, keras, numpy as np
model = keras.saving.load_model(sys.argv[1] + "/model.keras", compile=False, safe_mode=True)
np.save(sys.argv[1] + "/out.npy", model.predict_on_batch(dict(np.load(sys.argv[1] + "/inputs.npz"))))
assert not any(name.split(".")[0] in ("batchrec", "keras_rs") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=tmp_path, capture_output=True)
    assert np.load(tmp_path / "out.npy") == pytest.approx(serving.model.predict_on_batch(inputs), abs=1e-6)
