"""Folders for temporary files, and an end to those that processes which were killed have left behind."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

YOUNG = 3600
"""Seconds for which a folder is left alone whatever it looks like: its process may not have locked it yet."""


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """Lend a folder that only this user can read; it is locked while it is lent and removed afterwards.

    First, folders of the same kind are removed whose process is gone: older than :data:`YOUNG`, this user's, and locked
    by nobody. On a file system without locks none is.

    Parameters
    ----------
    prefix
        What names of the kind begin with. They lie where ``TMPDIR`` says.
    """
    _remove_left(prefix)
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as name, ExitStack() as lock:
        folder = Path(name)
        with suppress(OSError):
            lock.enter_context(locked(folder, fcntl.LOCK_EX))
        yield folder


@contextmanager
def locked(folder: Path, how: int) -> Iterator[bool]:
    """Hold a lock on a folder, ``LOCK_SH`` or ``LOCK_EX``; yields False where it is held and ``LOCK_NB`` is given.

    Raises
    ------
    OSError
        The folder cannot be opened, or its file system has no locks.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, how)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _remove_left(prefix: str) -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with suppress(OSError):  # gone meanwhile, or no folder
            found = folder.stat()
            if found.st_uid != os.getuid() or time.time() - found.st_mtime < YOUNG:
                continue
            with locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB) as is_free:
                if is_free:
                    shutil.rmtree(folder, ignore_errors=True)  # follows no link
