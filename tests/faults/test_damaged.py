"""Parts that are cut short, flipped or removed after they were written; a disk that is full; a clock that jumps."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.faults.support import args, ended, is_published, parts, start, wait_for


@pytest.fixture
def unfinished(world, tmp_path, undisturbed):
    """A run that was killed after some parts; returns its output folder."""
    process = start(world, tmp_path / "output")
    journal = tmp_path / "output" / "night" / "_journal"
    wait_for(lambda: len(list(journal.glob("part-*.json"))) >= 5, process)
    process.kill()
    ended(process)
    return tmp_path / "output"


def test_damaged_parts_are_made_again(world, batchrec, unfinished, undisturbed):
    cut, flipped, gone, forgotten = sorted((unfinished / "night" / "_journal").glob("part-*.json"))[:4]
    part = unfinished / "night" / f"{cut.stem}.parquet"
    part.write_bytes(part.read_bytes()[:-5])
    part = unfinished / "night" / f"{flipped.stem}.parquet"
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 4
    part.write_bytes(bytes(data))
    (unfinished / "night" / f"{gone.stem}.parquet").unlink()
    forgotten.write_bytes(forgotten.read_bytes()[:40])
    said = batchrec(*args(world, unfinished))
    assert said.code == 0, said.err
    assert parts(unfinished / "current") == undisturbed


def test_a_part_that_is_damaged_before_publication_is_found(world, batchrec, tmp_path, undisturbed, monkeypatch):
    """The disk loses a bit of a part after the last one is written: the run proves its parts before it publishes."""
    from batchrec import run

    whole = run.final_parts

    def damaged(*given):
        made = whole(*given)
        path = tmp_path / "night" / made[3].record.name
        data = bytearray(path.read_bytes())
        data[100] ^= 1
        path.write_bytes(bytes(data))
        return made

    with monkeypatch.context() as patch:
        patch.setattr(run, "final_parts", damaged)
        said = batchrec(*args(world, tmp_path))
    assert said.code == 3
    assert "violations by check are sums 1, " in said.err
    assert f"; {tmp_path}/night/part-00003.parquet is damaged: SHA-256" in said.err
    assert not is_published(tmp_path)
    said = batchrec(*args(world, tmp_path))
    assert said.code == 0, said.err
    assert parts(tmp_path / "current") == undisturbed


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 300 KiB, where this user may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=300k", "none", disk]
    if subprocess.run(mounting, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_stops_the_run_and_room_lets_it_go_on(world, batchrec, small_disk, undisturbed):
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 180_000)
    said = batchrec(*args(world, small_disk / "output"))
    assert said.code == 1
    assert "No space left on device" in said.err
    assert "free space" in said.err
    assert not is_published(small_disk / "output")
    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
    said = batchrec(*args(world, small_disk / "output"))
    assert said.code == 0, said.err
    assert parts(small_disk / "output" / "current") == undisturbed


@pytest.mark.slow
def test_a_clock_that_jumps(world, tmp_path, undisturbed):
    """The wall clock goes back by a year and then ahead by two while the run goes on."""
    if shutil.which("faketime") is None:
        pytest.skip("needs Debian's package faketime")
    jumps = tmp_path / "jumps"
    jumps.write_text("-1y")
    library = subprocess.run(
        ["faketime", "-m", "now", "printenv", "LD_PRELOAD"], capture_output=True, text=True, check=True
    )
    faked = {
        "LD_PRELOAD": library.stdout.strip(),
        "FAKETIME_TIMESTAMP_FILE": str(jumps),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    process = start(world, tmp_path / "output", env=faked)
    journal = tmp_path / "output" / "night" / "_journal"
    wait_for(lambda: len(list(journal.glob("part-*.json"))) >= 3, process)
    jumps.write_text("+2y")
    code, err = ended(process)
    assert code == 0, err
    assert "-" not in err.split("Recommending: ")[-1].split(" s,")[0], "seconds are not negative"
    assert parts(tmp_path / "output" / "current") == undisturbed


def test_a_changed_input_is_told(world, batchrec, unfinished):
    said = batchrec(*args(world, unfinished, "--top-k=5", "--seed=9"))
    assert said.code == 2
    assert "was begun with others of these: seed (0 then, 9 now), top_k (10 then, 5 now): give it what" in said.err
    ids = world.ids()[1:]
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"user_id": ids}), unfinished.parent / "fewer.parquet")
    said = batchrec(*args(world, unfinished, f"--users={unfinished.parent / 'fewer.parquet'}"))
    assert said.code == 2
    assert "was begun with others of these: the users: give it what it was begun with" in said.err
    assert (unfinished / "night" / "_journal" / "begun.json").exists()


def test_nothing_to_resume(world, batchrec, tmp_path):
    said = batchrec(*world.args(tmp_path / "none", "--resume"))
    assert (said.code, said.out) == (99, "")
    assert "is unfinished: leave out --resume to start one." in said.err
    assert not (tmp_path / "none").exists()
    said = batchrec(*args(world, tmp_path))
    assert said.code == 0, said.err
    said = batchrec(*args(world, tmp_path, "--resume"))
    assert said.code == 99
    assert "is published already" in said.err
