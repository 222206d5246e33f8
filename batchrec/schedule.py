"""Which partition is started next and at which level of effort, so that a run is published by its deadline."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from batchrec.worker import compute_partition

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from batchrec.deadline import Deadline
    from batchrec.levels import Level
    from batchrec.worker import Outcome, Work

HEADROOM = 1.1
"""What is predicted to take a second is given so many."""

SMOOTHING = 0.5
"""Weight of the newest measurement."""

_BY_PAIRS = ("rank", "sample")
"""Stages whose time grows with the candidates; that of all others does not, or little."""


class Pace:
    """Seconds that a partition occupies a thread for, a user and a pair: exponentially smoothed over what was measured.

    From these two numbers the time at a level that was not tried yet follows as well.
    """

    def __init__(self) -> None:
        self._user: float | None = None
        self._pair: float | None = None

    @property
    def is_known(self) -> bool:
        """Whether anything was measured."""
        return self._user is not None

    def measure(self, seconds: Mapping[str, float], users: int, level: Level) -> None:
        """Take in what the stages of a partition took."""
        by_pairs = sum(seconds.get(stage, 0.0) for stage in _BY_PAIRS)
        self._user = _smoothed(self._user, (sum(seconds.values()) - by_pairs) / users)
        if level.pairs:
            self._pair = _smoothed(self._pair, by_pairs / (users * level.pairs))

    def seconds(self, level: Level, users: int) -> float:
        """Predict for so many users at a level; 0 where nothing was measured."""
        return users * ((self._user or 0.0) + level.pairs * (self._pair or 0.0))


class Schedule:
    """Hands out partitions, each at the highest level at which all that are left would be done in time.

    Where they would not even be at the lowest one, partitions are handed out at that level for as long as each still
    ends in time; what is never handed out, or not done when the time is up, is left over for the most popular items.
    Who that is changes with the name of the run: partitions go out in the order of a hash of it and their number.

    Parameters
    ----------
    deadline
        When the run must be published.
    levels
        From the highest to the lowest.
    sizes
        Users of each partition that is to be made, by number.
    popular
        Seconds a user for the part of a partition that is left over, as measured.
    after
        Gives the seconds that everything after the last part will take, but for the deadline's own margin.
    clock
        ``time.monotonic``, or another for tests.
    """

    def __init__(
        self,
        deadline: Deadline,
        levels: Sequence[Level],
        sizes: Mapping[int, int],
        popular: float,
        after: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._deadline, self._levels, self._popular, self._after, self._clock = deadline, levels, popular, after, clock
        self._sizes = dict(sizes)
        self._left = dict(sizes)
        self._in_work: dict[int, tuple[Level, float]] = {}
        self.pace = Pace()

    def until(self) -> float:
        """Return the moment, by the clock, at which partitions that are not done are given up."""
        unfinished = sum(self._left.values()) + sum(self._sizes[number] for number in self._in_work)
        return self._deadline.last_call - self._after() - HEADROOM * self._popular * unfinished

    def tasks(self, run_id: str, threads: int) -> Iterator[tuple[int, int]]:
        """Yield partitions and the numbers of their levels, to so many threads; ask for each when one is free."""
        for number in sorted(self._left, key=lambda number: _place(run_id, number)):
            chosen = self._level(number, threads)
            if chosen is None:
                return
            del self._left[number]
            self._in_work[number] = self._levels[chosen], self._clock()
            yield number, chosen

    def done(self, outcome: Outcome) -> Level:
        """Take in how a partition went; return its level."""
        level, _ = self._in_work.pop(outcome.partition)
        if outcome.part is not None:
            self.pace.measure(outcome.seconds, outcome.users, level)
        return level

    def left_over(self) -> list[int]:
        """Return the partitions that were not handed out, or were and are not done, ascending."""
        return sorted(self._left.keys() | self._in_work.keys())

    def _level(self, number: int, threads: int) -> int | None:
        """Return the number of the level to start a partition at; None where it would not be done in time at any."""
        seconds = self.until() - self._clock()
        if seconds <= 0:
            return None
        if not self.pace.is_known:
            return 0
        users = sum(self._left.values())
        in_work = sum(self._rest(*started, self._sizes[number]) for number, started in self._in_work.items())
        for place, level in enumerate(self._levels):
            all_of_it = (in_work + self.pace.seconds(level, users)) / threads
            # The threads do not end together: the last partition to be started may run alone.
            alone = self.pace.seconds(level, self._sizes[number])
            if HEADROOM * max(all_of_it, alone) <= seconds:
                return place
        lowest = len(self._levels) - 1
        alone = self.pace.seconds(self._levels[lowest], self._sizes[number])
        return lowest if HEADROOM * alone <= seconds else None

    def _rest(self, level: Level, started: float, users: int) -> float:
        return max(0.0, self.pace.seconds(level, users) - (self._clock() - started))


def compute_at_level(work: Work, levels: Sequence[Level], task: tuple[int, int]) -> Outcome:
    """Compute a partition at a level, both given by their numbers; see :func:`~batchrec.worker.compute_partition`."""
    number, place = task
    return compute_partition(replace(work, options=levels[place].options, is_degraded=place > 0), number)


def _smoothed(before: float | None, now: float) -> float:
    return now if before is None else SMOOTHING * now + (1 - SMOOTHING) * before


def _place(run_id: str, number: int) -> bytes:
    return hashlib.sha256(f"{run_id}/{number}".encode()).digest()
