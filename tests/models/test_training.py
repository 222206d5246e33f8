import numpy as np
import pytest

from batchrec.models import training
from batchrec.models.held_out import HeldOut, best_items, hold_out
from batchrec.models.training import TrainingOptions, train_models
from tests.models.support import cycles, make_events, make_items, small_shape

N_ITEMS, LENGTH = 30, 9
OPTIONS = TrainingOptions(
    seed=1, epochs=6, patience=6, tower_learning_rate=1e-2, windows=32, list_length=16, moments=500
)


def planted():
    return make_events(cycles(200, N_ITEMS, LENGTH, seed=0))


def trained(events, options=OPTIONS):
    since = np.zeros(N_ITEMS, np.int64)
    return train_models(events, make_items(N_ITEMS), since, np.arange(N_ITEMS), small_shape(N_ITEMS), options)


@pytest.fixture(scope="module")
def models():
    return trained(planted())


def test_what_is_planted_is_learnt(models):
    events = planted()
    target = HeldOut.of(events, hold_out(events, 1))
    popular = np.bincount(events.item, minlength=N_ITEMS).astype(np.float32)[:, None]
    popularity = target.ndcg(best_items(np.ones((len(target.moments), 1), np.float32), popular, target.seen, 10))
    assert models.figures["ranker_ndcg"] >= models.figures["retrieval_ndcg"] > 2 * popularity


def test_one_seed_gives_the_same_weights_and_another_does_not(models):
    again = trained(planted())
    assert np.array_equal(again.item_embeddings, models.item_embeddings)
    for one in ("query_tower", "ranker"):
        pairs = zip(getattr(again, one).get_weights(), getattr(models, one).get_weights(), strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs), one
    assert np.array_equal(again.query_sample, models.query_sample)
    other = trained(planted(), TrainingOptions(seed=2, epochs=1, windows=32, list_length=16, moments=50))
    assert not np.array_equal(other.item_embeddings, models.item_embeddings)


def test_no_model_learns_from_what_is_held_out(monkeypatch):
    events, learnt = planted(), []
    held = hold_out(events, 1)

    def record(function, place):
        def recorded(*args, **kwargs):
            learnt.append(args[place].time)
            return function(*args, **kwargs)

        return recorded

    monkeypatch.setattr(training, "WindowBatches", record(training.WindowBatches, 0))
    monkeypatch.setattr(training, "replay", record(training.replay, 1))
    trained(events, TrainingOptions(seed=1, epochs=1, windows=32, list_length=16, moments=50))
    assert len(learnt) == 2
    for times in learnt:
        assert set(times.tolist()) == set(events.time[~held].tolist())


def test_single_events_train_without_a_ranker_having_anything_to_learn():
    events = make_events([[item % N_ITEMS] for item in range(40)])
    models = trained(events, TrainingOptions(epochs=1, windows=8))
    assert models.item_embeddings.shape == (N_ITEMS, 16)
    assert np.all(np.isfinite(models.item_embeddings))
