"""The cluster of one worker a GPU, with Dask's own local cluster in the place of dask-cuda's, which is built upon it.

The keywords that only dask-cuda knows were compared with its source (26.6). What it does with them needs GPUs.
"""

import os
import sys
from types import SimpleNamespace

import psutil
import pytest
from distributed import LocalCluster, Nanny

from batchrec.engine.cluster import as_they_finish, open_cluster

DASK_CUDA_ALONE = {"device_memory_limit", "rmm_pool_size"}


@pytest.fixture
def two_gpus(monkeypatch):
    """Stand in for dask-cuda on a machine of two GPUs; yields the keywords that it was given."""
    given = {}

    class Cluster(LocalCluster):
        def __init__(self, worker_class, **keywords):
            given.update(keywords)
            options = {name: value for name, value in keywords.items() if name not in DASK_CUDA_ALONE}
            super().__init__(n_workers=2, processes=True, worker_class=lambda *args, **more: Nanny(
                *args, worker_class=worker_class, **more), **options)  # fmt: skip

    monkeypatch.setitem(sys.modules, "dask_cuda", SimpleNamespace(LocalCUDACluster=Cluster))
    return given


def place(number):
    addresses = [c.laddr.ip for c in psutil.Process().net_connections("inet") if c.status == "LISTEN"]
    return number, os.getpid(), os.environ.get("OMP_NUM_THREADS"), addresses


def test_every_gpu_has_a_worker_and_nothing_listens_to_other_machines(two_gpus, tmp_path):
    before = {c.laddr for c in psutil.Process().net_connections("inet") if c.status == "LISTEN"}
    with open_cluster("cuda", tmp_path, None, lambda: None) as client:
        found = list(as_they_finish(client, place, range(40)))
        here = {c.laddr for c in psutil.Process().net_connections("inet") if c.status == "LISTEN"} - before
    assert sorted(number for number, *_ in found) == list(range(40))
    assert len({process for _, process, *_ in found}) == 2
    assert {threads for *_, threads, _ in found} == {os.environ.get("OMP_NUM_THREADS")}
    assert {address for *_, addresses in found for address in addresses} == {"127.0.0.1"}
    assert here
    assert {address.ip for address in here} == {"127.0.0.1"}
    assert 8787 not in {address.port for address in here}, "two runs at once would ask for the same port"
    assert two_gpus.keys() >= DASK_CUDA_ALONE
