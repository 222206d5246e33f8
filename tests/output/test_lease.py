"""A lease on an object store: one owner, found dead by the store's clock, and told when it has lost."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

import pytest

from batchrec.errors import BusyError
from batchrec.output.lease import lease
from batchrec.output.storage import open_storage
from tests.stores import BUCKET

SHORT = 2.0


@pytest.fixture
def place(s3):
    return f"s3://{BUCKET}/{secrets.token_hex(4)}/.lock"


HOLD = """
import sys
from batchrec.output.lease import lease
from batchrec.output.storage import open_storage
with lease(open_storage(sys.argv[1]), "the output", float(sys.argv[2])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(place):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, place, str(SHORT)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_living_owner_holds_it_beyond_its_time_to_live(place, holder):
    until = time.monotonic() + 2 * SHORT
    while time.monotonic() < until:
        with pytest.raises(BusyError, match=rf"process {holder.pid} on "):
            lease(open_storage(place), "the output", SHORT).__enter__()
        time.sleep(0.3)


def test_a_dead_owner_does_not_hold_it_for_ever(place, holder):
    holder.kill()
    holder.wait()
    with pytest.raises(BusyError, match="it died, its lock expires"):
        lease(open_storage(place), "the output", SHORT).__enter__()
    deadline = time.monotonic() + 10 * SHORT
    while True:
        try:
            with lease(open_storage(place), "the output", SHORT) as held:
                held.check()
            break
        except BusyError:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    assert open_storage(place).names() == []


def test_an_owner_that_slept_too_long_finds_that_it_has_lost(place):
    storage = open_storage(place)
    with lease(storage, "the output", seconds=1000) as held:
        # Another process found it expired: the next generation is there, and later it is released again.
        (mine,) = storage.names()
        storage.write(f"{int(mine) + 1:010d}", b"{}")
        with pytest.raises(BusyError, match="has taken over the output"):
            held.check()
        storage.remove([mine, f"{int(mine) + 1:010d}"])
        with pytest.raises(BusyError, match="has taken over the output"):
            held.check()
        storage.write(mine, b'{"token": "of another"}')
        with pytest.raises(BusyError, match="has taken over the output"):
            held.check()
    assert storage.read(mine) == b'{"token": "of another"}', "what another process holds is not released"


def test_many_at_once_never_hold_it_together(place):
    code = """
import os, sys, time
from batchrec.errors import BusyError
from batchrec.output.lease import lease
from batchrec.output.storage import open_storage
won, until = 0, time.monotonic() + 4
while time.monotonic() < until:
    try:
        with lease(open_storage(sys.argv[1]), "it", 60):
            os.close(os.open(sys.argv[2], os.O_CREAT | os.O_EXCL))
            won += 1
            os.unlink(sys.argv[2])
    except BusyError:
        pass
print(won)
"""
    inside = Path(os.environ.get("TMPDIR", "/tmp")) / f"batchrec-{secrets.token_hex(8)}"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, place, inside],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        for _ in range(3)
    ]
    won = [int(process.communicate()[0]) for process in started]
    assert all(process.returncode == 0 for process in started)
    assert sum(won) > 0
