"""The folder of a run: what may stand in it, what a crash left there, and the one step in which readers move to it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchrec.errors import ArtifactError, ConfigError, SinkError
from batchrec.output.atomic import is_temporary
from batchrec.output.changes import CHANGES
from batchrec.output.digests import DIGESTS
from batchrec.output.journal import BEGUN, JOURNAL
from batchrec.output.location import CURRENT, check_run_id
from batchrec.output.manifest import MANIFEST, Manifest, read_manifest, write_manifest
from batchrec.output.record import is_part
from batchrec.output.storage import is_url, local_path, open_storage

if TYPE_CHECKING:
    from collections.abc import Collection
    from contextlib import AbstractContextManager

    from batchrec.output.storage import Storage

SUCCESS = "_SUCCESS"
"""Name of the empty file that says a run folder is complete."""

WORK = "_work"
"""Name of the scratch folder inside a run folder, in a store of what workers are lent; gone when the run ends."""

_BESIDE = (DIGESTS, CHANGES)
"""Folders of what a published run keeps beside its parts."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder of one run, from the first part to its publication.

    Parameters
    ----------
    output
        Folder of all runs; holds the pointer ``current``.
    run_id
        Name of this run.
    """

    output: Storage
    run_id: str

    @classmethod
    def open(cls, output: Storage, run_id: str) -> RunFolder:
        """Look at the place of a run; nothing is changed.

        Raises
        ------
        ConfigError
            The run id cannot be used.
        SinkError
            The place holds what batchrec did not write, or ``current`` is not a pointer.
        """
        run = cls(output, check_run_id(run_id))
        output.pointed(CURRENT)
        run._check_place()
        folders = [name for name in run.storage.folders() if name not in {WORK, JOURNAL, *_BESIDE}]
        foreign = folders or [name for name in run.storage.names() if not _is_own(name)]
        if foreign:
            raise SinkError(
                f"{run.shown} holds what batchrec did not write ({', '.join(foreign[:5])})",
                "move it away, or choose another --run-id",
            )
        return run

    @property
    def storage(self) -> Storage:
        """The run folder itself: parts and journal are written here."""
        return self.output.folder(self.run_id)

    @property
    def shown(self) -> str:
        """The run folder, for messages."""
        return self.output.shown(self.run_id)

    @property
    def is_published(self) -> bool:
        """Whether the run is complete and ``current`` has pointed at it."""
        return self.storage.exists(SUCCESS) and not self.output.is_staged(CURRENT, self.run_id)

    def scratch(self) -> AbstractContextManager[Path]:
        """Lend a local folder for temporary files, empty."""
        return self.storage.scratch(WORK)

    def tidy(self) -> None:
        """Remove what a publication that was cut short, or a killed writer, left behind; finished parts stay.

        Raises
        ------
        SinkError
            A file could not be removed.
        """
        # _SUCCESS goes first and the note last, so that a crash between them never leaves what looks like a published
        # run.
        self.storage.remove([SUCCESS])
        left = [name for name in self.storage.names() if self._is_left_over(name)]
        self.storage.remove(left)
        self.output.unstage_pointer(CURRENT, self.run_id)

    def clear(self) -> None:
        """Remove all that earlier runs of this name left: a run that begins anew shares nothing with them.

        Raises
        ------
        SinkError
            A file could not be removed.
        """
        in_use = WORK if self.output.is_local else ""
        left = [name for name in self.storage.names() if not in_use or name.split("/", 1)[0] != in_use]
        self.storage.remove([name for name in left if _is_own(name)])

    def keep_parts(self, names: Collection[str]) -> None:
        """Remove part files that are none of the run's, and what would stand beside them.

        Readers take every part of the folder for one.

        Raises
        ------
        SinkError
            A file could not be removed.
        """
        self.storage.remove([name for name in self.storage.names() if _is_published(name) and name not in names])

    def publish(self, manifest: Manifest) -> None:
        """Complete the run folder, then move ``current`` to it in one step.

        The manifest, then ``_SUCCESS``, then ``current``: each is durable before the next begins. A reader who resolves
        ``current`` once, and reads from where it led, sees one whole run, the old or the new.

        Raises
        ------
        SinkError
            Something could not be written; ``current`` still points where it did.
        """
        self.output.pointed(CURRENT)
        write_manifest(self.storage, manifest)
        # Noted before _SUCCESS: whoever finds both knows that `current` never moved.
        self.output.stage_pointer(CURRENT, self.run_id)
        self.storage.write(SUCCESS, b"")
        self.output.move_pointer(CURRENT, self.run_id)
        self.storage.remove(self.storage.names(JOURNAL))

    def abandon(self) -> None:
        """Leave what can be gone on with; where no part is finished, leave nothing.

        Raises
        ------
        SinkError
            A file could not be removed.
        """
        if not self.is_published and not set(self.storage.names(JOURNAL)) - {BEGUN}:
            self.storage.remove([name for name in self.storage.names() if _is_own(name)])

    def remove(self) -> None:
        """Remove the run, such that, cut short anywhere, what is left never looks like a published run.

        ``_SUCCESS`` is gone for good before anything else is touched. The manifest goes last: until then whoever looks
        for runs still knows the folder for one.

        Raises
        ------
        SinkError
            A file could not be removed.
        """
        self.storage.remove([SUCCESS])
        self.output.unstage_pointer(CURRENT, self.run_id)
        self.storage.remove([name for name in self.storage.names() if _is_own(name) and name != MANIFEST])
        self.storage.remove([MANIFEST])

    def _is_left_over(self, name: str) -> bool:
        # On a disk the scratch folder is in use by now; in a store it holds what a run that died had lent to workers.
        lent = not self.output.is_local and name.startswith(f"{WORK}/")
        return lent or name == MANIFEST or is_temporary(name.rsplit("/", 1)[-1])

    def _check_place(self) -> None:
        """See that a local run folder is a folder: what a link leads to is not ours to write into."""
        if not self.output.is_local:
            return
        path = Path(self.storage.path())
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            raise SinkError(f"{path} is not a folder", "move it away, or choose another --run-id")


def published_manifest(output: Storage, run_id: str) -> dict[str, Any] | None:
    """Return the manifest of a published run, or None if no run of that name is published.

    Raises
    ------
    ConfigError
        The run id cannot be used.
    ArtifactError
        The run is published, but its manifest is missing or damaged.
    """
    run = RunFolder(output, check_run_id(run_id))
    return read_manifest(run.storage) if run.is_published else None


def open_run(place: str | os.PathLike[str]) -> Storage:
    """Open a run folder by its path or URL, or by that of the pointer ``current``, which is followed once, here."""
    text = os.fspath(place).rstrip("/")
    if not text:
        raise ConfigError("the run is given as an empty text", "name the folder of a published run")
    if not is_url(text):
        return open_storage(local_path(text).resolve())
    parent, _, name = text.rpartition("/")
    target = open_storage(parent).pointed(CURRENT) if name == CURRENT else None
    return open_storage(text if target is None else f"{parent}/{check_run_id(target)}")


def open_published(place: str | os.PathLike[str]) -> Storage:
    """Open the folder of a published run, as :func:`open_run` does.

    Raises
    ------
    ArtifactError
        The run is not published.
    """
    folder = open_run(place)
    if not folder.exists(SUCCESS):
        raise ArtifactError(
            f"{folder.shown()} is not a published run (it has no {SUCCESS})",
            "give the folder of a run that was published",
        )
    return folder


def _is_published(name: str) -> bool:
    """Tell whether a file is one that the manifest of a published run names."""
    folder, _, last = name.rpartition("/")
    return is_part(last) and (not folder or folder.split("/", 1)[0] in _BESIDE)


def _is_own(name: str) -> bool:
    folder, _, last = name.rpartition("/")
    if folder.split("/", 1)[0] == WORK or folder == JOURNAL:
        return True
    if folder.split("/", 1)[0] in _BESIDE:
        return is_part(last) or is_temporary(last)
    return not folder and (last in {MANIFEST, SUCCESS, WORK} or is_part(last) or is_temporary(last))
