"""SIGKILL, SIGTERM and Ctrl-C at any moment: nothing half is published, nothing is done twice, bytes are equal."""

from __future__ import annotations

import random
import signal
import time

import pytest

from tests.faults.support import ended, is_published, parts, start, wait_for

LONGEST = 20.0
"""Seconds after which a run is left to end by itself."""


def kill_until_done(world, output, moments) -> int:
    """Start a run again and again, kill it each time so many seconds after it began; return how many were killed."""
    begun = output / "night" / "_journal" / "begun.json"
    killed = 0
    for moment in moments:
        process = start(world, output, stdout=None)
        wait_for(lambda process=process: begun.exists() or process.poll() is not None, process)
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        code, err = ended(process)
        assert code in (-signal.SIGKILL, 0), err
        killed += code != 0
        if is_published(output):
            break
    return killed


def check_going_on(world, batchrec, output, undisturbed, moments) -> None:
    killed = kill_until_done(world, output, moments)
    assert killed >= 1
    if not is_published(output):
        before = set(parts(output / "night")) if (output / "night").exists() else set()
        said = batchrec(*world.args(output, "--users-per-partition=40", "--run-id=night"))
        assert said.code == 0, said.err
        assert before <= set(undisturbed)
    assert parts(output / "current") == undisturbed
    left = [path.name for path in (output / "night").iterdir()]
    # Killed after the move of `current`, before its own cleaning up, a run leaves its journal: hidden to readers.
    assert sorted(set(left) - {"_journal"}) == ["_SUCCESS", "_digests", "_manifest.json", *sorted(undisturbed)]
    assert sorted(path.name for path in output.iterdir()) == ["current", "night"]


def test_killed_twice(world, batchrec, tmp_path, undisturbed):
    check_going_on(world, batchrec, tmp_path, undisturbed, [0.3, 1.5])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_killed_at_thirty_random_moments(world, batchrec, tmp_path, undisturbed, seed):
    """Ten runs, each killed three times, at moments from the first part to the last step of publication."""
    rng = random.Random(seed)
    check_going_on(world, batchrec, tmp_path, undisturbed, [rng.uniform(0, 4) for _ in range(3)])


@pytest.mark.parametrize(
    ("sign", "code", "word"),
    [
        (signal.SIGTERM, 75, "terminated"),
        pytest.param(signal.SIGINT, 130, "interrupted", marks=pytest.mark.slow),
    ],
)
def test_stopped_in_the_middle(world, batchrec, tmp_path, undisturbed, sign, code, word):
    process = start(world, tmp_path)
    wait_for(lambda: len(list((tmp_path / "night" / "_journal").glob("part-*.json"))) >= 2, process)
    process.send_signal(sign)
    sent = time.monotonic()
    found, err = ended(process)
    assert time.monotonic() - sent < 10
    assert found == code, err
    assert err.splitlines()[-1] == f"batchrec: {word}, a run that had begun can be gone on with --resume"
    assert "Traceback" not in err
    assert not is_published(tmp_path)

    said = batchrec(*world.args(tmp_path, "--users-per-partition=40", "--resume"))
    assert said.code == 0, said.err
    assert "going on: " in said.err
    assert parts(tmp_path / "current") == undisturbed


@pytest.mark.slow
def test_only_what_is_missing_is_made_again(world, batchrec, tmp_path, undisturbed):
    process = start(world, tmp_path)
    wait_for(lambda: len(list((tmp_path / "night" / "_journal").glob("part-*.json"))) >= 4, process)
    process.kill()
    ended(process)
    on_record = {path.stem for path in (tmp_path / "night" / "_journal").glob("part-*.json")}
    written = {path.stem: path.stat().st_mtime_ns for path in (tmp_path / "night").glob("part-*.parquet")}
    said = batchrec(*world.args(tmp_path, "--users-per-partition=40", "--run-id=night"))
    assert said.code == 0, said.err
    kept = {
        name
        for name, time_ns in written.items()
        if (tmp_path / "night" / f"{name}.parquet").stat().st_mtime_ns == time_ns
    }
    assert kept == on_record
    assert parts(tmp_path / "current") == undisturbed
