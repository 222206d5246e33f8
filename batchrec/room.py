"""What room the machine has: memory that is not in use, as far as the control group allows it, and free disk."""

from __future__ import annotations

import shutil
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator

_GROUPS = {
    Path("/sys/fs/cgroup"): ("memory.max", "memory.current", "inactive_file"),
    Path("/sys/fs/cgroup/memory"): ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""Where versions 2 and 1 of Linux' control groups tell the limit, the use, and how much of it are files in cache."""

_LOOK_EVERY_SECONDS = 0.02


def available_memory() -> int:
    """Return the bytes that a process can still take: what the machine has, or its control group if that has less."""
    free = int(psutil.virtual_memory().available)
    return min([free, *(left for left in map(_left_in, _GROUPS) if left is not None)])


def free_disk(place: Path) -> int:
    """Return the free bytes of the disk that a folder lies on, or will when it is made."""
    there = place.absolute()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free


def resident() -> int:
    """Return the bytes of this process and those that it started, as they are resident now."""
    process = psutil.Process()
    return sum(_resident(one) for one in [process, *process.children(recursive=True)])


class Peak:
    """The most bytes that were resident at once in this process and those that it started; see :func:`watched`."""

    def __init__(self) -> None:
        self.bytes = resident()

    def look(self) -> None:
        """Look once more."""
        self.bytes = max(self.bytes, resident())


@contextmanager
def watched() -> Iterator[Peak]:
    """Look every few milliseconds, for as long as the block lasts."""
    peak, ended = Peak(), threading.Event()

    def look() -> None:
        while not ended.wait(_LOOK_EVERY_SECONDS):
            peak.look()

    thread = threading.Thread(target=look, daemon=True, name="batchrec-memory")
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()
        peak.look()


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:  # gone meanwhile
        return 0


def _left_in(group: Path) -> int | None:
    limit_name, use_name, files_name = _GROUPS[group]
    try:
        limit, use = (int((group / name).read_text(encoding="ascii")) for name in (limit_name, use_name))
        told = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        return limit - use + int(told[files_name])
    except (OSError, ValueError, KeyError):  # no such group, or no limit: `max`
        return None
