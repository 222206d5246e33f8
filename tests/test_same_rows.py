"""The same rows always, to the bit: whatever the partition size, the order and the files of the input."""

import json
import os
import random
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.runs import published, tree

CANDIDATES = 99
"""Odd, so that a batch of pairs which just fits in would end in the middle of a vector register. All are published, so
that the last bit of every single score is compared."""


def users(world):
    return sorted(world.ids())[::5]


def as_given(world, folder):
    pq.write_table(pa.table({"user_id": pa.array(users(world))}), folder / "users.parquet")
    return folder / "users.parquet"


def shuffled_with_repetitions(world, folder):
    ids = users(world) + users(world)[::5]
    random.Random(1).shuffle(ids)
    pq.write_table(pa.table({"user_id": pa.array(ids)}), folder / "users.parquet")
    return folder / "users.parquet"


def many_files_of_other_types(world, folder):
    ids = users(world)[::-1]
    for number, start in enumerate(range(0, len(ids), 60)):
        column = pa.array(ids[start : start + 60])
        column = column.dictionary_encode() if number % 2 else column
        pq.write_table(pa.table({"user_id": column}), folder / f"{number}.parquet", row_group_size=37)
    return folder


@pytest.mark.parametrize(("temperature", "rank_by"), [("inf", "ranker"), ("20", "ranker"), ("20", "retrieval")])
def test_rows_do_not_depend_on_partitions_or_input(world, batchrec, tmp_path, temperature, rank_by):
    found = {}
    for size, write in ((5000, as_given), (7, shuffled_with_repetitions), (100, many_files_of_other_types)):
        folder = tmp_path / f"users-{size}"
        folder.mkdir()
        said = batchrec(
            *world.args(tmp_path / "out"),
            f"--users={write(world, folder)}",
            f"--temperature={temperature}",
            f"--rank-by={rank_by}",
            f"--candidates={CANDIDATES}",
            f"--top-k={CANDIDATES}",
            f"--users-per-partition={size}",
            f"--run-id=r{size}",
        )
        assert said.code == 0, said.err
        assert said.summary["parts"] == -(-len(users(world)) // size)
        found[size] = published(tmp_path / "out" / f"r{size}")
    first = found.pop(5000)
    assert first["user_id"].to_pylist() == users(world)
    for size, table in found.items():
        assert table.equals(first), f"partitions of {size} users gave other rows"


def test_part_files_are_the_same_to_the_byte(world, batchrec, tmp_path):
    for run_id in ("first", "second"):
        said = batchrec(*world.args(tmp_path), "--users-per-partition=300", f"--run-id={run_id}")
        assert said.code == 0, said.err
    first, second = (
        {name: data for name, data in tree(tmp_path / run_id).items() if name.startswith("part-")}
        for run_id in ("first", "second")
    )
    assert len(first) == 4
    assert first == second


ON_ONE_CORE = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from batchrec.cli import main
main()
"""


def test_part_files_are_the_same_with_one_core_and_with_many_threads(world, tmp_path):
    """Libraries take their number of threads when they are loaded, so each run is a process of its own."""
    many = {"OMP_NUM_THREADS": "5", "OPENBLAS_NUM_THREADS": "5", "TF_NUM_INTRAOP_THREADS": "5"}
    parts = []
    for run_id, code, threads in (("one", ON_ONE_CORE, {}), ("many", "from batchrec.cli import main; main()", many)):
        command = [sys.executable, "-c", code, *world.args(tmp_path), f"--run-id={run_id}", "--top-k=30"]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | threads, check=False)
        assert done.returncode == 0, done.stderr
        found = tree(tmp_path / run_id)
        parts.append({name: data for name, data in found.items() if name.startswith("part-")})
    assert parts[0] == parts[1]


@pytest.mark.parametrize("layout", ["list", "long"])
def test_kept_columns_stand_beside_rows_that_stay_the_same(world, batchrec, tmp_path, layout):
    ids = users(world)
    given = pa.table(
        {
            "user_id": pa.array(ids + ids[:50]),
            "plan": pa.array([f"plan {user % 3}" for user in ids] + ["a first plan"] * 50),
            "since": pa.array([user % 20_000 for user in ids] + [None] * 50, pa.int32()).cast(pa.date32()),
        }
    )
    order = list(range(len(given)))
    random.Random(2).shuffle(order)
    shuffled = given.take(order)
    (tmp_path / "many").mkdir()
    pq.write_table(given, tmp_path / "one.parquet")
    pq.write_table(shuffled[:31], tmp_path / "many" / "a.parquet")
    pq.write_table(shuffled[31:], tmp_path / "many" / "b.parquet", row_group_size=9)
    parts, manifests = {}, {}
    for run_id, source, keep in (
        ("one", "one.parquet", "plan,since"),
        ("other", "many", "plan,since"),
        ("none", "many", ""),
    ):
        args = (f"--users={tmp_path / source}", f"--keep-columns={keep}", f"--run-id={run_id}", f"--layout={layout}")
        said = batchrec(*world.args(tmp_path / "out"), "--users-per-partition=60", *args)
        assert said.code == 0, said.err
        found = tree(tmp_path / "out" / run_id)
        parts[run_id] = {name: data for name, data in found.items() if name.startswith("part-")}
        manifests[run_id] = json.loads(found["_manifest.json"])
    assert parts["one"] == parts["other"]
    prints = {run_id: manifest["fingerprints"]["users"] for run_id, manifest in manifests.items()}
    assert prints["one"] == prints["other"] != prints["none"]
    kept, plain = published(tmp_path / "out" / "one"), published(tmp_path / "out" / "none")
    assert kept.column_names == list(manifests["one"]["schema"]) == [*plain.column_names, "plan", "since"]
    assert kept.select(plain.column_names).equals(plain)
    beside = dict(zip(ids, zip(*(given[name].to_pylist() for name in ("plan", "since")), strict=True), strict=False))
    beside |= dict.fromkeys(ids[:50], ("a first plan", None))
    rows = kept.select(["user_id", "plan", "since"]).to_pylist()
    assert [(row["plan"], row["since"]) for row in rows] == [beside[row["user_id"]] for row in rows]


def test_another_seed_draws_other_lists_with_the_same_scores(world, batchrec, tmp_path):
    tables = {}
    for seed in (0, 1):
        said = batchrec(*world.args(tmp_path), f"--seed={seed}", f"--run-id=s{seed}")
        assert said.code == 0, said.err
        tables[seed] = published(tmp_path / f"s{seed}")
    assert tables[0]["item_ids"] != tables[1]["item_ids"]
    assert tables[0]["status"] == tables[1]["status"]
    for one, other in zip(*(tables[seed].to_pylist()[:200] for seed in (0, 1)), strict=True):
        scores = dict(zip(one["item_ids"], one["scores"], strict=True))
        for item, score in zip(other["item_ids"], other["scores"], strict=True):
            assert scores.get(item, score) == score
