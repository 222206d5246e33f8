"""Feature files on a real S3 API: joined as on disk, read in part, sorted there, and away for a while."""

import secrets
import shutil
import socket
import threading
from contextlib import contextmanager

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
from feast import Entity, FileSource, ValueType
from feast.types import Int64

from batchrec.errors import FeatureError
from batchrec.features import store as store_module
from batchrec.features.remote_files import DuckDBFiles, duckdb_files
from batchrec.features.store import FeatureStore
from tests.features.conftest import TIME, USER_FIELDS, USER_SCHEMA, USERS, apply, day, user_history, view
from tests.features.test_offline_store import SORTED
from tests.stores import BUCKET


@pytest.fixture
def place(s3):
    """A prefix of its own."""
    return f"s3://{BUCKET}/{secrets.token_hex(4)}"


def put(url, table, **options):
    with fsspec.filesystem("s3").open(url, "wb") as file:
        pq.write_table(table, file, **options)


def read(url):
    with fsspec.filesystem("s3", use_listings_cache=False).open(url, "rb") as file:
        return pq.read_table(file)


def repository(folder, path, fields, offline=SORTED, **options):
    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
    batch = FileSource(name="s", path=path, timestamp_field="event_timestamp", **options)
    apply(folder, [user, view("v", [user], fields, batch)], offline=offline)
    return FeatureStore.open(folder)


@pytest.mark.parametrize("stated", ["v.parquet", "*.parquet", ""])
def test_features_are_those_of_the_same_files_on_disk(tmp_path, place, stated):
    """One file, a glob, and a folder; all of Feast's types, nulls, several times."""
    from feast.data_format import ParquetFormat

    options = {} if stated else {"file_format": ParquetFormat()}
    rows = pa.Table.from_pylist(user_history(seed=3), USER_SCHEMA)
    (tmp_path / "data").mkdir()
    pq.write_table(rows, tmp_path / "data" / "v.parquet")
    put(f"{place}/data/v.parquet", rows)
    local = f"{tmp_path}/data/{stated or '*.parquet'}"
    here = repository(tmp_path / "here", local, USER_FIELDS, offline="duckdb", **options)
    there = repository(tmp_path / "there", f"{place}/data/{stated}", USER_FIELDS, **options)
    ids = pa.array(USERS * 3)
    times = pa.array([day(number) for number in (0, 4.5, 20) for _ in USERS], TIME)
    expected = here.point_in_time(ids, times, here.refs("v"))
    found = there.point_in_time(ids, times, there.refs("v"))
    assert found.equals(expected)
    assert found.schema == expected.schema
    there.check(there.refs("v"))


@pytest.fixture
def long(tmp_path, place):
    """A view of twenty row groups of a thousand users each, the file's URL and its size."""
    keys = np.arange(20_000)
    times = pa.repeat(pa.scalar(day(0), TIME), len(keys))
    table = pa.table({"user_id": keys, "number": keys * 2, "other": keys * 3, "event_timestamp": times})
    url = f"{place}/v.parquet"
    put(url, table, row_group_size=1000, compression="none", use_dictionary=False)
    store = repository(tmp_path / "repo", url, {"number": Int64})
    return store, url, table


@contextmanager
def counted(monkeypatch):
    """Count the bytes that the file system asks the store for."""
    asked = []
    fetch = s3fs.S3File._fetch_range

    def counting(self, start, end):
        asked.append(end - start)
        return fetch(self, start, end)

    with monkeypatch.context() as patch:
        patch.setattr(s3fs.S3File, "_fetch_range", counting)
        yield asked


def test_of_a_sorted_file_only_the_row_groups_asked_for_are_read(long, monkeypatch):
    store, url, _ = long
    size = fsspec.filesystem("s3").size(url)
    with counted(monkeypatch) as asked:
        found = store.point_in_time(pa.array(range(3000, 4000)), day(1), store.refs("v"))
    assert found["number"].to_pylist() == list(range(6000, 8000, 2))
    # One group of twenty, without its other column, and the footer, which is read for planning and for reading.
    assert sum(asked) < 0.12 * size
    with counted(monkeypatch) as asked:
        store.point_in_time(pa.array([0, 19_999]), day(1), store.refs("v"))
    assert sum(asked) > 0.5 * size


def test_a_file_that_was_replaced_is_read_anew(long):
    store, url, table = long
    assert store.point_in_time(pa.array([7]), day(1), store.refs("v"))["number"].to_pylist() == [14]
    before = store.source_fingerprint(store.refs("v"))
    assert store.source_fingerprint(store.refs("v")) == before
    put(url, table.set_column(1, "number", pa.array(np.arange(20_000) + 1)), row_group_size=500)
    assert store.point_in_time(pa.array([7]), day(1), store.refs("v"))["number"].to_pylist() == [8]
    assert store.source_fingerprint(store.refs("v")) != before


def test_a_file_of_the_same_length_has_another_fingerprint(long):
    store, url, table = long
    before = store.source_fingerprint(store.refs("v"))
    size = fsspec.filesystem("s3").size(url)
    changed = table.set_column(1, "number", pa.array(np.arange(20_000) * 2 + 1))
    put(url, changed, row_group_size=1000, compression="none", use_dictionary=False)
    assert fsspec.filesystem("s3", use_listings_cache=False).size(url) == size
    assert store.source_fingerprint(store.refs("v")) != before


def test_an_unsorted_file_is_said_and_sorted_where_it_lies(tmp_path, place, capfd, monkeypatch):
    monkeypatch.setattr(store_module, "_SAID", set())
    url = f"{place}/many/b.parquet"
    times = pa.array([day(1), day(0), day(0), day(0)], TIME)
    for name, keys in {"a": [1, 1, 2, 3], "b": [1, 3, 2, 1]}.items():
        table = pa.table({"user_id": keys, "x": [1, 2, 3, 4], "event_timestamp": times})
        put(f"{place}/many/{name}.parquet", table, row_group_size=2)
    store = repository(tmp_path, f"{place}/many/*.parquet", {"x": Int64})
    for _ in range(2):
        store.check(store.refs("v"))
    (line,) = capfd.readouterr().err.splitlines()
    assert f"{url} is not sorted by user_id" in line
    before = store.point_in_time(pa.array([1, 2, 3]), day(1), store.refs("v"))
    assert store.sort_source("v") == (url,)
    assert read(url)["user_id"].to_pylist() == [1, 1, 2, 3]
    assert read(url)["x"].to_pylist() == [4, 1, 3, 2]  # of one id, the older row first
    assert store.sort_source("v") == ()
    assert store.point_in_time(pa.array([1, 2, 3]), day(1), store.refs("v")).num_rows == before.num_rows


def test_a_file_that_is_written_meanwhile_is_not_replaced(tmp_path, place, monkeypatch):
    from batchrec.features import sort

    table = pa.table({"user_id": [2, 4, 1, 3], "x": [1] * 4, "event_timestamp": pa.array([day(0)] * 4, TIME)})
    put(f"{place}/v.parquet", table, row_group_size=2)
    store = repository(tmp_path, f"{place}/v.parquet", {"x": Int64})
    write = sort._write_sorted

    def overtaken(*arguments):
        rows = write(*arguments)
        put(f"{place}/v.parquet", table.slice(0, 1))
        return rows

    monkeypatch.setattr(sort, "_write_sorted", overtaken)
    with pytest.raises(FeatureError, match="changed while it was being sorted"):
        store.sort_source("v")
    assert read(f"{place}/v.parquet")["user_id"].to_pylist() == [2]


def test_a_file_that_is_not_there_is_told_at_once(tmp_path, place):
    store = repository(tmp_path, f"{place}/none.parquet", {"x": Int64})
    with pytest.raises(FeatureError, match=f"the feature source {place}/none.parquet cannot be looked at") as refused:
        store.check(store.refs("v"))
    assert "see that it exists and may be read from here" in str(refused.value)


# --- endpoints, and a network that goes away


class Gate:
    """A way to the store that can be shut: bytes are passed on, or connections dropped."""

    def __init__(self, port):
        self._target = ("127.0.0.1", port)
        self.is_open = True
        self.passed = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            if not self.is_open:
                client.close()
                continue
            server = socket.create_connection(self._target)
            for pair in ((client, server), (server, client)):
                threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source, target):
        try:
            while self.is_open and (data := source.recv(65536)):
                if not self.is_open:
                    break
                self.passed += 1
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            end.close()

    def close(self):
        self.is_open = False
        self._listening.close()


@pytest.fixture
def gate(s3, monkeypatch):
    """The store by another address, and clients that do not wait long for it."""
    made = Gate(int(s3["AWS_ENDPOINT_URL"].rsplit(":", 1)[1]))
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    duckdb_files.cache_clear()
    yield made
    made.close()
    duckdb_files.cache_clear()
    s3fs.S3FileSystem.clear_instance_cache()


def test_the_endpoint_of_a_source_is_the_one_that_is_asked(long, gate, tmp_path, monkeypatch):
    _, url, _ = long
    endpoint = f"http://127.0.0.1:{gate.port}"
    store = repository(tmp_path / "other", url, {"number": Int64}, s3_endpoint_override=endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3fs.S3FileSystem.clear_instance_cache()
    store.check(store.refs("v"))
    assert store.point_in_time(pa.array([7]), day(1), store.refs("v"))["number"].to_pylist() == [14]
    assert len(store.source_fingerprint(store.refs("v"))) == 64
    assert store.sort_source("v") == ()
    assert gate.passed > 10


def test_a_store_that_comes_back_is_asked_again_and_one_that_stays_away_is_an_error(
    long, gate, tmp_path, capfd, monkeypatch
):
    _, url, _ = long
    store = repository(tmp_path / "other", url, {"number": Int64}, s3_endpoint_override=f"http://127.0.0.1:{gate.port}")
    store.point_in_time(pa.array([7]), day(1), store.refs("v"))
    said = []

    def waited(seconds):
        said.append(seconds)
        gate.is_open = len(said) > 1

    monkeypatch.setattr("batchrec.features.retry.time.sleep", waited)
    gate.is_open = False
    assert store.point_in_time(pa.array([8]), day(1), store.refs("v"))["number"].to_pylist() == [16]
    assert said == [0.5, 4.0]
    assert "joining v failed (" in capfd.readouterr().err

    monkeypatch.setattr("batchrec.features.retry.time.sleep", lambda seconds: None)
    gate.is_open = False
    with pytest.raises(FeatureError, match=r"could not join v:number \((\w+): ") as refused:
        store.point_in_time(pa.array([8]), day(1), store.refs("v"))
    assert "Traceback" not in str(refused.value)


def test_other_kinds_of_stores_are_read_too(tmp_path):
    """Whatever fsspec knows; here a store in memory."""
    files = fsspec.filesystem("memory")
    table = pa.table({"user_id": [1, 2], "x": [5, 6], "event_timestamp": pa.array([day(0)] * 2, TIME)})
    with files.open("/features/v.parquet", "wb") as file:
        pq.write_table(table, file)
    store = repository(tmp_path, "memory://features/v.parquet", {"x": Int64})
    assert store.point_in_time(pa.array([2, 1, 3]), day(1), store.refs("v"))["x"].to_pylist() == [6, 5, None]
    assert isinstance(duckdb_files("memory", None), DuckDBFiles)
    shutil.rmtree(tmp_path)
