"""The Dask cluster that partitions run on."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from distributed import Client

Result = TypeVar("Result")

THREADS = 2
"""Partitions in work at a time: while one waits for features or the disk, the other keeps the cores busy."""


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
        dask.config.set({"distributed.admin.tick.limit": "1h"}),
        in_process_cluster(THREADS, str(folder), silence) as cluster,
        Client(cluster) as client,
    ):
        yield client


def as_they_finish(client: Client, function: Callable[[int], Result], numbers: Sequence[int]) -> Iterator[Result]:
    """Run a function for every number on the cluster and yield results in the order in which they are done.

    The first failure stops the rest and is raised as it was on the worker.
    """
    from distributed import as_completed

    futures = client.map(function, numbers, pure=False, retries=0)
    try:
        for future in as_completed(futures):
            yield future.result()
            future.release()
    except BaseException:
        client.cancel(futures, force=True)
        raise
