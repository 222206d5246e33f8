"""A scheduler, a worker and the run each in a network namespace of its own: nothing is shared but the file system."""

import os
import shutil
import subprocess

import pytest

from tests.clusters import dask_cluster
from tests.runs import command

SIZE = "--users-per-partition=130"
SCHEDULER, WORKER, CLIENT, HUB = ("scheduler", "worker", "client", "hub")
ADDRESSES = {SCHEDULER: "10.77.0.2", WORKER: "10.77.0.3", CLIENT: "10.77.0.4"}


def ip(*arguments):
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


def space(name):
    return f"brec{os.getpid()}-{name}"


def cable(name, number):
    """Join a namespace to the bridge in the hub."""
    ip("link", "add", "eth0", "netns", space(name), "type", "veth", "peer", f"port{number}", "netns", space(HUB))
    ip("-n", space(name), "address", "add", f"{ADDRESSES[name]}/24", "dev", "eth0")
    ip("-n", space(HUB), "link", "set", f"port{number}", "master", "bridge", "up")
    for device in ("lo", "eth0"):
        ip("-n", space(name), "link", "set", device, "up")


@pytest.fixture
def network():
    """Three machines on one switch."""
    if not shutil.which("ip") or os.geteuid() != 0:
        pytest.skip("network namespaces need root and iproute2")
    made = []
    try:
        for name in (HUB, *ADDRESSES):
            ip("netns", "add", space(name))
            made.append(name)
        ip("-n", space(HUB), "link", "add", "bridge", "type", "bridge")
        ip("-n", space(HUB), "link", "set", "bridge", "up")
        for number, name in enumerate(ADDRESSES):
            cable(name, number)
    except subprocess.CalledProcessError as error:
        for name in made:
            ip("netns", "del", space(name))
        pytest.skip(f"network namespaces are not allowed here: {error.stderr}")
    yield
    for name in made:
        ip("netns", "del", space(name))


def inside(name):
    return ["ip", "netns", "exec", space(name)]


@pytest.mark.slow
def test_three_machines_make_the_parts_of_one(world, batchrec, network, tmp_path):
    def place(number):
        return inside(WORKER if number else SCHEDULER)

    with dask_cluster(tmp_path / "cluster", workers=0, inside=place, host=ADDRESSES[SCHEDULER]) as cluster:
        assert ADDRESSES[SCHEDULER] in cluster.address
        cluster.worker(host=ADDRESSES[WORKER])
        args = world.args(tmp_path / "a", SIZE, "--run-id=r", f"--cluster={cluster.address}")
        process = command(*args, before=inside(CLIENT))
        _, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        unreachable = batchrec(*world.args(tmp_path / "c", SIZE, "--run-id=r", f"--cluster={cluster.address}"))
    assert unreachable.code == 75, "this process is on another network"
    assert batchrec(*world.args(tmp_path / "b", SIZE, "--run-id=r")).code == 0
    runs = [{path.name: path.read_bytes() for path in (tmp_path / name / "r").glob("part-*")} for name in "ab"]
    assert runs[0] == runs[1]
    assert len(runs[0]) == 8
