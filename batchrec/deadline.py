"""The moment by which a run must be published, and what is kept free before it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from batchrec.errors import ConfigError
from batchrec.times import shown_duration

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from batchrec.config import JobConfig

LEAST_MARGIN_SECONDS = 3.0
LARGEST_MARGIN_SECONDS = 60.0
MARGIN_SHARE = 0.05


@dataclass(frozen=True)
class Deadline:
    """When a run must be published.

    Parameters
    ----------
    at
        The moment, by the wall clock.
    ends
        The same by ``time.monotonic()``, which no change of the clock moves.
    margin
        Seconds before it that are kept free whatever happens: for the manifest, the pointer, and work that is given up.
    """

    at: datetime
    ends: float
    margin: float

    @classmethod
    def of(cls, config: JobConfig, now: datetime, started: float) -> Deadline | None:
        """Return the deadline that the options set; None where they set none.

        Parameters
        ----------
        config
            Options of the run.
        now, started
            When the run began, by the wall clock and by ``time.monotonic()``.

        Raises
        ------
        ConfigError
            It has passed.
        """
        at = config.deadline
        if config.time_budget is not None:
            at = now + timedelta(seconds=config.time_budget)
        if at is None:
            return None
        seconds = (at - now).total_seconds()
        if seconds <= 0:
            raise ConfigError(
                f"the deadline {at:%Y-%m-%d %H:%M:%S %z} has passed",
                "give a later one, or none: what is published until now stays",
            )
        margin = min(max(MARGIN_SHARE * seconds, LEAST_MARGIN_SECONDS), LARGEST_MARGIN_SECONDS)
        return cls(at, started + seconds, margin)

    @property
    def last_call(self) -> float:
        """The moment, by ``time.monotonic()``, from which on the run does nothing but publish."""
        return self.ends - self.margin

    def words(self) -> str:
        """Say when it is and how long that leaves."""
        left = self.ends - time.monotonic()
        when = f"in {shown_duration(left)}" if left > 0 else f"which passed {shown_duration(-left)} ago"
        return f"{self.at.astimezone():%Y-%m-%d %H:%M:%S %z}, {when}"

    def utc(self) -> str:
        """Return the moment as text, in UTC."""
        return self.at.astimezone(UTC).isoformat().replace("+00:00", "Z")


class InTime:
    """A question to the feature store that is waited for until a moment; after that every answer is None.

    Parameters
    ----------
    ask
        The question; it may never come back.
    ends
        Gives the moment, by ``time.monotonic()``.
    """

    def __init__(self, ask: Callable[[pa.Array], pa.Array], ends: Callable[[], float]) -> None:
        self._ask, self._ends = ask, ends

    def __call__(self, ids: pa.Array) -> pa.Array | None:
        """Return the answer, or None where it did not come in time.

        Raises
        ------
        BatchrecError
            What the question raises.
        """
        answers: dict[str, Any] = {}

        def answer() -> None:
            try:
                answers["value"] = self._ask(ids)
            except BaseException as error:
                answers["error"] = error

        left = self._ends() - time.monotonic()
        if left <= 0:
            return None
        thread = threading.Thread(target=answer, daemon=True, name="batchrec-in-time")
        thread.start()
        thread.join(left)
        if "error" in answers:
            raise answers["error"]
        return answers.get("value")
