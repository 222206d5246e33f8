"""Feature files that are not sorted are noticed by their footers, said once, and sorted without loss."""

import os
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import BigQuerySource, Entity, FileSource, ValueType
from feast.types import Int64

from batchrec.errors import FeatureError
from batchrec.features.layout import ROWS_PER_GROUP
from batchrec.features.sort import MOST_ROWS_PER_GROUP, sort_source, why_not_sorted
from batchrec.features.store import FeatureStore
from tests.features.conftest import TIME, apply, day, view


def written(path, keys, rows_per_group, **options):
    pq.write_table(pa.table({"other": range(len(keys)), "key": keys}), path, row_group_size=rows_per_group, **options)
    return path


@pytest.mark.parametrize(
    "keys",
    [
        pa.array([], pa.int64()),
        pa.array([1, 1, 2, 2, 2, 3]),
        pa.array([2, 1, 4, 3, 6, 5]),  # in disorder, but never across groups
        pa.array([5, 6, 1, 2, 3, 4]),  # the groups themselves in disorder
        pa.array(["", "a", "b", "b", "Ä", "京"]),
        pa.array([1, 2, None, None, 3, 4]),
    ],
)
def test_groups_that_do_not_overlap_can_be_skipped(tmp_path, keys):
    assert why_not_sorted(written(tmp_path / "f.parquet", keys, 2), "key") is None


@pytest.mark.parametrize("keys", [pa.array([1, 4, 2, 3]), pa.array(["b", "a", "Ä", "a"])])
def test_groups_that_overlap_cannot(tmp_path, keys):
    assert why_not_sorted(written(tmp_path / "f.parquet", keys, 2), "key") == "is not sorted by key"
    assert why_not_sorted(tmp_path / "f.parquet", "other") is None


def test_groups_without_statistics_or_of_great_length_cannot(tmp_path):
    path = written(tmp_path / "f.parquet", pa.array([1, 2, 3, 4]), 2, write_statistics=False)
    assert why_not_sorted(path, "key") == "has no statistics of key"
    n = MOST_ROWS_PER_GROUP + 1
    long = written(tmp_path / "l.parquet", pa.array(np.arange(n)), n)
    assert why_not_sorted(long, "key") == f"has row groups of up to {n:,} rows"


def rich_table(n, draw):
    """Columns of all kinds in which a value could change on its way, with nulls, in no order."""
    nanoseconds = pa.array(draw.integers(-(2**61), 2**61, n))
    lists = [None if value < 10 else [int(value), None] * (value % 3) for value in draw.integers(0, 100, n)]
    columns = {
        "key": pa.array(draw.integers(-5, 5, n), pa.int32()),
        "at": nanoseconds.view(pa.timestamp("ns", "Asia/Tokyo")),
        "naive": nanoseconds.view(pa.timestamp("us")),
        "real": pa.array([None, float("nan"), -0.0, 1e300] * (n // 4)),
        "single": pa.array(draw.random(n), pa.float32()),
        "text": pa.array([None, "", "京", "a\0b"] * (n // 4), pa.large_string()),
        "kind": pa.array(["x", "y", None, "x"] * (n // 4)).dictionary_encode(),
        "list": pa.array(lists, pa.list_(pa.int64())),
        "big": pa.array([2**64 - 1] * n, pa.uint64()),
        "flag": pa.array([True, None] * (n // 2)),
        "day": pa.array([0, 1] * (n // 2), pa.date32()),
        "struct": pa.array([{"a": 1, "b": "x"}, None] * (n // 2)),
    }
    required = pa.field("key", pa.int32(), nullable=False)
    schema = pa.table(columns).schema.set(0, required).with_metadata({"maker": "me"})
    return pa.Table.from_arrays(list(columns.values()), schema=schema)


def test_sorting_changes_nothing_but_the_order(tmp_path):
    table = rich_table(400, np.random.default_rng(1))
    path = tmp_path / "f.parquet"
    pq.write_table(table, path, row_group_size=64)
    path.chmod(0o640)
    before = pq.read_table(path)
    assert sort_source(path, "key", ["naive"]) == 400
    after = pq.read_table(path)
    keys, naive = (before[name].cast(pa.int64()).to_numpy() for name in ("key", "naive"))
    expected = before.take(pa.array(np.lexsort((naive, keys))))
    for name in [name for name in before.column_names if name != "real"]:
        plain = pa.string() if name == "kind" else before.schema.field(name).type
        assert after[name].cast(plain).equals(expected[name].cast(plain)), name
    np.testing.assert_array_equal(after["real"].to_numpy(), expected["real"].to_numpy())
    assert np.signbit(after["real"].to_numpy()).sum() == np.signbit(expected["real"].to_numpy()).sum()
    assert after.schema.equals(before.schema)
    assert after.schema.metadata[b"maker"] == b"me"
    assert path.stat().st_mode & 0o777 == 0o640
    assert [entry.name for entry in tmp_path.iterdir()] == ["f.parquet"]


def test_rows_that_compare_equal_keep_their_order(tmp_path):
    keys = np.tile(np.arange(3), 100_000)
    path = written(tmp_path / "f.parquet", pa.array(keys), 1000)
    sort_source(path, "key")
    expected = np.argsort(keys, kind="stable")
    assert np.array_equal(pq.read_table(path)["other"].to_numpy(), expected)
    groups = pq.read_metadata(path)
    assert groups.row_group(0).num_rows == ROWS_PER_GROUP
    assert why_not_sorted(path, "key") is None


def test_more_rows_than_memory(tmp_path):
    """400,000 rows of text, which take more than the memory given, are sorted on disk."""
    keys = np.random.default_rng(0).permutation(400_000)
    table = pa.table({"key": keys, "text": pd.Series(keys).astype(str).str.pad(800)})
    pq.write_table(table, tmp_path / "f.parquet")
    assert table.nbytes > 320e6
    sort_source(tmp_path / "f.parquet", "key", memory="256MB")
    after = pq.read_table(tmp_path / "f.parquet")
    assert np.array_equal(after["key"].to_numpy(), np.arange(400_000))
    assert after["text"][399_999].as_py().strip() == "399999"


def test_what_cannot_be_sorted_is_left_as_it_was(tmp_path):
    path = written(tmp_path / "f.parquet", pa.array([2, 1]), 1)
    content = path.read_bytes()
    with pytest.raises(FeatureError, match=r"no column 'id'; it has other, key"):
        sort_source(path, "id")
    assert path.read_bytes() == content
    (tmp_path / "text.parquet").write_text("no Parquet")
    for missing in ("text.parquet", "none.parquet"):
        with pytest.raises(FeatureError, match=f"{missing} could not be sorted by key"):
            sort_source(tmp_path / missing, "key")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["f.parquet", "text.parquet"]


def test_a_file_that_is_written_meanwhile_is_not_replaced(tmp_path, monkeypatch):
    path = written(tmp_path / "f.parquet", pa.array([2, 1]), 1)
    new = written(tmp_path / "new.parquet", pa.array([3, 2, 1]), 1)

    def overtaken(source):
        new.replace(path)
        return numbered(source)

    from batchrec.features import sort

    numbered = sort._numbered
    monkeypatch.setattr(sort, "_numbered", overtaken)
    with pytest.raises(FeatureError, match="changed while it was being sorted"):
        sort_source(path, "key")
    assert pq.read_table(path)["key"].to_pylist() == [3, 2, 1]


def test_a_link_stays_a_link(tmp_path):
    target = written(tmp_path / "f.parquet", pa.array([2, 1]), 1)
    (tmp_path / "link.parquet").symlink_to(target)
    sort_source(tmp_path / "link.parquet", "key")
    assert (tmp_path / "link.parquet").is_symlink()
    assert pq.read_table(target)["key"].to_pylist() == [1, 2]


# --- through a repository


@pytest.fixture
def store(tmp_path):
    """One view of a sorted and an unsorted file whose key has another name there, and one of a sorted file."""
    user = Entity(name="user", join_keys=["key"], value_type=ValueType.INT64)
    times = pa.array([day(1), day(0), day(0), day(0)], TIME)
    for path, keys in {"many/a.parquet": [1, 1, 2, 3], "many/b.parquet": [1, 3, 2, 1], "one.parquet": range(4)}.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        table = pa.table({"id": keys, "x": [1, 2, 3, 4], "event_timestamp": times})
        pq.write_table(table, tmp_path / path, row_group_size=2)
    mapping = {"id": "key"}
    many, one = (
        FileSource(name=name, path=path, timestamp_field="event_timestamp", field_mapping=mapping)
        for name, path in {"many": "many/*.parquet", "one": "one.parquet"}.items()
    )
    apply(tmp_path, [user, view("many", [user], {"x": Int64}, many), view("one", [user], {"x": Int64}, one)])
    return FeatureStore.open(tmp_path)


def test_an_unsorted_file_is_said_once_and_the_command_that_sorts_it(store, capfd):
    for _ in range(2):
        store.check([*store.refs("many"), *store.refs("one")])
    (line,) = capfd.readouterr().err.splitlines()
    assert f"{store.repo}/many/b.parquet is not sorted by id" in line
    assert f"`batchrec sort-features --feature-repo {store.repo} many`" in line


def test_sorting_a_view_rewrites_the_files_that_need_it(store):
    refs = store.refs("many")
    joined = store.point_in_time(pa.array([1, 2, 3]), day(0), refs)
    assert store.sort_source("many") == (str(store.repo / "many" / "b.parquet"),)
    after = pq.read_table(store.repo / "many" / "b.parquet")
    assert after["id"].to_pylist() == [1, 1, 2, 3]
    assert after["x"].to_pylist() == [4, 1, 3, 2]  # of one id, the older row first
    assert store.point_in_time(pa.array([1, 2, 3]), day(0), refs).num_rows == joined.num_rows
    assert store.sort_source("many") == ()
    assert store.sort_source("one") == ()


def test_a_source_that_cannot_be_opened_here_cannot_be_sorted(tmp_path):
    user = Entity(name="user", join_keys=["key"], value_type=ValueType.INT64)
    far = FileSource(name="far", path="nowhere9://bucket/f.parquet", timestamp_field="event_timestamp")
    apply(tmp_path, [user, view("far", [user], {"x": Int64}, far)])
    with pytest.raises(FeatureError, match="'far' does not read Parquet files that can be opened from here"):
        FeatureStore.open(tmp_path).sort_source("far")


# --- has a source changed?


def fingerprint(store, *views):
    return store.source_fingerprint([ref for name in views for ref in store.refs(name)])


def test_the_fingerprint_is_of_the_views_asked_for_whatever_their_order(store):
    assert fingerprint(store, "many", "one") == fingerprint(store, "one", "many")
    found = {fingerprint(store, *views) for views in (["many"], ["one"], ["many", "one"])}
    assert len(found) == 3
    assert all(len(one) == 64 and int(one, 16) >= 0 for one in found)
    assert fingerprint(FeatureStore.open(store.repo), "one") == fingerprint(store, "one")


def test_the_fingerprint_changes_with_size_time_and_files(store):
    one, many = fingerprint(store, "one"), fingerprint(store, "many")
    path = store.repo / "many" / "b.parquet"
    seen = {many}
    os.utime(path, (0, 0))
    seen.add(fingerprint(store, "many"))
    path.write_bytes(path.read_bytes() + b"x")
    os.utime(path, (0, 0))
    seen.add(fingerprint(store, "many"))
    path.rename(path.with_name("c.parquet"))
    seen.add(fingerprint(store, "many"))
    (store.repo / "many" / "c.parquet").unlink()
    seen.add(fingerprint(store, "many"))
    assert len(seen) == 5
    assert fingerprint(store, "one") == one


def test_the_fingerprint_of_a_source_that_is_gone_is_an_error(store):
    (store.repo / "one.parquet").unlink()
    with pytest.raises(FeatureError, match=r"one\.parquet, which does not exist"):
        fingerprint(store, "one")


def test_a_repository_that_was_moved_has_the_same_sources(store, tmp_path_factory):
    before = fingerprint(store, "many", "one")
    moved = tmp_path_factory.mktemp("moved") / "repo"
    store.repo.rename(moved)
    assert fingerprint(FeatureStore.open(moved), "many", "one") == before


def test_urls_count_with_what_their_file_system_tells(tmp_path):
    import fsspec

    files = fsspec.filesystem("memory")
    user = Entity(name="user", join_keys=["key"], value_type=ValueType.INT64)
    paths = {"near": "memory://features/f.parquet", "unknown": "nowhere9://features/f.parquet"}
    views = [
        view(name, [user], {"x": Int64}, FileSource(name=name, path=path, timestamp_field="event_timestamp"))
        for name, path in paths.items()
    ]
    apply(tmp_path, [user, *views])
    store = FeatureStore.open(tmp_path)
    with pytest.raises(FeatureError, match=r"memory://features/f\.parquet cannot be looked at"):
        fingerprint(store, "near")
    seen = set()
    for content, moment in ((b"a", 1), (b"b", 1), (b"bc", 1), (b"bc", 2)):
        files.pipe("features/f.parquet", content)
        files.store["/features/f.parquet"].created = datetime.fromtimestamp(moment, UTC)
        seen.add(fingerprint(store, "near"))
    assert len(seen) == 3  # a and b have one size and one time
    assert fingerprint(store, "unknown") == fingerprint(store, "unknown")


def test_sources_that_are_not_files_count_by_name(tmp_path):
    user = Entity(name="user", join_keys=["key"], value_type=ValueType.INT64)
    found = []
    for name in ("a", "b"):
        table = BigQuerySource(name=name, table="features", timestamp_field="event_timestamp")
        apply(tmp_path / name, [user, view("v", [user], {"x": Int64}, table)])
        found.append(fingerprint(FeatureStore.open(tmp_path / name), "v"))
    assert found[0] != found[1]
