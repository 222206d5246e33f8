"""The fence: whoever was given up writes nothing, and shutting it waits for those that are writing."""

import threading
import time

import pytest

from batchrec import fence
from batchrec.errors import BusyError


def test_nothing_passes_a_shut_fence():
    with fence.passing("one"):
        pass
    assert fence.shut("one")
    with pytest.raises(BusyError), fence.passing("one"):
        pytest.fail("passed")
    with fence.passing("other"):
        pass


def test_shutting_waits_for_a_write_that_has_begun():
    begun, written = threading.Event(), []

    def write():
        with fence.passing("slow"):
            begun.set()
            time.sleep(0.2)
            written.append(time.monotonic())

    thread = threading.Thread(target=write)
    thread.start()
    begun.wait()
    assert fence.shut("slow")
    assert written
    assert time.monotonic() >= written[0]
    thread.join()


def test_a_write_that_does_not_end_is_told(monkeypatch):
    monkeypatch.setattr(fence, "_SECONDS", 0.05)
    with fence.passing("stuck"):
        assert not fence.shut("stuck")


def test_no_stage_begins_behind_a_shut_fence():
    stopwatch = fence.FencedStopwatch("stages")
    with stopwatch("first"):
        fence.shut("stages")
    with pytest.raises(BusyError), stopwatch("second"):
        pytest.fail("began")
    assert list(stopwatch.seconds) == ["first"]
