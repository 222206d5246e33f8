"""Dask clusters that this process starts: inside it, listening on no port, or in processes on the loopback interface.

Dask's own ones serve HTTP even where no dashboard is asked for, on every interface of the machine.
"""

from __future__ import annotations

from typing import Any

from distributed import Nanny, Scheduler, SpecCluster, Worker

from batchrec.models.threads import cores

PROTOCOL = "inproc://"
LOOPBACK = "127.0.0.1"


class PortlessScheduler(Scheduler):  # type: ignore[misc]
    """A scheduler without an HTTP server."""

    def start_http_server(self, *_: Any, **__: Any) -> None:
        """Start nothing."""


class PortlessWorker(Worker):  # type: ignore[misc]
    """A worker without an HTTP server."""

    def start_http_server(self, *_: Any, **__: Any) -> None:
        """Start nothing."""


def in_process_cluster(threads: int, folder: str, log_level: int) -> SpecCluster:
    """Make a cluster of one worker.

    Parameters
    ----------
    threads
        Tasks that the worker runs at a time.
    folder
        For the worker's scratch files.
    log_level
        Below which Dask says nothing.
    """
    worker = {
        "protocol": PROTOCOL,
        "nthreads": threads,
        "memory_limit": 0,
        "local_directory": folder,
        "dashboard": False,
    }
    return SpecCluster(
        scheduler={"cls": PortlessScheduler, "options": {"protocol": PROTOCOL, "dashboard": False}},
        workers={0: {"cls": PortlessWorker, "options": worker}},
        silence_logs=log_level,
    )


def loopback_cluster(processes: int, threads: int, folder: str, memory_limit: int, log_level: int) -> SpecCluster:
    """Make a cluster of worker processes, each one watched and replaced when it dies.

    Parameters
    ----------
    processes, threads
        Workers, and tasks that each runs at a time.
    folder
        For the workers' scratch files.
    memory_limit
        Bytes beyond which a worker is replaced; 0 for none.
    log_level
        Below which Dask says nothing.
    """
    worker = {
        "worker_class": PortlessWorker,
        "host": LOOPBACK,
        "nthreads": threads,
        "memory_limit": memory_limit,
        "local_directory": folder,
        "dashboard": False,
        "silence_logs": log_level,
        "env": {"OMP_NUM_THREADS": str(max(1, cores() // processes))},  # the cores are shared out, none twice
    }
    return SpecCluster(
        scheduler={"cls": PortlessScheduler, "options": {"host": LOOPBACK, "port": 0, "dashboard": False}},
        workers={number: {"cls": Nanny, "options": worker} for number in range(processes)},
        silence_logs=log_level,
    )
