"""The store for sorted files gives what Feast's duckdb store gives, and reads less."""

import inspect
import os
import random
import shutil
from datetime import timedelta

import feast
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, Field, FileSource, OnDemandFeatureView, ValueType
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from feast.transformation.pandas_transformation import PandasTransformation
from feast.types import Array, Float32, Float64, Int64, String, UnixTimestamp

from batchrec.errors import FeatureError
from batchrec.features.asof import asof_join as _asof_join
from batchrec.features.store import FeatureStore
from tests.features.conftest import TIME, USERS, apply, configure, day, view
from tests.features.test_store import as_known

SORTED = "batchrec.features.offline_store.SortedOfflineStore"
INTEGERS = [-7, 0, 1, 2, 3, 2**53, 2**53 + 1, 2**62]
STRINGS = ["", "0", "00", "a", "a\0b", "a'b", "ab", "Ä", "京都"]
VALUES = {
    "number": lambda draw: draw.randint(-(2**60), 2**60),
    "ratio": lambda draw: draw.choice([0.5, float("inf"), -0.0]),
    "name": lambda draw: draw.choice(["", "x", "Łódź"]),
    "seen": lambda draw: [draw.randint(0, 9) for _ in range(draw.randint(0, 4))],
    "when": lambda draw: day(draw.randint(-9, 9)),
}
TYPES = {"number": Int64, "ratio": Float32, "name": String, "seen": Array(Int64), "when": UnixTimestamp}
ARROW = {
    "number": pa.int64(), "ratio": pa.float32(), "name": pa.string(), "seen": pa.list_(pa.int64()), "when": TIME,
}  # fmt: skip


def history(seed, keys):
    """Rows of each key at some hours of four days, several a moment, each created at another time, some never."""
    draw = random.Random(seed)
    rows = []
    for key in keys[1:]:
        for hour in draw.sample(range(96), 12):
            created = draw.sample([None, *range(-48, 48)], draw.randint(1, 3))
            for hours in created:
                values = {name: None if draw.random() < 0.25 else value(draw) for name, value in VALUES.items()}
                moment = day(hour / 24)
                known = None if hours is None else moment + timedelta(hours=hours)
                rows.append({"key": key, **values, "event_timestamp": moment, "created": known})
    draw.shuffle(rows)
    return rows


def table_of(rows, key_type):
    schema = pa.schema([("key", key_type), *ARROW.items(), ("event_timestamp", TIME), ("created", TIME)])
    return pa.Table.from_pylist(rows, schema)


def stores(folder, objects):
    """The same repository, read by Feast's store and by ours."""
    opened = []
    for name, offline in (("feasts", "duckdb"), ("ours", SORTED)):
        apply(folder / name, objects, offline=offline)
        opened.append(feast.FeatureStore(repo_path=str(folder / name)))
    return opened


def joined(store, entities, features, **options):
    """Rows of a join in the order of the entity rows."""
    found = store.get_historical_features(entities.copy(), features, full_feature_names=True, **options).to_arrow()
    return found.sort_by("row")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("keys", "key_type"), [(INTEGERS, ValueType.INT64), (STRINGS, ValueType.STRING)])
@pytest.mark.parametrize("order", ["sorted", "as it comes"])
def test_joins_are_those_of_feasts_duckdb_store(tmp_path, seed, keys, key_type, order):
    """Ties in time, created timestamps, times to live, nulls, lists, three views, a time of its own for each row."""
    user = Entity(name="user", join_keys=["key"], value_type=key_type)
    arrow_key = pa.int64() if key_type is ValueType.INT64 else pa.string()
    views = []
    for number, ttl in enumerate([timedelta(0), timedelta(hours=7), timedelta(days=2)]):
        table = table_of(history(seed * 10 + number, keys), arrow_key)
        if order == "sorted":
            table = table.sort_by("key")
        path = tmp_path / f"v{number}.parquet"
        pq.write_table(table, path, row_group_size=20)
        batch = FileSource(
            name=f"s{number}", path=str(path), timestamp_field="event_timestamp", created_timestamp_column="created"
        )
        views.append(view(f"v{number}", [user], TYPES, batch, ttl))
    feasts, ours = stores(tmp_path, [user, *views])
    draw = random.Random(seed)
    half_hours = [day(draw.randint(-4, 200) / 48) for _ in range(150)]
    asked = pd.DataFrame(
        {"row": range(150), "key": [draw.choice(keys) for _ in range(150)], "event_timestamp": half_hours}
    )
    features = [f"v{number}:{feature}" for number in range(3) for feature in TYPES]
    expected, found = joined(feasts, asked, features), joined(ours, asked, features)
    assert found.equals(expected)
    assert found.schema == expected.schema
    assert 0 < found["v0__number"].null_count < 150
    some = asked.assign(key=keys[3]).iloc[:10]
    assert joined(ours, some, features).equals(joined(feasts, some, features))


def test_a_created_timestamp_may_be_a_limit(tmp_path):
    user = Entity(name="user", join_keys=["key"], value_type=ValueType.INT64)
    pq.write_table(table_of(history(1, INTEGERS), pa.int64()), tmp_path / "v.parquet")
    path, created = str(tmp_path / "v.parquet"), "created"
    batch = FileSource(name="s", path=path, timestamp_field="event_timestamp", created_timestamp_column=created)
    feasts, ours = stores(tmp_path, [user, view("v", [user], TYPES, batch)])
    asked = pd.DataFrame({"row": range(8), "key": INTEGERS, "event_timestamp": day(2)})
    limited = [joined(store, asked, ["v:number"], filter_by_created_timestamp=True) for store in (feasts, ours)]
    assert limited[0].equals(limited[1])
    assert not limited[1].equals(joined(ours, asked, ["v:number"]))


def test_of_rows_that_nothing_tells_apart_one_comes(tmp_path):
    user = Entity(name="user", join_keys=["key"], value_type=ValueType.INT64)
    rows = [{"key": key, "number": 10 * key + n, "event_timestamp": day(0)} for key in range(100) for n in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "v.parquet")
    batch = FileSource(name="s", path=str(tmp_path / "v.parquet"), timestamp_field="event_timestamp")
    ours = stores(tmp_path, [user, view("v", [user], {"number": Int64}, batch)])[1]
    found = joined(ours, pd.DataFrame({"row": range(100), "key": range(100), "event_timestamp": day(1)}), ["v:number"])
    assert [number // 10 for number in found["v__number"].to_pylist()] == list(range(100))


def test_names_that_differ_in_case_mapped_columns_naive_times_and_narrow_keys(tmp_path):
    user = Entity(name="user", join_keys=["key"], value_type=ValueType.INT64)
    moments = pa.array([day(0), day(1), day(1)], TIME).cast(pa.timestamp("ns"))
    table = pa.table({"k": pa.array([1, 1, 2], pa.int32()), "AGE": [1, 2, 3], "old": [4.0, None, 6.0], "t": moments})
    pq.write_table(table, tmp_path / "v.parquet")
    mapping = {"k": "key", "old": "age_new", "t": "event_timestamp"}
    batch = FileSource(
        name="s", path=str(tmp_path / "v.parquet"), timestamp_field="event_timestamp", field_mapping=mapping
    )
    feasts, ours = stores(tmp_path, [user, view("v", [user], {"AGE": Int64, "age_new": Float64}, batch)])
    asked = pd.DataFrame({"row": range(4), "key": [2, 1, 1, 3], "event_timestamp": [day(n) for n in (1, 0, 5, 5)]})
    asked["v__age"] = 7
    for features in (["v:AGE", "v:age_new"], ["v:age_new"]):
        expected, found = (joined(store, asked, features) for store in (feasts, ours))
        assert found.equals(expected)
    assert joined(ours, asked, ["v:AGE"])["v__AGE"].to_pylist() == [3, 1, 2, None]


def test_rows_without_a_time_or_a_key_are_nobodys(tmp_path):
    """Also where an entity row has no key, or a time between two microseconds, which Feast's own store refuses."""
    user = Entity(name="user", join_keys=["key"], value_type=ValueType.STRING)
    nanoseconds = pa.array([None, 1_000, 2_000, 2_000, 3_000], pa.timestamp("ns", "UTC"))
    table = pa.table({"key": ["a", "a", "a", None, "b"], "number": range(5), "event_timestamp": nanoseconds})
    pq.write_table(table, tmp_path / "v.parquet")
    batch = FileSource(name="s", path=str(tmp_path / "v.parquet"), timestamp_field="event_timestamp")
    feasts, ours = stores(tmp_path, [user, view("v", [user], {"number": Int64}, batch)])
    times = pd.to_datetime([1_999, 2_000, 2_001, 5_000, 5_000], utc=True)
    asked = pd.DataFrame({"row": range(5), "key": ["a", "a", "a", None, "b"], "event_timestamp": times})
    found = joined(ours, asked, ["v:number"])
    assert found["v__number"].to_pylist() == [1, 2, 2, None, 4]
    asked["event_timestamp"] = times.floor("us")
    assert joined(feasts, asked, ["v:number"]).equals(joined(ours, asked, ["v:number"]))
    nobody = asked.assign(key=None).astype({"key": object})
    assert joined(ours, nobody, ["v:number"])["v__number"].null_count == 5


def test_several_keys_renamed_views_and_short_names(tmp_path):
    user = Entity(name="user", join_keys=["key"], value_type=ValueType.INT64)
    shop = Entity(name="shop", join_keys=["shop"], value_type=ValueType.STRING)
    rows = [
        {"key": key, "shop": name, "number": key * 10 + place, "event_timestamp": day(place)}
        for key in range(5)
        for place, name in enumerate("abc")
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "v.parquet")
    batch = FileSource(name="s", path=str(tmp_path / "v.parquet"), timestamp_field="event_timestamp")
    pair = view("pair", [user, shop], {"number": Int64}, batch)
    other = pair.with_name("p").with_join_key_map({"key": "buyer", "shop": "shop"})
    service = feast.FeatureService(name="other", features=[other])
    asked = pd.DataFrame({"row": range(4), "buyer": [4, 0, 0, 9], "shop": list("caba"), "event_timestamp": day(1)})
    answers = [
        store.get_historical_features(asked.copy(), store.get_feature_service("other")).to_df().sort_values("row")
        for store in stores(tmp_path, [user, shop, pair, service])
    ]
    pd.testing.assert_frame_equal(*(answer.reset_index(drop=True) for answer in answers))
    assert answers[1]["number"].fillna(-1).tolist() == [-1, 0, 1, -1]


@pytest.fixture(scope="module")
def ours(repo, tmp_path_factory):
    """The repository of the other tests, read by our store."""
    folder = tmp_path_factory.mktemp("feast") / "ours"
    shutil.copytree(repo.path, folder)
    configure(folder, offline=SORTED)
    return folder


def test_a_store_of_batchrec_joins_through_it(repo, ours, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "batchrec.features.offline_store.asof_join",
        lambda *arguments: asked.append(arguments) or _asof_join(*arguments),
    )
    store = FeatureStore.open(ours)
    found = store.point_in_time(pa.array(USERS), day(4.5), store.refs("user_features"))
    rows = repo.rows["user_features"]
    for name in found.column_names:
        assert found[name].to_pylist() == [as_known(rows, "user_id", user, day(4.5), name) for user in USERS]
    assert len(asked) == 1


def test_values_materialise_and_saved_datasets_are_written(repo, ours):
    store = feast.FeatureStore(repo_path=str(ours))
    store.materialize(day(-100), day(20), feature_views=["item_features"])
    online = store.get_online_features(["item_features:price"], [{"item_id": 10}, {"item_id": 404}]).to_dict()
    assert online["price"] == [2.5, None]
    asked = pd.DataFrame({"item_id": [10, 20], "event_timestamp": day(1)})
    job = store.get_historical_features(asked, ["item_features:price"])
    assert job.metadata.keys == ["item_id"]
    assert job.metadata.max_event_timestamp == day(1)
    job.persist(SavedDatasetFileStorage(path=str(ours / "saved.parquet")))
    saved = pq.read_table(ours / "saved.parquet").sort_by("item_id")
    assert saved["price"].to_pylist() == [1.5, None]


def test_a_file_by_url(tmp_path):
    user = Entity(name="user", join_keys=["key"], value_type=ValueType.INT64)
    table = pa.table({"key": [1], "number": [5], "event_timestamp": pa.array([day(0)], TIME)})
    pq.write_table(table, tmp_path / "v.parquet")
    batch = FileSource(name="s", path=f"file://{tmp_path}/v.parquet", timestamp_field="event_timestamp")
    asked = pd.DataFrame({"row": [0], "key": [1], "event_timestamp": day(1)})
    feasts, ours = stores(tmp_path, [user, view("v", [user], {"number": Int64}, batch)])
    assert joined(ours, asked, ["v:number"]).equals(joined(feasts, asked, ["v:number"]))


def double(frame):
    return frame.assign(twice=2 * frame["number"])[["twice"]]


def test_what_it_does_not_improve_is_left_to_feast(tmp_path, monkeypatch):
    """A view that is computed when it is asked for."""
    user = Entity(name="user", join_keys=["key"], value_type=ValueType.INT64)
    table = pa.table({"key": [1], "number": [5], "event_timestamp": pa.array([day(0)], TIME)})
    pq.write_table(table, tmp_path / "v.parquet")
    batch = FileSource(name="s", path=str(tmp_path / "v.parquet"), timestamp_field="event_timestamp")
    numbers = view("v", [user], {"number": Int64}, batch)
    doubled = OnDemandFeatureView(
        name="d",
        sources=[numbers],
        schema=[Field(name="twice", dtype=Int64)],
        feature_transformation=PandasTransformation(double, inspect.getsource(double)),
        mode="pandas",
    )
    ours = stores(tmp_path, [user, numbers, doubled])[1]
    monkeypatch.setattr("batchrec.features.offline_store.asof_join", None)
    asked = pd.DataFrame({"key": [1], "event_timestamp": day(1)})
    found = ours.get_historical_features(asked, ["v:number", "d:twice"]).to_df()
    assert found["number"].tolist() == [5]
    assert found["twice"].tolist() == [10]


# --- how much is read


@pytest.fixture
def long(tmp_path):
    """A view of ten row groups of a thousand users each."""
    keys = np.arange(10_000)
    table = pa.table({"key": keys, "number": keys * 2, "event_timestamp": pa.repeat(pa.scalar(day(0), TIME), 10_000)})
    path = tmp_path / "v.parquet"
    pq.write_table(table, path, row_group_size=1000, compression="none", use_dictionary=False)
    user = Entity(name="user", join_keys=["key"], value_type=ValueType.INT64)
    batch = FileSource(name="s", path=str(path), timestamp_field="event_timestamp")
    apply(tmp_path, [user, view("v", [user], {"number": Int64}, batch)], offline=SORTED)
    return tmp_path


def test_row_groups_outside_the_range_of_keys_are_not_read(long):
    """Those before and after the third are damaged: whoever reads them fails."""
    path = long / "v.parquet"
    groups = pq.read_metadata(path)
    begin, end = (groups.row_group(number).column(0).data_page_offset for number in (3, 4))
    content = bytearray(path.read_bytes())
    last = groups.row_group(9).column(2)
    content[4:begin] = b"\xff" * (begin - 4)
    after = last.data_page_offset + last.total_compressed_size
    content[end:after] = b"\xff" * (after - end)
    path.write_bytes(content)
    store = FeatureStore.open(long)
    found = store.point_in_time(pa.array(range(3000, 4000)), day(1), store.refs("v"))
    assert found["number"].to_pylist() == list(range(6000, 8000, 2))


def test_a_file_that_was_replaced_is_read_anew(long):
    """In one process, and though the new file has the size and the time of the old one."""
    store = FeatureStore.open(long)
    path = long / "v.parquet"
    assert store.point_in_time(pa.array([7]), day(1), store.refs("v"))["number"].to_pylist() == [14]
    before = path.stat()
    table = pq.read_table(path)
    changed = table.set_column(1, "number", pa.array(np.arange(10_000) * 2 + 1))
    pq.write_table(changed, path, row_group_size=1000, compression="none", use_dictionary=False)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert store.point_in_time(pa.array([7]), day(1), store.refs("v"))["number"].to_pylist() == [15]


def test_memory_is_limited_as_the_repository_says(long, monkeypatch):
    monkeypatch.setattr(FeatureStore, "retry_waits", ())
    configure(long, offline=SORTED, memory_limit="1MB")
    store = FeatureStore.open(long)
    with pytest.raises(FeatureError, match="OutOfMemory"):
        store.point_in_time(pa.array(range(10_000)), day(1), store.refs("v"))
