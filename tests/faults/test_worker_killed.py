"""SIGKILL of Dask workers, and of the scheduler, in the middle of a run."""

import os
import signal
import time

import psutil
import pytest

from tests.clusters import dask_cluster, kill
from tests.runs import command

SIZE = 40
"""Users a partition: 25 parts, so that a run is caught in its middle."""


@pytest.fixture(scope="module")
def alone(world, batchrec_once, tmp_path_factory):
    """The part files of a run in one process."""
    output = tmp_path_factory.mktemp("alone")
    assert batchrec_once(*args(world, output)) == (0, "")
    return parts(output / "current")


@pytest.fixture(scope="module")
def batchrec_once():
    def run(*arguments):
        process = command(*arguments)
        _, err = process.communicate(timeout=180)
        return process.returncode, "" if process.returncode == 0 else err

    return run


def args(world, output, *more):
    return world.args(output, f"--users-per-partition={SIZE}", "--run-id=night", *more)


def parts(run):
    return {path.name: path.read_bytes() for path in run.glob("part-*.parquet")}


def wait_for_parts(output, count, process):
    """Wait until so many parts are in the journal; return what they are called."""
    until = time.monotonic() + 120
    while True:
        done = {path.stem for path in (output / "night" / "_journal").glob("part-*.json")}
        if len(done) >= count:
            return done
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)


def computing(nanny):
    """The process that a nanny watches."""
    [worker] = [child for child in psutil.Process(nanny.pid).children() if "spawn_main" in " ".join(child.cmdline())]
    return worker.pid


def test_killed_workers_cost_nothing_but_time(world, tmp_path, alone):
    """The first one is replaced by its nanny, the second one's partitions go to the first."""
    with dask_cluster(tmp_path / "cluster", workers=2) as cluster:
        _, first, second = cluster.processes
        process = command(*args(world, tmp_path / "out", f"--cluster={cluster.address}"))
        wait_for_parts(tmp_path / "out", 3, process)
        killed = computing(first)
        os.kill(killed, signal.SIGKILL)
        wait_for_parts(tmp_path / "out", 8, process)
        kill(second)
        done = wait_for_parts(tmp_path / "out", 9, process)
        assert len(done) < len(alone), "the workers died too late to matter"
        _, err = process.communicate(timeout=180)
        assert computing(first) != killed
    assert process.returncode == 0, err
    assert len(err.splitlines()) < 10, err
    assert parts(tmp_path / "out" / "current") == alone


@pytest.mark.slow
def test_a_scheduler_that_dies_can_be_gone_on_without(world, tmp_path, alone, batchrec_once):
    with dask_cluster(tmp_path / "cluster") as cluster:
        process = command(*args(world, tmp_path / "out", f"--cluster={cluster.address}"))
        before = wait_for_parts(tmp_path / "out", 3, process)
        kill(cluster.processes[0])
        died = time.monotonic()
        _, err = process.communicate(timeout=180)
        assert time.monotonic() - died < 30
    assert process.returncode == 75, err
    [told] = [line for line in err.splitlines() if "error" in line]
    assert f"the connection to the Dask scheduler {cluster.address} was lost" in told
    assert "--resume" in told
    assert "Traceback" not in err
    assert not (tmp_path / "out" / "current").exists()

    unchanged = {name: (tmp_path / "out" / "night" / f"{name}.parquet").stat().st_mtime_ns for name in before}
    assert batchrec_once(*args(world, tmp_path / "out", "--resume")) == (0, "")
    assert parts(tmp_path / "out" / "current") == alone
    assert unchanged == {name: (tmp_path / "out" / "night" / f"{name}.parquet").stat().st_mtime_ns for name in before}


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 75)])
def test_worker_processes_do_not_outlive_their_run(world, tmp_path, number, code):
    process = command(*args(world, tmp_path, "--cluster=processes:2"))
    wait_for_parts(tmp_path, 2, process)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len([child for child in family if "spawn_main" in " ".join(child.cmdline())]) == 2
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive
    assert not (tmp_path / "current").exists()
