"""Bundles on a real S3 API: the same bundle, the same errors, one copy a machine, and nothing left of it."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from batchrec import index as index_command
from batchrec import train as train_command
from batchrec.errors import ArtifactError, SinkError
from batchrec.models.bundle import Bundle
from batchrec.output.storage import open_storage
from batchrec.remote_bundle import format_at, local_bundle, named_by, put
from tests.models.bundles import edit, make_bundle
from tests.stores import BUCKET


@pytest.fixture
def copies(tmp_path, monkeypatch):
    """The folder in which this user's copies are made, in a temporary directory of the test's own."""
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return place / f"batchrec-bundles-{os.getuid()}"


@pytest.fixture
def bundle(tmp_path):
    return make_bundle(tmp_path / "bundle")


@pytest.fixture
def url(bundle, s3):
    """The same bundle in the store."""
    place = f"s3://{BUCKET}/{secrets.token_hex(4)}/bundle"
    put(bundle, open_storage(place))
    return place


def opened(place):
    with local_bundle(place) as folder, named_by(place, folder):
        return Bundle.open(folder)


def test_a_bundle_by_url_is_the_bundle(bundle, url, copies):
    here = Bundle.open(bundle)
    with local_bundle(url) as folder:
        there = Bundle.open(folder)
        assert there.fingerprint == here.fingerprint
        assert there.item_ids == here.item_ids
        assert np.array_equal(there.item_embeddings, here.item_embeddings)
        assert (folder / "ranker/variables/variables.index").read_bytes() == b"weights"
        assert folder.parent == copies
        assert stat.S_IMODE(copies.stat().st_mode) == 0o700
    assert list(copies.iterdir()) == []
    assert format_at(url) == format_at(bundle) == here.format
    with local_bundle(bundle) as folder:
        assert folder == bundle


def test_holders_share_one_copy_and_the_last_removes_it(url, copies):
    with local_bundle(url) as first:
        inode = first.stat().st_ino
        with local_bundle(url) as second:
            assert second == first
            assert second.stat().st_ino == inode
        assert [path.name for path in copies.iterdir()] == [first.name]
    assert list(copies.iterdir()) == []


HOLD = """
import sys, time
from pathlib import Path
from batchrec.models.bundle import Bundle
from batchrec.remote_bundle import local_bundle
with local_bundle(sys.argv[1]) as folder:
    Bundle.open(folder)
    Path(sys.argv[2]).write_text(str(folder.stat().st_ino))
    while not Path(sys.argv[3]).exists():
        time.sleep(0.01)
"""


def holding(url, tmp_path, number):
    said, go = tmp_path / f"said-{number}", tmp_path / "go"
    return subprocess.Popen([sys.executable, "-c", HOLD, url, str(said), str(go)]), said


def wait(*files):
    deadline = time.monotonic() + 60
    while not all(file.exists() and file.read_text() for file in files):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_processes_that_start_at_once_share_one_copy_and_killed_ones_leave_nothing_for_long(
    url, copies, tmp_path, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    processes, said = zip(*(holding(url, tmp_path, number) for number in range(3)), strict=True)
    wait(*said)
    assert len({file.read_text() for file in said}) == 1
    (copy,) = copies.iterdir()
    for process in processes:
        process.send_signal(signal.SIGKILL)
        process.wait()
    unfinished = copies / ".fetching-killed"
    unfinished.mkdir()
    assert copy.exists()
    (copy / "item_embeddings.parquet").unlink()  # what lies there from before is not believed
    opened(url)
    assert list(copies.iterdir()) == []


def lacking(name):
    return lambda folder: (folder / name).unlink()


def garbled(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-1] + b"x")


def other_size(folder):
    edit(folder, lambda content: content.update(catalogue_size=7))


def no_sum(folder):
    edit(folder, lambda content: content["files"].pop("vocabularies/city.parquet"))


@pytest.mark.parametrize(
    "harm",
    [
        lacking("ranker/saved_model.pb"),
        lacking("bundle.json"),
        garbled("item_embeddings.parquet"),
        garbled("query_tower/model.keras"),
        garbled("bundle.json"),
        other_size,
        no_sum,
    ],
)
def test_a_damaged_bundle_gives_the_error_that_it_gives_on_disk(bundle, url, copies, harm):
    harm(bundle)
    store = open_storage(url)
    store.remove(store.names())
    for path in (path for path in bundle.rglob("*") if path.is_file()):
        store.put(path, path.relative_to(bundle).as_posix())
    with pytest.raises(ArtifactError) as here:
        Bundle.open(bundle)
    with pytest.raises(ArtifactError) as there:
        opened(url)
    assert str(there.value) == str(here.value).replace(str(bundle), url)
    assert not copies.exists() or list(copies.iterdir()) == []


def test_a_bundle_that_is_put_anew_is_fetched_anew(bundle, url, copies):
    with local_bundle(url) as before:
        edit(bundle, lambda content: content.update(created_by="somebody else"))
        put(bundle, open_storage(url))
        with local_bundle(url) as after:
            assert after != before
            assert Bundle.open(after).format.created_by == "somebody else"
            assert Bundle.open(before).format.created_by == "tests"
    assert list(copies.iterdir()) == []


def test_files_that_the_bundle_does_not_name_are_not_fetched(url, copies):
    open_storage(url).write("ranker/assets/evil.txt", b"x")
    with local_bundle(url) as folder:
        Bundle.open(folder)
        assert not (folder / "ranker/assets").exists()


def test_a_place_that_others_can_write_to_is_refused(url, copies, tmp_path):
    copies.mkdir()
    copies.chmod(0o777)
    with pytest.raises(SinkError, match="not a folder that only this user can write to"), local_bundle(url):
        pass
    copies.rmdir()
    (tmp_path / "elsewhere").mkdir()
    copies.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SinkError, match="not a folder that only this user can write to"), local_bundle(url):
        pass


def test_a_store_that_is_not_there_and_a_secret_in_the_url(s3, copies, monkeypatch):
    with (
        pytest.raises(ArtifactError, match=r"s3://no-such-bucket/b is not a bundle"),
        local_bundle("s3://no-such-bucket/b"),
    ):
        pass
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(SinkError, match=r"the object store did not do what was asked of s3://nightly/b") as refused:
        format_at("s3://nightly/b")
    assert "see that it can be reached" in refused.value.remedy
    s3fs.S3FileSystem.clear_instance_cache()


def test_an_index_is_built_where_the_bundle_lies(bundle, url, copies):
    for kind in ("ivf", "flat"):
        here = index_command.build(bundle, kind=kind)
        there = index_command.build(url, kind=kind)
        assert there == here | {"bundle": url}
        (only,) = (name for name in open_storage(url).names() if name.endswith(".faiss"))
        assert only == there["index"]["path"]
        assert opened(url).fingerprint == Bundle.open(bundle).fingerprint


def test_a_trained_bundle_is_put_whole_and_never_over_another(bundle, url, copies, tmp_path):
    place = f"{url}-new"
    train_command._check_output(place)
    with pytest.raises(ArtifactError, match="holds something already"):
        train_command._check_output(url)
    made = shutil.copytree(bundle, tmp_path / "made")
    train_command._put(made, place)
    assert not made.exists()
    assert opened(place).fingerprint == Bundle.open(bundle).fingerprint
    made = shutil.copytree(bundle, tmp_path / "made")
    with pytest.raises(SinkError, match=f"copy the bundle there yourself, bundle.json last: it is {made}"):
        train_command._put(made, "s3://no-such-bucket/b")
    assert Bundle.open(made).fingerprint == Bundle.open(bundle).fingerprint
    assert json.loads((made / "bundle.json").read_text())["files"]
    assert pq.read_table(made / "item_embeddings.parquet").num_rows == 6
