"""A Dask scheduler and worker that talk inside one process and listen on no port.

Dask's own ones serve HTTP even where no dashboard is asked for, on every interface of the machine.
"""

from __future__ import annotations

from typing import Any

from distributed import Scheduler, SpecCluster, Worker

PROTOCOL = "inproc://"


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
