"""What training tells of its progress."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from batchrec.progress import Progress, say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Reporter:
    """Progress of one model's training, on standard error.

    Parameters
    ----------
    model
        Name of what is trained.
    figure_name
        Name of the figure that decides when to stop.
    """

    def __init__(self, model: str, figure_name: str) -> None:
        self._model, self._figure_name = model, figure_name
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since training began."""
        return time.monotonic() - self._start

    @contextmanager
    def epoch(self, number: int, batches: int) -> Iterator[Callable[[int], None]]:
        """Show one epoch's progress; yields the function that counts batches."""
        with Progress(f"{self._model}, epoch {number}", batches, "batches", quiet=True) as progress:
            yield progress.advance

    def figure(self, number: int, loss: float, figure: float) -> None:
        """Say how an epoch ended."""
        say(f"{self._model}, epoch {number}: loss {loss:.4f}, {self._figure_name} {figure:.4f}, {self.seconds:.0f} s")

    def out_of_time(self, number: int, epochs: int) -> None:
        """Say that the time ended training: with more of it the models may be better, and other ones."""
        say(
            f"{self._model} stopped by --minutes after {number} of {epochs} epochs: give more for models that do not "
            "hang on how fast this machine is",
            level="warning",
        )
