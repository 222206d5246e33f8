"""Publishing a run: its folder, and the one step in which readers move to it."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchrec.errors import ConfigError, SinkError
from batchrec.output.atomic import is_temporary, sink_error, sync_folder, write_atomic
from batchrec.output.journal import JOURNAL
from batchrec.output.location import CURRENT, check_run_id, local_folder
from batchrec.output.manifest import MANIFEST, Manifest, read_manifest, write_manifest

if TYPE_CHECKING:
    import os
    from pathlib import Path

SUCCESS = "_SUCCESS"
"""Name of the empty file that says a run folder is complete."""

WORK = "_work"
"""Name of the scratch folder inside a run folder; gone when the run is published."""

_PART = re.compile(r"part-\d{5,}\.parquet")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder of one run, from the first part to its publication.

    Parameters
    ----------
    output
        Folder of all runs; holds the link ``current``.
    run_id
        Name of this run.
    """

    output: Path
    run_id: str

    @classmethod
    def create(cls, output: str | os.PathLike[str], run_id: str) -> RunFolder:
        """Make an empty run folder, taking over what an unpublished run of the same name left behind.

        Raises
        ------
        ConfigError
            The run id cannot be used, its run is published already, or `output` is a URL.
        SinkError
            The folder cannot be made, or it holds what batchrec did not write, or ``current`` is not a link.
        """
        run = cls(local_folder(output), check_run_id(run_id))
        try:
            if run.is_published:
                raise ConfigError(f"{run.path} holds a published run", "choose another --run-id")
            run.output.mkdir(parents=True, exist_ok=True)
            _check_current(run)
            _check_contents(run)
            _remove_contents(run)
            run.work.mkdir(parents=True)
        except OSError as error:
            raise sink_error(run.path, error) from error
        return run

    @property
    def path(self) -> Path:
        """The run folder: parts and journal are written here."""
        return self.output / self.run_id

    @property
    def work(self) -> Path:
        """Scratch folder on the same file system; :meth:`publish` and :meth:`abandon` remove it."""
        return self.path / WORK

    @property
    def next_link(self) -> Path:
        """The link that becomes ``current``. It exists only while a publication is under way or was cut short."""
        return self.output / f".{CURRENT}.{self.run_id}.tmp"

    @property
    def is_published(self) -> bool:
        """Whether the run is complete and ``current`` has pointed at it."""
        return (self.path / SUCCESS).exists() and not self.next_link.is_symlink()

    def publish(self, manifest: Manifest) -> None:
        """Complete the run folder, then move ``current`` to it in one step.

        The manifest, then ``_SUCCESS``, then ``current``: each is on disk before the next begins. A reader who resolves
        ``current`` once, and reads from where it led, sees one whole run, the old or the new.

        Raises
        ------
        SinkError
            Something could not be written; ``current`` still points where it did.
        """
        try:
            _check_current(self)
            if self.work.exists():
                shutil.rmtree(self.work)
            write_manifest(self.path, manifest)
            # Made before _SUCCESS: whoever finds both knows that `current` never moved.
            self.next_link.symlink_to(self.run_id)
            sync_folder(self.output)
            write_atomic(self.path / SUCCESS, b"")
            self.next_link.replace(self.output / CURRENT)
            sync_folder(self.output)
        except OSError as error:
            raise sink_error(self.path, error) from error

    def abandon(self) -> None:
        """Remove what this run wrote, and its folder if nothing else is in it; a published run is left alone.

        Raises
        ------
        SinkError
            A file could not be removed.
        """
        if self.is_published:
            return
        try:
            _remove_contents(self)
            if self.path.is_dir() and not any(self.path.iterdir()):
                self.path.rmdir()
        except OSError as error:
            raise sink_error(self.path, error) from error


def published_manifest(output: str | os.PathLike[str], run_id: str) -> dict[str, Any] | None:
    """Return the manifest of a published run, or None if no run of that name is published.

    Raises
    ------
    ConfigError
        The run id cannot be used, or `output` is a URL.
    ArtifactError
        The run is published, but its manifest is missing or damaged.
    """
    run = RunFolder(local_folder(output), check_run_id(run_id))
    return read_manifest(run.path) if run.is_published else None


def _check_current(run: RunFolder) -> None:
    link = run.output / CURRENT
    if link.exists() and not link.is_symlink():
        raise SinkError(f"{link} is not a link that batchrec made", "move it away, or choose another --output")


def _check_contents(run: RunFolder) -> None:
    if run.path.is_symlink() or (run.path.exists() and not run.path.is_dir()):
        raise SinkError(f"{run.path} is not a folder", "move it away, or choose another --run-id")
    entries = run.path.iterdir() if run.path.exists() else []
    foreign = sorted(entry.name for entry in entries if not _is_own(entry))
    if foreign:
        raise SinkError(
            f"{run.path} holds what batchrec did not write ({', '.join(foreign[:5])})",
            "move it away, or choose another --run-id",
        )


def _remove_contents(run: RunFolder) -> None:
    # _SUCCESS goes first and the link last, so that a crash between them never leaves what looks like a published run.
    (run.path / SUCCESS).unlink(missing_ok=True)
    if run.path.is_dir():
        sync_folder(run.path)
        for entry in filter(_is_own, run.path.iterdir()):
            _remove(entry)
    run.next_link.unlink(missing_ok=True)


def _is_own(entry: Path) -> bool:
    if entry.is_dir() and not entry.is_symlink():
        return entry.name == WORK
    name = entry.name
    return name in {JOURNAL, MANIFEST, SUCCESS} or _PART.fullmatch(name) is not None or is_temporary(name)


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink()
