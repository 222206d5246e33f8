"""What makes a start short leaves no trace: Python collects garbage as before, and a process ends in good order."""

import gc
import json
import subprocess
import sys
from pathlib import Path

import pytest

from batchrec.engine.device import Choice
from batchrec.errors import ArtifactError
from batchrec.resources import release_resources, resources

ENDING = """
import atexit, sys, threading, time
from batchrec import __main__

def at_the_end():
    print("hook")

def in_a_thread():
    time.sleep(0.2)
    print("thread")

def main():
    atexit.register(at_the_end)
    threading.Thread(target=in_a_thread).start()
    print("command")
    sys.exit(int(sys.argv[1]))

class NeverTakenApart:
    def __del__(self):
        print("taken apart")

kept = NeverTakenApart()
__main__.main = main
__main__.start()
"""


@pytest.mark.parametrize("code", [0, 3])
def test_threads_and_exit_hooks_come_before_the_end_of_the_process(code):
    done = subprocess.run([sys.executable, "-c", ENDING, str(code)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (code, "")
    assert done.stdout.splitlines() == ["command", "thread", "hook"]


def test_output_that_cannot_be_written_is_told_of():
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", ENDING, "0"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert done.returncode != 0
    assert "No space left on device" in done.stderr


def test_garbage_is_collected_as_before_once_a_run_has_loaded_and_is_over(world):
    release_resources()
    before = gc.get_freeze_count()
    resources(world.bundle, world.repo, world.cutoff, Choice("cpu"))
    assert gc.isenabled()
    assert gc.get_freeze_count() > before  # what is loaded is not looked through again
    release_resources()
    assert gc.get_freeze_count() == before


def test_garbage_is_collected_as_before_once_loading_has_failed(world, tmp_path):
    release_resources()
    before = gc.get_freeze_count()
    with pytest.raises(ArtifactError):
        resources(tmp_path, world.repo, world.cutoff, Choice("cpu"))
    assert gc.isenabled()
    # What is frozen when a worker ends is never taken apart, and nanobind then writes pages about it.
    assert gc.get_freeze_count() == before
    release_resources()


def test_who_computes_nothing_loads_no_models(world, tmp_path, batchrec, monkeypatch):
    """The client of a cluster; its workers are other processes, which load as ever."""

    def loaded(*_):
        raise AssertionError("models were loaded")

    monkeypatch.setattr("batchrec.resources._line", loaded)
    said = batchrec(*world.args(tmp_path, "--cluster=processes:1", "--run-id=night"))
    assert said.code == 0, said.err
    assert json.loads((tmp_path / "night" / "_manifest.json").read_text())["verification"]
