"""One writer an output: a lock that a dead owner does not hold."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from batchrec.errors import BusyError
from batchrec.output.local_storage import LocalStorage

HOLD = """
import sys
from batchrec.output.local_storage import LocalStorage
with LocalStorage(sys.argv[1]).lock(".lock", "the output"):
    print("held", flush=True)
    sys.stdin.read()
"""


def lock(folder):
    return LocalStorage(folder).lock(".lock", "the output")


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock until its standard input is closed."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_writer_is_told_who_is_there(tmp_path, holder):
    expected = rf"another process is writing the output \(process {holder.pid} on .+ since 20.+Z\): wait"
    with pytest.raises(BusyError, match=expected) as raised, lock(tmp_path):
        pytest.fail("two writers at once")
    assert raised.value.exit_code == 75


def test_a_dead_owner_does_not_hold_it(tmp_path, holder):
    holder.kill()
    holder.wait()
    with lock(tmp_path) as held:
        held.check()


def test_it_is_free_again_after_the_block_and_leaves_nothing(tmp_path, holder):
    holder.communicate("")
    for _ in range(2):
        with lock(tmp_path):
            pass
    assert list(tmp_path.iterdir()) == []


def test_it_is_free_again_after_a_failure_and_leaves_no_folder_that_was_not_there(tmp_path):
    with pytest.raises(ZeroDivisionError), lock(tmp_path / "new"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    with lock(tmp_path / "new"):
        (tmp_path / "new" / "run").touch()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["run"]


def test_many_at_once_never_hold_it_together(tmp_path):
    inside = tmp_path / "inside"
    code = """
import os, sys, time
from batchrec.errors import BusyError
from batchrec.output.local_storage import LocalStorage
won, until = 0, time.monotonic() + 1.5
while time.monotonic() < until:
    try:
        with LocalStorage(sys.argv[1]).lock(".lock", "the output"):
            os.close(os.open(sys.argv[2], os.O_CREAT | os.O_EXCL))
            won += 1
            os.unlink(sys.argv[2])
    except BusyError:
        pass
print(won)
"""
    root = Path(__file__).parents[2]
    (tmp_path / "output").mkdir()
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, tmp_path / "output", inside], stdout=subprocess.PIPE, text=True, cwd=root
        )
        for _ in range(4)
    ]
    won = [int(process.communicate()[0]) for process in started]
    assert all(process.returncode == 0 for process in started)
    assert sum(won) > 0
