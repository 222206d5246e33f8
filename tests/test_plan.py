"""Plans, held against the runs that follow."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchrec import pilot, plan
from batchrec.output.local_storage import LocalStorage
from batchrec.pilot import Linear
from tests.runs import tree
from tests.test_cli import options


@pytest.fixture(autouse=True)
def a_smaller_pilot(monkeypatch):
    """Let the pilot be a fifth of the small world's users, in partitions that are smaller than the run's."""
    monkeypatch.setattr(pilot, "FEWEST_USERS", 200)
    monkeypatch.setattr(pilot, "SMALL", 50)


@pytest.fixture
def users(world, tmp_path):
    """All users, two rows without an id and three of users that are there already."""
    ids = world.ids()
    path = tmp_path / "users.parquet"
    pq.write_table(pa.table({"user_id": [*ids, None, None, *ids[:3]]}), path)
    return path


def planned(world, output, *more):
    return ["plan", *world.args(output, *more)[1:]]


def test_plan_takes_what_run_takes():
    named = [
        [(parameter.name, parameter.opts, parameter.help) for parameter in options(name)] for name in ("plan", "run")
    ]
    assert named[0] == named[1]


@pytest.mark.parametrize("layout", ["list", "long"])
def test_a_run_makes_what_was_planned(world, batchrec, tmp_path, users, layout):
    output = tmp_path / "out"
    more = (f"--users={users}", f"--layout={layout}", "--users-per-partition=300", "--run-id=r")
    said = batchrec(*planned(world, output, *more))
    assert said.code == 0, said.err
    assert not output.exists()
    assert "pilot: 400 of 1,000 users" in said.err
    told = said.summary
    ran = batchrec(*world.args(output, *more))
    assert ran.code == 0, ran.err
    manifest = json.loads((output / "r" / "_manifest.json").read_text())
    accounting = manifest["accounting"]
    assert (told["input_rows"], told["null_rows"], told["duplicate_rows"]) == (1005, 2, 3)
    assert told["users"] == accounting["distinct_users"] == 1000
    assert told["partitions"] == len(manifest["parts"]) == 4
    # A few users of this world have no full list, and the pilot may meet none or all of them.
    assert told["rows"] == pytest.approx(manifest["rows"], rel=0.0 if layout == "list" else 0.02)
    assert told["output_bytes"] == pytest.approx(sum(part["bytes"] for part in manifest["parts"]), rel=0.25)
    assert told["lacking"] == []
    assert told["seconds"]["all"] == pytest.approx(
        sum(told["seconds"][name] for name in ("read users", "load models", "compute", "verify")), abs=0.05
    )
    assert set(told["seconds"]) == {"read users", "load models", "compute", "verify", "all"}


def test_a_plan_neither_waits_for_a_run_nor_leaves_anything(world, batchrec, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    output = tmp_path / "out"
    with LocalStorage(output).lock(".lock", "there"):
        before = tree(output)
        said = batchrec(*planned(world, output, "--no-verify"))
        assert said.code == 0, said.err
        assert tree(output) == before
    assert [path for path in scratch.iterdir() if path.name.startswith("batchrec")] == []
    assert said.summary["seconds"]["verify"] == 0


@pytest.mark.parametrize(
    ("name", "more", "words"),
    [
        ("available_memory", (), "memory: "),
        ("free_disk", (), "disk: "),
        (None, ("--time-budget=0.001s",), "time: "),
    ],
)
def test_a_run_without_room_is_told_and_ends_with_its_own_code(
    world, batchrec, tmp_path, monkeypatch, name, more, words
):
    if name is not None:
        monkeypatch.setattr(plan, name, lambda *_: 1000)
    said = batchrec(*planned(world, tmp_path / "out", *more))
    assert said.code == 3
    (lacking,) = said.summary["lacking"]
    assert lacking.startswith(words)
    assert f"there is no room for the run ({lacking})" in said.err


def test_what_would_end_the_run_ends_the_plan(world, batchrec, tmp_path):
    said = batchrec(*planned(world, tmp_path / "out", "--users-per-partition=0"))
    assert said.code == 2
    said = batchrec(*planned(world, tmp_path / "out", f"--users={world.data / 'items.parquet'}"))
    assert said.code == 2
    assert "user_id" in said.err
    said = batchrec(*planned(world, tmp_path / "out", "--cluster=tcp://127.0.0.1:8786"))
    assert said.code == 2
    assert "a plan measures on this machine" in said.err


def test_a_line_adds_up_over_partitions():
    assert Linear(2.0, 0.5).of([10, 10, 4]) == 3 * 2 + 24 * 0.5


def test_a_budget_begins_with_the_run_and_not_with_its_plan():
    from datetime import UTC, datetime
    from types import SimpleNamespace

    from batchrec.deadline import Deadline
    from batchrec.plan import _time_left

    over = Deadline(datetime(2020, 1, 1, tzinfo=UTC), 0.0, 3.0)
    assert _time_left(SimpleNamespace(time_budget=90.0), over) == 90.0
    assert _time_left(SimpleNamespace(time_budget=None), over) < 0
    assert _time_left(SimpleNamespace(time_budget=None), None) is None
