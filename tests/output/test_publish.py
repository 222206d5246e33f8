"""Publishing: all of a run or nothing, whoever reads, whatever stands there, wherever it is cut short."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from batchrec.errors import ArtifactError, SinkError
from batchrec.output.journal import Begun, JournalEntry, append, begin
from batchrec.output.local_storage import LocalStorage
from batchrec.output.part import write_part
from batchrec.output.publish import RunFolder, open_run, published_manifest
from batchrec.output.record import PartRecord, part_name
from batchrec.users import prepare_users

MOMENT = datetime(2026, 2, 3, tzinfo=UTC)


def write_run(output: Path, run_id: str, table: pa.Table, manifest, parts: int = 2) -> RunFolder:
    """Everything of a run but its publication."""
    run = RunFolder.open(LocalStorage(output), run_id)
    begin(run.storage, Begun(run_id, MOMENT, MOMENT, {}, {}))
    run.tidy()
    for index in range(parts):
        write_part(table, run.storage, part_name(index))
    return run


def publish(output: Path, run_id: str, table: pa.Table, manifest, parts: int = 2) -> RunFolder:
    run = write_run(output, run_id, table, manifest, parts)
    run.publish(replace(manifest, run_id=run_id))
    return run


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_what_a_published_run_looks_like(tmp_path, table, manifest):
    publish(tmp_path, "night-1", table, manifest)
    assert names(tmp_path) == ["current", "night-1"]
    assert names(tmp_path / "current") == [
        "_SUCCESS",
        "_manifest.json",
        "part-00000.parquet",
        "part-00001.parquet",
    ]
    assert (tmp_path / "current" / "_SUCCESS").read_bytes() == b""


def test_the_link_is_relative_so_that_the_folder_can_be_moved(tmp_path, table, manifest):
    publish(tmp_path / "a", "night-1", table, manifest)
    (tmp_path / "a").rename(tmp_path / "b")
    assert str((tmp_path / "b" / "current").readlink()) == "night-1"


def test_read_through_current(tmp_path, table, manifest):
    publish(tmp_path, "night-1", table, manifest, parts=1)
    publish(tmp_path, "night-2", table.slice(1), manifest, parts=1)
    current = tmp_path / "current"
    expected = table["user_id"].to_pylist()[1:]
    assert pyarrow.dataset.dataset(current).to_table()["user_id"].to_pylist() == expected
    assert pd.read_parquet(current)["user_id"].tolist() == expected
    assert duckdb.sql(f"SELECT user_id FROM read_parquet('{current}/part-*.parquet')").fetchall() == [
        (value,) for value in expected
    ]
    assert names(tmp_path) == ["current", "night-1", "night-2"]


def test_manifest_of_a_published_run(tmp_path, table, manifest):
    assert published_manifest(LocalStorage(tmp_path), "night-1") is None
    run = write_run(tmp_path, "night-1", table, manifest)
    assert published_manifest(LocalStorage(tmp_path), "night-1") is None
    run.publish(manifest)
    assert published_manifest(LocalStorage(tmp_path), "night-1") == manifest.as_dict()
    assert published_manifest(LocalStorage(tmp_path), "night-2") is None
    (run.storage.root / "_manifest.json").unlink()
    with pytest.raises(ArtifactError, match="cannot be read"):
        published_manifest(LocalStorage(tmp_path), "night-1")


# Folders that are not empty


def test_what_a_killed_writer_left_is_removed_and_finished_parts_stay(tmp_path, table, manifest):
    run = write_run(tmp_path, "night-1", table, manifest)
    (run.storage.root / "_manifest.json").write_text("{}")
    (run.storage.root / "_SUCCESS").touch()
    (tmp_path / ".current.night-1.tmp").symlink_to("night-1")
    (run.storage.root / ".part-00007.parquet.0123456789abcdef.tmp").write_bytes(b"half")
    (run.storage.root / "_journal" / ".part-00007.json.0123456789abcdef.tmp").write_bytes(b"half")
    RunFolder.open(LocalStorage(tmp_path), "night-1").tidy()
    assert names(tmp_path) == ["night-1"]
    assert names(run.storage.root) == ["_journal", "part-00000.parquet", "part-00001.parquet"]
    assert names(run.storage.root / "_journal") == ["begun.json"]


@pytest.mark.parametrize("foreign", ["notes.txt", "part-1.parquet", "part-00001.parquet.bak", ".keep", "_other"])
def test_foreign_files_are_never_removed(tmp_path, table, manifest, foreign):
    run = write_run(tmp_path, "night-1", table, manifest)
    (run.storage.root / foreign).write_text("mine")
    before = names(run.storage.root)
    with pytest.raises(SinkError, match=rf"holds what batchrec did not write \({foreign}\): move it away"):
        RunFolder.open(LocalStorage(tmp_path), "night-1")
    assert names(run.storage.root) == before
    run.storage.remove(["_journal/begun.json"])
    run.abandon()
    assert names(run.storage.root) == [foreign]


def test_foreign_folder_with_the_name_of_a_part(tmp_path):
    (tmp_path / "night-1" / "part-00000.parquet").mkdir(parents=True)
    with pytest.raises(SinkError, match="did not write"):
        RunFolder.open(LocalStorage(tmp_path), "night-1")


def test_run_folder_that_is_a_link_or_a_file(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "night-1").symlink_to("elsewhere")
    (tmp_path / "night-2").touch()
    (tmp_path / "night-3").symlink_to("nowhere")
    for run_id in ("night-1", "night-2", "night-3"):
        with pytest.raises(SinkError, match=f"{run_id} is not a folder"):
            RunFolder.open(LocalStorage(tmp_path), run_id)


def test_work_that_is_a_link_is_removed_and_what_it_points_at_stays(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    run = RunFolder.open(LocalStorage(tmp_path), "night-1")
    run.storage.root.mkdir()
    (run.storage.root / ".x.0123456789abcdef.tmp").symlink_to(tmp_path / "mine")
    (run.storage.root / "_work").symlink_to(tmp_path / "mine")
    with run.scratch() as scratch:
        assert names(scratch) == []
    run.abandon()
    assert names(tmp_path / "mine") == ["file"]


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch])
def test_current_that_is_no_link_is_found_before_any_work(tmp_path, make):
    make(tmp_path / "current")
    with pytest.raises(SinkError, match="current is not a link that batchrec made"):
        RunFolder.open(LocalStorage(tmp_path), "night-1")
    assert names(tmp_path) == ["current"]


def test_current_that_became_a_folder_while_the_run_went_on(tmp_path, table, manifest):
    run = write_run(tmp_path, "night-1", table, manifest)
    (tmp_path / "current").mkdir()
    with pytest.raises(SinkError, match="current is not a link"):
        run.publish(manifest)
    assert not run.is_published
    assert names(tmp_path) == ["current", "night-1"]


def test_current_that_points_nowhere_is_replaced(tmp_path, table, manifest):
    (tmp_path / "current").symlink_to("gone")
    publish(tmp_path, "night-1", table, manifest)
    assert (tmp_path / "current").resolve() == (tmp_path / "night-1").resolve()


def test_output_that_is_a_file(tmp_path):
    (tmp_path / "output").touch()
    with pytest.raises(SinkError, match="cannot write"), LocalStorage(tmp_path / "output").lock(".lock", "there"):
        pass


# Abandoning


def test_a_run_with_a_finished_part_can_be_gone_on_with(tmp_path, table, manifest):
    publish(tmp_path, "night-1", table, manifest)
    run = write_run(tmp_path, "night-2", table, manifest)
    part, digests = (PartRecord(name, 4, 1, "") for name in (part_name(0), f"_digests/{part_name(0)}"))
    append(run.storage, JournalEntry(part, {"ok": 4}, {}, digests=digests))
    run.abandon()
    assert names(tmp_path) == ["current", "night-1", "night-2"]
    assert names(tmp_path / "night-2") == ["_journal", "part-00000.parquet", "part-00001.parquet"]


def test_a_run_without_a_finished_part_leaves_nothing(tmp_path, table, manifest):
    publish(tmp_path, "night-1", table, manifest)
    write_run(tmp_path, "night-2", table, manifest).abandon()
    assert names(tmp_path) == ["current", "night-1"]


def test_abandoning_twice_or_before_anything_is_there(tmp_path):
    run = RunFolder.open(LocalStorage(tmp_path), "night-1")
    run.abandon()
    run.abandon()
    assert names(tmp_path) == []


def test_abandoning_a_published_run_changes_nothing(tmp_path, table, manifest):
    run = publish(tmp_path, "night-1", table, manifest)
    before = names(run.storage.root)
    run.abandon()
    assert names(run.storage.root) == before


# Cut short

KILL_AT = """
import os, pickle, signal, sys
from pathlib import Path
from batchrec.output.local_storage import LocalStorage
from batchrec.output.part import write_part
from batchrec.output.publish import RunFolder

output, steps = Path(sys.argv[1]), int(sys.argv[2])
table, manifest = pickle.load(sys.stdin.buffer)
run = RunFolder.open(LocalStorage(output), "night-2")
write_part(table, run.storage, "part-00000.parquet")

def trace(name, arguments):
    global steps
    changes = name == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_CREAT
    if changes or name in {"os.rename", "os.symlink", "os.remove", "os.rmdir"}:
        if steps == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        steps -= 1

sys.addaudithook(trace)
run.publish(manifest)
"""


def test_killed_before_any_step_of_publication(tmp_path, table, manifest):
    """The whole of publish() is cut at each change it makes to the disk, and afterwards the run is done again."""
    payload = pickle.dumps((table, replace(manifest, run_id="night-2")))
    cuts = 0
    for steps in range(50):
        output = tmp_path / str(steps)
        publish(output, "night-1", table, manifest, parts=1)
        done = subprocess.run(
            [sys.executable, "-c", KILL_AT, str(output), str(steps)], input=payload, capture_output=True, check=False
        )
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr.decode()
        cuts += 1
        assert str((output / "current").readlink()) == "night-1"
        assert published_manifest(LocalStorage(output), "night-2") is None
        publish(output, "night-2", table, manifest, parts=1)
        assert names(output) == ["current", "night-1", "night-2"]
        assert str((output / "current").readlink()) == "night-2"
    assert cuts >= 6  # manifest (2), link (2), _SUCCESS (2), current
    assert str((output / "current").readlink()) == "night-2"


def test_killed_after_the_parts_and_before_publication(tmp_path, table, manifest):
    publish(tmp_path, "night-1", table, manifest)
    before = {path.name: path.read_bytes() for path in (tmp_path / "current").iterdir()}
    program = KILL_AT.replace("run.publish(manifest)", "os.kill(os.getpid(), signal.SIGKILL)")
    payload = pickle.dumps((table, manifest))
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), "0"], input=payload, capture_output=True, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "night-2" / "part-00000.parquet").exists()
    assert {path.name: path.read_bytes() for path in (tmp_path / "current").iterdir()} == before
    assert published_manifest(LocalStorage(tmp_path), "night-2") is None


def test_abandoned_after_publication_failed_half_way(tmp_path, table, manifest, monkeypatch):
    run = write_run(tmp_path, "night-1", table, manifest)

    def refuse(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "symlink_to", refuse)
        with pytest.raises(SinkError, match=r"No space left on device.*: free space"):
            run.publish(manifest)
    assert not run.is_published
    assert names(tmp_path) == ["night-1"]
    run.tidy()
    run.publish(manifest)
    assert names(tmp_path) == ["current", "night-1"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB, where this user may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "none", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_full_disk_names_the_file_and_leaves_the_published_run_alone(small_disk, table, manifest):
    publish(small_disk, "night-1", table, manifest)
    run = RunFolder.open(LocalStorage(small_disk), "night-2")
    big = pa.table({"x": pa.array(os.urandom(1) for _ in range(400_000))})
    with pytest.raises(
        SinkError, match=rf"cannot write {run.storage.root}/part-00000\.parquet \(No space left on device\): free"
    ):
        write_part(big, run.storage, part_name(0))
    assert names(small_disk / "night-2") == []
    assert pq.read_table(small_disk / "current" / part_name(0)) == table


def test_full_disk_while_users_are_prepared(small_disk, tmp_path):
    pq.write_table(pa.table({"user_id": [os.urandom(16).hex() for _ in range(40_000)]}), tmp_path / "in.parquet")
    with pytest.raises(SinkError, match=r"cannot write \S+users\.parquet \(.*No space left on device.*\): free space"):
        prepare_users(str(tmp_path / "in.parquet"), "user_id", small_disk, 10_000)
    assert names(small_disk) == []


# Readers


def test_a_reader_sees_whole_runs_only(tmp_path, manifest):
    """Every run holds its own number alone, in one to four parts; a reader loops while thirty runs are published."""
    publish(tmp_path, "run-0", pa.table({"run": [0] * 5}), manifest, parts=1)
    finished = threading.Event()

    def read() -> list[int]:
        seen = []
        while not finished.is_set():
            folder = Path(os.path.realpath(tmp_path / "current"))
            values = set(pyarrow.dataset.dataset(folder).to_table()["run"].to_pylist())
            run = min(values)
            parts = [part_name(index) for index in range(run % 4 + 1)]
            assert values == {run}
            assert [name for name in names(folder) if name != "_journal"] == ["_SUCCESS", "_manifest.json", *parts]
            assert json.loads((folder / "_manifest.json").read_text())["run_id"] == folder.name
            seen.append(run)
        return seen

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read)
        for run in range(1, 31):
            publish(tmp_path, f"run-{run}", pa.table({"run": [run] * 5}), manifest, parts=run % 4 + 1)
        finished.set()
        seen = reader.result()
    assert seen == sorted(seen)
    assert len(set(seen)) > 1


def test_opening_a_run_follows_current_once(tmp_path, table, manifest):
    publish(tmp_path, "night-1", table, manifest)
    opened = open_run(tmp_path / "current")
    publish(tmp_path, "night-2", table, manifest)
    assert opened.path() == str(tmp_path / "night-1")
    assert open_run(f"{tmp_path}/current/").path() == str(tmp_path / "night-2")
    assert open_run(f"{tmp_path}/night-1").path() == str(tmp_path / "night-1")
