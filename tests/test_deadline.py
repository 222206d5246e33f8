"""Runs with a deadline: published in time whatever the store does, and never with less than there is time for."""

import json
import re
import shutil
import threading
from datetime import datetime

import pyarrow.parquet as pq
import pytest

from batchrec.schedule import Schedule
from tests.features import slow_store
from tests.runs import published

SIZE = 200
STEPS = {0: (), 1: ("--candidates=15",), 2: ("--candidates=10",), 3: ("--candidates=10", "--rank-by=retrieval")}
"""What a run is asked for that makes what the steps of a deadline make."""


def args(world, output, *more):
    return world.args(output, f"--users-per-partition={SIZE}", *more)


def parts(run):
    return {path.name: path.read_bytes() for path in sorted(run.glob("part-*.parquet"))}


def manifest(run):
    return json.loads((run / "_manifest.json").read_text())


def popular(world):
    """The ten most popular items that have features at the cut-off, from the files themselves."""
    counts = pq.read_table(world.bundle / "popularity.parquet").to_pylist()
    features = pq.read_table(world.data / "item_features.parquet").to_pylist()
    known = {row["item_id_raw"] for row in features if row["event_timestamp"] <= world.cutoff}
    ranked = sorted((-row["interactions"], row["item_id"]) for row in counts if row["item_id"] in known)
    return [item for _, item in ranked[:10]], [float(-count) for count, _ in ranked[:10]]


@pytest.fixture(scope="module")
def steps(world, tmp_path_factory):
    """The parts of runs that ask for what the steps make, one run a step."""
    from batchrec.config import load_config
    from batchrec.run import run

    output = tmp_path_factory.mktemp("steps")
    found = {}
    for step, more in STEPS.items():
        flags = dict(one.removeprefix("--").split("=", 1) for one in args(world, output, *more)[1:])
        flags = {name.replace("-", "_"): value for name, value in flags.items()} | {"run_id": f"step-{step}"}
        run(load_config(flags, None))
        found[step] = parts(output / f"step-{step}")
    return found


@pytest.fixture
def at_steps(monkeypatch):
    """Let the schedule start partition n at the step that a function gives; None leaves it over."""

    def made(step):
        def tasks(self, run_id, threads):
            for number in sorted(self._left):
                if step(number) is not None:
                    self._in_work[number] = self._levels[step(number)], self._clock()
                    del self._left[number]
                    yield number, step(number)

        monkeypatch.setattr(Schedule, "tasks", tasks)

    return made


def test_with_time_enough_the_parts_are_those_of_a_run_without_a_deadline(world, batchrec, tmp_path, steps):
    said = batchrec(*args(world, tmp_path, "--run-id=r", "--time-budget=1h"))
    assert said.code == 0, said.err
    assert parts(tmp_path / "r") == steps[0]
    assert said.summary["deadline"]["users_by_level"] == {"full": 1000}
    assert 3500 < said.summary["deadline"]["seconds_left"] < 3600
    told = manifest(tmp_path / "r")
    assert told["deadline"]["degraded_parts"] == {}
    assert told["options"]["time_budget"] == 3600
    assert "if the time does not suffice: candidates 15, candidates 10, retrieval 10, popularity" in said.err
    assert re.search(r"published \d+ min \d+ s before the deadline, 0 of 1,000 users with less", said.err)


@pytest.mark.parametrize("layout", ["list", "long"])
def test_a_partition_holds_what_a_run_at_its_step_would_hold(world, batchrec, tmp_path, steps, at_steps, layout):
    at_steps(lambda number: number if number < 4 else None)
    said = batchrec(*args(world, tmp_path, "--run-id=r", "--time-budget=1h", f"--layout={layout}"))
    assert said.code == 0, said.err
    assert said.summary["deadline"]["users_by_level"] == {
        "full": 200, "candidates 15": 200, "candidates 10": 200, "retrieval 10": 200, "popularity": 200
    }  # fmt: skip
    assert said.summary["by_status"]["degraded"] + said.summary["by_status"].get("fallback", 0) >= 800
    assert sum(said.summary["by_status"].values()) == 1000
    degraded = manifest(tmp_path / "r")["deadline"]["degraded_parts"]
    assert degraded["part-00001.parquet"] == "candidates 15"
    assert degraded["part-00004.parquet"] == "popularity"
    assert set(degraded) == {f"part-{number:05d}.parquet" for number in range(1, 5)}
    assert batchrec("verify", tmp_path / "r").summary["parts_without_seen_check"] == 1
    if layout == "list":
        for number in range(5):
            assert_part(world, tmp_path, steps, f"part-{number:05d}.parquet", number)


def assert_part(world, tmp_path, steps, name, step):
    path = tmp_path / "r" / name
    rows = pq.read_table(path).to_pylist()
    if step == 0:
        assert path.read_bytes() == steps[0][name]
    elif step == 4:
        items, scores = popular(world)
        assert [row["user_id"] for row in rows] == sorted(world.ids())[int(name[5:10]) * SIZE :][:SIZE]
        for row in rows:
            assert (row["item_ids"], row["scores"], row["propensities"]) == (items, scores, [1.0] * 10)
            assert (row["status"], row["source"]) == ("degraded", "popularity")
    else:
        (tmp_path / "expected.parquet").write_bytes(steps[step][name])
        expected = pq.read_table(tmp_path / "expected.parquet").to_pylist()
        personal = {"ok", "short"}
        assert rows == [
            row | {"status": "degraded" if row["status"] in personal else row["status"]} for row in expected
        ]


@pytest.mark.parametrize("more", [("--fallback=none",), ("--fallback=none", "--layout=long")])
def test_without_fallback_those_left_over_get_empty_lists(world, batchrec, tmp_path, at_steps, more):
    at_steps(lambda number: None)
    said = batchrec(*args(world, tmp_path, "--run-id=r", "--time-budget=1h", *more))
    assert said.code == 0, said.err
    assert said.summary["by_status"] == {"degraded": 1000}
    if "--layout=long" in more:
        assert said.summary["rows"] == 0
    else:
        rows = published(tmp_path / "r").to_pylist()
        assert {(len(row["item_ids"]), row["source"]) for row in rows} == {(0, "none")}
    assert batchrec("verify", tmp_path / "r").code == 0


def test_suppression_reaches_degraded_lists(world, batchrec, tmp_path, at_steps):
    import pyarrow as pa

    at_steps(lambda number: None if number % 2 else 1)
    items, _ = popular(world)
    pq.write_table(pa.table({"item_id": items[:1]}), tmp_path / "gone.parquet")
    said = batchrec(
        *args(world, tmp_path / "out", "--run-id=r", "--time-budget=1h", f"--suppress={tmp_path / 'gone.parquet'}")
    )
    assert said.code == 0, said.err
    rows = published(tmp_path / "out" / "r").to_pylist()
    assert {row["status"] for row in rows} == {"degraded", "fallback"}
    assert [row["item_ids"] for row in rows if row["source"] == "popularity"][-1] == items[1:]


def test_a_run_that_goes_on_keeps_personal_lists_and_makes_the_others(
    world, batchrec, tmp_path, steps, at_steps, monkeypatch
):
    from batchrec.errors import SinkError
    from batchrec.output.publish import RunFolder

    def full(self, manifest):
        raise SinkError("the disk is full", "free space")

    at_steps(lambda number: {0: 0, 1: 1, 2: 3}.get(number))
    with monkeypatch.context() as broken:
        broken.setattr(RunFolder, "publish", full)
        assert batchrec(*args(world, tmp_path, "--run-id=r", "--time-budget=1h")).code == 1
    said = batchrec(*args(world, tmp_path, "--resume"))
    assert said.code == 0, said.err
    assert "going on: 3 of 5 partitions are finished" in said.err
    assert said.summary["deadline"] == {
        "at": None, "seconds_left": None,
        "users_by_level": {"full": 600, "candidates 15": 200, "retrieval 10": 200},
    }  # fmt: skip
    assert manifest(tmp_path / "r")["deadline"]["degraded_parts"] == {
        "part-00001.parquet": "candidates 15", "part-00002.parquet": "retrieval 10"
    }  # fmt: skip
    made = parts(tmp_path / "r")
    assert {name for name, data in made.items() if data != steps[0][name]} == {
        "part-00001.parquet", "part-00002.parquet"
    }  # fmt: skip


def test_a_store_that_stops_answering_does_not_keep_a_run_from_being_published(
    world, batchrec, tmp_path, monkeypatch, steps
):
    """Joins of the last partitions come back long after the run is published, and change nothing."""
    monkeypatch.setattr(slow_store, "asked", [])
    repo = shutil.copytree(world.repo, tmp_path / "repo")
    settings = (repo / "feature_store.yaml").read_text()
    slow = "offline_store:\n  type: tests.features.slow_store.SlowOfflineStore\n  after: 3\n"
    (repo / "feature_store.yaml").write_text(re.sub(r"offline_store:\n(?:  .*\n)+", slow, settings))
    slow_store.answers.clear()
    threads = set(threading.enumerate())
    try:
        said = batchrec(*args(world, tmp_path, "--run-id=r", "--time-budget=12s", f"--feature-repo={repo}"))
        before = parts(tmp_path / "r")
    finally:
        slow_store.answers.set()
    assert said.code == 0, said.err
    told = manifest(tmp_path / "r")
    assert datetime.fromisoformat(told["created"]) < datetime.fromisoformat(told["deadline"]["at"])
    assert said.summary["deadline"]["seconds_left"] > 0
    assert said.summary["deadline"]["users_by_level"]["popularity"] >= 200
    assert told["verification"]["parts_without_seen_check"] >= 1
    # How many there was time for depends on the machine; each of them is whole.
    whole = [name for name in before if name not in told["deadline"]["degraded_parts"]]
    assert all(before[name] == steps[0][name] for name in whole)
    for thread in set(threading.enumerate()) - threads:
        thread.join(30)
        assert not thread.is_alive(), thread.name
    assert parts(tmp_path / "r") == before, "what was given up has written after the run was published"
    assert batchrec("verify", tmp_path / "r", f"--feature-repo={world.repo}").code == 0


def test_a_deadline_that_has_passed_or_is_given_twice_is_refused(world, batchrec, tmp_path):
    said = batchrec(*args(world, tmp_path / "out", "--deadline=2026-01-01T04:00Z"))
    assert said.code == 2
    assert "the deadline 2026-01-01 04:00:00 +0000 has passed" in said.err
    said = batchrec(*args(world, tmp_path / "out", "--deadline=04:00", "--time-budget=90m"))
    assert said.code == 2
    assert "there is a deadline already" in said.err
    said = batchrec(*args(world, tmp_path / "out", "--time-budget=soon"))
    assert "--time-budget is 'soon': expected a duration such as 90m" in said.err
    assert not (tmp_path / "out").exists()
