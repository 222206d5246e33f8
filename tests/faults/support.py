"""Runs that are disturbed, and what they are held against: the run that nothing disturbed."""

from __future__ import annotations

import signal
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.runs import command

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SIZE = 40
"""Users a partition: 25 parts."""


def args(world, output: Path | str, *more: str) -> list[str]:
    return world.args(output, f"--users-per-partition={SIZE}", "--run-id=night", *more)


def start(world, output: Path | str, *more: str, **options) -> subprocess.Popen[str]:
    return command(*args(world, output, *more), **options)


def parts(run: Path) -> dict[str, bytes]:
    """Every part file of a run, by name."""
    return {path.name: path.read_bytes() for path in run.glob("part-*.parquet")}


def is_published(output: Path) -> bool:
    """Tell whether readers would see the run; if so, it must be whole."""
    if not (output / "current").is_symlink():
        return False
    assert (output / "current" / "_SUCCESS").is_file()
    assert (output / "current" / "_manifest.json").is_file()
    return True


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@dataclass(frozen=True)
class StoppedAndResumed:
    """What became of a run that was stopped by SIGTERM and gone on with.

    Parameters
    ----------
    finished
        Partitions that were finished when it was stopped.
    stopped, resumed
        What the two processes said on standard error, as JSON.
    lineage
        File of the OpenLineage events of both.
    """

    finished: list[int]
    stopped: str
    resumed: str
    lineage: Path


def stop_and_resume(world, folder: Path) -> StoppedAndResumed:
    journal, lineage = folder / "out" / "night" / "_journal", folder / "lineage.jsonl"
    process = start(world, folder / "out", "--log-format=json", f"--lineage={lineage}")
    wait_for(lambda: len(list(journal.glob("part-*.json"))) >= 3, process)
    process.send_signal(signal.SIGTERM)
    code, stopped = ended(process)
    assert code == 75, stopped
    finished = sorted(int(path.stem[5:]) for path in journal.glob("part-*.json"))
    process = start(world, folder / "out", f"--lineage={lineage}", env={"BATCHREC_LOG_FORMAT": "json"})
    code, resumed = ended(process)
    assert code == 0, resumed
    return StoppedAndResumed(finished, stopped, resumed, lineage)


def ended(process: subprocess.Popen[str], seconds: float = 180) -> tuple[int, str]:
    """Wait for a process; return its exit code and what it said on standard error."""
    try:
        _, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, err
