from collections import defaultdict
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchrec.errors import ConfigError, SchemaError
from batchrec.features.store import FeatureRef
from batchrec.features.training_set import (
    distinct_versions,
    first_interactions,
    load_training_set,
    read_interactions,
)

TIME = pa.timestamp("us", tz="UTC")
START = datetime(2024, 1, 1, tzinfo=UTC)
HOUR = 3_600_000_000


def at(hour):
    return START + timedelta(hours=hour)


def micros(hour):
    return int(START.timestamp()) * 1_000_000 + hour * HOUR


class HistoryStore:
    """Answers point-in-time questions from rows ``(id, hour, {feature: value})``, the obvious way."""

    def __init__(self, **views):
        self.views = views

    def point_in_time(self, ids, as_of, refs):
        assert refs, "a Feast store refuses a question about no features"
        assert ids.null_count == 0
        assert as_of.type == TIME
        columns = {ref.feature: [] for ref in refs}
        for key, time in zip(ids.to_pylist(), as_of.to_pylist(), strict=True):
            for ref in refs:
                rows = [row for row in self.views[ref.view] if row[0] == key and at(row[1]) <= time]
                latest = max(rows, key=lambda row: row[1], default=(None, None, {}))
                columns[ref.feature].append(latest[2].get(ref.feature))
        types = {"string": pa.string(), "int64": pa.int64(), "double": pa.float64()}
        return pa.table({ref.feature: pa.array(columns[ref.feature], types[ref.dtype]) for ref in refs})


MOOD = FeatureRef("user_features", "mood", "string")
WEALTH = FeatureRef("user_features", "wealth", "double")
CLASS = FeatureRef("item_features", "class", "int64")

LOG = [
    # user, item, hour
    (7, 30, 5),
    (3, 20, 2),
    (3, 10, 2),
    (3, 20, 9),  # not the first time
    (3, 30, 4),
    (7, 10, 6),
]
STORE = HistoryStore(
    user_features=[
        (3, 1, {"mood": "calm", "wealth": 1.0}),
        (3, 2, {"mood": "glad", "wealth": 3.0}),  # stamped as the first interactions: may count them
        (7, 0, {"mood": "glad"}),
        (7, 6, {"mood": "calm", "wealth": 100.0}),
        (8, 0, {"mood": "sad"}),
    ],
    item_features=[
        (10, 0, {"class": 1}),
        (10, 5, {"class": 2}),
        (20, 2, {"class": 4}),
        (30, 5, {"class": 5}),
        (40, 0, {"class": 6}),
    ],
)


def write_log(path, rows, user_type=None, item_type=None, time_type=TIME):
    users, items, hours = zip(*rows, strict=True)
    times = pa.array([None if hour is None else at(hour) for hour in hours], TIME).cast(time_type)
    table = pa.table(
        {
            "item_id": pa.array(items, item_type),
            "event_timestamp": times,
            "noise": [0] * len(rows),
            "user_id": pa.array(users, user_type),
        }
    )
    pq.write_table(table, path)
    return path


def load(tmp_path, log=None, items=None, user_refs=(MOOD, WEALTH), item_refs=(CLASS,), store=STORE):
    path = write_log(tmp_path / "interactions.parquet", log or LOG)
    listed = None
    if items is not None:
        listed = tmp_path / "items.parquet"
        pq.write_table(pa.table({"item_id": items, "title": ["?"] * len(items)}), listed)
    return load_training_set(path, listed, store, user_refs, item_refs)


def test_every_array_of_a_small_example(tmp_path):
    data = load(tmp_path, items=[40, 10, 50, 40, None])
    events = data.events
    assert data.item_ids.to_pylist() == [10, 20, 30, 40, 50]
    # By user, time, item; without the second time that user 3 met item 20.
    assert events.user.tolist() == [0, 0, 0, 1, 1]
    assert events.item.tolist() == [0, 1, 2, 2, 0]
    assert events.time.tolist() == [micros(hour) for hour in (2, 2, 4, 5, 6)]
    # What held just before: user 3 was still calm, user 7 not yet.
    assert data.vocabularies["mood"].to_pylist() == ["calm", "glad"]
    assert events.user_features["mood"].tolist() == [1, 1, 2, 2, 2]
    wealth = data.user_inputs[1]
    assert (wealth.mean, wealth.std) == (pytest.approx(5 / 3), pytest.approx(np.std([1, 1, 3])))
    np.testing.assert_allclose(
        events.user_features["wealth"], (np.array([1, 1, 3, 5 / 3, 5 / 3]) - 5 / 3) / np.std([1, 1, 3]), atol=1e-6
    )
    # Classes 1, 2, 4, 5, 6 are codes 1 to 5. Item 20 had no features yet at its first interaction, 30 at both of its.
    versions = list(zip(data.item_rows.position.tolist(), data.item_rows.features["class"].tolist(), strict=True))
    assert versions == [(0, 1), (0, 2), (1, 0), (1, 3), (2, 0), (2, 4), (3, 5), (4, 0)]
    assert events.item_row.tolist() == [0, 2, 4, 4, 1]
    assert data.catalogue_row.tolist() == [1, 3, 5, 6, 7]
    known, cut_off = [micros(hour) - 1 for hour in (2, 6, 2, 4)], micros(9)
    assert data.item_since.tolist() == [known[0], known[1], known[2], cut_off, known[3], cut_off, cut_off, cut_off]
    assert data.trained_until == at(9)
    assert data.user_id_type == pa.int64()


def test_without_listed_items_the_catalogue_is_what_was_met(tmp_path):
    assert load(tmp_path).item_ids.to_pylist() == [10, 20, 30]


def test_rare_moods_share_the_code_of_unknown_ones(tmp_path):
    log = [(8, 10, 3), (3, 10, 3), (3, 20, 3), (7, 10, 3)]
    data = load(tmp_path, log=log)
    assert data.vocabularies["mood"].to_pylist() == ["glad"]
    assert data.events.user_features["mood"].tolist() == [1, 1, 1, 0]


def test_order_of_the_log_does_not_matter(tmp_path):
    one, two = load(tmp_path), load(tmp_path, log=LOG[::-1])
    assert one.events.item.tolist() == two.events.item.tolist()
    assert one.events.item_row.tolist() == two.events.item_row.tolist()


def test_string_ids(tmp_path):
    store = HistoryStore(user_features=[("ü", 0, {"mood": "x"})], item_features=[("é", 0, {"class": 1})])
    log = [("ü", "é", 1), ("ü", "Z", 2), ("a", "é", 3), ("ü", "a", 3)]
    data = load(tmp_path, log=log, store=store, items=["b"])
    assert data.item_ids.to_pylist() == ["Z", "a", "b", "é"]
    assert data.events.item.tolist() == [3, 3, 0, 1]
    assert data.events.user.tolist() == [0, 1, 1, 1]
    assert data.events.user_features["mood"].tolist() == [0, 1, 1, 1]
    assert data.user_id_type == pa.string()


@pytest.mark.parametrize(("user_refs", "item_refs"), [((), (CLASS,)), ((MOOD,), ()), ((), ())])
def test_models_may_read_no_features_of_a_side(tmp_path, user_refs, item_refs):
    data = load(tmp_path, user_refs=user_refs, item_refs=item_refs)
    assert set(data.events.user_features) == {ref.feature for ref in user_refs}
    assert set(data.item_rows.features) == {ref.feature for ref in item_refs}
    assert len(data.events) == 5
    if not item_refs:
        assert data.item_rows.position.tolist() == [0, 1, 2]
        assert data.events.item_row.tolist() == data.events.item.tolist()


def test_one_name_on_both_sides(tmp_path):
    with pytest.raises(ConfigError, match="a user view and an item view both have a feature 'mood'"):
        load(tmp_path, item_refs=(FeatureRef("item_features", "mood", "string"),))


@pytest.mark.parametrize("name", ["history", "item_code", "query_embedding", "item_embedding"])
def test_names_that_models_keep_for_themselves(tmp_path, name):
    with pytest.raises(ConfigError, match=f"feature '{name}' has the name of a model input that is no feature"):
        load(tmp_path, user_refs=(FeatureRef("user_features", name, "string"),))


@pytest.mark.parametrize("seed", range(5))
def test_distinct_versions_by_dictionaries(seed):
    random = np.random.default_rng(seed)
    n = 200
    positions, times = random.integers(0, 9, n), random.integers(0, 1000, n)
    features = {
        "a": random.integers(0, 3, n).astype(np.int32),
        "b": random.choice([-0.5, 0.0, 2.5], n).astype(np.float32),
    }
    rows, row, since = distinct_versions(positions, times, features)
    keys = list(zip(positions.tolist(), features["a"].tolist(), features["b"].tolist(), strict=True))
    earliest = defaultdict(lambda: 10**9)
    for key, time in zip(keys, times.tolist(), strict=True):
        earliest[key] = min(earliest[key], time)
    found = list(zip(rows.position.tolist(), rows.features["a"].tolist(), rows.features["b"].tolist(), strict=True))
    assert found == sorted(earliest)
    assert since.tolist() == [earliest[key] for key in found]
    assert [found[index] for index in row] == keys
    assert {name: column.dtype for name, column in rows.features.items()} == {"a": np.int32, "b": np.float32}


def test_many_wide_columns_do_not_overflow():
    n = 5000
    features = {str(column): np.random.default_rng(column).permutation(n) for column in range(12)}
    rows, row, _ = distinct_versions(np.arange(n) % 7, np.zeros(n, np.int64), features)
    assert len(rows) == n
    assert sorted(row.tolist()) == list(range(n))


def test_first_interactions_by_dictionaries():
    random = np.random.default_rng(0)
    triples = [tuple(row) for row in random.integers(0, 8, (300, 3)).tolist()]
    first = {}
    for user, item, hour in triples:
        first[user, item] = min(hour, first.get((user, item), 99))
    expected = sorted((user, hour, item) for (user, item), hour in first.items())
    log = pa.table(
        {
            "user_id": [user for user, _, _ in triples],
            "item_id": [item for _, item, _ in triples],
            "event_timestamp": pa.array([at(hour) for _, _, hour in triples], TIME),
        }
    )
    found = first_interactions(log).to_pylist()
    assert [(row["user_id"], row["event_timestamp"], row["item_id"]) for row in found] == [
        (user, at(hour), item) for user, hour, item in expected
    ]


def test_interactions_are_read_in_the_types_they_are_carried_in(tmp_path):
    path = write_log(tmp_path / "log.parquet", LOG, pa.int16(), pa.uint32(), pa.timestamp("ms", "Europe/Zurich"))
    table = read_interactions(path)
    assert table.schema.equals(pa.schema([("user_id", pa.int64()), ("item_id", pa.int64()), ("event_timestamp", TIME)]))
    assert table["event_timestamp"].to_pylist() == [at(hour) for _, _, hour in LOG]


def test_times_finer_than_a_microsecond_and_without_a_zone(tmp_path):
    times = pa.array([1_700_000_000_000_000_999, 1_700_000_000_000_001_000], pa.int64()).cast(pa.timestamp("ns"))
    pq.write_table(pa.table({"user_id": [1, 2], "item_id": ["a", "b"], "event_timestamp": times}), tmp_path / "log")
    found = read_interactions(tmp_path / "log")["event_timestamp"].cast(pa.int64()).to_pylist()
    assert found == [1_700_000_000_000_000, 1_700_000_000_000_001]


def test_incomplete_rows_are_left_out(tmp_path):
    rows = [(1, 10, 1), (None, 10, 2), (2, None, 3), (2, 10, None), (2, 20, 5)]
    table = read_interactions(write_log(tmp_path / "log.parquet", rows))
    assert table["user_id"].to_pylist() == [1, 2]
    assert table["item_id"].to_pylist() == [10, 20]


NOTHING = pa.array([], pa.int64())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"item_id": None}, "no column 'item_id'; it has user_id, event_timestamp"),
        ({"user_id": [1.5]}, "column 'user_id' of .* is double, expected an integer or a string"),
        ({"item_id": [[1]]}, "column 'item_id' of .* is list<.*, expected an integer or a string"),
        ({"event_timestamp": ["today"]}, "is string, expected a timestamp"),
        ({"event_timestamp": [5]}, "is int64, expected a timestamp"),
        ({"user_id": NOTHING, "item_id": NOTHING, "event_timestamp": NOTHING.cast(TIME)}, "holds no interaction"),
        ({"user_id": pa.array([None], pa.int64())}, "holds no interaction"),
        ({"user_id": pa.array([2**63], pa.uint64())}, "column 'user_id' of .* holds ids beyond int64"),
    ],
)
def test_logs_that_cannot_be_used(tmp_path, change, words):
    columns = {"user_id": [1], "item_id": [1], "event_timestamp": [START]} | change
    table = pa.table({name: column for name, column in columns.items() if column is not None})
    pq.write_table(table, tmp_path / "log.parquet")
    with pytest.raises(SchemaError, match=words) as caught:
        read_interactions(tmp_path / "log.parquet")
    assert "log.parquet" in caught.value.problem


@pytest.mark.parametrize("kind", ["missing", "folder", "text"])
def test_logs_that_are_no_parquet(tmp_path, kind):
    path = tmp_path / "log.parquet"
    if kind == "folder":
        path.mkdir()
    if kind == "text":
        path.write_text("user_id,item_id\n1,2\n")
    with pytest.raises(SchemaError, match="cannot be read as Parquet"):
        read_interactions(path)


@pytest.mark.parametrize("items", [["10"], [1.5]])
def test_listed_items_of_another_type(tmp_path, items):
    with pytest.raises(SchemaError, match=r"items\.parquet is .*, that of the interactions is int64"):
        load(tmp_path, items=items)
