"""What lies about in a run folder is never taken for the run; what cannot be said is no failure."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults.support import args, ended, is_published, parts, start, wait_for


def test_parts_of_an_earlier_attempt_are_not_published(world, batchrec, tmp_path, undisturbed):
    """Its journal is gone, and it had more partitions than the run that begins anew under its name."""
    folder = tmp_path / "night"
    folder.mkdir()
    for name in ("part-00000.parquet", "part-00031.parquet"):
        (folder / name).write_bytes(undisturbed["part-00002.parquet"])
    said = batchrec(*args(world, tmp_path))
    assert said.code == 0, said.err
    assert parts(tmp_path / "current") == undisturbed


def test_a_part_that_was_slipped_in_is_not_published(world, batchrec, tmp_path, undisturbed):
    process = start(world, tmp_path)
    wait_for(lambda: (tmp_path / "night" / "_journal" / "part-00001.json").exists(), process)
    process.kill()
    ended(process)
    shutil.copy(tmp_path / "night" / "part-00001.parquet", tmp_path / "night" / "part-00077.parquet")
    said = batchrec(*args(world, tmp_path))
    assert said.code == 0, said.err
    assert parts(tmp_path / "current") == undisturbed

    shutil.copy(tmp_path / "night" / "part-00001.parquet", tmp_path / "night" / "part-00077.parquet")
    said = batchrec("verify", tmp_path / "current")
    assert said.code == 3
    assert "unlisted_parts 1: do not use this run; restore its files from a copy" in said.err


def test_an_older_run_is_not_gone_on_with_by_chance(world, batchrec, tmp_path):
    output = tmp_path / "out"
    process = start(world, output, "--as-of=2026-02-20")
    wait_for(lambda: (output / "night" / "_journal" / "part-00001.json").exists(), process)
    process.kill()
    ended(process)
    assert batchrec(*world.args(output, "--run-id=tuesday")).code == 0
    without_time = [one for one in world.args(output, "--resume") if not one.startswith("--as-of")]
    said = batchrec(*without_time)
    assert said.code == 99
    assert "is unfinished, but for night, as of an earlier time than the published one" in said.err
    assert str((output / "current").readlink()) == "tuesday"


@pytest.mark.slow
def test_a_damaged_beginning_is_told_when_resuming(world, batchrec, tmp_path):
    process = start(world, tmp_path)
    wait_for(lambda: (tmp_path / "night" / "_journal" / "part-00001.json").exists(), process)
    process.kill()
    ended(process)
    (tmp_path / "night" / "_journal" / "begun.json").write_text("{")
    said = batchrec(*world.args(tmp_path, "--resume"))
    assert said.code == 2
    assert "begun.json cannot be used" in said.err


def test_a_published_run_whose_summary_nobody_reads_has_not_failed(world, tmp_path):
    with Path("/dev/full").open("w") as full:
        process = start(world, tmp_path, stdout=full)
        code, err = ended(process)
    assert code == 0, err
    assert is_published(tmp_path)
    told = json.loads(err.splitlines()[-1].split("): ", 1)[1])
    assert told["run_id"] == "night"


@pytest.mark.slow
def test_a_log_that_nobody_reads_stops_no_run(world, tmp_path):
    reading, writing = os.pipe()
    process = start(world, tmp_path, stderr=writing)
    os.close(reading)
    os.close(writing)
    out, _ = process.communicate(timeout=180)
    assert process.returncode == 0
    assert json.loads(out.splitlines()[-1])["run_id"] == "night"


def test_verified_from_another_folder(world, batchrec, tmp_path, monkeypatch):
    monkeypatch.chdir(world.bundle.parent)
    said = batchrec(*args(world, tmp_path), f"--bundle={world.bundle.name}", "--feature-repo=feature_repo")
    assert said.code == 0, said.err
    monkeypatch.chdir(tmp_path)
    assert batchrec("verify", "current").code == 0
    manifest = json.loads((tmp_path / "night" / "_manifest.json").read_text())
    manifest["options"]["bundle"] = str(tmp_path / "moved")
    (tmp_path / "night" / "_manifest.json").write_text(json.dumps(manifest))
    said = batchrec("verify", "current")
    assert said.code == 2
    assert f"was made with {tmp_path / 'moved'}, which is not there: say with --bundle where it is now" in said.err


@pytest.mark.slow
def test_ctrl_c_with_worker_processes_says_one_sentence(world, tmp_path):
    process = start(world, tmp_path, "--cluster=processes:1", start_new_session=True)
    wait_for(lambda: (tmp_path / "night" / "_journal" / "begun.json").exists(), process)
    time.sleep(6)
    os.killpg(process.pid, signal.SIGINT)
    code, err = ended(process)
    assert code == 130, err
    assert "Traceback" not in err
    assert err.splitlines()[-1] == "batchrec: interrupted, a run that had begun can be gone on with --resume"


@pytest.mark.slow
def test_closed_standard_error(world, tmp_path):
    line = [sys.executable, "-m", "batchrec", *args(world, tmp_path)]
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", *map(str, line)], stdout=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == 0
    assert is_published(tmp_path)
