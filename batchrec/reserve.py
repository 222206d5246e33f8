"""How long everything after the last part will take: measured on the first part, for the whole run."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from batchrec.errors import BatchrecError

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchrec.deadline import Deadline
    from batchrec.output.record import PartRecord

TRIES = 2
"""The first one may wait for what is loaded once."""


class Reserve:
    """The seconds that are kept free before a deadline for suppression and proof.

    Both read every part again. What that takes is measured by proving the first part that is done, in a thread of its
    own, while others are computed; until then nothing is known, and nothing kept free but the deadline's own margin.

    Parameters
    ----------
    deadline
        When the run must be published.
    users
        Of the whole run.
    prove_part
        Proves one part; None where the run is not proven.
    readings
        How often all parts are read: once to be proven, once to be suppressed.
    """

    def __init__(
        self, deadline: Deadline, users: int, prove_part: Callable[[PartRecord], object] | None, readings: int
    ) -> None:
        self.deadline = deadline
        self._users, self._prove_part, self._readings = users, prove_part, readings
        self._thread: threading.Thread | None = None
        self._a_user = 0.0

    def measure(self, record: PartRecord, users: int) -> None:
        """Begin to measure with a part of so many users; only the first call does anything."""
        if self._thread is None and self._prove_part is not None:
            asked = [self._prove_part, record, users]
            self._thread = threading.Thread(target=self._tried, args=asked, daemon=True, name="batchrec-try")
            self._thread.start()

    def seconds(self) -> float:
        """Predict the seconds after the last part; 0 until they are measured."""
        return self._a_user * self._users * self._readings

    def _tried(self, prove_part: Callable[[PartRecord], object], record: PartRecord, users: int) -> None:
        with suppress(BatchrecError):  # what is wrong is told by the proof itself
            self._a_user = min(seconds_of(lambda: prove_part(record)) for _ in range(TRIES)) / users


def seconds_of(work: Callable[[], object]) -> float:
    """Do something and return how long it took."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
