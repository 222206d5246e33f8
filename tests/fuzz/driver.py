"""Damages files of one group again and again, and reads each: ``python -m tests.fuzz.driver GROUP FOLDER FIRST COUNT``.

A process of its own, because what is looked for may end it. It prints what happened to each target as JSON lines, and
stops at the first finding with the number of the mutation; ``FIRST`` with a ``COUNT`` of 1 repeats it.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path

import psutil

from batchrec.errors import BatchrecError
from tests.fuzz.mutate import mutation
from tests.fuzz.targets import TARGETS, Read, Target

SECONDS = 5
"""Longest that reading one damaged file may take."""
MORE_MEMORY = 2**29
"""Bytes of memory that reading may add to the most that was taken before."""
MORE_ADDRESSES = 2**32
"""Bytes of address space that reading may add; beyond, an allocation fails before it can harm the machine."""


def main(group: str, folder: Path, first: int, count: int) -> None:
    """Fuzz each target of a group with mutations `first` to ``first + count - 1``."""
    faulthandler.enable()
    sys.path.insert(0, str(Path(__file__).parents[2] / "jobs"))
    tempfile.tempdir = str(folder)
    for target in TARGETS[group]:
        inside = Path(tempfile.mkdtemp(dir=folder))
        _fuzz(target, inside, range(first, first + count))


def _fuzz(target: Target, folder: Path, numbers: range) -> None:
    path, read = target.make(folder)
    valid = path.read_bytes()
    read(path)  # loads libraries, too: neither counts
    _limit_memory()
    outcomes: Counter[str] = Counter()
    for number in numbers:
        path.write_bytes(mutation(valid, f"{target.name} {number}"))
        print(f"{target.name}: mutation {number}", file=sys.stderr, flush=True)
        outcomes[_outcome(path, read)] += 1
    path.write_bytes(valid)
    print(json.dumps({"target": target.name, **outcomes}), flush=True)


def _outcome(path: Path, read: Read) -> str:
    """Read a damaged file; whatever is neither right nor a sentence ends the process."""
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    try:
        return _read(path, read)
    except BaseException:  # also what is no Exception, such as a panic of a Rust library
        traceback.print_exc()
        sys.exit(1)
    finally:
        faulthandler.cancel_dump_traceback_later()


def _read(path: Path, read: Read) -> str:
    before, outcome = _most_memory(), "read"
    try:
        read(path)
    except BatchrecError as error:
        outcome = type(error).__name__
        if not error.problem or not error.remedy or "\n" in str(error):
            raise ValueError(f"not one sentence: {error}") from error
    if (more := _most_memory() - before) > MORE_MEMORY:
        raise MemoryError(f"reading {path.stat().st_size} bytes took {more} bytes of memory")
    return outcome


def _most_memory() -> int:
    # Not getrusage: what it tells begins with the memory of the process that started this one.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:", 1)[1].split(maxsplit=1)[0]) * 1024


def _limit_memory() -> None:
    taken = psutil.Process(os.getpid()).memory_info().vms
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + MORE_ADDRESSES, hard))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
