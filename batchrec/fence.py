"""A fence before the output of this process: what was given up must not write any more, however late it wakes up."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from batchrec.errors import BusyError
from batchrec.stopwatch import Stopwatch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import _GeneratorContextManager

_SECONDS = 10.0
"""How long a write in progress is waited for."""

_changed = threading.Condition()
_shut: set[str] = set()
_passing: dict[str, int] = {}


def check(attempt: str) -> None:
    """See that work for an attempt is still wanted.

    Raises
    ------
    BusyError
        The attempt's fence was shut in this process.
    """
    if attempt in _shut:
        raise BusyError("this partition was given up because its run had to be published", "let it be")


@contextmanager
def passing(attempt: str) -> Iterator[None]:
    """Write for an attempt at a run inside the block: all of it, or nothing if the fence is shut by then.

    Parameters
    ----------
    attempt
        Names the attempt; empty where it is never given up.

    Raises
    ------
    BusyError
        The fence is shut.
    """
    with _changed:
        check(attempt)
        _passing[attempt] = _passing.get(attempt, 0) + 1
    try:
        yield
    finally:
        with _changed:
            _passing[attempt] -= 1
            _changed.notify_all()


def shut(attempt: str) -> bool:
    """Let nothing of an attempt be written by this process from now on, for ever.

    Returns
    -------
    bool
        Whether nothing is being written any more. False where a write hangs.
    """
    with _changed:
        _shut.add(attempt)
        return _changed.wait_for(lambda: not _passing.get(attempt), _SECONDS)


class FencedStopwatch(Stopwatch):
    """A stopwatch whose stages do not begin any more once the fence is shut.

    Parameters
    ----------
    attempt
        Names the attempt.
    """

    def __init__(self, attempt: str) -> None:
        super().__init__()
        self._attempt = attempt

    def __call__(self, stage: str) -> _GeneratorContextManager[None]:
        """Count the time inside the block for `stage`; raises as :func:`check` does."""
        check(self._attempt)
        return super().__call__(stage)
