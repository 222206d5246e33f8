"""The Dask cluster that partitions run on."""

from __future__ import annotations

import logging
import math
import re
import time
from contextlib import contextmanager, suppress
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from batchrec.engine.connection import connected, gone
from batchrec.engine.task import call, packed
from batchrec.errors import BusyError, ClusterError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from distributed import Client, Future

Task = TypeVar("Task")
Result = TypeVar("Result")

THREADS = 2
"""Partitions in work at a time: while one waits for features or the disk, the other keeps the cores busy."""

LOCAL = "local"
"""Where partitions run unless something else is asked for: inside the run's own process."""

ADDRESSES = ("tcp://", "tls://")
"""What the address of an existing cluster begins with."""

CUDA = "cuda"
"""One worker process for each GPU of this machine."""

IN_FLIGHT = 4
"""Tasks a thread that the scheduler knows of at a time: enough that no thread waits, however many tasks there are."""

PATIENCE_SECONDS = 300.0
"""How long a cluster may be without a single worker; one that starts them on demand needs minutes."""

_UNWATCHED = {
    "distributed.admin.tick.limit": "1h",
    "distributed.admin.tick.interval": "1s",
    "distributed.worker.profile.enabled": False,
}
"""Dask looks at all threads' stacks a hundred times a second, for a dashboard that nobody can open in this process: one
twentieth of a core, and of the time that Python's lock is held."""

_LOOK_EVERY_SECONDS = 10.0
_PROCESSES = re.compile(r"processes:([1-9]\d{0,3})")
_ADDRESS = re.compile(r"(tcp|tls)://[^\s/@]+:(\d{1,5})")
_LAST_PORT = 65_535


def checked_place(text: str) -> str:
    """Return `text` if it names a cluster: ``local``, ``processes:N``, ``cuda``, or the address of a scheduler.

    Raises
    ------
    ValueError
        It does not.
    """
    address = _ADDRESS.fullmatch(text)
    if text in {LOCAL, CUDA} or _PROCESSES.fullmatch(text) or (address and int(address[2]) <= _LAST_PORT):
        return text
    raise ValueError(
        "expected local, processes:N such as processes:4 (at most 9999), cuda, or tcp://host:port or tls://host:port "
        "of a Dask scheduler"
    )


def is_elsewhere(place: str) -> bool:
    """Tell whether the workers of `place` are those of an existing cluster, and not this machine's."""
    return _ADDRESS.fullmatch(place) is not None


def open_cluster(
    place: str, folder: Path, memory_limit: int | None, release: Callable[[], None]
) -> AbstractContextManager[Client]:
    """Open the cluster that `place` names.

    Parameters
    ----------
    place
        As :func:`checked_place` returns it.
    folder
        For Dask's scratch files on this machine.
    memory_limit
        Bytes that a worker process of ``processes:N`` may hold before it is replaced; None for no limit.
    release
        Called on the workers of an existing cluster before and after: what they hold from another run may be stale.

    Raises
    ------
    BusyError
        The cluster cannot be reached, or has no worker.
    ClusterError
        A worker, or the scheduler, does not run the code that this process runs.
    """
    from batchrec.engine.remote import cuda_cluster, existing_cluster, process_cluster

    if place == LOCAL:
        return local_cluster(folder)
    if place == CUDA:
        return cuda_cluster(THREADS, folder)
    processes = _PROCESSES.fullmatch(place)
    if processes:
        return process_cluster(int(processes[1]), THREADS, folder, memory_limit)
    return existing_cluster(place, release)


@contextmanager
def local_cluster(folder: Path) -> Iterator[Client]:
    """Run a scheduler and one worker inside this process, without a port or a dashboard.

    Parameters
    ----------
    folder
        For Dask's scratch files.
    """
    import dask
    from distributed import Client

    from batchrec.engine.in_process import in_process_cluster

    # Failures are raised to the caller, who tells of them; and a scheduler that waits for the GIL is no news.
    silence = logging.CRITICAL
    with (
        dask.config.set(_UNWATCHED),
        in_process_cluster(THREADS, str(folder), silence) as cluster,
        Client(cluster) as client,
    ):
        yield client


def as_they_finish(
    client: Client,
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    in_flight: int = IN_FLIGHT,
    until: Callable[[], float] | None = None,
) -> Iterator[Result]:
    """Run a function for every task on the cluster and yield results in the order in which they are done.

    A worker that dies is none the worse for the run: Dask gives its tasks to others. The first failure of the
    function stops the rest and is raised as it was on the worker.

    Parameters
    ----------
    client
        Of the cluster.
    function, tasks
        What is to be done; a task is taken from `tasks` when there is room for it.
    in_flight
        Tasks a thread that the scheduler knows of at a time.
    until
        Gives the moment, by ``time.monotonic()``, at which tasks that are not done are let go of; those that are under
        way run on, see :func:`let_go`.

    Raises
    ------
    BusyError
        The scheduler is gone, or all workers are and none came back.
    ClusterError
        One task took several workers down with it.
    """
    code_of_task, code = packed(function)
    left = iter(tasks)
    running: set[Future] = set()
    done: set[Future] = set()
    try:
        while True:
            with connected(client):
                room = max(1, in_flight * sum(client.nthreads().values())) - len(running)
                for task in islice(left, max(0, room)):
                    running.add(client.submit(call, code_of_task, code, task, pure=False, retries=0))
                done = _some_done(client, running, until) if running else set()
            if not done:
                if running:
                    client.cancel([*running], force=True)
                return
            running -= done
            for future in done:
                yield _result(client, future)
    except BaseException:
        with suppress(Exception):  # where the scheduler is gone there is nothing to cancel
            client.cancel([*running, *done], force=True)
        raise


def let_go(client: Client, shut: Callable[[str], bool], attempt: str) -> bool:
    """Let no worker write for an attempt any more, and wait for none of their threads when they are closed.

    Parameters
    ----------
    client
        Of the cluster.
    shut
        Called on every worker; see :func:`batchrec.fence.shut`.
    attempt
        Names the attempt.

    Returns
    -------
    bool
        Whether every worker that the scheduler knows has let go.
    """
    answers = client.run(_let_go, shut, attempt, on_error="return")
    return all(answer is True or isinstance(answer, OSError) for answer in answers.values())  # gone: it writes nothing


def _let_go(shut: Callable[[str], bool], attempt: str, dask_worker: Any) -> bool:
    dask_worker.executor._threads.clear()  # noqa: SLF001 - closing the worker would join them, one of which may hang
    return shut(attempt)


def _some_done(client: Client, running: set[Future], until: Callable[[], float] | None) -> set[Future]:
    """Wait until a future is done, for as long as there are workers; nothing where the time is up before."""
    from distributed import wait

    alive = time.monotonic()
    while True:
        left = math.inf if until is None else until() - time.monotonic()
        try:
            with client.as_current():  # which is where `wait` looks for its client
                seconds = max(0.0, min(_LOOK_EVERY_SECONDS, left))
                done, _ = wait(running, timeout=seconds, return_when="FIRST_COMPLETED")
            return set(done)
        except TimeoutError:
            if left <= 0:
                return set()
            if client.nthreads():
                alive = time.monotonic()
            elif time.monotonic() - alive > PATIENCE_SECONDS:
                raise BusyError(
                    f"the Dask cluster has had no worker for {PATIENCE_SECONDS / 60:.0f} minutes",
                    "start workers and run again with --resume, or with another --cluster",
                ) from None


def _result(client: Client, future: Future) -> Any:
    from distributed import CancelledError
    from distributed.scheduler import KilledWorker

    try:
        return future.result()
    except CancelledError as error:
        raise gone(client) from error
    except KilledWorker as error:
        raise ClusterError(
            f"one and the same partition took down {error.allowed_failures + 1} Dask workers, the last one "
            f"{error.last_worker.address}",
            "read the workers' logs; where they ran out of memory, give them more or use fewer --users-per-partition",
        ) from error
    finally:
        future.release()
