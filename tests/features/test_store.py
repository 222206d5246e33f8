import pickle
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone

import feast
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureService, Field, FileSource, ValueType
from feast.types import Array, Bytes, Int64, String

from batchrec.errors import FeatureError
from batchrec.features.store import FeatureRef, FeatureStore, JoinKey
from tests.features.conftest import TIME, USERS, Repo, apply, day, source, view

AGE = FeatureRef("user_features", "age", "int32")
CITY = FeatureRef("user_features", "city", "string")
SEEN = FeatureRef("item_id_seen", "item_id_seen", "list<int64>")
PRICE = FeatureRef("item_features", "price", "double")


def as_known(rows, key, wanted, time, feature):
    """Slow reference: the feature of the key's latest row that is not after the time."""
    past = [row for row in rows if row[key] == wanted and row["event_timestamp"] <= time]
    return max(past, key=lambda row: row["event_timestamp"])[feature] if past else None


# --- what there is


def test_features_of_a_view_have_arrow_types(store):
    assert {ref.feature: ref.dtype for ref in store.refs("user_features")} == {
        "age": "int32",
        "balance": "int64",
        "ratio": "float",
        "mean": "double",
        "active": "bool",
        "city": "string",
        "tags": "list<string>",
        "joined": "timestamp[us, tz=UTC]",
    }
    assert store.refs("item_id_seen") == (SEEN,)
    assert SEEN.ref == "item_id_seen:item_id_seen"


def test_features_of_a_service_come_in_its_order(store):
    assert store.service("query_tower") == (CITY, AGE, SEEN)


def test_join_keys(store, string_repo):
    assert store.join_key("user_features") == store.join_key("item_id_seen") == JoinKey("user_id", "int64")
    assert store.join_key("item_features") == JoinKey("item_id", "int64")
    assert string_repo.store.join_key("user_features") == JoinKey("user_id", "string")


def test_a_store_travels_to_a_worker(store):
    there = pickle.loads(pickle.dumps(store))
    assert there.repo == store.repo
    assert there.point_in_time(pa.array([1]), day(4), [SEEN]).to_pydict() == {"item_id_seen": [[10, 20, 10]]}


def test_feast_is_imported_only_when_it_is_needed():
    code = "import sys, batchrec.features.store; sys.exit('feast' in sys.modules or 'ibis' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- the point-in-time join


def test_join_agrees_with_a_slow_reference(repo, store):
    """Every user at every half day: before the first row, exactly at rows, between them, after the last."""
    times = [day(half / 2) for half in range(-2, 22)]
    asked = [(user, time) for time in times for user in reversed(USERS)]
    refs = store.refs("user_features")
    found = store.point_in_time(
        pa.array([user for user, _ in asked]), pa.array([time for _, time in asked], TIME), refs
    )
    rows = repo.rows["user_features"]
    assert found.schema.names == [ref.feature for ref in refs]
    for ref in refs:
        expected = [as_known(rows, "user_id", user, time, ref.feature) for user, time in asked]
        assert found[ref.feature].to_pylist() == expected
        assert any(value is not None for value in expected)


def test_columns_have_the_types_that_were_asked_for_whether_or_not_there_are_nulls(store):
    refs = store.refs("user_features")
    expected = {
        "age": pa.int32(),
        "balance": pa.int64(),
        "ratio": pa.float32(),
        "mean": pa.float64(),
        "active": pa.bool_(),
        "city": pa.string(),
        "tags": pa.list_(pa.string()),
        "joined": TIME,
    }
    for ids in ([], [404], [1, 404], [1]):
        found = store.point_in_time(pa.array(ids, pa.int64()), day(9), refs)
        assert found.num_rows == len(ids)
        assert {field.name: field.type for field in found.schema} == expected


def test_order_and_repetition_of_ids_are_kept(store):
    ids = pa.array([20, 10, 404, 10, 20, 10])
    assert store.point_in_time(ids, day(1), [PRICE])["price"].to_pylist() == [None, 1.5, None, 1.5, None, 1.5]
    later = pa.array([day(number) for number in (3, 3, 3, 2, 0, -1)], TIME)
    assert store.point_in_time(ids, later, [PRICE])["price"].to_pylist() == [None, 2.5, None, 1.5, None, None]


def test_order_is_kept_whatever_the_order_of_the_stores_answer(store, monkeypatch):
    ask = feast.FeatureStore.get_historical_features

    def backwards(*arguments, **options):
        table = ask(*arguments, **options).to_arrow()

        class Answer:
            def to_arrow(self):
                return table.take(pa.array(range(table.num_rows)[::-1]))

        return Answer()

    monkeypatch.setattr(feast.FeatureStore, "get_historical_features", backwards)
    assert store.point_in_time(pa.array([20, 10, 404]), day(1), [PRICE])["price"].to_pylist() == [None, 1.5, None]


def test_a_value_counts_from_its_very_timestamp_on(store):
    almost = day(3) - timedelta(microseconds=1)
    found = store.point_in_time(pa.array([10, 10]), pa.array([almost, day(3)], TIME), [PRICE])
    assert found["price"].to_pylist() == [1.5, 2.5]


def test_as_of_may_be_in_any_zone_and_unit(store):
    tokyo = day(3).astimezone(timezone(timedelta(hours=9)))
    assert store.point_in_time(pa.array([10]), tokyo, [PRICE])["price"].to_pylist() == [2.5]
    for dtype in (pa.timestamp("s", "Asia/Tokyo"), pa.timestamp("ns", "UTC"), pa.timestamp("ms", "+01:00")):
        times = pa.chunked_array([pa.array([day(3)], TIME).cast(dtype)])
        assert store.point_in_time(pa.chunked_array([[10]]), times, [PRICE])["price"].to_pylist() == [2.5]


def test_as_of_may_be_far_away(store):
    times = pa.array([datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)], TIME)
    assert store.point_in_time(pa.array([10, 10]), times, [PRICE])["price"].to_pylist() == [None, 2.5]


def test_lists_and_views_of_one_entity_are_joined_together(repo, store):
    found = store.point_in_time(pa.array([2, 1, 404]), day(9), [SEEN, CITY])
    cities = [as_known(repo.rows["user_features"], "user_id", user, day(9), "city") for user in (2, 1, 404)]
    assert found.to_pydict() == {"item_id_seen": [[], [10, 20, 10], None], "city": cities}


def test_a_feature_may_be_called_like_anything_inside_the_join(store):
    refs = store.refs("item_features")
    assert store.point_in_time(pa.array([10]), day(5), refs).to_pylist() == [
        {"price": 2.5, "user_id": 78, "rn": 2, "batchrec_row": 6}
    ]


def test_narrow_integer_ids_are_the_same_ids(store):
    for dtype in (pa.int8(), pa.uint16(), pa.int32()):
        assert store.point_in_time(pa.array([10], dtype), day(0), [PRICE])["price"].to_pylist() == [1.5]


@pytest.mark.parametrize("dtype", [pa.string(), pa.large_string()])
def test_string_keys_and_a_relative_source(string_repo, dtype):
    names = ["日本", "Ä", "A", "0", "00", "", "ab", "a", "a "]
    rows = string_repo.rows["user_features"]
    for number in (0, 2):
        found = string_repo.store.point_in_time(
            pa.array(names, dtype), day(number), [FeatureRef("user_features", "age", "int64")]
        )
        assert found["age"].to_pylist() == [as_known(rows, "user_id", name, day(number), "age") for name in names]


def test_threads_do_not_disturb_each_other(repo):
    """Four threads, each with a store of its own, as the workers of one process have."""
    times = [day(number) for number in range(10)] * 2

    def cities(time):
        return FeatureStore(repo.path).point_in_time(pa.array(USERS), time, [CITY])["city"].to_pylist()

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(cities, times))
    rows = repo.rows["user_features"]
    assert found == [[as_known(rows, "user_id", user, time, "city") for user in USERS] for time in times]


def test_nothing_of_a_join_stays_in_memory(store):
    """A run joins thousands of partitions in one process."""
    import ibis

    def registered():
        views = ibis.get_backend().con.execute("select count(*) from duckdb_views() where not internal")
        return views.fetchall()

    before = registered()
    store.point_in_time(pa.array([1]), day(4), [SEEN])
    assert registered() == before


def test_joins_are_quiet_and_leave_warning_filters_alone(store):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        filters = list(warnings.filters)
        FeatureStore.open(store.repo).point_in_time(pa.array([1]), day(4), [SEEN])
        assert warnings.filters == filters
    assert [str(warning.message) for warning in caught] == []


# --- sources of other kinds


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """Views that are unusual or wrong, each in its own way."""
    folder = tmp_path_factory.mktemp("feast") / "odd"
    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
    shop = Entity(name="shop", join_keys=["shop_id"], value_type=ValueType.INT64)

    def table(name, columns, **options):
        times = columns.pop("event_timestamp", pa.array([day(0)], TIME))
        folder.mkdir(exist_ok=True)
        pq.write_table(pa.table({"user_id": [1], **columns, "event_timestamp": times}), folder / f"{name}.parquet")
        path = str(folder / f"{name}.parquet")
        return FileSource(name=name, path=path, timestamp_field="event_timestamp", **options)

    both = pa.array([day(0), day(0)], TIME)
    unzoned = pa.array([day(0)], TIME).cast(pa.timestamp("us"))
    corrected = {"user_id": [1, 1], "x": [1, 2], "known": pa.array([day(2), day(1)], TIME), "event_timestamp": both}
    gaps = {"user_id": [1, 2, 3], "x": [7.0, None, float("nan")], "event_timestamp": pa.array([day(0)] * 3, TIME)}
    views = [
        view("corrected", [user], {"x": Int64}, table("corrected", corrected, created_timestamp_column="known")),
        view("expiring", [user], {"x": Int64}, table("expiring", {"x": [1]}), ttl=timedelta(days=2)),
        view("naive", [user], {"x": Int64}, table("naive", {"x": [1], "event_timestamp": unzoned})),
        view("gaps", [user], {"x": Int64}, table("gaps", gaps)),
        view("halves", [user], {"x": Int64}, table("halves", {"x": [0.5]})),
        view("digits", [user], {"x": Int64}, table("digits", {"x": ["12"]})),
        view("gone", [user], {"x": Int64}, table("gone", {"x": [1]})),
        view("cut", [user], {"x": Int64}, table("cut", {"x": [1]})),
        view("lacking", [user], {"x": Int64}, table("lacking", {"x": [1]})),
        view("suffix", [user], {"affinity_y": Int64}, table("suffix", {"affinity_y": [1]})),
        view("bytes", [user], {"x": Bytes}, table("bytes", {"x": [b"1"]})),
        view("pair", [user, shop], {"x": Int64}, table("pair", {"shop_id": [1], "x": [1]})),
        view("alone", [], {"x": Int64}, table("alone", {"x": [1]})),
    ]
    apply(
        folder,
        [
            user,
            shop,
            *views,
            FeatureService(name="nested", features=[views[0].with_join_key_map({"user_id": "buyer"})]),
        ],
    )
    (folder / "gone.parquet").unlink()
    (folder / "cut.parquet").write_bytes((folder / "cut.parquet").read_bytes()[:40])
    table("lacking", {"other": [1]})
    return Repo(folder, {})


def x_of(odd, name, time, ids=(1,)):
    return odd.store.point_in_time(pa.array(ids), time, [FeatureRef(name, "x", "int64")])["x"].to_pylist()


def test_the_created_timestamp_decides_among_equal_event_timestamps(odd):
    assert x_of(odd, "corrected", day(5)) == [1]


def test_an_expired_row_counts_no_more(odd):
    assert x_of(odd, "expiring", day(2)) == [1]
    assert x_of(odd, "expiring", day(2) + timedelta(microseconds=1)) == [None]


def test_timestamps_without_a_zone_are_utc(odd):
    assert x_of(odd, "naive", day(0)) == [1]
    assert x_of(odd, "naive", day(0) - timedelta(microseconds=1)) == [None]


def test_integers_that_were_stored_as_floats_because_of_gaps_are_integers(odd):
    found = odd.store.point_in_time(pa.array([3, 2, 1]), day(0), [FeatureRef("gaps", "x", "int64")])
    assert found["x"].type == pa.int64()
    assert found["x"].to_pylist() == [None, None, 7]


# --- what is refused


def refusal(call, *arguments):
    with pytest.raises(FeatureError) as caught:
        call(*arguments)
    assert not caught.value.remedy.endswith(".")
    return str(caught.value)


def says(text, *parts):
    missing = [part for part in parts if str(part) not in text]
    assert not missing, f"{missing} not in: {text}"


def test_a_folder_that_is_no_repository(tmp_path):
    says(refusal(FeatureStore.open, tmp_path), tmp_path, "not a Feast repository", "feature_store.yaml")
    says(refusal(FeatureStore.open, tmp_path / "nowhere"), tmp_path / "nowhere", "feature_store.yaml")


def test_a_repository_that_has_not_been_applied(tmp_path):
    apply(tmp_path, [])
    remedy = f"run `feast -c {tmp_path} apply`"
    says(refusal(FeatureStore.open, tmp_path), "not been applied", "no feature view", "'test'", remedy)
    (tmp_path / "registry.db").unlink()
    says(refusal(FeatureStore.open, tmp_path), "not been applied", tmp_path / "registry.db", remedy)
    assert not (tmp_path / "registry.db").exists()


def test_an_unreadable_registry(tmp_path):
    apply(tmp_path, [])
    (tmp_path / "registry.db").write_bytes(b"\xff" * 64)
    says(refusal(FeatureStore.open, tmp_path), "registry", tmp_path, "cannot be read", "apply")


UNKNOWN_REGISTRY = "project: test\nprovider: local\nregistry: {registry_type: tape, path: a}"


@pytest.mark.parametrize("text", ["project: [", "provider: local\n", UNKNOWN_REGISTRY])
def test_an_unreadable_configuration(tmp_path, text):
    (tmp_path / "feature_store.yaml").write_text(text)
    says(refusal(FeatureStore.open, tmp_path), "cannot read", tmp_path / "feature_store.yaml")


def test_an_unknown_service_or_view_names_those_there_are(store):
    says(refusal(store.service, "tower"), "'tower'", "query_tower", "renamed", store.repo)
    for call in (store.refs, store.join_key):
        says(refusal(call, "users"), "'users'", "user_features", "item_features", "item_id_seen")
    says(refusal(store.point_in_time, pa.array([1]), day(0), [FeatureRef("users", "age", "int32")]), "'users'")


def test_a_service_that_renames_is_refused(store, odd):
    says(refusal(store.service, "renamed"), "'user_features'", "under another name")
    says(refusal(odd.store.service, "nested"), "'corrected'", "join key")


@pytest.mark.filterwarnings("ignore:On demand feature view is an experimental feature")
def test_on_demand_views_are_not_views_to_join(tmp_path):
    from feast.on_demand_feature_view import on_demand_feature_view

    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
    schema = pa.schema([("user_id", pa.int64()), ("x", pa.int64()), ("event_timestamp", TIME)])
    base = view("base", [user], {"x": Int64}, source(tmp_path, "u", [], schema))

    @on_demand_feature_view(sources=[base], schema=[Field(name="twice", dtype=Int64)])
    def derived(inputs):
        return inputs[["x"]].rename(columns={"x": "twice"}) * 2

    apply(tmp_path, [user, base, derived])
    says(refusal(FeatureStore.open(tmp_path).refs, "derived"), "'derived'", "base")


def test_push_views_are_views(tmp_path):
    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
    schema = pa.schema([("user_id", pa.int64()), ("x", pa.list_(pa.string())), ("event_timestamp", TIME)])
    batch = source(tmp_path, "u", [{"user_id": 1, "x": ["a"], "event_timestamp": day(0)}], schema)
    pushed = feast.PushSource(name="push", batch_source=batch)
    apply(tmp_path, [user, view("pushed", [user], {"x": Array(String)}, pushed)])
    opened = FeatureStore.open(tmp_path)
    assert opened.point_in_time(pa.array([1]), day(0), opened.refs("pushed"))["x"].to_pylist() == [["a"]]


def test_check_passes_what_fits(store):
    store.check([*store.service("query_tower"), *store.refs("item_features"), CITY])


def test_check_names_a_missing_feature_and_those_there_are(store):
    says(
        refusal(store.check, [AGE, FeatureRef("user_features", "shoe", "int64")]),
        "'user_features'", "'shoe'", "expected int64", "age", "city",
    )  # fmt: skip


def test_check_names_found_and_expected_dtype(store):
    wrong = FeatureRef("user_features", "age", "int64")
    says(refusal(store.check, [CITY, wrong]), "user_features:age", "dtype int32", "expected int64")
    wrong = FeatureRef("item_id_seen", "item_id_seen", "list<string>")
    says(refusal(store.check, [wrong]), "item_id_seen:item_id_seen", "list<int64>", "list<string>")


@pytest.mark.parametrize("ask", ["check", "point_in_time"])
def test_a_source_that_is_gone_cut_or_lacks_the_column(odd, ask):
    def call(name):
        refs = [FeatureRef(name, "x", "int64")]
        return odd.store.check(refs) if ask == "check" else odd.store.point_in_time(pa.array([1]), day(0), refs)

    says(refusal(call, "gone"), "'gone'", odd.path / "gone.parquet", "does not exist")
    for name in ("cut", "lacking"):
        with pytest.raises(FeatureError) as caught:
            call(name)
        says(str(caught.value), odd.path, f"{name}:x")
        assert caught.value.__cause__ is not None


@pytest.mark.parametrize(("name", "found"), [("halves", "double"), ("digits", "string")])
def test_values_that_are_not_of_the_declared_type(odd, name, found):
    says(refusal(x_of, odd, name, day(0)), f"{name}:x", f"is {found}", "expected int64")


def test_names_that_feast_would_drop(odd):
    says(refusal(odd.store.check, odd.store.refs("suffix")), "suffix:affinity_y", "_y", "rename")


def test_types_that_features_cannot_have(odd):
    says(refusal(odd.store.refs, "bytes"), "bytes:x", "Bytes")


def test_a_view_needs_one_join_key(odd):
    says(refusal(odd.store.join_key, "pair"), "'pair'", "2 join keys", "user_id", "shop_id")
    says(refusal(odd.store.join_key, "alone"), "'alone'", "0 join keys", "none")


def test_features_of_one_join_share_one_key(store):
    says(
        refusal(store.point_in_time, pa.array([1]), day(0), [AGE, PRICE]),
        "user_features by user_id (int64)", "item_features by item_id (int64)",
    )  # fmt: skip
    says(refusal(store.point_in_time, pa.array([1]), day(0), []), "no features")


def test_features_of_one_join_have_different_names(store):
    says(refusal(store.point_in_time, pa.array([1]), day(0), [AGE, CITY, AGE]), "user_features:age", "one column")


def test_ids_are_of_the_join_keys_type(store, string_repo):
    says(refusal(store.point_in_time, pa.array(["1"]), day(0), [AGE]), "string", "user_id", "int64")
    age = FeatureRef("user_features", "age", "int64")
    says(refusal(string_repo.store.point_in_time, pa.array([1]), day(0), [age]), "int64", "user_id", "string")
    says(refusal(store.point_in_time, pa.array([1, None]), day(0), [AGE]), "1 of 2 ids are null")


@pytest.mark.parametrize("failure", [OSError("disk on fire\nsecond line"), MemoryError()])
def test_a_failing_store_is_named_and_kept_as_the_cause(store, monkeypatch, failure):
    def fail(*_, **__):
        raise failure

    monkeypatch.setattr(feast.FeatureStore, "get_historical_features", fail)
    monkeypatch.setattr(FeatureStore, "retry_waits", ())
    with pytest.raises(FeatureError) as caught:
        store.point_in_time(pa.array([1]), day(0), [CITY])
    assert caught.value.__cause__ is failure
    says(str(caught.value), store.repo, "user_features:city", type(failure).__name__, str(failure).split("\n")[0])
    assert "second line" not in str(caught.value)


@pytest.mark.parametrize("rows", [[0, 1, 1], [0], [0, 0]])
def test_a_join_that_loses_or_doubles_rows_is_not_believed(store, monkeypatch, rows):
    class Answer:
        def to_arrow(self):
            return pa.table({"batchrec_row": rows, "user_features__city": ["x"] * len(rows)})

    monkeypatch.setattr(feast.FeatureStore, "get_historical_features", lambda *_, **__: Answer())
    says(
        refusal(store.point_in_time, pa.array([1, 2, 1]), day(0), [CITY]),
        f"{len(rows)} rows for 2 ids", "user_features:city",
    )  # fmt: skip
