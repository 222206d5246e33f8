"""A lease: a lock on an object store, with an owner and an expiry, that a dead owner does not hold for ever.

Each owner is a generation: an object made on the condition that there is none of that number. The owner puts it again
every few seconds; whoever finds the newest generation unrenewed for longer than its time to live makes the next one.
Age is told by the store's own clock, from the time of a probe put just now, so no machine's clock matters.
"""

from __future__ import annotations

import json
import secrets
import threading
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING

from batchrec.errors import BusyError, SinkError
from batchrec.output.local_storage import owner, owner_words

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchrec.output.storage import Storage

SECONDS = 60.0
"""How long a lease outlives its last renewal."""

RENEWALS = 4
"""Renewals within that time: all but one may fail."""

_PROBE = "probe-"


class Lease:
    """A generation that this process made; see :func:`lease`.

    Parameters
    ----------
    storage
        Folder of the lock's objects.
    what
        What is protected, for messages.
    seconds
        Time to live.
    """

    def __init__(self, storage: Storage, what: str, seconds: float) -> None:
        self._storage, self._what, self._seconds = storage, what, seconds
        self._content = json.dumps(owner() | {"seconds": seconds, "token": secrets.token_hex(16)}).encode()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True, name="batchrec-lease")
        self._name = self._acquired()
        self._thread.start()

    def check(self) -> None:
        """See that no other process has taken the lease over.

        Raises
        ------
        BusyError
            One has.
        """
        newest = _newest(self._storage)
        if newest != self._name or self._read(newest) != self._content:
            raise BusyError(
                f"another process has taken over {self._what}, because this one was not heard of for "
                f"{self._seconds:.0f} seconds",
                "see what that process publishes, then run again",
            )

    def release(self) -> None:
        """Let go."""
        self._stopped.set()
        self._thread.join()
        if self._read(self._name) == self._content:
            self._storage.remove([self._name])

    def _acquired(self) -> str:
        newest = _newest(self._storage)
        if newest is not None:
            self._refuse_if_held(newest)
        name = _name(0 if newest is None else int(newest) + 1)
        if not self._storage.create(name, self._content):
            raise self._busy(name)
        if newest is not None:
            self._storage.remove([newest])
        return name

    def _refuse_if_held(self, name: str) -> None:
        content = self._read(name)
        try:
            lifetime = float(json.loads(content)["seconds"])
        except (ValueError, KeyError, TypeError):
            lifetime = SECONDS
        probe = f"{_PROBE}{secrets.token_hex(8)}"
        self._storage.write(probe, b"")
        try:
            age = self._storage.modified(probe) - self._storage.modified(name)
        except FileNotFoundError:  # released this moment; whoever asks again gets it
            age = timedelta(0)
        finally:
            self._storage.remove([probe])
        if age <= timedelta(seconds=lifetime):
            raise self._busy(name)

    def _busy(self, name: str) -> BusyError:
        return BusyError(
            f"another process is writing {self._what} ({owner_words(self._read(name))})",
            f"wait until it is done; if it died, its lock expires {self._seconds:.0f} s after its last sign of life",
        )

    def _read(self, name: str) -> bytes:
        try:
            return self._storage.read(name)
        except FileNotFoundError:
            return b""

    def _renew(self) -> None:
        while not self._stopped.wait(self._seconds / RENEWALS):
            # A store that is away for a moment is no reason to die: `check` decides before anything is published.
            with suppress(SinkError):
                if self._read(self._name) != self._content:
                    return
                self._storage.write(self._name, self._content)


@contextmanager
def lease(storage: Storage, what: str, seconds: float | None = None) -> Iterator[Lease]:
    """Hold a lease for as long as the block lasts.

    Parameters
    ----------
    storage
        Folder of the lock's objects.
    what
        What is protected, for messages.
    seconds
        Time to live; default :data:`SECONDS`.

    Raises
    ------
    BusyError
        Another process holds it.
    SinkError
        The store does not answer.
    """
    held = Lease(storage, what, SECONDS if seconds is None else seconds)
    try:
        yield held
    finally:
        with suppress(SinkError):  # it expires by itself
            held.release()


def _newest(storage: Storage) -> str | None:
    return max((name for name in storage.names() if name.isdigit()), default=None)


def _name(generation: int) -> str:
    return f"{generation:010d}"
