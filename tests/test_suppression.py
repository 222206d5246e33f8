"""Late suppression: what is asked to go is gone, whatever else stays as it was."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrec.errors import SchemaError
from batchrec.output.part import build_table
from batchrec.suppression import Suppression, read_suppression, suppress
from tests.runs import published

LISTS = st.dictionaries(st.integers(0, 9), st.lists(st.integers(0, 6), unique=True, max_size=4), min_size=1, max_size=6)
SOME = st.sets(st.integers(0, 9))
K = 4


def table_of(lists, layout):
    users = sorted(lists)
    positions = np.array([lists[user] + [-1] * (K - len(lists[user])) for user in users])
    scores = np.where(positions >= 0, positions + 0.5, -np.inf).astype(np.float32)
    status = np.array(["ok" if len(lists[user]) == K else "short" for user in users])
    kept = pa.table({"plan": [f"plan {user}" for user in users]})
    table = build_table(
        user_ids=pa.array(users, pa.int64()),
        item_ids=pa.array([f"i{number}" for number in range(7)]),
        positions=positions,
        scores=scores,
        propensities=np.where(positions >= 0, 0.25, 0).astype(np.float32),
        status=status,
        source=np.full(len(users), "ranker"),
        layout=layout,
        kept=kept,
    )
    return table, pa.array(users, pa.int64()), status


def expected_rows(lists, layout, items, users):
    """Rows that are left, by a loop."""
    rows = []
    for user in sorted(set(lists) - users):
        left = [item for item in lists[user] if item not in items]
        was_full = len(lists[user]) == K
        row = {"user_id": user, "plan": f"plan {user}"}
        if layout == "list":
            row |= {"item_ids": [f"i{item}" for item in left], "scores": [item + 0.5 for item in left]}
            row |= {"propensities": [0.25] * len(left), "source": "ranker"}
            rows.append(row | {"status": "ok" if was_full and len(left) == K else "short"})
        else:
            for rank, item in enumerate(left, 1):
                rows.append(row | {"rank": rank, "item_id": f"i{item}", "score": item + 0.5, "propensity": 0.25})
    return rows


@pytest.mark.parametrize("layout", ["list", "long"])
@given(lists=LISTS, items=SOME, users=SOME)
def test_what_is_left_is_what_a_loop_leaves(layout, lists, items, users):
    table, user_ids, status = table_of(lists, layout)
    given_items = pa.array([f"i{item}" for item in sorted(items)], pa.string())
    found = suppress(table, user_ids, status, Suppression(given_items, pa.array(sorted(users), pa.int64())))
    assert found.table.schema == table.schema
    assert found.table.to_pylist() == [
        {name: row[name] for name in table.column_names} for row in expected_rows(lists, layout, items, users)
    ]
    assert found.users == len(set(lists) & users)
    assert found.items == sum(item in items for user in set(lists) - users for item in lists[user])
    lengths = [len(set(lists[user]) - items) for user in sorted(set(lists) - users)]
    assert list(found.status) == ["ok" if length == K else "short" for length in lengths]


def write(path, **columns):
    pq.write_table(pa.table(columns), path)
    return str(path)


def test_lists_of_both_kinds_are_read_and_joined(tmp_path):
    sources = [
        write(tmp_path / "recall.parquet", item_id=["b", "a", None, "b"], why=["x"] * 4),
        write(tmp_path / "more.parquet", item_id=["c"]),
        write(tmp_path / "erased.parquet", user_id=pa.array([5, 2], pa.int32())),
    ]
    found = read_suppression(sources, pa.int64(), pa.string())
    assert found.items.to_pylist() == ["a", "b", "c"]
    assert found.users.to_pylist() == [2, 5]
    assert found.fingerprint == read_suppression(sources[::-1], pa.int64(), pa.string()).fingerprint
    assert found.fingerprint != read_suppression(sources[:2], pa.int64(), pa.string()).fingerprint
    assert read_suppression([], pa.int64(), pa.string()) is None


def test_an_empty_list_is_a_list(tmp_path):
    source = write(tmp_path / "none.parquet", item_id=pa.array([], pa.string()))
    assert read_suppression([source], pa.int64(), pa.string()).items.to_pylist() == []


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"sku": ["a"]}, "has the columns sku; expected either item_id or user_id"),
        ({"item_id": ["a"], "user_id": [1]}, "has the columns item_id, user_id; expected either"),
        ({"item_id": [7]}, "holds int64 ids, those of the run are string"),
        ({"user_id": ["7"]}, "holds string ids, those of the run are int64"),
    ],
)
def test_lists_that_cannot_be(tmp_path, columns, words):
    with pytest.raises(SchemaError, match=words):
        read_suppression([write(tmp_path / "x.parquet", **columns)], pa.int64(), pa.string())


@pytest.mark.parametrize("layout", ["list", "long"])
def test_a_run_leaves_out_what_it_is_told_to(world, batchrec, tmp_path, layout):
    args = (f"--layout={layout}", "--users-per-partition=300")
    assert batchrec(*world.args(tmp_path, *args, "--run-id=before")).code == 0
    before = published(tmp_path / "before")
    lists = {}
    for row in before.to_pylist():
        lists.setdefault(row["user_id"], []).extend(row["item_ids"] if layout == "list" else [row["item_id"]])
    counts = {}
    for items in lists.values():
        for item in items:
            counts[item] = counts.get(item, 0) + 1
    recalled = max(counts, key=counts.get)
    erased = [world.ids()[7], world.unknown[0], 4_711]
    items = write(tmp_path / "recall.parquet", item_id=[recalled])
    users = write(tmp_path / "erased.parquet", user_id=erased)
    said = batchrec(*world.args(tmp_path, *args, "--run-id=after", f"--suppress={items}", f"--suppress={users}"))
    assert said.code == 0, said.err
    assert said.summary["suppressed_users"] == 2
    after = {}
    for row in published(tmp_path / "after").to_pylist():
        after.setdefault(row["user_id"], []).extend(row["item_ids"] if layout == "list" else [row["item_id"]])
    left = {user: [item for item in items if item != recalled] for user, items in lists.items() if user not in erased}
    assert after == {user: items for user, items in left.items() if items or layout == "list"}
    manifest = json.loads((tmp_path / "after" / "_manifest.json").read_text())
    accounting = manifest["accounting"]
    assert (
        sum(accounting["by_status"].values()) + accounting["suppressed_users"] == accounting["distinct_users"] == 1000
    )
    shortened = sum(recalled in items for user, items in lists.items() if user not in erased)
    assert manifest["suppression"]["items_taken_out"] == shortened
    assert accounting["by_status"]["short"] > 2
    assert batchrec("verify", tmp_path / "after").code == 0
    said = batchrec("verify", tmp_path / "before", f"--suppress={items}", f"--suppress={users}")
    assert said.code == 3
    rows = 2 if layout == "list" else sum(len(lists[user]) for user in erased if user in lists)
    assert f"suppressed_item {counts[recalled]}, suppressed_user {rows}" in said.err
    assert "4711" not in said.err
