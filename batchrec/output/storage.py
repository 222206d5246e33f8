"""Where runs lie: one small set of operations over a local folder or an object store.

Everything above (journal, parts, manifest, publication, lock) is written against :class:`Storage`, so that a run on
``s3://`` is the same program as one on a disk.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote, urlsplit

from batchrec.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager
    from datetime import datetime

# Path("s3://bucket") keeps one slash only, so one is enough to tell a URL.
_FILE = "file:/"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")


class Held(Protocol):
    """A lock that this process holds."""

    def check(self) -> None:
        """See that it is still held.

        Raises
        ------
        BusyError
            Another process has taken it over, because this one was not heard of for too long.
        """


class Storage(Protocol):
    """A folder of files. Names are relative, with ``/``, and never leave the folder."""

    @property
    def is_local(self) -> bool:
        """Whether files are files of this machine, at :meth:`path`."""

    def shown(self, name: str = "") -> str:
        """Return a name as messages show it: without secrets."""

    def path(self, name: str = "") -> str:
        """Return what other programs open a file by: a local path, or a URL."""

    def folder(self, name: str) -> Storage:
        """Return the folder `name` inside this one; it need not be there."""

    def read(self, name: str) -> bytes:
        """Return a file's bytes.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        SinkError
            It cannot be read.
        """

    def open(self, name: str) -> Any:
        """Open a file to read, seekable; raises as :meth:`read` does."""

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Write a file: whatever happens, it holds its old bytes or all of the new ones. Durable on return.

        Raises
        ------
        SinkError
            It could not be written.
        """

    def create(self, name: str, data: bytes) -> bool:
        """Write a file that must not be there yet; tell whether it was this call that made it."""

    def remove(self, names: Sequence[str]) -> None:
        """Remove files; those that are not there are none the worse for it."""

    def exists(self, name: str) -> bool:
        """Tell whether there is such a file."""

    def names(self, below: str = "") -> list[str]:
        """Return the names of all files below a folder, hidden ones and those in sub-folders too, ascending."""

    def folders(self) -> list[str]:
        """Return the names of the folders right in this one, links to folders left out, ascending."""

    def modified(self, name: str) -> datetime:
        """Return when a file was last written, by the clock of the storage."""

    def stage_pointer(self, pointer: str, target: str) -> None:
        """Leave a durable note that `pointer` is about to move to `target`."""

    def move_pointer(self, pointer: str, target: str) -> None:
        """Let `pointer` name `target`, in one step, and take the note away."""

    def is_staged(self, pointer: str, target: str) -> bool:
        """Tell whether a move was noted that has not happened."""

    def unstage_pointer(self, pointer: str, target: str) -> None:
        """Take the note of a move away."""

    def pointed(self, pointer: str) -> str | None:
        """Return what a pointer names; None where there is no pointer.

        Raises
        ------
        SinkError
            Something else stands in its place.
        """

    def lock(self, name: str, what: str) -> AbstractContextManager[Held]:
        """Be the only process that holds a lock, for as long as the block lasts.

        Parameters
        ----------
        name
            Name of the lock.
        what
            What it protects, for the message.

        Raises
        ------
        BusyError
            Another process holds it.
        """

    def fetch(self, name: str, path: Path) -> None:
        """Copy a file to a path on this machine.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        OSError
            It cannot be written there.
        SinkError
            It cannot be read.
        """

    def put(self, path: Path, name: str) -> None:
        """Copy a file of this machine here, whole or not at all; raises as :meth:`write` does."""

    def lend(self, path: Path, name: str) -> AbstractContextManager[str]:
        """Let other machines read a file of :meth:`scratch` for as long as the block lasts.

        Parameters
        ----------
        path
            The file.
        name
            Where to put a copy, if they need one.

        Yields
        ------
        str
            The path or URL by which they open it.

        Raises
        ------
        SinkError
            The copy could not be put there.
        """

    def scratch(self, name: str) -> AbstractContextManager[Path]:
        """Lend an empty local folder with room for temporary files, on the same disk where there is one."""


def is_url(text: str) -> bool:
    """Tell whether an option names something by URL, other than a file of this machine."""
    return _URL.match(text) is not None and not text.startswith(_FILE)


def local_path(text: str) -> Path:
    """Return the path that a local option names, ``file:`` and ``~`` resolved."""
    return Path(unquote(urlsplit(text).path) if text.startswith(_FILE) else text).expanduser()


def open_storage(place: str | os.PathLike[str]) -> Storage:
    """Open the folder that a path or URL names; nothing is made and nothing asked of it yet.

    Raises
    ------
    ConfigError
        fsspec cannot open URLs of this kind.
    """
    text = os.fspath(place)
    if not is_url(text):
        from batchrec.output.local_storage import LocalStorage

        return LocalStorage(local_path(text))
    from batchrec.output.object_storage import ObjectStorage

    try:
        return ObjectStorage.at(text)
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"cannot open {text} ({error})",
            "install the fsspec package for this kind of URL (s3fs for s3://, gcsfs for gs://), or give a local path",
        ) from error
