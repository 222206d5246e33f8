"""A Dask cluster as users have it: a scheduler and workers, each started as a process of its own, on the loopback."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
from distributed import Client

ROOT = Path(__file__).parents[1]
DASK = Path(sys.executable).parent / "dask"
LOOPBACK = "127.0.0.1"


class Cluster:
    """A scheduler, and workers that come and go.

    Parameters
    ----------
    folder
        For logs and scratch files; also where all processes are started, which is not where clients are.
    inside
        What the command line of the n-th process begins with, to start it elsewhere; 0 is the scheduler.
    host
        Address of the scheduler.
    options
        Further ones of all processes.
    """

    def __init__(self, folder, inside=lambda number: [], host=LOOPBACK, options=()):
        self.folder, self.inside, self.options = folder, inside, options
        folder.mkdir(parents=True, exist_ok=True)
        self.processes = []
        address = self.start("scheduler", "--host", host, "--port", "0")
        self.address = _said(folder / "0.log", r"Scheduler at:\s+(t[cl][ps]://\S+)", address)

    def start(self, role, *options, source=ROOT, **environment):
        """Start one process of the cluster."""
        number = len(self.processes)
        log = (self.folder / f"{number}.log").open("wb")
        environment = os.environ | {"PYTHONPATH": str(source), "TF_CPP_MIN_LOG_LEVEL": "3"} | environment
        command = [*self.inside(number), str(DASK), role, *options, *self.options, "--no-dashboard"]
        process = subprocess.Popen(
            command, cwd=self.folder, env=environment, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )
        self.processes.append(process)
        return process

    def worker(self, host=LOOPBACK, *, nanny=True, **options):
        """Start a worker."""
        scratch = self.folder / f"scratch-{len(self.processes)}"
        arguments = ["--host", host, "--nthreads", "1", "--memory-limit", "0", "--local-directory", str(scratch)]
        return self.start("worker", self.address, *arguments, "--nanny" if nanny else "--no-nanny", **options)

    def wait_for_workers(self, count):
        """Wait until so many workers have come."""
        with Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(count, timeout=60)

    def stop(self):
        """End all processes, and those that they have started."""
        for process in self.processes:
            kill(process)


def kill(process):
    """SIGKILL a process and those that it has started."""
    try:
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    except psutil.NoSuchProcess:
        family = []
    for one in family:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait(timeout=30)


@contextmanager
def dask_cluster(folder, workers=1, **options):
    """Run a cluster and wait for its workers."""
    cluster = Cluster(folder, **options)
    try:
        for _ in range(workers):
            cluster.worker()
        if workers:
            cluster.wait_for_workers(workers)
        yield cluster
    finally:
        cluster.stop()


def _said(log, pattern, process):
    until = time.monotonic() + 60
    while time.monotonic() < until:
        found = re.search(pattern, log.read_text())
        if found:
            return found[1]
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    raise TimeoutError(log.read_text())
