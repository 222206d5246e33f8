"""Dask workers in processes of their own: started here, or those of an existing cluster."""

from __future__ import annotations

import logging
import signal
import threading
import warnings
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from batchrec.engine.connection import connected
from batchrec.engine.task import described, ping
from batchrec.errors import BusyError, ClusterError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from distributed import Client, SpecCluster

CONNECT_SECONDS = 30.0
"""How long a scheduler is waited for."""

WORKERS_SECONDS = 120.0
"""How long the first worker is waited for."""


@contextmanager
def existing_cluster(address: str, release: Callable[[], None]) -> Iterator[Client]:
    """Connect to a cluster that somebody else runs; it stays when the block ends.

    Parameters
    ----------
    address
        Of its scheduler. For ``tls://`` the certificates are those of Dask's own configuration.
    release
        Called on every worker before and after.

    Raises
    ------
    BusyError
        It cannot be reached, or no worker came.
    ClusterError
        A worker or the scheduler runs other code.
    ConfigError
        Dask's configuration has no certificates for ``tls://``.
    """
    from distributed.utils import silence_logging_cmgr

    with silence_logging_cmgr(logging.CRITICAL + 1):
        client = _connect(address)
        try:
            with connected(client):
                _wait_for_workers(client, address)
                check_agreement(client)
                client.run(release, on_error="ignore")
            yield client
            client.run(release, on_error="ignore")
        finally:
            client.close(timeout=5)


@contextmanager
def process_cluster(processes: int, threads: int, folder: Path, memory_limit: int | None) -> Iterator[Client]:
    """Run a scheduler in this process and workers in processes of their own, on the loopback interface.

    A worker that dies, or holds more than `memory_limit` bytes, is replaced and its partitions are done again.

    Parameters
    ----------
    processes, threads
        Workers, and tasks that each of them runs at a time.
    folder
        For Dask's scratch files.
    memory_limit
        Bytes a worker; None for no limit.
    """
    from batchrec.engine.in_process import loopback_cluster

    silence = logging.CRITICAL
    with _worker_processes(
        lambda: loopback_cluster(processes, threads, str(folder), memory_limit or 0, silence)
    ) as client:
        yield client


@contextmanager
def cuda_cluster(threads: int, folder: Path) -> Iterator[Client]:
    """Run a scheduler in this process and one worker process for each GPU of this machine.

    Parameters
    ----------
    threads
        Tasks that each worker runs at a time.
    folder
        For Dask's scratch files.
    """
    from batchrec.engine.cuda import gpu_cluster

    with _worker_processes(lambda: gpu_cluster(threads, str(folder))) as client:
        yield client


@contextmanager
def _worker_processes(start: Callable[[], SpecCluster]) -> Iterator[Client]:
    """Start worker processes and see that they compute as this process does."""
    import dask
    from distributed import Client

    # A worker that pauses near its limit would wait for ever where models and items alone are that large. Results are
    # small, so there is nothing to spill.
    memory = {f"distributed.worker.memory.{name}": False for name in ("target", "spill", "pause")}
    # Dask would set OMP_NUM_THREADS to 1, in this process too.
    threads_of_libraries: dict[str, Any] = {"distributed.nanny.pre-spawn-environ": {}}
    with ExitStack() as opened:
        opened.enter_context(dask.config.set({"distributed.admin.tick.limit": "1h", **memory, **threads_of_libraries}))
        with _deaf_to_interrupts():
            cluster = opened.enter_context(start())
            client = opened.enter_context(Client(cluster))
            _wait_for_workers(client, "of this run")
        check_agreement(client)
        yield client


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Let processes that are started meanwhile ignore Ctrl-C, which a terminal sends to all: this one stops them.

    A new process ignores what the process that starts it ignores at that moment.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def check_agreement(client: Client) -> None:
    """See that every worker computes with the code and the libraries of this process, so that rows are the same.

    Raises
    ------
    ClusterError
        One does not, or cannot import batchrec.
    """
    here = described()
    try:
        client.run_on_scheduler(ping)
    except (ImportError, AttributeError) as error:
        raise _without_batchrec("the Dask scheduler", error) from error
    for address, there in sorted(client.run(described, on_error="return").items()):
        if isinstance(there, OSError):
            continue  # gone while it was asked; whoever comes in its place is checked by the first task
        if isinstance(there, Exception):
            raise _without_batchrec(f"Dask worker {address}", there) from there
        if there["code"] != here["code"]:
            raise ClusterError(
                f"Dask worker {address} has {_difference(there['versions'], here['versions'])}",
                "install on all workers what this process has, so that every partition gets the same rows",
            )


def _connect(address: str) -> Client:
    from distributed.versions import VersionMismatchWarning

    from batchrec.engine.client import TidyClient

    _check_certificates(address)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", VersionMismatchWarning)  # workers are compared by check_agreement
            return TidyClient(address, timeout=CONNECT_SECONDS, set_as_default=False, name="batchrec")
    except (OSError, ImportError) as error:
        raise BusyError(
            f"the Dask scheduler {address} cannot be reached ({_reason(error)})",
            "see that it runs and that this machine may connect to it, then run again; or use another --cluster",
        ) from error


def _check_certificates(address: str) -> None:
    """See that there are certificates for ``tls://``, where Dask itself would fail half-way."""
    from distributed.security import Security

    try:
        found = Security().get_connection_args("client").get("ssl_context")
    except OSError as error:
        raise ConfigError(
            f"the certificates in Dask's configuration cannot be read ({_reason(error)})",
            "correct distributed.comm.tls there",
        ) from error
    if address.startswith("tls://") and found is None:
        raise ConfigError(
            f"there are no certificates for the Dask scheduler {address}",
            "set distributed.comm.tls in Dask's configuration",
        )


def _wait_for_workers(client: Client, address: str) -> None:
    try:
        client.wait_for_workers(1, timeout=WORKERS_SECONDS)
    except OSError as error:
        raise BusyError(
            f"the Dask cluster {address} had no worker within {WORKERS_SECONDS:.0f} seconds",
            "start workers and run again, or use another --cluster",
        ) from error


def _difference(there: dict[str, Any], here: dict[str, Any]) -> str:
    """Name what differs; where no version does, the sources do."""
    names = [name for name in sorted(there.keys() | here.keys()) if there.get(name) != here.get(name)]
    if not names:
        return f"other sources of batchrec {there['batchrec']} than this process"
    found = ", ".join(f"{name} {there.get(name, 'not installed')}" for name in names)
    expected = ", ".join(f"{name} {here.get(name, 'not installed')}" for name in names)
    return f"{found}; this process has {expected}"


def _without_batchrec(who: str, error: Exception) -> ClusterError:
    return ClusterError(
        f"{who} cannot run this version of batchrec ({_reason(error)})",
        "install there what this process has, the same version of batchrec first",
    )


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
