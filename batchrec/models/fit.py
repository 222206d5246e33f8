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
    learning_rate, weight_decay
        Of AdamW (Loshchilov & Hutter 2019).
    seconds
        Wall-clock seconds after which no further epoch is begun.
    """

    epochs: int
    patience: int
    learning_rate: float
    weight_decay: float
    seconds: float


def compile_for_lists(model: keras.Model, schedule: Schedule) -> None:
    """Give a model that puts out logits over alternatives its loss and optimiser."""
    model.compile(
        optimizer=keras.optimizers.AdamW(schedule.learning_rate, weight_decay=schedule.weight_decay, clipnorm=5.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
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
) -> int:
    """Train until the figure stops growing, and leave the model with its best weights.

    Parameters
    ----------
    model
        Compiled and built.
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
    int
        Number of epochs after which the model was best; 0 where no epoch was better than the beginning.
    """
    best, best_epoch, weights = begin, 0, model.get_weights()
    for epoch in range(1, schedule.epochs + 1):
        with reporter.epoch(epoch, len(batches)) as tick:
            history = model.fit(batches, epochs=1, verbose=0, callbacks=[_Tick(tick)])
        figure = measure()
        reporter.figure(epoch, float(history.history["loss"][-1]), figure)
        if figure > best:
            best, best_epoch, weights = figure, epoch, model.get_weights()
        if epoch - best_epoch >= schedule.patience or reporter.seconds > schedule.seconds:
            break
    model.set_weights(weights)
    return best_epoch


class _Tick(keras.callbacks.Callback):
    """Tells a progress bar of every batch."""

    def __init__(self, tick: Callable[[int], None]) -> None:
        super().__init__()
        self._tick = tick

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        """Count one batch."""
        self._tick(1)
