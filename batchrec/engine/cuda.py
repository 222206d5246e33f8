"""A Dask cluster with one worker process for each GPU of this machine."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from batchrec.engine.in_process import LOOPBACK, PortlessWorker

if TYPE_CHECKING:
    from distributed import SpecCluster

POOL = 0.1
"""Share of a GPU's memory that its worker's frames get at the start; arrays, models and index take the rest."""


def gpu_cluster(threads: int, folder: str) -> SpecCluster:
    """Make a cluster of one worker for each GPU that ``CUDA_VISIBLE_DEVICES`` names, of all where it is not set.

    Each worker sees its own GPU alone, runs on the cores beside it, and has a pool of that GPU's memory (RMM) for data
    frames; arrays have CuPy's own (:mod:`batchrec.engine.gpu_memory`).

    Parameters
    ----------
    threads
        Tasks that a worker runs at a time.
    folder
        For the workers' scratch files.
    """
    from dask_cuda import LocalCUDACluster

    return LocalCUDACluster(
        threads_per_worker=threads,
        host=LOOPBACK,
        dashboard_address=None,
        scheduler_kwargs={"dashboard_address": f"{LOOPBACK}:0"},  # otherwise it wants port 8787, which a run beside has
        worker_class=PortlessWorker,
        local_directory=folder,
        memory_limit=0,
        device_memory_limit=0,  # results are small: there is nothing to spill
        rmm_pool_size=POOL,
        silence_logs=logging.CRITICAL,
    )
