"""Figures for Prometheus, read by Prometheus' own parser."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from prometheus_client.parser import text_string_to_metric_families

from batchrec.delivery.metrics import write_metrics
from batchrec.errors import SinkError

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
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(path.read_text())
        for sample in family.samples
    }


def test_figures_of_a_run(tmp_path):
    path = tmp_path / "batchrec.prom"
    path.write_text("of yesterday")
    write_metrics(path, MANIFEST, 123.4)
    assert parsed(path) == {
        ("batchrec_last_success_timestamp_seconds",): datetime(2026, 2, 3, 4, 5, 6, 500_000, UTC).timestamp(),
        ("batchrec_as_of_timestamp_seconds",): datetime(2026, 2, 3, tzinfo=UTC).timestamp(),
        ("batchrec_users", "ok"): 7,
        ("batchrec_users", "short"): 2,
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
    assert [one.name for one in tmp_path.iterdir()] == ["batchrec.prom"]


def test_what_cannot_be_written_is_told(tmp_path):
    with pytest.raises(SinkError, match="cannot write"):
        write_metrics(tmp_path / "nowhere" / "batchrec.prom", MANIFEST, 1.0)


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
    before = path.read_bytes()
    assert batchrec(*world.args(tmp_path / "out", "--run-id=night", f"--metrics={path}")).code == 2
    assert path.read_bytes() == before

    said = batchrec(*world.args(tmp_path / "out", "--run-id=next", f"--metrics={tmp_path}/nowhere/batchrec.prom"))
    assert said.code == 1
    assert said.summary["run_id"] == "next"
    assert "run next is published, but its metrics failed: cannot write" in said.err
    assert (tmp_path / "out" / "current").readlink().name == "next"
