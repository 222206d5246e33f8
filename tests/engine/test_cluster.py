"""The in-process cluster: no ports, nothing left behind, errors as they were raised."""

import pickle
import threading
import time
import warnings

import psutil
import pytest

from batchrec import errors, fence
from batchrec.engine.cluster import THREADS, as_they_finish, let_go, local_cluster


def square(number):
    return number * number


def refuses_three(number):
    if number == 3:
        raise errors.FeatureError("three came", "leave it out")
    return number


def slow_after_the_first(number):
    if number == 0:
        raise errors.SinkError("disk full", "free space")
    time.sleep(0.3)
    (slow_after_the_first.folder / str(number)).touch()


def test_every_number_is_computed_once(tmp_path):
    with local_cluster(tmp_path) as client:
        assert sorted(as_they_finish(client, square, range(50))) == [n * n for n in range(50)]


def test_nothing_listens_and_nothing_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    ports = {connection.laddr for connection in psutil.Process().net_connections() if connection.status == "LISTEN"}
    with local_cluster(scratch) as client:
        list(as_they_finish(client, square, range(5)))
        now = {c.laddr for c in psutil.Process().net_connections() if c.status == "LISTEN"}
        assert now == ports
    started = time.monotonic()
    with local_cluster(scratch) as client:
        list(as_they_finish(client, square, range(5)))
    assert time.monotonic() - started < 10
    assert list(tmp_path.iterdir()) == [scratch]
    workers = [thread.name for thread in threading.enumerate() if "Worker" in thread.name or "IO loop" in thread.name]
    assert not workers


def test_no_warning_and_nothing_printed(tmp_path, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with local_cluster(tmp_path) as client, pytest.raises(errors.FeatureError):
            list(as_they_finish(client, refuses_three, range(10)))
    assert capfd.readouterr() == ("", "")


def test_an_error_arrives_as_it_was_raised(tmp_path):
    with local_cluster(tmp_path) as client, pytest.raises(errors.FeatureError) as caught:
        list(as_they_finish(client, refuses_three, range(10)))
    assert (caught.value.problem, caught.value.remedy) == ("three came", "leave it out")


def test_no_task_goes_on_once_the_cluster_is_closed(tmp_path):
    slow_after_the_first.folder = tmp_path
    with pytest.raises(errors.SinkError), local_cluster(tmp_path / "scratch") as client:
        list(as_they_finish(client, slow_after_the_first, range(20)))
    then = set(tmp_path.iterdir())
    assert len(then) <= THREADS + 1
    time.sleep(0.7)
    assert set(tmp_path.iterdir()) == then


@pytest.mark.parametrize("kind", errors.BatchrecError.__subclasses__())
def test_errors_survive_the_way_between_processes(kind):
    there = pickle.loads(pickle.dumps(kind("what was found", "what to do")))
    assert type(there) is kind
    assert (there.problem, there.remedy, there.exit_code) == ("what was found", "what to do", kind.exit_code)
    assert str(there) == "what was found: what to do."


def hangs_after_the_first(number):
    if number:
        time.sleep(20)
    return number


def test_what_is_not_done_in_time_is_let_go_of_and_not_waited_for(tmp_path):
    start = time.monotonic()
    with local_cluster(tmp_path) as client:
        assert list(as_they_finish(client, hangs_after_the_first, range(9), 1, lambda: start + 2)) == [0]
        assert let_go(client, fence.shut, "let go")
    assert 2 <= time.monotonic() - start < 15
    with pytest.raises(errors.BusyError), fence.passing("let go"):
        pytest.fail("passed")
