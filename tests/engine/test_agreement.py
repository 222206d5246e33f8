"""What a cluster must be before a run begins on it: there, with workers, and with the code of this process."""

import shutil
import socket
from contextlib import contextmanager

import dask
import pytest
from distributed import Security

from batchrec.engine import remote
from batchrec.engine.cluster import IN_FLIGHT, as_they_finish, checked_place, local_cluster
from batchrec.engine.remote import existing_cluster
from batchrec.errors import BusyError, ClusterError, ConfigError
from tests.clusters import ROOT, dask_cluster


def nothing():
    return None


def refused(address):
    with pytest.raises((BusyError, ClusterError, ConfigError)) as caught, existing_cluster(address, nothing):
        pytest.fail("was connected")
    return caught.value


@contextmanager
def worker_with(folder, sources):
    """A cluster whose scheduler runs this code, and its only worker that in `sources`."""
    with dask_cluster(folder / "cluster", workers=0) as cluster:
        cluster.worker(source=sources)
        cluster.wait_for_workers(1)
        yield cluster.address


def test_a_worker_with_other_sources_is_named(tmp_path):
    shutil.copytree(ROOT / "batchrec", tmp_path / "other" / "batchrec")
    with (tmp_path / "other" / "batchrec" / "hashing.py").open("a") as file:
        file.write("# another line\n")
    with worker_with(tmp_path, tmp_path / "other") as address:
        error = refused(address)
    assert isinstance(error, ClusterError)
    assert error.problem.startswith("Dask worker tcp://127.0.0.1:")
    assert "other sources of batchrec" in error.problem


def test_a_worker_with_another_version_is_named(tmp_path):
    shutil.copytree(ROOT / "batchrec", tmp_path / "other" / "batchrec")
    package = tmp_path / "other" / "batchrec" / "__init__.py"
    package.write_text('"""An older one."""\n\n__version__ = "0.0.7"\n')
    with worker_with(tmp_path, tmp_path / "other") as address:
        error = refused(address)
    assert "has batchrec 0.0.7; this process has batchrec" in error.problem


def test_a_worker_that_cannot_import_batchrec_is_named(tmp_path):
    broken = tmp_path / "other" / "batchrec"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('not for this machine')\n")
    with worker_with(tmp_path, tmp_path / "other") as address:
        error = refused(address)
    assert isinstance(error, ClusterError)
    assert "cannot run this version of batchrec (" in error.problem
    assert "not for this machine" in error.problem


def test_certificates_are_those_of_dask_s_configuration(tmp_path):
    made = Security.temporary()
    files = {name: tmp_path / name for name in ("tls_ca_file", "tls_worker_cert", "tls_worker_key")}
    for name, path in files.items():
        path.write_text(getattr(made, name))
    ca, cert, key = map(str, files.values())
    tls = ["--protocol", "tls", "--tls-ca-file", ca, "--tls-cert", cert, "--tls-key", key]
    configured = {"ca-file": ca, "client.cert": cert, "client.key": key}
    configured = {f"distributed.comm.tls.{name}": path for name, path in configured.items()}
    with dask_cluster(tmp_path / "cluster", workers=0, options=tls) as cluster:
        cluster.worker()
        assert cluster.address.startswith("tls://")
        with dask.config.set(configured), existing_cluster(cluster.address, nothing) as client:
            assert list(as_they_finish(client, abs, [-1])) == [1]
        with (
            pytest.raises(ConfigError, match=r"set distributed\.comm\.tls"),
            existing_cluster(cluster.address, nothing),
        ):
            pytest.fail("was connected without a certificate")


def test_nobody_answers(monkeypatch, capfd):
    monkeypatch.setattr(remote, "CONNECT_SECONDS", 1.0)
    with socket.socket() as taken:  # bound and not listening: nobody else can answer there
        taken.bind(("127.0.0.1", 0))
        error = refused(f"tcp://127.0.0.1:{taken.getsockname()[1]}")
    assert (type(error), error.exit_code) == (BusyError, 75)
    assert "cannot be reached" in error.problem
    assert capfd.readouterr() == ("", "")


def test_no_worker_comes(tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "WORKERS_SECONDS", 1.0)
    with dask_cluster(tmp_path, workers=0) as cluster:
        error = refused(cluster.address)
    assert (type(error), error.exit_code) == (BusyError, 75)
    assert "no worker within 1 seconds" in error.problem


def test_few_tasks_are_known_to_the_scheduler_at_a_time(tmp_path):
    with local_cluster(tmp_path) as client:
        known = [len(client.futures) for _ in as_they_finish(client, abs, range(300))]
        threads = sum(client.nthreads().values())
    assert len(known) == 300
    assert max(known) <= IN_FLIGHT * threads


@pytest.mark.parametrize(
    "text", ["local", "processes:2", "tcp://10.0.0.7:8786", "tls://dask.example.org:8786", "tcp://[::1]:8786"]
)
def test_places(text):
    assert checked_place(text) == text


@pytest.mark.parametrize(
    "text", ["", "cuda:2", "processes", "processes:0", "http://x:1", "tcp://x", "tcp://u:p@x:1", "10.0.0.7:8786"]
)
def test_no_places(text):
    with pytest.raises(ValueError, match="expected local, processes:N"):
        checked_place(text)
