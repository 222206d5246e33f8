"""Part files, as those see them who know nothing of batchrec but Parquet."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec.errors import ConfigError, SinkError
from batchrec.output.local_storage import LocalStorage
from batchrec.output.part import build_table, count_by_status, write_part
from batchrec.output.record import part_name
from batchrec.schema import Status, list_schema, long_schema


def test_list_layout(lists):
    table = build_table(**lists, layout="list")
    assert table.schema == list_schema(pa.int64(), pa.string(), sampled=True)
    assert table.to_pylist() == [
        {
            "user_id": 3,
            "item_ids": ["i40", "i10", "i20"],
            "scores": [3.0, 2.5, -1.0],
            "propensities": [0.5, 0.75, 1.0],
            "status": "ok",
            "source": "ranker",
        },
        {
            "user_id": 5,
            "item_ids": ["i30"],
            "scores": [7.0],
            "propensities": [1.0],
            "status": "short",
            "source": "ranker",
        },
        {"user_id": 8, "item_ids": [], "scores": [], "propensities": [], "status": "unknown", "source": "none"},
        {
            "user_id": 13,
            "item_ids": ["i10", "i20"],
            "scores": [0.0, -0.5],
            "propensities": [0.25, 1.0],
            "status": "fallback",
            "source": "popularity",
        },
    ]


def test_long_layout(lists):
    table = build_table(**lists, layout="long")
    assert table.schema == long_schema(pa.int64(), pa.string(), sampled=True)
    rows = [tuple(row.values()) for row in table.to_pylist()]
    assert rows == [
        (3, 1, "i40", 3.0, 0.5),
        (3, 2, "i10", 2.5, 0.75),
        (3, 3, "i20", -1.0, 1.0),
        (5, 1, "i30", 7.0, 1.0),
        (13, 1, "i10", 0.0, 0.25),
        (13, 2, "i20", -0.5, 1.0),
    ]


@pytest.mark.parametrize("layout", ["list", "long"])
def test_no_propensities_without_sampling(lists, layout):
    sampled = build_table(**lists, layout=layout)
    table = build_table(**{**lists, "propensities": None}, layout=layout)
    schema = {"list": list_schema, "long": long_schema}[layout](pa.int64(), pa.string(), sampled=False)
    assert table.schema == schema
    assert table == sampled.select(schema.names)


def test_kept_columns_come_last_and_follow_their_user(lists):
    kept = pa.table({"plan": ["x", None, "y", "z"], "age": pa.array([1, 2, 3, None], pa.int16())})
    for layout, schema in {"list": list_schema, "long": long_schema}.items():
        plain, table = build_table(**lists, layout=layout), build_table(**lists, layout=layout, kept=kept)
        assert table.schema == schema(pa.int64(), pa.string(), sampled=True, kept=kept.schema)
        assert table.select(plain.column_names) == plain
        beside = dict(zip([3, 5, 8, 13], zip(*kept.to_pydict().values(), strict=True), strict=True))
        assert [(row["plan"], row["age"]) for row in table.to_pylist()] == [
            beside[user] for user in table["user_id"].to_pylist()
        ]


@settings(max_examples=40, deadline=None)
@given(data=st.data(), users=st.integers(0, 6), k=st.integers(1, 4), as_text=st.booleans())
def test_both_layouts_hold_what_a_loop_over_users_finds(data, users, k, as_text):
    catalogue = sorted(str(value) for value in range(9)) if as_text else list(range(9))
    lengths = [data.draw(st.integers(0, k)) for _ in range(users)]
    positions = np.full((users, k), -1)
    for user, length in enumerate(lengths):
        positions[user, :length] = data.draw(st.lists(st.integers(0, 8), min_size=length, max_size=length, unique=True))
    scores = np.arange(users * k, dtype=np.float32).reshape(users, k)
    arguments: dict[str, Any] = {
        "user_ids": pa.array([user * 10 for user in range(users)], pa.int64()),
        "item_ids": pa.array(catalogue),
        "positions": positions,
        "scores": scores,
        "propensities": None,
        "status": ["ok"] * users,
        "source": ["ranker"] * users,
    }
    expected = [
        (user * 10, rank + 1, catalogue[positions[user, rank]], float(scores[user, rank]))
        for user in range(users)
        for rank in range(lengths[user])
    ]

    long = build_table(**arguments, layout="long").to_pylist()
    lists = build_table(**arguments, layout="list").to_pylist()

    assert [tuple(row.values()) for row in long] == expected
    assert [
        (row["user_id"], rank, item, score)
        for row in lists
        for rank, (item, score) in enumerate(zip(row["item_ids"], row["scores"], strict=True), start=1)
    ] == expected
    assert [len(row["item_ids"]) for row in lists] == lengths


def test_string_user_ids_and_enum_words(lists):
    words = {"status": np.array([Status.OK] * 4), "source": pa.array(["ranker"] * 4).to_numpy(zero_copy_only=False)}
    table = build_table(**{**lists, **words, "user_ids": pa.array(["", "a", "b", "ü"])}, layout="list")
    assert table.schema == list_schema(pa.string(), pa.string(), sampled=True)
    assert table["user_id"].to_pylist() == ["", "a", "b", "ü"]
    assert table["status"].to_pylist() == ["ok"] * 4


def test_more_items_than_a_list_column_can_hold():
    users, k = 2**21, 2**10
    shape = (users, k)
    with pytest.raises(ConfigError, match="give a smaller --users-per-partition"):
        build_table(
            user_ids=pa.nulls(users),
            item_ids=pa.array([1]),
            positions=_AllPresent(shape),
            scores=np.broadcast_to(np.float32(0), shape),
            propensities=None,
            status=[],
            source=[],
            layout="list",
        )


class _AllPresent:
    """Stands for an (n, k) array of zeros that would take 16 GiB."""

    def __init__(self, shape):
        self.shape = shape

    def __ge__(self, other):
        return self

    def sum(self, axis, dtype):
        return np.full(self.shape[0], self.shape[1], dtype)


def test_count_by_status_has_every_status_in_order():
    counts = count_by_status([Status.SHORT, "ok", "short"])
    assert list(counts) == ["ok", "short", "degraded", "fallback", "unknown", "failed"]
    assert list(counts.values()) == [1, 2, 0, 0, 0, 0]
    assert sum(count_by_status([]).values()) == 0


def test_part_names_sort_like_partitions():
    names = [part_name(index) for index in (0, 9, 10, 17, 99_999)]
    assert names[3] == "part-00017.parquet"
    assert names == sorted(names)


# Readers


@pytest.fixture
def written(tmp_path, table):
    write_part(table.slice(0, 2), LocalStorage(tmp_path), part_name(0))
    write_part(table.slice(2), LocalStorage(tmp_path), part_name(1))
    return tmp_path


def test_read_with_pyarrow_dataset(written, table):
    (written / "_manifest.json").write_text("{}")
    (written / "_SUCCESS").touch()
    dataset = pyarrow.dataset.dataset(written)
    assert dataset.schema == table.schema
    assert dataset.to_table() == table


def test_read_with_pandas(written, table):
    frame = pd.read_parquet(written)
    assert frame["user_id"].tolist() == [3, 5, 8, 13]
    assert [list(items) for items in frame["item_ids"]] == table["item_ids"].to_pylist()
    assert frame["scores"][0].dtype == np.float32


def test_read_with_duckdb(written, table):
    rows = duckdb.sql(f"SELECT * FROM read_parquet('{written}/part-*.parquet')").fetchall()
    assert rows == [tuple(row.values()) for row in table.to_pylist()]
    best = duckdb.sql(f"SELECT item_ids[1] FROM '{written}/part-*.parquet' WHERE user_id = 13").fetchall()
    assert best == [("i10",)]


# Bytes


def test_record_describes_the_file(tmp_path, table):
    path = tmp_path / part_name(3)
    record = write_part(table, LocalStorage(tmp_path), path.name)
    content = path.read_bytes()
    assert (record.name, record.rows, record.bytes) == ("part-00003.parquet", 4, len(content))
    assert record.sha256 == hashlib.sha256(content).hexdigest()


def test_bytes_depend_on_the_values_alone(tmp_path):
    rng = np.random.default_rng(0)
    users, k = 40_000, 10  # more than one data page a column
    table = build_table(
        user_ids=pa.array(np.arange(users)),
        item_ids=pa.array(np.arange(500)),
        positions=rng.integers(0, 500, (users, k)),
        scores=rng.random((users, k), np.float32),
        propensities=None,
        status=["ok"] * users,
        source=["ranker"] * users,
        layout="list",
    )
    chunked = pa.concat_tables([table.slice(start, 777) for start in range(0, users, 777)])
    padded = pa.concat_tables([table.slice(5, 3), table]).slice(3)
    records = [
        write_part(each, LocalStorage(tmp_path), part_name(i)) for i, each in enumerate([table, table, chunked, padded])
    ]
    assert len({record.sha256 for record in records}) == 1
    assert pq.ParquetFile(tmp_path / part_name(2)).num_row_groups == 1


def test_part_without_rows(tmp_path, table):
    record = write_part(table.slice(0, 0), LocalStorage(tmp_path), part_name(0))
    assert record.rows == 0
    assert pq.read_table(tmp_path / part_name(0)).schema == table.schema


def test_mode_follows_the_umask(tmp_path, table):
    before = os.umask(0o027)
    try:
        write_part(table, LocalStorage(tmp_path), part_name(0))
    finally:
        os.umask(before)
    assert (tmp_path / part_name(0)).stat().st_mode & 0o777 == 0o640


# Failures


def test_folder_that_is_a_file(tmp_path, table):
    (tmp_path / "none").touch()
    with pytest.raises(SinkError, match=r"cannot write \S+/none .*: a file stands where a folder is needed: "):
        write_part(table, LocalStorage(tmp_path / "none"), part_name(0))


def test_name_taken_by_a_folder_leaves_no_temporary_file(tmp_path, table):
    (tmp_path / part_name(0)).mkdir()
    with pytest.raises(SinkError, match="cannot write"):
        write_part(table, LocalStorage(tmp_path), part_name(0))
    assert [entry.name for entry in tmp_path.iterdir()] == [part_name(0)]


WRITE_BEYOND_THE_LIMIT = """
import resource, signal, sys
from pathlib import Path
import numpy as np, pyarrow as pa
from batchrec.errors import SinkError
from batchrec.output.local_storage import LocalStorage
from batchrec.output.part import write_part

table = pa.table({"x": np.random.default_rng(0).random(100_000)})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    write_part(table, LocalStorage(Path(sys.argv[1]).parent), Path(sys.argv[1]).name)
except SinkError as error:
    sys.exit(str(error))
"""


def test_file_that_may_not_grow_keeps_its_old_bytes(tmp_path):
    path = tmp_path / part_name(0)
    path.write_bytes(b"old")
    done = subprocess.run(
        [sys.executable, "-c", WRITE_BEYOND_THE_LIMIT, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"cannot write {path} (File too large): free space on the file system of {tmp_path}")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
