"""Figures for Prometheus, read by Prometheus' own parser."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from batchrec.cli import Terminated
from batchrec.config import JobConfig
from batchrec.delivery.after_run import attempt_recorded
from batchrec.delivery.metrics import write_attempt, write_metrics
from batchrec.errors import GateError, NothingToDo, SinkError
from tests.runs import ROOT

MANIFEST = {
    "created": "2026-02-03T04:05:06.500000Z",
    "as_of": "2026-02-03T00:00:00Z",
    "rows": 10,
    "parts": [{"bytes": 1000}, {"bytes": 234}],
    "accounting": {"by_status": {"ok": 7, "short": 2, "failed": 1}, "suppressed_users": 3},
    "seconds": {"read users": 0.25, "compute": 12.5},
}


def parsed(path):
    return {
        (sample.name, *(value for name, value in sample.labels.items() if name != "output")): sample.value
        for family in text_string_to_metric_families(path.read_text())
        for sample in family.samples
    }


def outputs(path):
    families = text_string_to_metric_families(path.read_text())
    return {sample.labels["output"] for family in families for sample in family.samples}


def test_figures_of_a_run(tmp_path):
    path = tmp_path / "batchrec.prom"
    path.write_text("of yesterday")
    write_metrics(path, "/data/output", MANIFEST, 123.4)
    assert parsed(path) == {
        ("batchrec_last_success_timestamp_seconds",): datetime(2026, 2, 3, 4, 5, 6, 500_000, UTC).timestamp(),
        ("batchrec_as_of_timestamp_seconds",): datetime(2026, 2, 3, tzinfo=UTC).timestamp(),
        ("batchrec_users", "ok"): 7,
        ("batchrec_users", "short"): 2,
        ("batchrec_users", "degraded"): 0,
        ("batchrec_users", "fallback"): 0,
        ("batchrec_users", "unknown"): 0,
        ("batchrec_users", "failed"): 1,
        ("batchrec_suppressed_users",): 3,
        ("batchrec_rows",): 10,
        ("batchrec_output_bytes",): 1234,
        ("batchrec_stage_seconds", "read users"): 0.25,
        ("batchrec_stage_seconds", "compute"): 12.5,
        ("batchrec_users_per_second",): 123.4,
    }
    assert outputs(path) == {"/data/output"}
    assert [one.name for one in tmp_path.iterdir()] == ["batchrec.prom"]


def test_an_attempt_leaves_the_figures_of_the_last_success(tmp_path):
    path, ended = tmp_path / "batchrec.prom", datetime(2026, 2, 4, 5, tzinfo=UTC)
    write_metrics(path, 's3://key:secret@bucket/a\\nb"c', MANIFEST, 123.4)
    success = parsed(path)
    assert outputs(path) == {'s3://***@bucket/a\\nb"c'}
    for code in (3, 75, 0):
        write_attempt(path, 's3://key:secret@bucket/a\\nb"c', ended, code)
        assert parsed(path) == success | {
            ("batchrec_last_attempt_timestamp_seconds",): ended.timestamp(),
            ("batchrec_last_attempt_exit_code",): code,
        }
    assert outputs(path) == {'s3://***@bucket/a\\nb"c'}


def test_an_attempt_before_any_success(tmp_path):
    path = tmp_path / "batchrec.prom"
    write_attempt(path, "out", datetime(2026, 2, 4, tzinfo=UTC), 1)
    assert {key[0] for key in parsed(path)} == {
        "batchrec_last_attempt_timestamp_seconds", "batchrec_last_attempt_exit_code"
    }  # fmt: skip


def test_what_cannot_be_written_is_told(tmp_path):
    with pytest.raises(SinkError, match="cannot write"):
        write_metrics(tmp_path / "nowhere" / "batchrec.prom", "out", MANIFEST, 1.0)


def test_of_a_whole_run(world, batchrec, tmp_path):
    path = tmp_path / "batchrec.prom"
    said = batchrec(*world.args(tmp_path / "out", "--run-id=night", f"--metrics={path}"))
    assert said.code == 0, said.err
    figures, manifest = parsed(path), json.loads((tmp_path / "out" / "night" / "_manifest.json").read_text())
    assert {key[1]: value for key, value in figures.items() if key[0] == "batchrec_users" and value} == (
        said.summary["by_status"]
    )
    assert {key[1] for key in figures if key[0] == "batchrec_stage_seconds"} == set(manifest["seconds"])
    parts = (tmp_path / "out" / "night").glob("part-*")
    assert figures["batchrec_output_bytes",] == sum(part.stat().st_size for part in parts)
    assert outputs(path) == {str(tmp_path / "out")}
    assert figures["batchrec_last_attempt_exit_code",] == 0
    published = figures["batchrec_last_success_timestamp_seconds",]
    assert published <= figures["batchrec_last_attempt_timestamp_seconds",] <= datetime.now(UTC).timestamp()

    assert batchrec(*world.args(tmp_path / "out", "--run-id=night", f"--metrics={path}")).code == 2
    attempt = {key: value for key, value in parsed(path).items() if "last_attempt" in key[0]}
    assert parsed(path) == figures | attempt
    assert attempt["batchrec_last_attempt_exit_code",] == 2

    (tmp_path / "taken.prom").mkdir()
    said = batchrec(*world.args(tmp_path / "out", "--run-id=next", f"--metrics={tmp_path}/taken.prom"))
    assert said.code == 1
    assert said.summary["run_id"] == "next"
    assert "run next is published, but its metrics failed: cannot write" in said.err
    assert (tmp_path / "out" / "current").readlink().name == "next"
    assert re.search(r"metrics: \S+taken.prom cannot be read", said.err), "the outcome cannot be written either"


@pytest.mark.parametrize(
    ("stop", "code"),
    [
        (KeyboardInterrupt(), 130),
        (Terminated(), 75),
        (GateError("a", "b"), 3),
        (NothingToDo("a", "b"), 99),
        (OSError(), 1),
    ],
    ids=["interrupted", "terminated", "gate", "nothing to do", "other"],
)
def test_the_outcome_is_the_exit_code(tmp_path, stop, code):
    path = tmp_path / "batchrec.prom"
    job = JobConfig(users="x", bundle="x", output="out", metrics=path)
    with pytest.raises(type(stop)), attempt_recorded(job):
        raise stop
    assert parsed(path)["batchrec_last_attempt_exit_code",] == code
    assert outputs(path) == {str(Path("out").absolute())}


def test_the_alert_rules_ask_for_figures_that_there_are(tmp_path):
    path = tmp_path / "batchrec.prom"
    write_metrics(path, "out", MANIFEST, 1.0)
    write_attempt(path, "out", datetime.now(UTC), 0)
    rules = yaml.safe_load((ROOT / "jobs" / "alerts.yml").read_text())["groups"][0]["rules"]
    asked = {name for rule in rules for name in re.findall(r"batchrec_\w+", rule["expr"])}
    assert len(rules) == 4
    assert asked <= {key[0] for key in parsed(path)}
