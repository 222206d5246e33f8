"""Whole files or none: write under a temporary name, sync, rename, sync the folder."""

from __future__ import annotations

import errno
import os
import re
import secrets
from typing import TYPE_CHECKING

from batchrec.errors import SinkError

if TYPE_CHECKING:
    from pathlib import Path

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_PERMISSION = {errno.EACCES, errno.EPERM, errno.EROFS}
_NO_FOLDER = {errno.EEXIST, errno.ENOTDIR}


def write_atomic(path: Path, data: bytes | memoryview) -> None:
    """Write `data` to `path` so that, whatever happens, `path` holds its old bytes or all of the new ones.

    When this returns, the file and its name have reached the disk. Two writers of the same path do not disturb each
    other: the last rename wins. The file's mode follows the process's umask.

    Raises
    ------
    SinkError
        The bytes could not be written; the temporary file is gone.
    """
    temporary = temporary_name(path)
    try:
        _write_synced(temporary, data)
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise sink_error(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def temporary_name(path: Path) -> Path:
    """Return a name in the folder of `path` that no other writer has; :func:`is_temporary` knows it again."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


def is_temporary(name: str) -> bool:
    """Tell whether a file name was made by :func:`temporary_name`."""
    return _TEMPORARY.fullmatch(name) is not None


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write every byte of `data` to an open file descriptor; ``os.write`` alone may stop short on a filling disk."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` (renames, new files, removals) reach the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sink_error(path: Path, error: OSError) -> SinkError:
    """Turn an operating system's refusal to write `path` into an error that says what to do."""
    reason = error.strerror or str(error)
    problem = f"cannot write {path} ({reason})"
    if error.errno in _NO_SPACE:
        return SinkError(problem, f"free space on the file system of {path.parent} and run again")
    if error.errno in _NO_PERMISSION:
        return SinkError(problem, f"make {path.parent} writable for this user, or choose another folder")
    if error.errno in _NO_FOLDER:
        return SinkError(problem, f"a file stands where a folder is needed: take {path} away, or choose another folder")
    return SinkError(problem, f"check that {path.parent} is a folder on a working disk, or choose another folder")


def _write_synced(path: Path, data: bytes | memoryview) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
