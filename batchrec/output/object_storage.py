"""Storage on an object store that fsspec knows (``s3://``, ``gs://``, ``memory://``): whole objects, no rename.

A put of one object is atomic there, and a read after it sees it. So a file is one put, a pointer is an object whose
content is the name it points at, and a lock is a lease (:mod:`batchrec.output.lease`).
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import fsspec

from batchrec.errors import BatchrecError, SinkError
from batchrec.output.lease import Lease, lease
from batchrec.redact import redact
from batchrec.temporary import temporary_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager
    from datetime import datetime
    from pathlib import Path

_ENCODING = "utf-8"
_PIECE_BYTES = 8 * 2**20


class ObjectStorage:
    """A prefix of an object store; see :class:`~batchrec.output.storage.Storage`.

    Parameters
    ----------
    filesystem
        The fsspec file system.
    root
        The prefix, as the file system names it.
    """

    is_local = False

    def __init__(self, filesystem: Any, root: str) -> None:
        self.filesystem, self.root = filesystem, root.rstrip("/")

    @classmethod
    def at(cls, url: str) -> ObjectStorage:
        """Open a URL.

        Raises
        ------
        ImportError, ValueError
            fsspec lacks the package for this kind of URL, or knows no such kind.
        """
        return cls(*fsspec.core.url_to_fs(url))

    def shown(self, name: str = "") -> str:
        """Return the URL without secrets."""
        return redact(self.path(name))

    def path(self, name: str = "") -> str:
        """Return the URL."""
        return str(self.filesystem.unstrip_protocol(self._key(name)))

    def folder(self, name: str) -> ObjectStorage:
        """Return the prefix `name` inside this one."""
        return ObjectStorage(self.filesystem, self._key(name))

    def read(self, name: str) -> bytes:
        """Return an object's bytes."""
        with self._asking(name, may_be_missing=True):
            return bytes(self.filesystem.cat_file(self._key(name)))

    def open(self, name: str) -> Any:
        """Open an object to read."""
        with self._asking(name, may_be_missing=True):
            return self.filesystem.open(self._key(name), "rb")

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Put an object."""
        with self._asking(name):
            self.filesystem.pipe_file(self._key(name), bytes(data))

    def create(self, name: str, data: bytes) -> bool:
        """Put an object on the condition that there is none."""
        with self._asking(name):
            try:
                self.filesystem.pipe_file(self._key(name), data, mode="create")
            except FileExistsError:
                return False
        return True

    def remove(self, names: Sequence[str]) -> None:
        """Delete objects."""
        for name in names:
            with self._asking(name):
                try:
                    self.filesystem.rm_file(self._key(name))
                except FileNotFoundError:
                    continue

    def exists(self, name: str) -> bool:
        """Tell whether there is such an object."""
        with self._asking(name):
            self.filesystem.invalidate_cache()  # others write here too
            return bool(self.filesystem.isfile(self._key(name)))

    def names(self, below: str = "") -> list[str]:
        """Return all objects below a prefix."""
        with self._asking(below):
            self.filesystem.invalidate_cache()
            found = self.filesystem.find(self._key(below))
        return sorted(path.removeprefix(f"{self.root}/") for path in found)

    def folders(self) -> list[str]:
        """Return the prefixes right below this one."""
        with self._asking(""):
            self.filesystem.invalidate_cache()
            try:
                found = self.filesystem.ls(self.root, detail=True)
            except FileNotFoundError:
                return []
        return sorted(one["name"].rstrip("/").rsplit("/", 1)[-1] for one in found if one["type"] == "directory")

    def modified(self, name: str) -> datetime:
        """Return when an object was last put, by the clock of the store."""
        with self._asking(name, may_be_missing=True):
            self.filesystem.invalidate_cache()
            found: datetime = self.filesystem.modified(self._key(name))
        return found

    def stage_pointer(self, pointer: str, target: str) -> None:
        """Put a note beside the pointer."""
        self.write(_staged(pointer, target), target.encode(_ENCODING))

    def move_pointer(self, pointer: str, target: str) -> None:
        """Put the pointer, then delete the note."""
        self.write(pointer, target.encode(_ENCODING))
        self.unstage_pointer(pointer, target)

    def is_staged(self, pointer: str, target: str) -> bool:
        """Tell whether there is a note and the pointer names something else; where it does not, the move happened."""
        return self.exists(_staged(pointer, target)) and self.pointed(pointer) != target

    def unstage_pointer(self, pointer: str, target: str) -> None:
        """Delete the note."""
        self.remove([_staged(pointer, target)])

    def pointed(self, pointer: str) -> str | None:
        """Return the content of the pointer."""
        try:
            return self.read(pointer).decode(_ENCODING).strip()
        except FileNotFoundError:
            return None
        except UnicodeDecodeError as error:
            raise SinkError(
                f"{self.shown(pointer)} is not a pointer that batchrec made",
                "move it away, or choose another --output",
            ) from error

    def lock(self, name: str, what: str) -> AbstractContextManager[Lease]:
        """Hold a lease, renewed in the background."""
        return lease(self.folder(name), what)

    def fetch(self, name: str, path: Path) -> None:
        """Copy an object to a file, piece by piece."""
        with self._asking(name, may_be_missing=True):
            source = self.filesystem.open(self._key(name), "rb", cache_type="none")
        with source, path.open("wb") as file:
            while piece := self._next_piece(source, name):
                file.write(piece)

    def put(self, path: Path, name: str) -> None:
        """Put a file, piece by piece; the object is there when the last piece is."""
        with self._asking(name):
            self.filesystem.put_file(str(path), self._key(name))

    @contextmanager
    def lend(self, path: Path, name: str) -> Iterator[str]:
        """Put a copy into the store and delete it afterwards."""
        self.put(path, name)
        try:
            yield self.path(name)
        finally:
            self.remove([name])

    @contextmanager
    def scratch(self, name: str) -> Iterator[Path]:
        """Lend a folder of this machine's temporary directory (set TMPDIR to place it elsewhere)."""
        with temporary_folder(f"batchrec{name}-") as folder:
            yield folder

    def _next_piece(self, source: Any, name: str) -> bytes:
        with self._asking(name):
            return bytes(source.read(_PIECE_BYTES))

    def _key(self, name: str) -> str:
        return f"{self.root}/{name}" if name else self.root

    @contextmanager
    def _asking(self, name: str, *, may_be_missing: bool = False) -> Iterator[None]:
        """Turn whatever the store's client raises into one sentence; where it may be missing, so it may be told."""
        try:
            yield
        except BatchrecError:
            raise
        except Exception as error:
            if may_be_missing and isinstance(error, FileNotFoundError):
                raise
            raise SinkError(
                f"the object store did not do what was asked of {self.shown(name)} "
                f"({type(error).__name__}: {redact(str(error))})",
                "see that it can be reached, that the bucket is there and that the credentials allow reading, writing, "
                "listing and deleting; then run again",
            ) from error


def _staged(pointer: str, target: str) -> str:
    return f".{pointer}.{target}.tmp"
