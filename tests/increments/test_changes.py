"""The lists of changes against dictionaries, and the proof of them against every kind of lie."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec.increments.changes import compared, write_changes
from batchrec.increments.previous import open_previous
from batchrec.output.changes import read_increment
from batchrec.output.local_storage import LocalStorage
from batchrec.output.record import PartRecord
from batchrec.output.sums import part_records
from batchrec.verify.changes import check_changes
from tests.delivery.runs import publish, publish_since
from tests.increments.shop import expected_changes, found_changes

FIRST = {user: ([user, 7], [1.5, 0.5]) for user in range(20)} | {20: ([], [])}
SECOND = {user: FIRST[user] for user in range(5, 18)} | {18: ([7, 18], [1.5, 0.5]), 19: ([], []), 30: ([3], [2.0])}

LISTS = st.dictionaries(
    st.sampled_from(["", "a", "b", "é", "zz", "𝄞", "c" * 5000]),
    st.lists(st.integers(0, 3), unique=True, max_size=3).map(lambda items: (items, [item / 2 for item in items])),
    min_size=1,
)


def increment_of(run):
    storage = LocalStorage(run)
    manifest = json.loads((run / "_manifest.json").read_text())
    return storage, part_records(storage, manifest), read_increment(storage, manifest)


@settings(max_examples=20, deadline=None)
@given(
    first=LISTS,
    second=LISTS,
    parts=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    layout=st.sampled_from(["list", "long"]),
)
def test_changes_are_those_that_dictionaries_find(first, second, parts, layout):
    with tempfile.TemporaryDirectory() as folder:
        before = publish(Path(folder) / "before", first, parts[0], layout)
        now = publish(Path(folder) / "now", second, parts[1], layout)
        storage, records, _ = increment_of(now)
        found = write_changes(storage, records, open_previous("before", LocalStorage(folder)), 0, len(second))
        expected = expected_changes(before, now)
        assert found_changes(now) == expected
        assert dict(found.users) == {kind: len(users) for kind, users in expected.items()}
        assert check_changes(storage, records, found) == 0


def test_values_count():
    """Of columns that are kept: nulls and what is not a number are equal to their like, and to nothing else."""
    values = [None, float("nan"), 1.0, None, float("nan"), 0.0]
    others = [None, float("nan"), 1.0, float("nan"), 2.0, None]
    tables = [
        pa.table({"user_id": range(6), "kept": pa.array(some, pa.float64(), from_pandas=False)})
        for some in (values, others)
    ]
    inserted, changed, removed = compared(*tables)
    assert (len(inserted), changed["user_id"].to_pylist(), len(removed)) == (0, [3, 4, 5], 0)
    assert len(compared(tables[0], tables[1].rename_columns(["user_id", "other"]))[1]) == 6


@pytest.fixture(params=["list", "long"])
def honest(request, tmp_path):
    before = publish(tmp_path / "before", FIRST, 2, request.param)
    return publish_since(tmp_path / "now", SECOND, before, FIRST, 3, request.param)


def rewrite(run, kind, change):
    """Change a list of changes; return what is wrong with it then."""
    storage, parts, increment = increment_of(run)
    path = run / "_changes" / kind / "part-00000.parquet"
    table = pq.read_table(path)
    changed = pa.Table.from_pylist(change(table.to_pylist()), table.schema)
    pq.write_table(changed, path)
    users = {**increment.users, kind: len(changed["user_id"].unique())}
    files = {**increment.files, kind: [PartRecord(f"_changes/{kind}/{path.name}", len(changed), 0, "")]}
    return check_changes(storage, parts, replace(increment, users=users, files=files))


def first_item(row):
    return row | ({"item_ids": [99, *row["item_ids"][1:]]} if "item_ids" in row else {"item_id": 99})


LIES = {
    "somebody new is kept back": ("inserted", lambda rows: []),
    "a change is kept back": ("changed", lambda rows: [row for row in rows if row["user_id"] != 18]),
    "a removal is kept back": ("removed", lambda rows: rows[1:]),
    "another list": ("changed", lambda rows: [first_item(rows[0]), *rows[1:]]),
    "another list of somebody new": ("inserted", lambda rows: [first_item(rows[0])]),
    "somebody unknown is removed": ("removed", lambda rows: [*rows, {"user_id": 77}]),
    "somebody who stays is removed": ("removed", lambda rows: [*rows, {"user_id": 9}]),
    "nobody": ("changed", lambda rows: [row | {"user_id": 1000} for row in rows]),
}


def test_an_honest_run(honest):
    assert check_changes(*increment_of(honest)) == 0


@pytest.mark.parametrize("lie", LIES)
def test_every_lie_is_found(honest, lie):
    assert rewrite(honest, *LIES[lie]) > 0


def test_other_numbers(honest):
    storage, parts, increment = increment_of(honest)
    assert check_changes(storage, parts, replace(increment, users={**increment.users, "changed": 99})) == 1


def test_without_the_earlier_run(honest, capsys):
    shutil.rmtree(honest.parent / "before")
    assert check_changes(*increment_of(honest)) == 0
    assert (
        "run before is not there any more as it was: changes are held against this run alone" in capsys.readouterr().err
    )
    for lie in ("another list", "somebody who stays is removed", "nobody"):
        copy = Path(shutil.copytree(honest, honest.parent / lie))
        assert rewrite(copy, *LIES[lie]) > 0, lie
