"""Fitting a Keras model epoch by epoch: progress, early stopping on a figure of ours, best weights kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchrec.models.reporting import Reporter


@dataclass(frozen=True)
class Schedule:
    """How long to train and how.

    Parameters
    ----------
    epochs
        Most epochs.
    patience
        Epochs without a better figure after which to stop.
    learning_rate
        Of AdamW (Loshchilov & Hutter 2019) at the first step; falls to nothing over all epochs, as a cosine does
        (Loshchilov & Hutter 2017).
    seconds
        Wall-clock seconds after which no further epoch is begun.
    """

    epochs: int
    patience: int
    learning_rate: float
    seconds: float


def prepare(model: keras.Model, loss: keras.losses.Loss, schedule: Schedule, batches: keras.utils.PyDataset) -> None:
    """Give a model its loss and its optimiser."""
    rate = keras.optimizers.schedules.CosineDecay(schedule.learning_rate, schedule.epochs * len(batches))
    model.compile(
        optimizer=keras.optimizers.AdamW(rate, weight_decay=0.004, clipnorm=5.0),
        loss=loss,
        # TensorFlow runs these models four times as fast without XLA on a CPU (docs/decisions/002-towers.md).
        jit_compile=False if keras.backend.backend() == "tensorflow" else "auto",
    )


def fit(
    model: keras.Model,
    batches: keras.utils.PyDataset,
    schedule: Schedule,
    measure: Callable[[], float],
    reporter: Reporter,
    *,
    begin: float = float("-inf"),
) -> float:
    """Train until the figure stops growing, and leave the model with its best weights.

    Parameters
    ----------
    model
        Built, and prepared by :func:`prepare`.
    batches
        Training batches.
    schedule
        When to stop.
    measure
        Figure on held-out events after an epoch; higher is better.
    reporter
        Told of every batch and every epoch.
    begin
        Figure of the model as it stands; training that never exceeds it leaves the model as it was.

    Returns
    -------
    float
        The figure of the weights that it is left with.
    """
    best, best_epoch, weights = begin, 0, model.get_weights()
    for epoch in range(1, schedule.epochs + 1):
        with reporter.epoch(epoch, len(batches)) as tick:
            history = model.fit(batches, epochs=1, verbose=0, callbacks=[_Tick(tick)])
        figure = measure()
        reporter.figure(epoch, float(history.history["loss"][-1]), figure)
        if figure > best:
            best, best_epoch, weights = figure, epoch, model.get_weights()
        if epoch - best_epoch >= schedule.patience:
            break
        if reporter.seconds > schedule.seconds and epoch < schedule.epochs:
            reporter.out_of_time(epoch, schedule.epochs)
            break
    model.set_weights(weights)
    return best


class _Tick(keras.callbacks.Callback):
    """Tells a progress bar of every batch."""

    def __init__(self, tick: Callable[[int], None]) -> None:
        super().__init__()
        self._tick = tick

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        """Count one batch."""
        self._tick(1)
