import contextlib

import keras
import numpy as np
import pytest

from batchrec.models.fit import Schedule, fit, prepare


class Quiet:
    """A reporter that keeps what it is told."""

    def __init__(self, seconds=0.0):
        self.seconds, self.ticks, self.figures, self.stopped = seconds, [], [], []

    @contextlib.contextmanager
    def epoch(self, number, batches):
        yield lambda count: self.ticks.append(count)

    def figure(self, number, loss, figure):
        self.figures.append(figure)

    def out_of_time(self, number, epochs):
        self.stopped.append((number, epochs))


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        return np.ones((2, 1), np.float32), np.ones(2, np.int32)


def run(figures, *, patience=2, seconds=0.0, begin=-np.inf):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    schedule = Schedule(epochs=len(figures), patience=patience, learning_rate=0.1, seconds=60)
    prepare(model, keras.losses.SparseCategoricalCrossentropy(from_logits=True), schedule, Batches())
    weights, reporter, upcoming = [model.get_weights()], Quiet(seconds), iter(figures)

    def measure():
        weights.append(model.get_weights())
        return next(upcoming)

    best = fit(model, Batches(), schedule, measure, reporter, begin=begin)
    kept = next(i for i, one in enumerate(weights) if all(map(np.array_equal, one, model.get_weights())))
    return best, kept, reporter


@pytest.mark.parametrize(
    ("figures", "begin", "best", "kept", "epochs"),
    [
        ([1, 3, 2, 2, 9], -np.inf, 3, 2, 4),  # two epochs without a better figure end it
        ([1, 2, 3, 4], -np.inf, 4, 4, 4),
        ([1, 2, 3, 4], 2.5, 2.5, 0, 2),  # never better than the beginning: the model stays as it was
        ([1, 3], 2, 3, 2, 2),
    ],
)
def test_the_best_weights_are_kept(figures, begin, best, kept, epochs):
    found, place, reporter = run(figures, begin=begin)
    assert (found, place, len(reporter.figures)) == (best, kept, epochs)
    assert sum(reporter.ticks) == 3 * epochs


def test_no_epoch_begins_when_time_is_up():
    reporter = run([1, 2, 3], seconds=61.0)[2]
    assert len(reporter.figures) == 1
    assert reporter.stopped == [(1, 3)]
    assert not run([1, 2, 3])[2].stopped
