"""Progress of long work: a bar with its rate on a terminal, log lines elsewhere. Always on standard error."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Self

from batchrec.log import is_json, say

if TYPE_CHECKING:
    from types import TracebackType

    from rich.progress import Progress as RichProgress

__all__ = ["Progress", "say"]

LINE_EVERY_SECONDS = 10.0


class Progress:
    """Progress of one piece of work.

    Parameters
    ----------
    title
        What is being done.
    total
        Number of units until done.
    unit
        Plural name of a unit, as in "users"; its rate is shown in units per second.
    quiet
        Say nothing at the end; for work whose end is told in other words.
    """

    def __init__(self, title: str, total: int, unit: str, *, quiet: bool = False) -> None:
        self.title, self.total, self.unit, self.quiet = title, total, unit, quiet
        self.done = 0
        self._bar: RichProgress | None = None

    def __enter__(self) -> Self:
        self._start = self._last_line = time.monotonic()
        if sys.stderr.isatty() and not is_json():
            self._bar = _terminal_bar()
            self._task = self._bar.add_task(self.title, total=self.total, rate="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif kind is None and not self.quiet:
            self._say(f"{self.done:,} {self.unit} in {self.seconds:.1f} s")

    @property
    def seconds(self) -> float:
        """Seconds since the work began."""
        return time.monotonic() - self._start

    @property
    def rate(self) -> float:
        """Units per second so far."""
        return self.done / max(self.seconds, 1e-9)

    def advance(self, units: int) -> None:
        """Count further units as done."""
        self.done += units
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, rate=f"{self.rate:,.0f} {self.unit}/s")
        elif time.monotonic() - self._last_line > LINE_EVERY_SECONDS:
            self._last_line = time.monotonic()
            self._say(f"{self.done:,} of {self.total:,} {self.unit}")

    def _say(self, far: str) -> None:
        say(
            f"{self.title}: {far}, {self.rate:,.0f} {self.unit}/s",
            event="progress",
            done=self.done,
            total=self.total,
            unit=self.unit,
            seconds=round(self.seconds, 3),
            per_second=round(self.rate, 1),
        )


def _terminal_bar() -> RichProgress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    return RichProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        redirect_stdout=False,  # what a command prints as its result must reach standard output, also meanwhile
    )
