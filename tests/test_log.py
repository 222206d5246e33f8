"""The log as JSON: every line of a run that is stopped, gone on with, or fails is one object."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from batchrec.errors import FeatureError
from batchrec.features.retry import retried
from batchrec.features.store import FeatureStore
from batchrec.log import VARIABLE, about, announce, begin_log, detail, say
from tests.faults.support import ended, start
from tests.runs import log_as_before

STAGES = {"read features", "encode", "query tower", "retrieve and filter", "rank", "sample", "write"}


def parsed(err: str) -> list[dict]:
    """Parse every line, and see that each one has what each one must have."""
    lines = [json.loads(line) for line in err.splitlines()]
    for line in lines:
        assert list(line)[:4] == ["timestamp", "level", "event", "message"]
        assert line["timestamp"].endswith("Z")
        assert abs(datetime.fromisoformat(line["timestamp"]) - datetime.now(UTC)) < timedelta(minutes=10)
        assert line["level"] in {"info", "warning", "error"}
        assert line["message"]
    return lines


def of(lines: list[dict], event: str) -> list[dict]:
    return [line for line in lines if line["event"] == event]


def test_a_run_told_to_stop(stopped_and_resumed):
    finished, lines = stopped_and_resumed.finished, parsed(stopped_and_resumed.stopped)
    told = sorted(line["partition"] for line in of(lines, "partition_finished"))
    # The signal can fall between the journal's entry and the line about it, but no line is lost on its way out.
    assert set(told) <= set(finished)
    assert len(finished) - len(told) <= 1
    assert lines[-1] | {"timestamp": ""} == {
        "timestamp": "",
        "level": "error",
        "event": "stopped",
        "message": "terminated, a run that had begun can be gone on with --resume",
        "run_id": "night",
        "exit_code": 75,
    }
    assert {line["run_id"] for line in lines} == {"night"}


def test_a_run_that_goes_on(stopped_and_resumed):
    finished, lines = stopped_and_resumed.finished, parsed(stopped_and_resumed.resumed)
    (begun,) = of(lines, "begun")
    assert (begun["partitions"], begun["finished"]) == (25, len(finished))
    assert begun["message"].startswith("going on: ")
    assert sorted(line["partition"] for line in of(lines, "partition_finished")) == sorted(
        set(range(25)) - set(finished)
    )
    for line in of(lines, "partition_finished"):
        assert line["users"] == sum(line["by_status"].values()) == 40
        assert set(line["seconds"]) == STAGES
    assert [line["event"] for line in lines if line["event"] != "partition_finished"] == [
        "begun",
        "progress",
        "verified",
        "published",
    ]
    assert lines[-1]["users"] == 1000
    manifest = json.loads((stopped_and_resumed.lineage.parent / "out" / "night" / "_manifest.json").read_text())
    made_now = lines[-1]["users_per_second"] * manifest["seconds"]["compute"]
    assert made_now == pytest.approx(1000 - 40 * len(finished), rel=0.01)


def test_a_failing_run_tells_its_exit_code_last(world, batchrec, tmp_path):
    users = tmp_path / "nobody.parquet"
    said = batchrec(*world.args(tmp_path / "out", f"--users={users}", "--run-id=night", "--log-format=json"))
    assert said.code == 2
    (line,) = parsed(said.err)
    assert (line["level"], line["event"], line["exit_code"], line["run_id"]) == ("error", "error", 2, "night")
    assert str(users) in line["message"]
    assert not line["message"].startswith("batchrec")


def test_a_failed_partition_and_the_tries_before_it(world, batchrec, tmp_path, monkeypatch):
    """Said on a thread of a worker, each line with the partition that it is about."""
    first = sorted(world.ids())[500]
    join = FeatureStore.point_in_time

    def away():
        raise OSError("the store is away")

    def point_in_time(self, ids, as_of, refs):
        if len(refs) > 1 and ids[0].as_py() == first:
            try:
                retried(away, "joining", (0, 0))
            except OSError as error:
                raise FeatureError(str(error), "try again") from error
        return join(self, ids, as_of, refs)

    monkeypatch.setattr(FeatureStore, "point_in_time", point_in_time)
    said = batchrec(
        *world.args(tmp_path, "--run-id=night", "--users-per-partition=250"), "--log-format=json", "--no-verify"
    )
    lines = parsed(said.err)
    retries, (failed,) = of(lines, "retry"), of(lines, "partition_failed")
    assert [(line["partition"], line["run_id"], line["attempt"]) for line in retries] == [
        (2, "night", 2),
        (2, "night", 3),
    ]
    assert (failed["partition"], failed["users"], failed["level"]) == (2, 250, "warning")
    assert "the store is away" in failed["message"]
    assert sorted(line["partition"] for line in of(lines, "partition_finished")) == [0, 1, 3]
    assert (said.code, lines[-1]["exit_code"], lines[-1]["run_id"]) == (3, 3, "night")


@pytest.mark.parametrize("spelled", [["--log-format=json"], ["--log-format", "json"]])
def test_what_is_wrong_with_the_command_line_is_told_in_json(batchrec, spelled):
    said = batchrec("run", *spelled, "--no-such-option")
    (line,) = parsed(said.err)
    assert (said.code, line["exit_code"]) == (2, 2)
    assert "traceback" not in line


def test_a_traceback_is_a_field(batchrec):
    (line,) = parsed(batchrec("run", "--log-format=json", "--debug", "--top-k=0", "--users=x", "--bundle=x").err)
    assert line["traceback"].splitlines()[-1].startswith("batchrec.errors.ConfigError: ")


def test_a_job_file_can_ask_for_it_and_text_wins_by_flag(world, batchrec, tmp_path):
    job = tmp_path / "job.toml"
    job.write_text('log_format = "json"\n')
    wrong = f"--users={tmp_path}/nobody.parquet"
    assert parsed(batchrec(*world.args(tmp_path / "out", f"--config={job}", wrong)).err)
    said = batchrec(*world.args(tmp_path / "out", f"--config={job}", wrong, "--log-format=text"))
    assert said.err.startswith("batchrec: error: ")
    assert VARIABLE not in os.environ


def test_no_secret_in_json(world, batchrec, tmp_path, monkeypatch):
    monkeypatch.setenv("STORE_PASSWORD", 'quote"and\\slash')
    for users in ("nosuch://key:planted-secret@bucket/users.parquet", 'nosuch://bucket/quote"and\\slash'):
        said = batchrec(*world.args(tmp_path / "out", f"--users={users}", "--log-format=json", "--debug"))
        (line,) = parsed(said.err)
        assert "***" in line["message"]
        for secret in ("planted-secret", "and\\slash", "and\\\\slash"):
            assert secret not in said.err


class TestLines:
    @pytest.fixture(autouse=True)
    def json_lines(self, monkeypatch):
        monkeypatch.setenv(VARIABLE, "json")
        with log_as_before():
            begin_log(None)
            yield

    def test_fields(self, capsys):
        about(run_id="night")
        say("one\ntwo", event="retry", level="warning", attempt=2)
        detail("three", event="some", seconds={"a": 0.5})
        announce("batchrec: text", "four", event="error", exit_code=3)
        found = [{**line, "timestamp": ""} for line in parsed(capsys.readouterr().err)]
        each = {"timestamp": "", "run_id": "night"}
        assert found == [
            each | {"level": "warning", "event": "retry", "message": "one\ntwo", "attempt": 2},
            each | {"level": "info", "event": "some", "message": "three", "seconds": {"a": 0.5}},
            each | {"level": "error", "event": "error", "message": "four", "exit_code": 3},
        ]


OTHERS = """
import logging, sys, warnings
from batchrec.log import set_up_log
set_up_log()
warnings.warn("old ways, password=hunter22")
logging.getLogger("some.library").warning("a line of theirs")
print("no", "end", end="", file=sys.stderr)
print(" yet\\n\\nbut now", file=sys.stderr)
raise KeyError("told last")
"""


def test_what_libraries_write():
    script = [sys.executable, "-c", OTHERS]
    done = subprocess.run(script, env=os.environ | {VARIABLE: "json"}, capture_output=True, text=True, check=False)
    lines = parsed(done.stderr)
    assert {line["event"] for line in lines} == {"library"}
    told = [line["message"] for line in lines]
    assert told[0].endswith("UserWarning: old ways, password=***")
    assert told[1:4] == ["a line of theirs", "no end yet", "but now"]
    assert told[-1] == "KeyError: 'told last'"


def test_details_are_for_json_alone(capsys):
    detail("three", event="some")
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
def test_processes_log_in_json_too(world, tmp_path):
    """A store that hiccups is told of by the process that met it, with run and partition."""
    code, err = ended(start(world, tmp_path, "--cluster=processes:2", "--log-format=json"))
    assert code == 0, err
    lines = parsed(err)
    assert len(of(lines, "partition_finished")) == 25
    assert {line["run_id"] for line in lines} == {"night"}
