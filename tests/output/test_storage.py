"""Storage: the same promises on a disk, in memory, and on a real S3 API."""

from __future__ import annotations

import os
import secrets
import threading
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchrec.errors import BusyError, ConfigError, SinkError
from batchrec.output.local_storage import LocalStorage
from batchrec.output.object_storage import ObjectStorage
from batchrec.output.publish import SUCCESS, RunFolder, open_run, published_manifest
from batchrec.output.storage import open_storage
from tests.stores import BUCKET


@pytest.fixture(params=["disk", "memory", "s3"])
def place(request, tmp_path):
    """A new folder on each kind of storage, as an option would name it."""
    if request.param == "disk":
        return str(tmp_path / "output")
    if request.param == "s3":
        request.getfixturevalue("s3")
        return f"s3://{BUCKET}/{secrets.token_hex(4)}/output"
    return f"memory://{secrets.token_hex(4)}/output"


@pytest.fixture
def storage(place):
    return open_storage(place)


def test_kinds(tmp_path):
    assert isinstance(open_storage(tmp_path), LocalStorage)
    assert isinstance(open_storage("memory://x"), ObjectStorage)
    with pytest.raises(ConfigError, match=r"cannot open nowhere://x .*: install the fsspec package"):
        open_storage("nowhere://x")


def test_what_is_written_is_read_again(storage):
    storage.write("a/b.txt", b"one")
    storage.write("a/b.txt", memoryview(b"two"))
    assert storage.read("a/b.txt") == storage.folder("a").read("b.txt") == b"two"
    with storage.open("a/b.txt") as file:
        file.seek(1)
        assert file.read() == b"wo"


def test_files_are_put_and_fetched(storage, tmp_path):
    data = os.urandom(9 * 2**20)  # more than is read at a time
    (tmp_path / "here").write_bytes(data)
    storage.put(tmp_path / "here", "a/b.bin")
    assert storage.read("a/b.bin") == data
    storage.fetch("a/b.bin", tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == data
    with pytest.raises(FileNotFoundError):
        storage.fetch("none", tmp_path / "none")


def test_what_is_not_there(storage):
    for ask in (storage.read, storage.open):
        with pytest.raises(FileNotFoundError):
            ask("none")
    assert not storage.exists("none")
    assert storage.names() == storage.names("none") == storage.folders() == []
    assert storage.pointed("current") is None
    storage.remove(["none"])


def test_names_and_folders(storage):
    for name in ("b/c.txt", "a.txt", "b/.hidden", "b/d/e.txt"):
        storage.write(name, b"")
    assert storage.names() == ["a.txt", "b/.hidden", "b/c.txt", "b/d/e.txt"]
    assert storage.names("b") == ["b/.hidden", "b/c.txt", "b/d/e.txt"]
    assert storage.folders() == ["b"]
    assert storage.exists("a.txt")
    assert not storage.exists("b")
    storage.remove(["b/c.txt", "b/d/e.txt", "b/.hidden", "b/.hidden"])
    assert storage.names() == ["a.txt"]
    assert storage.folders() == []


def test_only_one_of_many_creates(storage):
    barrier = threading.Barrier(8)

    def create(number: int) -> bool:
        barrier.wait()
        return storage.create("one", str(number).encode())

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(create, range(8)))
    assert sum(made) == 1
    assert storage.read("one") == str(made.index(True)).encode()


def test_pointer_moves_in_the_order_that_it_promises(storage):
    storage.write("r1/x", b"")
    storage.stage_pointer("current", "r1")
    assert storage.is_staged("current", "r1")
    assert storage.pointed("current") is None
    storage.move_pointer("current", "r1")
    assert storage.pointed("current") == "r1"
    assert not storage.is_staged("current", "r1")
    storage.stage_pointer("current", "r2")
    storage.unstage_pointer("current", "r2")
    assert storage.pointed("current") == "r1"
    assert not storage.is_staged("current", "r2")


def test_a_second_writer_is_busy(storage):
    with storage.lock(".lock", "there") as held:
        held.check()
        with pytest.raises(BusyError, match=rf"another process is writing there \(process {os.getpid()} on "):
            storage.lock(".lock", "there").__enter__()
        held.check()
    with storage.lock(".lock", "there"):
        pass
    assert storage.names() == []


def test_a_run_is_published_and_read(place, storage, table, manifest):
    run = RunFolder.open(storage, "night-1")
    record = _write(run, table)
    assert published_manifest(storage, "night-1") is None
    run.publish(manifest)
    assert storage.pointed("current") == "night-1"
    assert published_manifest(storage, "night-1") == manifest.as_dict()
    with open_run(f"{place}/current").open(record) as file:
        assert pq.read_table(file) == table
    assert run.storage.names() == [SUCCESS, "_manifest.json", record]


def test_publication_cut_before_the_pointer_moved_is_no_publication(storage, table, manifest):
    run = RunFolder.open(storage, "night-1")
    _write(run, table)
    storage.stage_pointer("current", "night-1")
    run.storage.write(SUCCESS, b"")
    assert not run.is_published
    run.tidy()
    assert run.storage.names() == ["part-00000.parquet"]
    run.publish(manifest)
    assert run.is_published


def test_foreign_files_are_refused(storage):
    storage.write("night-1/thesis.txt", b"years of work")
    with pytest.raises(SinkError, match=r"night-1 holds what batchrec did not write \(thesis.txt\)"):
        RunFolder.open(storage, "night-1")


def test_scratch_is_local_and_goes(storage):
    with storage.scratch("_work") as folder:
        (folder / "spill").write_bytes(b"x")
        assert folder.is_dir()
    assert not folder.exists()


def test_a_store_that_refuses_is_told_without_its_secrets(s3):
    storage = open_storage(f"s3://{s3['AWS_ACCESS_KEY_ID']}:{s3['AWS_SECRET_ACCESS_KEY']}@no-such-bucket/out")
    with pytest.raises((SinkError, FileNotFoundError)) as raised:
        storage.write("x", b"")
    assert s3["AWS_SECRET_ACCESS_KEY"] not in str(raised.value)
    assert s3["AWS_SECRET_ACCESS_KEY"] not in storage.shown("x")


def _write(run: RunFolder, table: pa.Table) -> str:
    from batchrec.output.part import write_part

    return write_part(table, run.storage, "part-00000.parquet").name
