"""Users in: whatever the files look like, the partitions are the sorted distinct ids and the counts add up."""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec import id_source
from batchrec.errors import ConfigError, SchemaError, SinkError
from batchrec.users import IdFingerprint, partition_count, prepare_users, read_partition

if TYPE_CHECKING:
    from pathlib import Path

INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(codec="utf-8"), max_size=6)
IDS = st.one_of(
    st.lists(st.none() | st.integers(-3, 3) | INT64, min_size=1, max_size=60),
    st.lists(
        st.none() | st.sampled_from(["", "a", "a\0", "a\0b", "b", "\uffff", "😀"]) | TEXT, min_size=1, max_size=60
    ),
).filter(lambda ids: any(value is not None for value in ids))


def write(path: Path, ids: Any, **options: Any) -> Path:
    column = ids if isinstance(ids, (pa.Array, pa.ChunkedArray)) else pa.array(ids)
    pq.write_table(pa.table({"user_id": column}), path, **options)
    return path


def partitions(path: Path) -> list[list[Any]]:
    return [read_partition(path, index)["user_id"].to_pylist() for index in range(partition_count(path))]


def in_order(ids: list[Any]) -> list[Any]:
    """The distinct ids, the slow and obvious way: numbers by value, strings by their UTF-8 bytes."""
    distinct = {value for value in ids if value is not None}
    return sorted(distinct, key=lambda value: value.encode() if isinstance(value, str) else value)


def fingerprint(ids: list[Any]) -> str:
    """The fingerprint as its docstring defines it, one id at a time."""
    ordered = in_order(ids)
    if isinstance(ordered[0], int):
        values = hashlib.sha256(b"".join(struct.pack("<q", value) for value in ordered)).digest()
        return hashlib.sha256(b"int64" + values).hexdigest()
    coded = [value.encode() for value in ordered]
    lengths = hashlib.sha256(b"".join(struct.pack("<q", len(value)) for value in coded)).digest()
    return hashlib.sha256(b"string" + hashlib.sha256(b"".join(coded)).digest() + lengths).hexdigest()


@settings(max_examples=60, deadline=None)
@given(ids=IDS, data=st.data())
def test_any_layout_gives_the_sorted_distinct_ids(tmp_path_factory, ids, data):
    work = tmp_path_factory.mktemp("users")
    source = work / "source"
    source.mkdir()
    bounds = sorted(data.draw(st.lists(st.integers(0, len(ids)), max_size=3)))
    shuffled = data.draw(st.permutations(ids))
    dtype = pa.array(ids).type
    for number, (start, stop) in enumerate(zip([0, *bounds], [*bounds, len(ids)], strict=True)):
        piece = pa.array(shuffled[start:stop], dtype)
        write(source / f"{number}.parquet", piece, row_group_size=data.draw(st.integers(1, 20)))
    size = data.draw(st.integers(1, 70))

    summary, path = prepare_users(str(source), "user_id", work, size)

    expected = in_order(ids)
    assert partitions(path) == [expected[start : start + size] for start in range(0, len(expected), size)]
    assert summary.input_rows == len(ids)
    assert summary.null_rows == ids.count(None)
    assert summary.distinct_users == len(expected)
    assert summary.duplicate_rows == len(ids) - ids.count(None) - len(expected)
    assert summary.id_type == dtype
    assert summary.fingerprint == fingerprint(ids)


def test_many_rows_agree_with_pandas(tmp_path):
    rng = np.random.default_rng(5)
    ids = pd.Series(rng.integers(0, 400_000, 700_000)).astype("Int64")
    ids[rng.random(len(ids)) < 0.01] = pd.NA
    source = write(tmp_path / "users.parquet.in", pa.array(ids), row_group_size=100_000)

    summary, path = prepare_users(str(source), "user_id", tmp_path, 65_537)

    expected = np.sort(ids.dropna().unique().to_numpy(dtype=np.int64))
    lengths = [len(read_partition(path, index)) for index in range(partition_count(path))]
    assert set(lengths[:-1]) == {65_537}
    assert np.array_equal(pq.read_table(path)["user_id"].to_numpy(), expected)
    assert summary.null_rows == ids.isna().sum()
    assert summary.duplicate_rows == ids.dropna().duplicated().sum()


@pytest.mark.parametrize("kind", [int, str])
def test_the_bytes_do_not_depend_on_order_repetition_files_or_row_groups(tmp_path, kind):
    rng = np.random.default_rng(1)
    ids = [kind(value) for value in rng.integers(0, 5_000, 20_000).tolist()]
    one = write(tmp_path / "one.parquet", ids)
    many = tmp_path / "many"
    many.mkdir()
    other = [*reversed(ids), None, *ids[:100]]
    write(many / "a.parquet", other[:7], row_group_size=3)
    write(many / "b.parquet", other[7:9_000], compression="gzip")
    write(many / "c.parquet", other[9_000:], row_group_size=1_111)

    results = []
    for name, source in {"first": one, "second": many}.items():
        work = tmp_path / name
        work.mkdir()
        results.append(prepare_users(str(source), "user_id", work, 300))
    (first, first_path), (second, second_path) = results

    assert first_path.read_bytes() == second_path.read_bytes()
    assert first.fingerprint == second.fingerprint


def test_ids_that_only_join_to_the_same_text_have_another_fingerprint(tmp_path):
    prints = {
        prepare_users(str(write(tmp_path / "in.parquet", ids)), "user_id", tmp_path, 10)[0].fingerprint
        for ids in (["ab", "c"], ["a", "bc"], ["abc"], [""], ["", "abc"])
    }
    assert len(prints) == 5


@pytest.mark.parametrize("ids", [["", "a", "bc", "bcd", "ü"], [-1, 0, 7, 8, 2**40], ["", ""]])
def test_fingerprint_is_the_same_however_the_stream_is_cut(ids):
    array = pa.array(ids)
    digests = set()
    for middle in range(len(ids) + 1):
        running = IdFingerprint(array.type)
        for piece in (array[:middle], array[middle:]):
            running.update(piece)
        digests.add(running.hexdigest())
    assert len(digests) == 1


def test_result_is_named_user_id_whatever_the_column_was_called_and_other_columns_are_not_read(tmp_path):
    table = pa.table({"customer.no": [3, 1, 3], "blob": ["x" * 100] * 3})
    pq.write_table(table, tmp_path / "in.parquet")
    _, path = prepare_users(str(tmp_path / "in.parquet"), "customer.no", tmp_path, 10)
    assert pq.read_table(path).to_pydict() == {"user_id": [1, 3]}


def test_nothing_but_the_result_is_left_in_the_work_folder(tmp_path):
    source = write(tmp_path / "in.parquet", [1, 2])
    work = tmp_path / "work"
    work.mkdir()
    prepare_users(str(source), "user_id", work, 1)
    assert [entry.name for entry in work.iterdir()] == ["users.parquet"]


# Where the files are


def test_glob(tmp_path):
    write(tmp_path / "users-1.parquet", [1])
    write(tmp_path / "users-2.parquet", [2])
    write(tmp_path / "other.parquet", [3])
    _, path = prepare_users(str(tmp_path / "users-*.parquet"), "user_id", tmp_path, 10)
    assert partitions(path) == [[1, 2]]


def test_glob_passes_over_what_is_no_data(tmp_path):
    source, work = tmp_path / "source", tmp_path / "work"
    source.mkdir()
    work.mkdir()
    write(source / "a.parquet", [1])
    (source / "_SUCCESS").touch()
    (source / ".a.parquet.crc").touch()
    _, path = prepare_users(f"{source}/*", "user_id", work, 10)
    assert partitions(path) == [[1]]


def test_name_that_looks_like_a_glob_but_exists(tmp_path):
    source = write(tmp_path / "users[1].parquet", [1])
    write(tmp_path / "users1.parquet", [2])
    _, path = prepare_users(str(source), "user_id", tmp_path, 10)
    assert partitions(path) == [[1]]


def test_folder_reached_through_a_link_with_markers_and_folders_inside(tmp_path):
    source = tmp_path / ".run"
    (source / "day=1").mkdir(parents=True)
    (source / "_temporary").mkdir()
    write(source / "day=1" / "a.parquet", [1])
    write(source / "b.parquet", [2])
    (source / "_SUCCESS").touch()
    (source / ".part.crc").write_bytes(b"x")
    (source / "_temporary" / "c.parquet").write_bytes(b"half")
    (tmp_path / "current").symlink_to(".run")
    _, path = prepare_users(str(tmp_path / "current"), "user_id", tmp_path, 10)
    assert partitions(path) == [[1, 2]]


@pytest.mark.parametrize(
    "source", ["memory://bucket/day", "memory://bucket/day/*.parquet", "memory://bucket/day/a.parquet"]
)
def test_url(tmp_path, source):
    filesystem = fsspec.filesystem("memory")
    try:
        with filesystem.open("/bucket/day/a.parquet", "wb") as file:
            pq.write_table(pa.table({"user_id": ["u2", "u1"]}), file)
        _, path = prepare_users(source, "user_id", tmp_path, 10)
        with pytest.raises(SchemaError, match=r"memory://\S*a\.parquet has no column 'id'"):
            prepare_users(source, "id", tmp_path, 10)
    finally:
        filesystem.rm("/bucket", recursive=True)
    assert partitions(path) == [["u1", "u2"]]


# Types


INTEGERS = [pa.array([2, 1, None, 2], dtype) for dtype in (pa.int8(), pa.int32(), pa.uint16(), pa.uint64())]
STRINGS = [pa.array(["b", "a", None, "b"], dtype) for dtype in (pa.string(), pa.large_string(), pa.string_view())]


@pytest.mark.parametrize("ids", [*INTEGERS, INTEGERS[1].dictionary_encode()], ids=lambda ids: str(ids.type))
def test_every_integer_type_comes_out_as_int64(tmp_path, ids):
    source = write(tmp_path / "in.parquet", ids)
    summary, path = prepare_users(str(source), "user_id", tmp_path, 10)
    assert summary.id_type == read_partition(path, 0)["user_id"].type == pa.int64()
    assert partitions(path) == [[1, 2]]


@pytest.mark.parametrize("ids", [*STRINGS, STRINGS[0].dictionary_encode()], ids=lambda ids: str(ids.type))
def test_every_string_type_comes_out_as_string(tmp_path, ids):
    source = write(tmp_path / "in.parquet", ids)
    summary, path = prepare_users(str(source), "user_id", tmp_path, 10)
    assert summary.id_type == read_partition(path, 0)["user_id"].type == pa.string()
    assert partitions(path) == [["a", "b"]]


def test_integer_widths_may_differ_between_files_and_a_file_may_hold_only_nulls(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    write(source / "a.parquet", pa.nulls(4))
    write(source / "b.parquet", pa.array([1, 2], pa.int32()))
    write(source / "c.parquet", pa.array([2, 3], pa.uint64()))
    summary, path = prepare_users(str(source), "user_id", tmp_path, 10)
    assert partitions(path) == [[1, 2, 3]]
    assert (summary.input_rows, summary.null_rows, summary.duplicate_rows) == (8, 4, 1)


def test_integers_in_one_file_and_strings_in_another(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    write(source / "a.parquet", [1])
    write(source / "b.parquet", ["1"])
    with pytest.raises(SchemaError, match=r"int64 in \S*a\.parquet and string in \S*b\.parquet"):
        prepare_users(str(source), "user_id", tmp_path, 10)


@pytest.mark.parametrize(
    ("ids", "problem"),
    [
        (pa.array([1.0, None]), r"'user_id' of \S+ is double, ids are integers or strings: .*Int64"),
        (pa.array([[1], [2]]), r"is list<element: int64>"),
        (pa.array([b"a"]), r"is binary"),
        (pa.array([True]), r"is bool"),
        (pa.array([2**63], pa.uint64()), r"not int64 .*9223372036854775808"),
        (pa.array([b"a", b"\xff"]).cast(pa.binary()).view(pa.string()), r"not string .*UTF8.*: give .*UTF-8"),
        (pa.array([], pa.int64()), r"'user_id' of \S+ holds no rows"),
        (pa.nulls(3), r"holds no id, all of its 3 rows are null"),
        (pa.nulls(3, pa.int64()), r"holds no id, all of its 3 rows are null"),
    ],
)
def test_columns_that_cannot_be_ids(tmp_path, ids, problem):
    source = write(tmp_path / "in.parquet", ids)
    work = tmp_path / "work"
    work.mkdir()
    with pytest.raises(SchemaError, match=problem):
        prepare_users(str(source), "user_id", work, 10)
    assert not list(work.iterdir())


def test_missing_column_names_those_that_are_there(tmp_path):
    pq.write_table(pa.table({"uid": [1], "age": [2]}), tmp_path / "in.parquet")
    with pytest.raises(SchemaError, match=r"in\.parquet has no column 'user_id' \(its columns: uid, age\)"):
        prepare_users(str(tmp_path / "in.parquet"), "user_id", tmp_path, 10)


def test_column_that_is_there_twice(tmp_path):
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["user_id", "user_id"])
    pq.write_table(table, tmp_path / "in.parquet")
    with pytest.raises(SchemaError, match="2 columns 'user_id'"):
        prepare_users(str(tmp_path / "in.parquet"), "user_id", tmp_path, 10)


# Files


def test_file_that_is_not_there(tmp_path):
    with pytest.raises(SchemaError, match=r"none\.parquet does not exist: give a Parquet file"):
        prepare_users(str(tmp_path / "none.parquet"), "user_id", tmp_path, 10)


def test_glob_that_matches_nothing(tmp_path):
    with pytest.raises(SchemaError, match=r"\*\.parquet matches no file"):
        prepare_users(str(tmp_path / "*.parquet"), "user_id", tmp_path, 10)


def test_folder_without_files(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "_SUCCESS").touch()
    with pytest.raises(SchemaError, match="is a folder without Parquet files"):
        prepare_users(str(tmp_path / "in"), "user_id", tmp_path, 10)


@pytest.mark.parametrize("content", [b"", b"user_id\n1\n2\n", b"PAR1 not really PAR1"])
def test_file_that_is_not_parquet(tmp_path, content):
    (tmp_path / "in.parquet").write_bytes(content)
    with pytest.raises(SchemaError, match=r"in\.parquet is not a readable Parquet file \(.+\): give Parquet"):
        prepare_users(str(tmp_path / "in.parquet"), "user_id", tmp_path, 10)


def test_file_damaged_behind_an_intact_footer(tmp_path):
    source = write(tmp_path / "in.parquet", list(range(10_000)), compression="zstd", use_dictionary=False)
    content = bytearray(source.read_bytes())
    content[50:5_000] = bytes(4_950)
    source.write_bytes(content)
    with pytest.raises(SchemaError, match=r"in\.parquet is not a readable Parquet file"):
        prepare_users(str(source), "user_id", tmp_path, 10)


def test_file_whose_footer_names_more_bytes_than_it_has(tmp_path):
    path = write(tmp_path / "ids.parquet", np.random.default_rng(0).permutation(10_000), compression="none")
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + whole[60_000:])
    with pytest.raises(SchemaError, match=r"ids\.parquet is not a readable Parquet file"):
        prepare_users(str(path), "user_id", tmp_path, 2)


@pytest.mark.parametrize("source", ["ids.parquet", "memory://chunks/ids.parquet"])
def test_large_column_chunks_are_read_like_small_ones(tmp_path, monkeypatch, source):
    whole = write(tmp_path / "ids.parquet", np.random.default_rng(0).permutation(10_000), data_page_size=1024)
    place = source if "://" in source else str(whole)
    content = whole.read_bytes()
    with fsspec.open(place, "wb") as file:
        file.write(content)
    small, path = prepare_users(place, "user_id", tmp_path, 3000)
    expected = path.read_bytes()
    monkeypatch.setattr(id_source, "_UNBUFFERED_UP_TO_BYTES", 1000)
    large, path = prepare_users(place, "user_id", tmp_path, 3000)
    assert (large, path.read_bytes()) == (small, expected)


def test_url_of_an_unknown_kind(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot open nowhere://x .*: install the fsspec package"):
        prepare_users("nowhere://x", "user_id", tmp_path, 10)


@pytest.mark.parametrize("size", [0, -1, 2**24 + 1])
def test_partition_size_out_of_range(tmp_path, size):
    source = write(tmp_path / "in.parquet", [1])
    with pytest.raises(ConfigError, match=f"--users-per-partition is {size}: give a number from 1"):
        prepare_users(str(source), "user_id", tmp_path, size)


def test_work_folder_that_is_not_there(tmp_path):
    source = write(tmp_path / "in.parquet", [1])
    with pytest.raises(SinkError, match="cannot write"):
        prepare_users(str(source), "user_id", tmp_path / "none", 10)
