"""How much memory and disk there is."""

import shutil

import numpy as np
import psutil
import pytest

from batchrec import room

STAT = "anon 5\nfile 9\n{name} 700\n"


@pytest.fixture
def group(tmp_path, monkeypatch):
    """Return a function that makes a control group with a limit and a use, 700 bytes of which are files in cache."""

    def made(limit, use):
        names = ("limit", "use", "inactive_file")
        for name, value in zip(names, (limit, use), strict=False):
            (tmp_path / name).write_text(f"{value}\n")
        (tmp_path / "memory.stat").write_text(STAT.format(name="inactive_file"))
        monkeypatch.setattr(room, "_GROUPS", {tmp_path / "none": names, tmp_path: names})

    return made


def test_the_control_group_counts_where_it_has_less_than_the_machine(group):
    group(10_000, 4_000)
    assert room.available_memory() == 6_700
    group(1 << 62, 4_000)
    assert room.available_memory() == pytest.approx(psutil.virtual_memory().available, rel=0.2)
    group("max", 4_000)
    assert room.available_memory() == pytest.approx(psutil.virtual_memory().available, rel=0.2)


def test_free_disk_of_a_folder_that_is_not_there_yet(tmp_path):
    assert room.free_disk(tmp_path / "a" / "b") == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.05)


def test_the_peak_is_seen_though_it_is_over_at_the_end():
    before = room.resident()
    with room.watched() as peak:
        block = np.ones(25_000_000)
        assert block.sum() == 25_000_000
        peak.look()
        del block
    assert 180e6 < peak.bytes - before < 400e6
