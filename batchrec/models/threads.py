"""The one place that decides how many threads compute, and who computes now.

A pool of one thread a core computes everything that is cut into blocks, whose size does not depend on the number of
threads, each with kernels that use that one thread; several partitions may have blocks in it. TensorFlow, which shares
its operations out to its own threads, takes turns with the pool. So no two libraries compete for the cores, and no last
bit depends on how many there are.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa
from threadpoolctl import threadpool_limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Piece = TypeVar("Piece")
Result = TypeVar("Result")


class _Turn:
    """Lets in one caller alone, or any number that share; who waits to be alone is let in before others share."""

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._sharing = self._waiting = 0

    def __enter__(self) -> None:
        self._change.acquire()
        self._waiting += 1
        self._change.wait_for(lambda: not self._sharing)
        self._waiting -= 1

    def __exit__(self, *_: object) -> None:
        self._change.notify_all()
        self._change.release()

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        with self._change:
            self._change.wait_for(lambda: not self._waiting)
            self._sharing += 1
        try:
            yield
        finally:
            with self._change:
                self._sharing -= 1
                self._change.notify_all()


turn = _Turn()
"""Who has the cores: one call of TensorFlow, or all callers of the pool. Reading and writing go on meanwhile."""


def cores() -> int:
    """Return how many threads may compute: the cores given to this process, or ``OMP_NUM_THREADS`` where it is less."""
    given = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(given, int(asked)) if asked.isdecimal() and int(asked) else given


def share_out(function: Callable[[Piece], Result], pieces: Iterable[Piece]) -> list[Result]:
    """Compute every piece on the pool and return the results in order; the first failure is raised.

    Several threads may call at once. A piece must not share out work itself.
    """
    with turn.shared():
        return list(_pool().map(function, pieces))


def one_thread_a_call() -> None:
    """Let every matrix product of the BLAS libraries that are loaded run in the thread that calls it."""
    threadpool_limits(limits=1, user_api="blas")


def set_up_arrow() -> None:
    """Give Arrow the cores that it may use."""
    pa.set_cpu_count(cores())


def set_up_tensorflow() -> None:
    """Give TensorFlow the cores that it may use.

    It takes this only before its first operation; in a process that has trained a model it stays as it is.
    """
    import tensorflow as tf

    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(cores())
        tf.config.threading.set_inter_op_parallelism_threads(cores())


BLOCKS_STAY_BELOW = 4 * 1024**2
"""Bytes of the largest array that a piece of work makes again and again, about."""

_KEPT = 64 * 1024**2
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Numbers of glibc's ``mallopt``."""


def _keep_freed_memory() -> None:
    """Let the C library keep the memory of freed arrays for the next ones.

    By default it gives those of 128 kB and more back to the system, whose pages must then be cleared and mapped anew
    for every block: half of the time of a block (docs/decisions/015-tower-algebra.md). Other C libraries than glibc are
    left as they are.
    """
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, BLOCKS_STAY_BELOW)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)


@cache
def _pool() -> ThreadPoolExecutor:
    _keep_freed_memory()
    return ThreadPoolExecutor(cores(), thread_name_prefix="compute")
