"""Temporary folders: private, gone afterwards, and those of killed processes are gone when the next one comes."""

import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from batchrec import temporary
from batchrec.temporary import temporary_folder
from tests.runs import ROOT

PREFIX = "batchrec-test-"
LONG_AGO = time.time() - 2 * temporary.YOUNG
HOLDS_ONE = f"""
from batchrec.temporary import temporary_folder
with temporary_folder({PREFIX!r}) as folder:
    (folder / "spilled").write_bytes(b"x")
    print(folder, flush=True)
    input()
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


@pytest.fixture
def holder(place):
    """Another process that has a folder, long ago by its time."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS_ONE], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    folder = place / Path(process.stdout.readline().strip()).name
    os.utime(folder, (LONG_AGO, LONG_AGO))
    yield process, folder
    process.kill()
    process.communicate()


def left(place, name=f"{PREFIX}left", moment=LONG_AGO):
    folder = place / name
    folder.mkdir()
    (folder / "spilled").write_bytes(b"x")
    os.utime(folder, (moment, moment))
    return folder


def test_it_is_private_and_gone_afterwards(place):
    with temporary_folder(PREFIX) as folder:
        assert folder.parent == place
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "file").write_bytes(b"x")
    assert not list(place.iterdir())


def test_that_of_a_killed_process_is_removed_by_the_next(holder):
    process, folder = holder
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert folder.exists()
    with temporary_folder(PREFIX):
        assert not folder.exists()


def test_that_of_a_living_process_stays(holder):
    _, folder = holder
    with temporary_folder(PREFIX):
        assert (folder / "spilled").exists()


def test_what_is_young_or_of_another_kind_stays(place):
    others = [left(place, moment=time.time()), left(place, "batchrec-other-left")]
    with temporary_folder(PREFIX):
        assert all((other / "spilled").exists() for other in others)


def test_no_link_is_followed(place):
    elsewhere = left(place, "elsewhere")
    (place / f"{PREFIX}link").symlink_to(elsewhere)
    with temporary_folder(PREFIX):
        assert (elsewhere / "spilled").exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make another user's folder")
def test_another_users_stays(place):
    folder = left(place)
    os.chown(folder, 12345, 12345)
    os.utime(folder, (LONG_AGO, LONG_AGO))
    with temporary_folder(PREFIX):
        assert (folder / "spilled").exists()
