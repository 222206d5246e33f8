"""Storage on a local disk: temporary names, fsync and rename; a link as pointer; ``flock`` as lock."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import socket
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchrec.errors import BusyError, SinkError
from batchrec.output.atomic import sink_error, sync_folder, write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class FlockHeld:
    """A lock of the operating system's: nobody can take it over while its owner lives."""

    def check(self) -> None:
        """Find nothing wrong, ever."""


class LocalStorage:
    """A folder of this machine; see :class:`~batchrec.output.storage.Storage`.

    Parameters
    ----------
    root
        The folder; made at the first write.
    """

    is_local = True

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)

    def shown(self, name: str = "") -> str:
        """Return the path."""
        return str(self.root / name)

    def path(self, name: str = "") -> str:
        """Return the path."""
        return str(self.root / name)

    def folder(self, name: str) -> LocalStorage:
        """Return the folder `name` inside this one."""
        return LocalStorage(self.root / name)

    def read(self, name: str) -> bytes:
        """Return a file's bytes."""
        with self.open(name) as file:
            return bytes(file.read())

    def open(self, name: str) -> Any:
        """Open a file to read."""
        try:
            return (self.root / name).open("rb")
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _unreadable(self.root / name, error) from error

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Write a file in one step, and its name to the disk."""
        path = self.root / name
        self._make(path.parent)
        write_atomic(path, data)

    def create(self, name: str, data: bytes) -> bool:
        """Write a file that must not be there yet."""
        path = self.root / name
        self._make(path.parent)
        try:
            with path.open("xb") as file:
                file.write(data)
        except FileExistsError:
            return False
        except OSError as error:
            raise sink_error(path, error) from error
        return True

    def remove(self, names: Sequence[str]) -> None:
        """Remove files, links and folders, and the folders that are left empty, this one too."""
        try:
            for name in names:
                _remove(self.root / name)
            for folder in sorted({(self.root / name).parent for name in names}, reverse=True):
                _remove_empty(folder, self.root.parent)
            if self.root.is_dir():
                sync_folder(self.root)
        except OSError as error:
            raise sink_error(self.root, error) from error

    def exists(self, name: str) -> bool:
        """Tell whether there is such a file."""
        try:
            return (self.root / name).is_file()
        except OSError as error:
            raise _unreadable(self.root / name, error) from error

    def names(self, below: str = "") -> list[str]:
        """Return all files and links, also links to folders, which are not followed."""
        found = []
        for folder, folders, files in os.walk(self.root / below):
            links = [name for name in folders if (Path(folder) / name).is_symlink()]
            found += [(Path(folder) / name).relative_to(self.root).as_posix() for name in (*files, *links)]
        return sorted(found)

    def folders(self) -> list[str]:
        """Return the folders right in this one."""
        entries = self.root.iterdir() if self.root.is_dir() else ()
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.is_symlink())

    def modified(self, name: str) -> datetime:
        """Return when a file was last written."""
        return datetime.fromtimestamp((self.root / name).stat().st_mtime, UTC)

    def stage_pointer(self, pointer: str, target: str) -> None:
        """Make the link that becomes the pointer."""
        staged = self._staged(pointer, target)
        try:
            staged.unlink(missing_ok=True)
            staged.symlink_to(target)
            sync_folder(self.root)
        except OSError as error:
            raise sink_error(staged, error) from error

    def move_pointer(self, pointer: str, target: str) -> None:
        """Put the new link in the place of the old one."""
        self.pointed(pointer)
        try:
            self._staged(pointer, target).replace(self.root / pointer)
            sync_folder(self.root)
        except OSError as error:
            raise sink_error(self.root / pointer, error) from error

    def is_staged(self, pointer: str, target: str) -> bool:
        """Tell whether the new link is there."""
        return self._staged(pointer, target).is_symlink()

    def unstage_pointer(self, pointer: str, target: str) -> None:
        """Remove the new link."""
        self._staged(pointer, target).unlink(missing_ok=True)

    def pointed(self, pointer: str) -> str | None:
        """Return where the link leads."""
        link = self.root / pointer
        if link.is_symlink():
            return str(link.readlink())
        if link.exists():
            raise SinkError(f"{link} is not a link that batchrec made", "move it away, or choose another --output")
        return None

    @contextmanager
    def lock(self, name: str, what: str) -> Iterator[FlockHeld]:
        """Hold a lock that the system lets go of when its owner dies, however it dies.

        Processes on other machines are kept out only where the file system carries ``flock`` across, as NFS version 4
        does.
        """
        path = self.root / name
        is_new = not self.root.exists()
        try:
            self._make(self.root)
            descriptor = _locked(path)
        except BlockingIOError as error:
            raise BusyError(
                f"another process is writing {what} ({_owner(path)})", "wait until it is done, or choose another place"
            ) from error
        except OSError as error:
            raise sink_error(path, error) from error
        try:
            yield FlockHeld()
        finally:
            path.unlink(missing_ok=True)
            os.close(descriptor)
            if is_new:
                _remove_empty(self.root, self.root.parent)

    def fetch(self, name: str, path: Path) -> None:
        """Copy a file."""
        shutil.copyfile(self.root / name, path)

    def put(self, path: Path, name: str) -> None:
        """Write a file with the content of another."""
        self.write(name, path.read_bytes())

    @contextmanager
    def lend(self, path: Path, name: str) -> Iterator[str]:  # noqa: ARG002 - machines that share the folder share it all
        """Name the file itself: it lies in this folder, which other machines are to see by the same path."""
        yield str(path.absolute())

    @contextmanager
    def scratch(self, name: str) -> Iterator[Path]:
        """Lend the folder `name`, empty; what a killed process left there is removed first."""
        folder = self.root / name
        try:
            _remove(folder)
            self._make(folder)
        except OSError as error:
            raise sink_error(folder, error) from error
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            _remove_empty(self.root, self.root.parent)

    def _staged(self, pointer: str, target: str) -> Path:
        return self.root / f".{pointer}.{target}.tmp"

    def _make(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise sink_error(folder, error) from error


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
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps(owner()).encode())
            return descriptor
        os.close(descriptor)


def owner() -> dict[str, Any]:
    """Describe this process to whoever finds its lock."""
    return {"host": socket.gethostname(), "process": os.getpid(), "since": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"}


def owner_words(content: bytes) -> str:
    """Say who holds a lock, from what is written in it."""
    try:
        found = json.loads(content)
        return f"process {found['process']} on {found['host']} since {found['since']}"
    except (ValueError, KeyError, TypeError):
        return "owner unknown"


def _owner(path: Path) -> str:
    try:
        return owner_words(path.read_bytes())
    except OSError:
        return "owner unknown"


def _is_at(path: Path, descriptor: int) -> bool:
    """Tell whether the open file is still the one that `path` names."""
    try:
        return path.stat().st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink(missing_ok=True)


def _remove_empty(folder: Path, top: Path) -> None:
    """Remove a folder, and those around it up to but without `top`, while they are empty."""
    while folder != top and top in folder.parents:
        try:
            folder.rmdir()
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.ENOENT}:
                raise
            return
        folder = folder.parent


def _unreadable(path: Path, error: OSError) -> SinkError:
    return SinkError(
        f"{path} cannot be read ({error.strerror})",
        "see that it is a file that this user may read",
    )
