"""The manifest: stable text, plain JSON, and numbers that must add up."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrec.errors import ArtifactError, GateError
from batchrec.output.local_storage import LocalStorage
from batchrec.output.manifest import MANIFEST, Accounting, check_accounting, read_manifest, write_manifest
from batchrec.output.record import PartRecord


def test_every_promised_key(tmp_path, manifest):
    parts = [PartRecord("part-00000.parquet", 3, 10, "aa"), PartRecord("part-00001.parquet", 1, 9, "bb")]
    write_manifest(LocalStorage(tmp_path), replace(manifest, parts=parts))
    assert json.loads((tmp_path / "_manifest.json").read_text()) == {
        "format_version": 2,
        "run_id": "night-1",
        "created": "2026-02-03T04:05:06Z",
        "as_of": "2026-02-03T00:00:00Z",
        "rows": 4,
        "parts": [
            {"name": "part-00000.parquet", "rows": 3, "bytes": 10, "sha256": "aa"},
            {"name": "part-00001.parquet", "rows": 1, "bytes": 9, "sha256": "bb"},
        ],
        "schema": {
            "user_id": "int64",
            "item_ids": "list<element: string>",
            "scores": "list<element: float>",
            "propensities": "list<element: float>",
            "status": "string",
            "source": "string",
        },
        "accounting": {
            "input_rows": 7,
            "null_rows": 1,
            "duplicate_rows": 2,
            "distinct_users": 4,
            "by_status": {"ok": 1, "short": 1, "degraded": 0, "fallback": 1, "unknown": 1, "failed": 0},
            "suppressed_users": 0,
        },
        "fingerprints": {"bundle": "b", "code": "d", "config": "c", "users": "u"},
        "seconds": {"retrieve": 1.5, "rank": 0.5},
        "options": {"temperature": 20.0},
        "versions": {"batchrec": "0.1.0"},
        "suppression": None,
        "verification": None,
        "deadline": None,
        "digests": None,
        "increment": None,
    }


def test_read_gives_what_was_written(tmp_path, manifest):
    write_manifest(LocalStorage(tmp_path), manifest)
    assert read_manifest(LocalStorage(tmp_path)) == manifest.as_dict()


def test_bytes_do_not_depend_on_the_order_in_which_names_were_collected(tmp_path, manifest):
    write_manifest(LocalStorage(tmp_path), replace(manifest, options={"a": 1, "b": 2}))
    first = (tmp_path / MANIFEST).read_bytes()
    turned = dict(reversed(manifest.fingerprints.items()))
    write_manifest(LocalStorage(tmp_path), replace(manifest, fingerprints=turned, options={"b": 2, "a": 1}))
    assert (tmp_path / MANIFEST).read_bytes() == first


def test_seconds_keep_the_order_of_the_stages(tmp_path, manifest):
    write_manifest(LocalStorage(tmp_path), manifest)
    assert list(read_manifest(LocalStorage(tmp_path))["seconds"]) == ["retrieve", "rank"]


def test_times_of_other_zones_are_written_in_utc(manifest):
    moment = datetime(2026, 2, 3, 1, tzinfo=timezone(timedelta(hours=2)))
    assert replace(manifest, as_of=moment).as_dict()["as_of"] == "2026-02-02T23:00:00Z"


def test_options_that_json_does_not_know_become_text(tmp_path, manifest):
    options = {"temperature": float("inf"), "bundle": Path("a/b"), "seed": None, "views": ("x", 1), "debug": True}
    write_manifest(LocalStorage(tmp_path), replace(manifest, options=options))
    text = (tmp_path / MANIFEST).read_text()
    json.loads(text, parse_constant=pytest.fail)
    assert read_manifest(LocalStorage(tmp_path))["options"] == {
        "bundle": "a/b",
        "debug": True,
        "seed": None,
        "temperature": "inf",
        "views": ["x", 1],
    }


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "there is no such file"),
        ("{", "is not JSON"),
        ("[]", "has format version None"),
        ('{"format_version": 1}', "has format version 1, this batchrec reads 2"),
    ],
)
def test_manifest_that_cannot_be_read(tmp_path, text, problem):
    if text is not None:
        (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(ArtifactError, match=problem):
        read_manifest(LocalStorage(tmp_path))


def test_accounting_that_adds_up():
    accounting = Accounting(10, 1, 2, 7, {"ok": 4, "short": 2, "unknown": 1})
    check_accounting(accounting, 7, "list")
    check_accounting(accounting, 46, "long")
    check_accounting(Accounting(10, 1, 2, 7, {"ok": 4}, suppressed_users=3), 4, "list")


@pytest.mark.parametrize(
    ("accounting", "rows", "problem"),
    [
        (Accounting(11, 1, 2, 7, {"ok": 7}), 7, "11 input rows less 1 nulls and 2 duplicates are 8 users, but 7"),
        (Accounting(10, 1, 2, 7, {"ok": 5, "short": 1}), 7, "7 distinct users came in, but 6 have a status"),
        (Accounting(10, 1, 2, 7, {"ok": 8}), 7, "but 8 have a status"),
        (Accounting(10, 1, 2, 7, {"ok": 7}), 6, "7 users have a status, but the parts hold 6 rows"),
        (Accounting(10, 1, 2, 7, {"ok": 7}), 8, "but the parts hold 8 rows"),
        (Accounting(10, 1, 2, 7, {"ok": 4}, 2), 4, "4 have a status and 2 were suppressed"),
        (Accounting(10, 1, 2, 7, {"ok": 4}, 3), 7, "4 users have a status, but the parts hold 7 rows"),
    ],
)
def test_accounting_that_does_not(accounting, rows, problem):
    with pytest.raises(GateError, match=problem):
        check_accounting(accounting, rows, "list")


@given(nulls=st.integers(0, 50), duplicates=st.integers(0, 50), users=st.integers(0, 50), off=st.sampled_from([-1, 1]))
def test_one_lost_or_invented_user_is_always_found(nulls, duplicates, users, off):
    right = Accounting(nulls + duplicates + users, nulls, duplicates, users, {"ok": users})
    check_accounting(right, users, "list")
    for field in ("input_rows", "null_rows", "duplicate_rows", "distinct_users"):
        with pytest.raises(GateError):
            check_accounting(replace(right, **{field: getattr(right, field) + off}), users, "list")
