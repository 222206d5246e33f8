"""Workers that die, as the loop over futures sees them."""

import os
import time

import pytest

from batchrec.engine import cluster as engine
from batchrec.engine.cluster import as_they_finish
from batchrec.engine.remote import existing_cluster
from batchrec.errors import BusyError, ClusterError
from tests.clusters import dask_cluster, kill


def nothing():
    return None


def kills_its_worker(number):
    if number == 5:
        os._exit(1)
    return number


def slow(number):
    time.sleep(30 if number else 0)
    return number


@pytest.mark.slow
def test_a_number_that_kills_every_worker_ends_the_run(tmp_path):
    told = "one and the same partition took down 4 Dask workers"
    with (
        dask_cluster(tmp_path) as cluster,
        existing_cluster(cluster.address, nothing) as client,
        pytest.raises(ClusterError, match=told),
    ):
        list(as_they_finish(client, kills_its_worker, range(10)))


@pytest.mark.slow
def test_workers_that_do_not_come_back_are_not_waited_for_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr(engine, "_LOOK_EVERY_SECONDS", 0.2)
    with dask_cluster(tmp_path, workers=0) as cluster:
        worker = cluster.worker(nanny=False)
        with existing_cluster(cluster.address, nothing) as client:
            results = as_they_finish(client, slow, range(3))
            assert next(results) == 0
            kill(worker)
            with pytest.raises(BusyError, match="has had no worker"):
                next(results)
