"""Bundles on object stores: fetched to this machine before they are read, and put there from this machine.

Faiss, Keras and pyarrow read files. So a bundle that a URL names is copied into a folder for temporary files, under
the SHA-256 of its ``bundle.json``; all processes of a user on one machine share the copy, and the last one that lets go
of it removes it. What a killed process left behind goes when the next bundle is fetched. The copy is opened as any
bundle is, so every file is held against its sum after the way over the network.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from batchrec.errors import ArtifactError, SinkError
from batchrec.models.bundle import parse_format, read_format
from batchrec.models.bundle_format import BUNDLE_FILE
from batchrec.output.storage import is_url, open_storage
from batchrec.redact import redact
from batchrec.temporary import locked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchrec.models.bundle_format import BundleFormat
    from batchrec.output.storage import Storage

_COPIES = "batchrec-bundles"
_UNFINISHED = ".fetching-"


def format_at(place: Path | str) -> BundleFormat:
    """Read ``bundle.json`` alone, from a folder or a URL.

    Raises
    ------
    ArtifactError
        If there is none, or it does not describe a bundle.
    SinkError
        The object store does not answer.
    """
    if not is_url(str(place)):
        return read_format(Path(place))
    storage = open_storage(place)
    return parse_format(_described(storage), storage.shown())


@contextmanager
def local_bundle(place: Path | str) -> Iterator[Path]:
    """Lend the folder of a bundle on this machine: its own, or a copy of what the URL names.

    The copy is not to be written to. It holds the files that ``bundle.json`` names, and no others.

    Raises
    ------
    ArtifactError
        What the URL names is no bundle, or a file of it is missing.
    SinkError
        The object store does not answer, or this machine has no room for the copy.
    """
    if not is_url(str(place)):
        yield Path(place)
        return
    with _copy(open_storage(place)) as folder:
        yield folder


@contextmanager
def named_by(place: Path | str, folder: Path) -> Iterator[None]:
    """Let errors about a bundle name it by its folder or URL, without secrets, and not by the folder of its copy."""
    try:
        yield
    except ArtifactError as error:
        shown = redact(str(place)).rstrip("/")
        told = (text.replace(str(folder), shown) for text in (error.problem, error.remedy))
        raise ArtifactError(*told) from error


def fetch(storage: Storage, folder: Path, *, leave_out: str | None = None) -> None:
    """Copy a bundle from a store into an empty folder, or one to be made; leave one file out.

    Raises
    ------
    ArtifactError
        What lies there is no bundle, or a file of it is missing.
    SinkError
        The object store does not answer, or the folder's disk is full.
    """
    _fetch(storage, _described(storage), folder, leave_out)


def put(folder: Path, storage: Storage) -> None:
    """Put a bundle into a store, ``bundle.json`` last: until then there is none.

    Raises
    ------
    SinkError
        The object store does not take it.
    """
    for name in read_format(folder).files:
        storage.put(folder / name, name)
    storage.put(folder / BUNDLE_FILE, BUNDLE_FILE)


@contextmanager
def _copy(storage: Storage) -> Iterator[Path]:
    """Hold a shared lock on the one copy of this machine; it is made, and removed, under a lock on all copies."""
    root = _root()
    data = _described(storage)
    folder = root / hashlib.sha256(data).hexdigest()
    with locked(root, fcntl.LOCK_EX):
        _sweep(root)
        if not folder.exists():
            with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=root) as unfinished:
                _fetch(storage, data, Path(unfinished) / "bundle", None)
                (Path(unfinished) / "bundle").rename(folder)
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(held, fcntl.LOCK_SH)
    try:
        yield folder
    finally:
        with locked(root, fcntl.LOCK_EX):
            os.close(held)
            _sweep(root)


def _sweep(root: Path) -> None:
    """Remove copies that nobody holds, and what a process that was killed had not finished."""
    for folder in root.iterdir():
        with locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB) as is_free:
            if is_free:
                shutil.rmtree(folder, ignore_errors=True)


def _root() -> Path:
    """Return the folder of all copies, which must be this user's own: others may write beside it."""
    root = Path(tempfile.gettempdir()) / f"{_COPIES}-{os.getuid()}"
    try:
        root.mkdir(mode=0o700, exist_ok=True)
        found = root.lstat()
    except OSError as error:
        raise SinkError(f"cannot make {root} ({error.strerror})", "set TMPDIR to a folder that can be used") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise SinkError(
            f"{root}, where bundles are copied to, is not a folder that only this user can write to",
            "remove it, or set TMPDIR to another folder",
        )
    return root


def _described(storage: Storage) -> bytes:
    try:
        return storage.read(BUNDLE_FILE)
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{storage.shown()} is not a bundle: it holds no {BUNDLE_FILE}",
            "make one with `batchrec train`, or name another",
        ) from error


def _fetch(storage: Storage, data: bytes, folder: Path, leave_out: str | None) -> None:
    names = [name for name in parse_format(data, storage.shown()).files if name != leave_out]
    try:
        folder.mkdir(exist_ok=True)
        (folder / BUNDLE_FILE).write_bytes(data)
        for name in names:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            storage.fetch(name, path)
    except FileNotFoundError as error:
        raise ArtifactError(
            f"bundle {storage.shown()} lacks the file {name}",
            "make the bundle again with `batchrec train`, or copy it again from where it was made",
        ) from error
    except OSError as error:
        raise SinkError(
            f"cannot copy bundle {storage.shown()} to {folder} ({error.strerror or error})",
            "free space there, or set TMPDIR to a folder with room for it",
        ) from error
