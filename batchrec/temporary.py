"""Folders for temporary files, and an end to those that processes which were killed have left behind."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from contextlib import contextmanager, suppress
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
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as folder:
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with suppress(OSError):
                fcntl.flock(held, fcntl.LOCK_EX)
            yield Path(folder)
        finally:
            os.close(held)


def _remove_left(prefix: str) -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with suppress(OSError):  # another one's, held, gone meanwhile, no folder
            _remove_unless_held(folder)


def _remove_unless_held(folder: Path) -> None:
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        found = os.fstat(held)
        if found.st_uid != os.getuid() or time.time() - found.st_mtime < YOUNG:
            return
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(held)
