"""Kept columns: one row a user whatever the files look like, and every value as it was given."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec.errors import SchemaError
from batchrec.users import prepare_users

if TYPE_CHECKING:
    from pathlib import Path


def rows_of(path: Path) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in pq.read_table(path).to_pylist()]


def first_by_kept(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """One row an id, the slow and obvious way: the smallest by the kept values in their order, nulls last."""
    found: dict[Any, list[tuple[Any, ...]]] = {}
    for row in rows:
        if row[0] is not None:
            found.setdefault(row[0], []).append(row)
    return [
        min(found[user], key=lambda row: [(value is None, value if value is not None else 0) for value in row[1:]])
        for user in sorted(found)
    ]


KEPT_ROWS = st.lists(
    st.tuples(
        st.none() | st.integers(-2, 2),
        st.none() | st.integers(0, 2),
        st.none() | st.sampled_from(["", "a", "a\0", "b", "ü"]),
    ),
    min_size=1,
    max_size=40,
).filter(lambda rows: any(row[0] is not None for row in rows))


@settings(max_examples=50, deadline=None)
@given(rows=KEPT_ROWS, data=st.data())
def test_kept_columns_do_not_depend_on_order_or_files(tmp_path_factory, rows, data):
    work = tmp_path_factory.mktemp("kept")
    source = work / "source"
    source.mkdir()
    shuffled = data.draw(st.permutations(rows))
    middle = data.draw(st.integers(0, len(rows)))
    schema = pa.schema({"user_id": pa.int64(), "plan": pa.int8(), "city": pa.string()})
    for number, piece in enumerate((shuffled[:middle], shuffled[middle:])):
        table = pa.Table.from_arrays(
            [pa.array([row[at] for row in piece], schema.types[at]) for at in range(3)], schema=schema
        )
        if number:
            table = table.select(["city", "user_id", "plan"]).set_column(0, "city", table["city"].dictionary_encode())
        pq.write_table(table, source / f"{number}.parquet", row_group_size=data.draw(st.integers(1, 9)))

    summary, path = prepare_users(str(source), "user_id", work, data.draw(st.integers(1, 9)), ["plan", "city"])

    assert rows_of(path) == first_by_kept(rows)
    assert pq.read_schema(path).types == schema.types
    assert (summary.input_rows, summary.distinct_users) == (len(rows), len(first_by_kept(rows)))
    assert summary.kept == pa.schema({"plan": pa.int8(), "city": pa.string()})


def test_the_order_in_which_columns_are_kept_decides(tmp_path):
    pq.write_table(pa.table({"user_id": [7, 7], "a": [1, 2], "b": ["z", "y"]}), tmp_path / "in.parquet")
    for keep, expected in ((["a", "b"], (7, 1, "z")), (["b", "a"], (7, "y", 2))):
        _, path = prepare_users(str(tmp_path / "in.parquet"), "user_id", tmp_path, 10, keep)
        assert rows_of(path) == [expected]


def test_repetitions_far_apart_count_once_whatever_the_batches(tmp_path):
    rng = np.random.default_rng(3)
    frame = pd.DataFrame({"user_id": rng.integers(0, 90_000, 300_000), "value": rng.normal(size=300_000)})
    frame.to_parquet(tmp_path / "in.parquet", row_group_size=50_000)
    summary, path = prepare_users(str(tmp_path / "in.parquet"), "user_id", tmp_path, 7_777, ["value"])
    expected = frame.groupby("user_id", sort=True)["value"].min().reset_index()
    pd.testing.assert_frame_equal(pq.read_table(path).to_pandas(), expected)
    assert summary.duplicate_rows == len(frame) - len(expected)


def test_kept_bytes_and_fingerprint_are_those_of_the_rows(tmp_path):
    rng = np.random.default_rng(2)
    size = 20_000
    table = pa.table(
        {
            "user_id": rng.integers(0, 5_000, size),
            "zero": rng.choice([0.0, -0.0, np.nan, -np.nan, 1.0], size),
            "word": pa.array(rng.choice(["a", "b", None], size).tolist()),
        }
    )
    shuffled = table.take(rng.permutation(size))
    many = tmp_path / "many"
    many.mkdir()
    pq.write_table(table, tmp_path / "one.parquet")
    pq.write_table(shuffled[:77], many / "a.parquet", row_group_size=5)
    pq.write_table(shuffled[77:], many / "b.parquet", row_group_size=999)
    results = []
    for name, source in {"first": tmp_path / "one.parquet", "second": many}.items():
        (tmp_path / name).mkdir()
        results.append(prepare_users(str(source), "user_id", tmp_path / name, 300, ["zero", "word"]))
    (first, first_path), (second, second_path) = results
    assert first_path.read_bytes() == second_path.read_bytes()
    assert first.fingerprint == second.fingerprint


def test_fingerprint_tells_names_types_values_and_nulls(tmp_path):
    columns = [
        None, ("a", pa.array([0, 1])), ("b", pa.array([0, 1])), ("a", pa.array([0, 2])), ("a", pa.array([None, 1])),
        ("a", pa.array([0, 1], pa.int32())), ("a", pa.array([0.0, 1.0])), ("a", pa.array(["", "1"])),
        ("a", pa.array([None, "1"])), ("a", pa.array([False, True])), ("a", pa.array([None, True])),
    ]  # fmt: skip
    prints = set()
    for kept in columns:
        content = {"user_id": pa.array([1, 2])} | ({} if kept is None else {kept[0]: kept[1]})
        pq.write_table(pa.table(content), tmp_path / "in.parquet")
        keep = [name for name in content if name != "user_id"]
        prints.add(prepare_users(str(tmp_path / "in.parquet"), "user_id", tmp_path, 10, keep)[0].fingerprint)
    assert len(prints) == len(columns)


MOMENTS = [datetime(2026, 3, 29, 1, 59, 59, 999_999, UTC), None, datetime(1, 1, 1, tzinfo=UTC)]
SCALARS = [
    *(pa.array([3, None, 1], dtype) for dtype in (pa.int8(), pa.uint16(), pa.int32(), pa.int64())),
    pa.array([2**64 - 1, None, 0], pa.uint64()),
    *(pa.array([0.5, None, -1.5]).cast(dtype) for dtype in (pa.float16(), pa.float32(), pa.float64())),
    pa.array([True, None, False]),
    pa.array(["b", None, ""]),
    pa.array([date(2026, 1, 1), None, date(1, 1, 1)]),
    *(pa.array(MOMENTS, pa.timestamp("us", zone)) for zone in (None, "UTC", "Europe/Berlin")),
    pa.array([2**62 + 1, None, -1], pa.timestamp("ns", "America/New_York")),
    pa.array([1, None, 0], pa.timestamp("ms")),
    pa.array([Decimal("1.50"), None, Decimal("-99999999999999999999.25")], pa.decimal128(38, 2)),
]


@pytest.mark.parametrize("values", SCALARS, ids=lambda values: str(values.type))
def test_types_and_values_are_kept(tmp_path, values):
    table = pa.table(
        {"user_id": pa.array([1, 1, 2, 3]), "kept": pa.concat_arrays([values[2:], values[:2], values[2:]])}
    )
    pq.write_table(table, tmp_path / "in.parquet")
    summary, path = prepare_users(str(tmp_path / "in.parquet"), "user_id", tmp_path, 2, ["kept"])
    found = pq.read_table(path)["kept"].combine_chunks()
    assert summary.kept.field("kept").type == found.type == values.type
    assert found.equals(pa.concat_arrays([values[2:], values[1:2], values[2:]]))


@pytest.mark.parametrize(
    ("kept", "problem"),
    [
        (pa.array([[1]]), r"'kept' of \S+in\.parquet is list<.*>, which cannot be kept: keep integers"),
        (pa.array([{"a": 1}]), r"is struct<a: int64>, which cannot be kept"),
        (pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())), r"is map<.*>, which cannot be kept"),
        (pa.array([b"a"]), r"is binary, which cannot be kept"),
        (pa.nulls(1), r"'kept' of \S+ holds only nulls and has no type: cast it"),
        (pa.array([b"\xff"]).view(pa.string()), r"'kept' of \S+ holds values that are not string"),
    ],
)
def test_columns_that_cannot_be_kept(tmp_path, kept, problem):
    pq.write_table(pa.table({"user_id": [1], "kept": kept}), tmp_path / "in.parquet")
    with pytest.raises(SchemaError, match=problem):
        prepare_users(str(tmp_path / "in.parquet"), "user_id", tmp_path, 10, ["kept"])


def test_kept_column_that_a_file_lacks_or_types_otherwise_or_leaves_null(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    pq.write_table(pa.table({"user_id": [1], "age": pa.nulls(1)}), source / "a.parquet")
    pq.write_table(pa.table({"user_id": [2], "age": [30]}), source / "b.parquet")
    _, path = prepare_users(str(source), "user_id", tmp_path, 10, ["age"])
    assert rows_of(path) == [(1, None), (2, 30)]

    with pytest.raises(SchemaError, match=r"a\.parquet has no column 'plan' \(its columns: user_id, age\)"):
        prepare_users(str(source), "user_id", tmp_path, 10, ["plan"])
    pq.write_table(pa.table({"user_id": [3], "age": [3.5]}), source / "c.parquet")
    with pytest.raises(SchemaError, match=r"'age' is int64 in \S*b\.parquet and double in \S*c\.parquet"):
        prepare_users(str(source), "user_id", tmp_path, 10, ["age"])
