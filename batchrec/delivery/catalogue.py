"""``batchrec runs`` and ``batchrec gc``: the runs in an output folder, and the removal of old ones."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchrec.errors import ArtifactError, ConfigError, SinkError
from batchrec.output.journal import read_begun
from batchrec.output.location import CURRENT, LOCK, check_run_id
from batchrec.output.manifest import MANIFEST, read_manifest
from batchrec.output.publish import RunFolder
from batchrec.output.storage import is_url, open_storage
from batchrec.progress import say

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table

    from batchrec.output.storage import Storage

PUBLISHED, UNFINISHED, DAMAGED = "published", "unfinished", "damaged"


@dataclass(frozen=True)
class FoundRun:
    """One run of an output folder.

    Parameters
    ----------
    run_id
        Name of its folder.
    outcome
        ``published``, ``unfinished``, or ``damaged``: neither its manifest nor its journal can be read.
    is_current
        Whether ``current`` names it.
    when
        When it was published; of one that is unfinished, when it began. None where it is damaged.
    as_of
        The time as of which features were read.
    by_status
        Users by status; empty where it is not published.
    bytes
        Size of its part files by its manifest.
    """

    run_id: str
    outcome: str
    is_current: bool
    when: datetime | None = None
    as_of: datetime | None = None
    by_status: Mapping[str, int] | None = None
    bytes: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "run_id": self.run_id,
            "outcome": self.outcome,
            "current": self.is_current,
            "when": _iso(self.when),
            "as_of": _iso(self.as_of),
            "by_status": dict(self.by_status or {}),
            "bytes": self.bytes,
        }


def find_runs(output: Storage) -> list[FoundRun]:
    """Return the runs of an output folder, newest first, those that are damaged last; other folders are left out.

    Raises
    ------
    SinkError
        The storage does not answer.
    """
    current = output.pointed(CURRENT)
    found = [_looked_at(output, name, name == current) for name in output.folders()]
    runs = [run for run in found if run is not None]
    oldest = datetime.min.replace(tzinfo=UTC)
    return sorted(runs, key=lambda run: (run.when or oldest, run.run_id), reverse=True)


def runs_table(place: str, runs: list[FoundRun]) -> Table:
    """Make a table of runs for the eye."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(f"runs in {place}", "table.title"))
    for name in ("run", "outcome", "when", "as of", "users", "MB"):
        table.add_column(name, justify="right" if name == "MB" else "left")
    for run in runs:
        outcome = f"{run.outcome}, current" if run.is_current else run.outcome
        users = ", ".join(f"{count:,} {status}" for status, count in (run.by_status or {}).items() if count)
        size = "" if run.bytes is None else f"{run.bytes / 1e6:,.1f}"
        table.add_row(*map(Text, (run.run_id, outcome, _shown(run.when), _shown(run.as_of), users, size)))
    return table


def collect_garbage(place: str, keep: int, *, dry_run: bool) -> dict[str, Any]:
    """Remove old runs: all but the newest published ones, so many of them.

    The run that ``current`` names stays, however old. An unfinished run stays while it is newer than the newest
    published one; after that nobody goes on with it. What is damaged stays: it is for somebody to look at.

    Parameters
    ----------
    place
        Path or URL of the output folder.
    keep
        Published runs to keep, at least 1.
    dry_run
        Only say what would be removed.

    Returns
    -------
    dict
        ``removed`` and ``kept``, names of runs, newest first; ``bytes`` of the part files removed; ``dry_run``.

    Raises
    ------
    ConfigError
        There is no such folder.
    BusyError
        Another process is writing to the output folder.
    SinkError
        The storage does not answer, or something cannot be removed.
    """
    if not is_url(place) and not Path(place).is_dir():
        raise ConfigError(f"there is no folder {place}", "name the folder of your runs with --output")
    output = open_storage(place)
    if dry_run:
        runs = find_runs(output)
        return _collected(runs, _removable(output, runs, keep), dry_run=True)
    with output.lock(LOCK, f"to {output.shown()}") as held:
        runs = find_runs(output)
        old = _removable(output, runs, keep)
        for run in reversed(old):  # the oldest first: what is left when it is cut short is the newest
            held.check()
            folder = RunFolder(output, run.run_id)
            folder.remove()
            say(f"removed {folder.shown}")
        return _collected(runs, old, dry_run=False)


def _removable(output: Storage, runs: list[FoundRun], keep: int) -> list[FoundRun]:
    """Return the runs to remove; those with something in their folder that batchrec did not write are left alone."""
    removable = []
    for run in _old(runs, keep):
        try:
            RunFolder.open(output, run.run_id)
        except SinkError as error:
            say(f"left alone: {error.problem}")
        else:
            removable.append(run)
    return removable


def _old(runs: list[FoundRun], keep: int) -> list[FoundRun]:
    published = [run for run in runs if run.outcome == PUBLISHED]
    old = {run.run_id for run in published[keep:] if not run.is_current}
    if published:
        newest = published[0].when
        old |= {run.run_id for run in runs if run.outcome == UNFINISHED and _is_before(run.when, newest)}
    return [run for run in runs if run.run_id in old]


def _is_before(one: datetime | None, other: datetime | None) -> bool:
    return one is not None and other is not None and one < other


def _looked_at(output: Storage, name: str, is_current: bool) -> FoundRun | None:
    """Return what is known of a folder; None where it is no run."""
    try:
        folder = RunFolder(output, check_run_id(name))
    except ConfigError:
        return None
    try:
        manifest = read_manifest(folder.storage) if folder.storage.exists(MANIFEST) else None
        if manifest is not None:
            outcome = PUBLISHED if folder.is_published else UNFINISHED
            return _by_manifest(name, manifest, outcome, is_current)
        begun = read_begun(folder.storage)
        return None if begun is None else FoundRun(name, UNFINISHED, is_current, begun.began, begun.as_of)
    except (ArtifactError, KeyError, TypeError, ValueError):
        return FoundRun(name, DAMAGED, is_current)


def _by_manifest(name: str, manifest: Mapping[str, Any], outcome: str, is_current: bool) -> FoundRun:
    return FoundRun(
        name,
        outcome,
        is_current,
        datetime.fromisoformat(manifest["created"]),
        datetime.fromisoformat(manifest["as_of"]),
        {str(status): int(users) for status, users in manifest["accounting"]["by_status"].items()},
        sum(part["bytes"] for part in manifest["parts"]),
    )


def _collected(runs: list[FoundRun], old: list[FoundRun], *, dry_run: bool) -> dict[str, Any]:
    removed = [run.run_id for run in old]
    return {
        "removed": removed,
        "kept": [run.run_id for run in runs if run.run_id not in removed],
        "bytes": sum(run.bytes or 0 for run in old),
        "dry_run": dry_run,
    }


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _shown(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
