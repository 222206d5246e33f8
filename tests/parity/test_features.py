"""Features joined and encoded over the frames of a device: what DuckDB joins and Arrow encodes on the host."""

import random
from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FileSource, ValueType
from feast.types import Array, Bool, Float32, Int32, Int64, String

from batchrec.errors import FeatureError
from batchrec.features.store import FeatureStore
from batchrec.models.bundle_format import FeatureInput, Seen
from batchrec.user_features import DeviceFeatures, HostFeatures, user_features
from tests.features.conftest import TIME, apply, configure, day, view

SORTED = "batchrec.features.offline_store.SortedOfflineStore"
INTEGERS = [-7, 0, 1, 2, 3, 11, 12, 2**53, 2**53 + 1, 2**62]
STRINGS = ["", "0", "00", "a", "a'b", "ab", "b", "Ä", "京都"]
TYPES = {"number": Int64, "small": Int32, "ratio": Float32, "member": Bool, "name": String}
ARROW = {"number": pa.int64(), "small": pa.int16(), "ratio": pa.float32(), "member": pa.bool_(), "name": pa.string()}
VALUES = {
    "number": lambda draw: draw.choice([-(2**60), 5, 2**53, 2**53 + 1]),
    "small": lambda draw: draw.randint(-3, 3),
    "ratio": lambda draw: draw.choice([0.1, 7.25, float("inf"), float("nan"), -0.0]),
    "member": lambda draw: draw.random() < 0.5,
    "name": lambda draw: draw.choice(["", "x", "Łódź", "new"]),
}
VOCABULARIES = {
    "number": pa.array([-(2**60), 5, 2**53]),
    "small": pa.array([-2, 0, 1, 3]),
    "member": pa.array([False, True]),
    "name": pa.array(["", "x", "Łódź"]),
}
ITEMS = {"int64": pa.array([2, 3, 5, 2**53, 2**53 + 1]), "string": pa.array(["a", "b", "京都"])}
TTL = {"old": None, "hours": timedelta(hours=7), "days": timedelta(days=2)}


def history(draw, keys, values):
    """Rows of all keys but the last, several a moment, each created at another time, one perhaps never."""
    rows = []
    for key in keys[:-1]:
        for hour in draw.sample(range(96), 12):
            for hours in draw.sample([None, *range(-48, 48)], draw.randint(1, 3)):
                moment = day(hour / 24)
                found = {name: None if draw.random() < 0.3 else value(draw) for name, value in values.items()}
                created = None if hours is None else moment + timedelta(hours=hours)
                rows.append({"key": key, **found, "event_timestamp": moment, "created": created})
    rows += [{**rows[0], "event_timestamp": None}, {**rows[0], "key": None}]
    draw.shuffle(rows)
    return rows


def described(names):
    inputs = []
    for ttl in TTL:
        for name in names:
            spec = {"name": f"{name}_{ttl}", "view": ttl, "feature": f"{name}_{ttl}"}
            dtype = {"small": "int32", "ratio": "float"}.get(name, str(ARROW[name]))
            if name in VOCABULARIES:
                size = len(VOCABULARIES[name]) + 1
                spec |= {"kind": "categorical", "vocabulary": name, "vocabulary_size": size}
            else:
                spec |= {"kind": "dense", "mean": 0.3, "std": 1.7}
            inputs.append(FeatureInput(**spec, dtype=dtype))
    return inputs


def world(folder, seed, keys, items, sort=True):
    """A repository of three views and the seen items, and a bundle that reads them."""
    draw = random.Random(seed)
    is_text = isinstance(keys[0], str)
    key_type, entity_type = (pa.string(), ValueType.STRING) if is_text else (pa.int64(), ValueType.INT64)
    user = Entity(name="user", join_keys=["key"], value_type=entity_type)
    ids = ITEMS[items].to_pylist()
    lists = lambda draw: [draw.choice([*ids, None, ids[0] * 2]) for _ in range(draw.randint(0, 5))]  # noqa: E731
    views = []
    for name, ttl in {**TTL, "seen": timedelta(days=3)}.items():
        own = {"seen": (Array(Int64 if items == "int64" else String), pa.list_(ITEMS[items].type), lists)}
        if name != "seen":
            own = {f"{one}_{name}": (TYPES[one], ARROW[one], VALUES[one]) for one in TYPES}
        columns = {one: spec[1] for one, spec in own.items()}
        schema = pa.schema({"key": key_type, **columns, "event_timestamp": TIME, "created": TIME})
        table = pa.Table.from_pylist(history(draw, keys, {one: spec[2] for one, spec in own.items()}), schema)
        table = table.sort_by("key") if sort else table
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=20)
        batch = FileSource(
            name=name, path=f"{name}.parquet", timestamp_field="event_timestamp", created_timestamp_column="created"
        )
        views.append(view(name, [user], {one: spec[0] for one, spec in own.items()}, batch, ttl or timedelta(0)))
    apply(folder, [user, *views], offline=SORTED)
    towers = [SimpleNamespace(inputs=described(TYPES)), SimpleNamespace(user_inputs=described(["ratio", "name"]))]
    seen = Seen(view="seen", feature="seen", dtype=f"list<{items}>")
    bundle = SimpleNamespace(
        format=SimpleNamespace(query_tower=towers[0], ranker=towers[1], seen=seen), item_ids=ITEMS[items]
    )
    vocabularies = {f"{name}_{ttl}": values for name, values in VOCABULARIES.items() for ttl in TTL}
    return bundle, vocabularies, FeatureStore.open(folder)


def same(found, expected, device):
    """Assert that encoded users are equal in every bit."""
    for name in ("query_inputs", "ranker_inputs"):
        ours, theirs = getattr(found.users, name), getattr(expected.users, name)
        assert list(ours) == list(theirs)
        for one, array in theirs.items():
            equal(ours[one], array, device)
    equal(found.users.seen.offsets, expected.users.seen.offsets, device)
    equal(found.users.seen.values, expected.users.seen.values, device)
    equal(found.users.id_hash, expected.users.id_hash, device)
    np.testing.assert_array_equal(found.found, expected.found)
    assert found.digests.equals(expected.digests)


def equal(found, expected, device):
    assert type(found) is type(expected)
    found, expected = device.fetch(found), device.fetch(expected)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def both(bundle, vocabularies, store, as_of, device):
    on_device = user_features(bundle, vocabularies, store, as_of, device)
    assert isinstance(on_device, DeviceFeatures)
    return on_device, HostFeatures(bundle, vocabularies, store, as_of, device)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("keys", "items"), [(INTEGERS, "int64"), (STRINGS, "int64"), (INTEGERS, "string")])
def test_what_duckdb_joins_and_arrow_encodes(tmp_path, device, seed, keys, items):
    """Ties in time, created timestamps, times to live, nulls, rows without key or time, users without rows."""
    made = world(tmp_path, seed, keys, items, sort=seed > 0)
    draw = random.Random(seed)
    for as_of in (day(draw.uniform(0, 4)), day(2), day(5.5), day(-1)):
        on_device, on_host = both(*made, as_of, device)
        for ids in (pa.array(keys), pa.array(sorted(draw.sample(keys, 4))), pa.array(keys[-1:])):
            expected = on_host.encode(ids, on_host.read(ids))
            same(on_device.encode(ids, on_device.read(ids)), expected, device)


def test_the_newest_row_counts_and_of_those_the_one_created_last(tmp_path, device):
    made = world(tmp_path, 1, INTEGERS, "int64")
    moments = [
        (day(0), day(9), [2]),
        (day(1), None, [3]),
        (day(1), day(3), [5, 2]),
        (day(1), day(2), []),
        (day(2), None, [3]),
    ]
    rows = [{"key": 1, "seen": seen, "event_timestamp": time, "created": created} for time, created, seen in moments]
    pq.write_table(pa.Table.from_pylist(rows, pq.read_schema(tmp_path / "seen.parquet")), tmp_path / "seen.parquet")
    for number, positions in ((-1, []), (0.5, [0]), (1, [2, 0]), (2, [1]), (5, [1]), (5.1, [])):
        features = user_features(*made, day(number), device)
        users = features.encode(pa.array([1, 2]), features.read(pa.array([1, 2]))).users
        assert device.fetch(users.seen.offsets).tolist() == [0, len(positions), len(positions)]
        assert device.fetch(users.seen.values).tolist() == positions


class TestLeftToTheHost:
    """Whatever frames cannot do is done on the host as on a CPU, with the same arrays, and said."""

    @pytest.fixture
    def made(self, tmp_path):
        return world(tmp_path, 2, INTEGERS, "int64")

    def said(self, made, device, capsys):
        features = user_features(*made, day(2), device)
        assert isinstance(features, HostFeatures)
        ids = pa.array(INTEGERS)
        assert (device.fetch(features.encode(ids, features.read(ids)).users.seen.values) >= -1).all()
        said = capsys.readouterr().err
        assert "features are joined on the CPU, not on the GPU: " in said
        return said

    def rewrite(self, folder, change):
        table = pq.read_table(folder / "old.parquet")
        pq.write_table(change(table), folder / "old.parquet", row_group_size=20)

    def test_another_offline_store(self, made, tmp_path, device, capsys):
        configure(tmp_path, offline="duckdb")
        made = (*made[:2], FeatureStore.open(tmp_path))
        assert f"{tmp_path} does not read them from Parquet files by way of SortedOfflineStore" in self.said(
            made, device, capsys
        )

    @pytest.mark.parametrize(
        ("column", "dtype", "reason"),
        [
            ("number_old", pa.float64(), "is of type double, declared int64"),
            ("small_old", pa.int64(), "is of type int64, declared int32"),
            ("ratio_old", pa.float64(), "is of type double, declared float"),
            ("event_timestamp", pa.date32(), "is of type date32[day], not a timestamp"),
        ],
    )
    def test_values_that_a_cast_could_change(self, made, tmp_path, device, capsys, column, dtype, reason):
        def change(table):
            values = table[column] if column != "number_old" else pa.nulls(len(table), pa.int64())
            place = table.column_names.index(column)
            return table.set_column(place, column, values.cast(dtype, safe=False))

        self.rewrite(tmp_path, change)
        assert f"column {column!r} of {tmp_path / 'old.parquet'} {reason}" in self.said(made, device, capsys)

    def test_values_of_another_kind_than_the_vocabulary(self, made, device):
        """The host says what is wrong as it does on a CPU."""
        bundle, vocabularies, store = made
        vocabularies |= {"name_old": pa.array([1, 2])}
        features = user_features(bundle, vocabularies, store, day(2), device)
        with pytest.raises(FeatureError, match="values of type string cannot be looked up among values of type int64"):
            features.encode(pa.array([1]), features.read(pa.array([1])))


def test_row_groups_without_these_users_are_not_read(tmp_path, device):
    """Every other one is damaged: whoever reads it fails."""
    made = world(tmp_path, 3, INTEGERS, "int64")
    path = tmp_path / "old.parquet"
    groups, wanted = pq.read_metadata(path), (2**53, 2**53 + 1)
    content = bytearray(path.read_bytes())
    damaged = 0
    for group in map(groups.row_group, range(groups.num_row_groups)):
        keys = group.column(0).statistics
        if keys.max < wanted[0] or keys.min > wanted[1]:
            columns = [group.column(place) for place in range(group.num_columns)]
            begin = min(one.dictionary_page_offset or one.data_page_offset for one in columns)
            length = sum(one.total_compressed_size for one in columns)
            content[begin : begin + length] = bytes(length)
            damaged += 1
    assert 3 < damaged < groups.num_row_groups
    ids = pa.array(wanted)
    on_device, on_host = both(*made, day(2), device)
    expected = on_host.encode(ids, on_host.read(ids))
    path.write_bytes(content)
    same(on_device.encode(ids, on_device.read(ids)), expected, device)


def test_a_file_that_cannot_be_read_fails_the_partition(tmp_path, device):
    bundle, vocabularies, store = world(tmp_path, 4, INTEGERS, "int64")
    store.retry_waits = ()
    features = user_features(bundle, vocabularies, store, day(2), device)
    (tmp_path / "hours.parquet").write_bytes(b"PAR1")
    with pytest.raises(FeatureError, match=r"hours.parquet could not be joined on the GPU"):
        features.read(pa.array(INTEGERS))
    with pytest.raises(FeatureError, match="the ids are of type string"):
        features.read(pa.array(["1"]))
