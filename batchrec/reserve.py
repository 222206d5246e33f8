"""How long everything after the last part will take: measured on the first part, for the whole run."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from batchrec.errors import BatchrecError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from batchrec.deadline import Deadline
    from batchrec.output.record import PartRecord

ROUNDS = 2
"""The first one may wait for what is loaded once."""


class Reserve:
    """The seconds that are kept free before a deadline for suppression and proof.

    Both read every part again. What that takes is measured by proving the first part that is done, in a thread of its
    own, while others are computed: first without asking the feature store, then with. Until then nothing is known, and
    nothing kept free but the deadline's own margin.

    Parameters
    ----------
    deadline
        When the run must be published.
    users
        Of the whole run.
    tries
        Prove one part: without asking the feature store, and with; none where the run is not proven.
    readings
        How often all parts are read: once to be proven, once to be suppressed.
    """

    def __init__(
        self, deadline: Deadline, users: int, tries: Sequence[Callable[[PartRecord], object]], readings: int
    ) -> None:
        self.deadline = deadline
        self._users, self._tries, self._readings = users, tries, readings
        self._thread: threading.Thread | None = None
        self._a_user: list[float] = []

    def measure(self, record: PartRecord, users: int) -> None:
        """Begin to measure with a part of so many users; only the first call does anything."""
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._tried, args=[record, users], daemon=True, name="batchrec-reserve"
            )
            self._thread.start()

    def seconds(self) -> float:
        """Predict the seconds after the last part; 0 until they are measured."""
        return self._readings * self._users * max(self._a_user, default=0.0)

    def ask_until(self) -> float:
        """Return the moment, by ``time.monotonic()``, from which on a proof must do without the feature store."""
        without = self._a_user[0] if self._a_user else 0.0
        return self.deadline.last_call - self._users * without

    def _tried(self, record: PartRecord, users: int) -> None:
        with suppress(BatchrecError):  # what is wrong is told by the proof itself
            for prove_part in self._tries:
                self._a_user.append(min(seconds_of(partial(prove_part, record)) for _ in range(ROUNDS)) / users)


def seconds_of(work: Callable[[], object]) -> float:
    """Do something and return how long it took."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
