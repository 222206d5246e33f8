"""The Dask cluster that partitions run on."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from distributed import Client

Result = TypeVar("Result")

THREADS = 2
"""Partitions in work at a time: while one waits for features or the disk, the other keeps the cores busy."""


@contextmanager
def local_cluster() -> Iterator[Client]:
    """Run a scheduler and one worker inside this process, without a port or a dashboard."""
    import dask
    from distributed import Client, LocalCluster

    logging.getLogger("distributed").setLevel(logging.ERROR)
    with (
        dask.config.set({"distributed.worker.daemon": False, "distributed.admin.tick.limit": "1h"}),
        LocalCluster(
            n_workers=1,
            threads_per_worker=THREADS,
            processes=False,
            dashboard_address=None,
            memory_limit=0,
        ) as cluster,
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
