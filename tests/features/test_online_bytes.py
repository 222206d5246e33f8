"""What is written straight into a store, held against what Feast itself writes there, to the byte."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta, timezone

import pyarrow as pa
import pytest
from feast.types import Array, Bool, Float32, Float64, Int32, Int64, String

from batchrec.features.store import FeatureStore
from tests.delivery.stores import VIEW, make_repo, redis_server

AT = datetime(2026, 3, 1, 4, 5, 6, 789_012, tzinfo=timezone(timedelta(hours=2)))
IDS = {Int64: [0, 1, -1, 2**63 - 1, -(2**63), 300], String: ["", "a", "ü", "日本", "b" * 300, "c"]}
MORE = [
    ("doubles", Array(Float64)),
    ("words", Array(String)),
    ("flags", Array(Bool)),
    ("small", Array(Int32)),
    ("nulls", Array(Float32)),
]
LISTS = {
    "item_ids": pa.array([[1, 2**40, -5], [], [0], [7] * 200, [2**63 - 1], [-(2**63)]], pa.list_(pa.int64())),
    "scores": pa.array([[0.1, -0.0, float("inf")], [], [1e-40], [0.5] * 200, [3], [4]], pa.list_(pa.float32())),
    "doubles": pa.array([[0.1], [], [1.0, 2.0], [5.0] * 33, [], [9.0]], pa.list_(pa.float64())),
    "words": pa.array([["ü", ""], [], ["x"], ["y"] * 40, [], ["z"]], pa.list_(pa.string())),
    "flags": pa.array([[True], [], [False], [True] * 3, [], [False]], pa.list_(pa.bool_())),
    "small": pa.array([[1], [], [-1], [2**31 - 1] * 3, [], [0]], pa.list_(pa.int32())),
    "nulls": pa.array([None, [], [1.0], None, [2.0], [3.0]], pa.list_(pa.float32())),
}
SCALARS = {"age": pa.array([1, None, 3, 4, 5, -6]), "word": pa.array(["a", "", None, "ü", "e", "f"])}


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    server = redis_server(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


def sqlite_rows(repo):
    with sqlite3.connect(repo / "online.db") as connection:
        return sorted(connection.execute(f"SELECT * FROM shop_{VIEW}").fetchall())


def redis_rows(client):
    return {key: client.hgetall(key) for key in client.keys("*")}


def written(repo, table, *, direct, at=AT):
    view = FeatureStore.open(repo).online(VIEW)
    assert view._direct is not None
    if not direct:
        view._direct = None
    view.write(table, at)


@pytest.mark.parametrize("user", [Int64, String])
def test_sqlite(tmp_path, user):
    table = pa.table({"user_id": IDS[user], **LISTS})
    found = []
    for direct in (True, False):
        repo = make_repo(tmp_path / str(direct), user=user, more=MORE)
        written(repo, table, direct=direct)
        found.append(sqlite_rows(repo))
    assert found[0] == found[1]
    assert len(found[0]) == 6 * len(LISTS)


@pytest.mark.parametrize("user", [Int64, String])
def test_redis(tmp_path, redis, user):
    table = pa.table({"user_id": IDS[user], **LISTS, **SCALARS})
    found = []
    for direct in (True, False):
        redis.client.flushall()
        repo = make_repo(
            tmp_path / str(direct), redis.online, user=user, more=[*MORE, ("age", Int64), ("word", String)]
        )
        written(repo, table, direct=direct)
        found.append(redis_rows(redis.client))
    assert found[0] == found[1]
    assert len(found[0]) == 6


def test_slices_and_chunks(tmp_path):
    """Offsets of a sliced column do not begin at zero."""
    table = pa.table({"user_id": IDS[Int64], **LISTS})
    pieces = pa.concat_tables([table.slice(0, 2), table.slice(2, 3), table.slice(5)])
    found = []
    for name, one in (("whole", table), ("pieces", pieces), ("tail", table.slice(3))):
        repo = make_repo(tmp_path / name, more=MORE)
        written(repo, one, direct=True)
        found.append(sqlite_rows(repo))
    assert found[0] == found[1]
    assert len(found[2]) == 3 * len(LISTS)
    assert set(found[2]) < set(found[0])


def test_keys_live_as_long_as_the_store_says(tmp_path, redis):
    redis.client.flushall()
    repo = make_repo(tmp_path / "repo", redis.online.replace("{", "{key_ttl_seconds: 500, "), more=MORE)
    written(repo, pa.table({"user_id": IDS[Int64], **LISTS}), direct=True)
    assert {400 < redis.client.ttl(key) <= 500 for key in redis.client.keys("*")} == {True}


def test_a_later_row_is_replaced_too(tmp_path, redis):
    """Feast's own Redis store would keep it and say nothing."""
    redis.client.flushall()
    repo = make_repo(tmp_path / "repo", redis.online, more=MORE)
    table = pa.table({"user_id": IDS[Int64], **LISTS})
    written(repo, table, direct=True, at=AT + timedelta(days=1))
    written(repo, table, direct=True)
    (again, *_) = redis_rows(redis.client).values()
    assert again[f"_ts:{VIEW}".encode()] == seconds_and_nanos(AT)


def seconds_and_nanos(at):
    from google.protobuf.timestamp_pb2 import Timestamp

    made = Timestamp()
    made.FromDatetime(at.astimezone(UTC))
    return made.SerializeToString()


@pytest.mark.parametrize(
    "online", ["{type: sqlite, path: online.db, vector_enabled: true}", "{type: redis, redis_type: redis_cluster}"]
)
def test_settings_that_are_not_known_are_left_to_feast(tmp_path, online):
    repo = make_repo(tmp_path / "repo")
    settings = repo / "feature_store.yaml"
    settings.write_text(settings.read_text().replace("{type: sqlite, path: online.db}", online))
    assert FeatureStore(repo).online(VIEW)._direct is None
