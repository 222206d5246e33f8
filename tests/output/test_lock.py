from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from batchrec.errors import BusyError, ConfigError
from batchrec.output.lock import run_lock

HOLD = """
import sys
from batchrec.output.lock import run_lock
with run_lock(sys.argv[1], sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of run "a" until its standard input is closed."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path, "a"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_writer_is_told_to_wait(tmp_path, holder):
    with pytest.raises(BusyError, match="another process is writing") as raised, run_lock(tmp_path, "a"):
        pytest.fail("two writers at once")
    assert raised.value.exit_code == 75


def test_other_runs_go_on(tmp_path, holder):
    with run_lock(tmp_path, "b"):
        assert holder.poll() is None


def test_a_dead_owner_does_not_hold_it(tmp_path, holder):
    holder.kill()
    holder.wait()
    with run_lock(tmp_path, "a"):
        pass


def test_it_is_free_again_after_the_block_and_leaves_nothing(tmp_path, holder):
    holder.communicate("")
    for _ in range(2):
        with run_lock(tmp_path, "a"):
            pass
    assert list(tmp_path.iterdir()) == []


def test_it_is_free_again_after_a_failure(tmp_path):
    with pytest.raises(ZeroDivisionError), run_lock(tmp_path, "a"):
        raise ZeroDivisionError
    with run_lock(tmp_path, "a"):
        pass


def test_a_run_id_cannot_place_it_elsewhere(tmp_path):
    with pytest.raises(ConfigError), run_lock(tmp_path / "output", "../x"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_many_at_once_never_hold_it_together(tmp_path):
    inside = tmp_path / "inside"
    code = """
import os, sys, time
from batchrec.errors import BusyError
from batchrec.output.lock import run_lock
won, until = 0, time.monotonic() + 1.5
while time.monotonic() < until:
    try:
        with run_lock(sys.argv[1], "a"):
            os.close(os.open(sys.argv[2], os.O_CREAT | os.O_EXCL))
            won += 1
            os.unlink(sys.argv[2])
    except BusyError:
        pass
print(won)
"""
    root = Path(__file__).parents[2]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, tmp_path / "output", inside], stdout=subprocess.PIPE, text=True, cwd=root
        )
        for _ in range(4)
    ]
    won = [int(process.communicate()[0]) for process in started]
    assert all(process.returncode == 0 for process in started)
    assert sum(won) > 0
