"""One writer a run: a lock that a dead owner does not hold."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from batchrec.errors import BusyError
from batchrec.output.atomic import sink_error
from batchrec.output.location import check_run_id, local_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def run_lock(output: str | os.PathLike[str], run_id: str) -> Iterator[None]:
    """Be the only process that writes a run, for as long as the block lasts.

    The system lets go of the lock when its owner dies, however it dies. Processes on other machines are kept out only
    where the file system carries ``flock`` across, as NFS version 4 does.

    Parameters
    ----------
    output
        Folder of all runs; made if it is not there.
    run_id
        Name of the run.

    Raises
    ------
    BusyError
        Another process writes this run.
    ConfigError
        The run id or the folder cannot be used.
    SinkError
        The lock file cannot be made.
    """
    folder = local_folder(output)
    path = folder / f".{check_run_id(run_id)}.lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _locked(path)
    except BlockingIOError as error:
        raise BusyError(
            f"another process is writing the run {folder / run_id}", "wait until it is done, or choose another --run-id"
        ) from error
    except OSError as error:
        raise sink_error(path, error) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _locked(path: Path) -> int:
    """Open and lock the file at `path`; whoever held it before may have removed it in between."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise
        if _is_at(path, descriptor):
            return descriptor
        os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    """Tell whether the open file is still the one that `path` names."""
    try:
        return path.stat().st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False
