"""``batchrec push``: every list of a published run into a feature view of the online store."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchrec.delivery.gone import gone_users
from batchrec.delivery.push_changes import holds_earlier_run, push_changes
from batchrec.delivery.push_journal import FOLDER, PushJournal, Target
from batchrec.delivery.push_options import Push
from batchrec.delivery.push_workers import push_parts
from batchrec.delivery.readback import ReadBack, read_back
from batchrec.delivery.rows import pushed_schema
from batchrec.errors import ArtifactError, GateError
from batchrec.features.store import FeatureStore
from batchrec.log import about
from batchrec.output.changes import read_increment
from batchrec.output.manifest import MANIFEST, read_manifest
from batchrec.output.publish import SUCCESS, open_published
from batchrec.output.storage import open_storage
from batchrec.output.sums import part_records
from batchrec.progress import Progress, say

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchrec.delivery.push_options import PushOptions
    from batchrec.output.record import PartRecord
    from batchrec.output.storage import Storage


@dataclass(frozen=True)
class PushSummary:
    """What a push prints last: of all lists of the run, those that this command wrote, and those that it read back."""

    run_id: str
    view: str
    changes: bool
    users: int
    pushed_users: int
    emptied_users: int
    parts: int
    pushed_parts: int
    read_back: int
    seconds: float
    lists_per_second: float


def push_run(run: str, options: PushOptions) -> PushSummary:
    """Write every list of a published run into the online store; what is there already is not written again.

    Parameters
    ----------
    run
        Path or URL of its folder, or of the pointer ``current``.
    options
        How.

    Raises
    ------
    ArtifactError
        The run is not published, or a part is not the one that was.
    FeatureError
        The repository or the view is missing, or the run's rows do not fit it.
    BusyError
        The store is away, or another process pushes into the same view. Parts that were pushed stay on record.
    SinkError
        The store refuses, or the journal cannot be written.
    GateError
        The store gives back something else than what was pushed.
    """
    folder = open_published(run)
    push = _opened(folder, options)
    about(run_id=push.target.run_id)
    storage = _output_of(folder).folder(f"{FOLDER}/{push.target.place[:16]}")
    with storage.lock("lock", f"into feature view {push.view.name!r} of {push.repo}"):
        journal = _journal(push, storage)
        there = journal.pushed(push.records)
        increment = push.increment if journal.of_changes and len(there) < len(push.records) else None
        progress = _pushed(push, journal, there) if increment is None else push_changes(push, increment, journal)
        emptied = _emptied(push, journal)
        checked = read_back(push.view, folder, push.parts, options.sample)
        if checked.difference is not None:
            journal.forget()
            raise _differs(push, checked)
    say(f"read back: {checked.users:,} users, no difference")
    return PushSummary(
        run_id=push.target.run_id,
        view=push.view.name,
        changes=increment is not None,
        users=sum(journal.pushed(push.records).values()),
        pushed_users=progress.done,
        emptied_users=emptied,
        parts=len(push.records),
        pushed_parts=len(push.records) - len(there),
        read_back=checked.users,
        seconds=round(progress.seconds, 2),
        lists_per_second=round(progress.rate, 1),
    )


def _opened(folder: Storage, options: PushOptions) -> Push:
    """Look at run, repository and view; nothing is written."""
    manifest = read_manifest(folder)
    records = part_records(folder, manifest)
    repo = options.feature_repo or _repo_of(folder, manifest)
    view = FeatureStore.open(repo).online(options.view)
    if records:
        view.check(pushed_schema(_schema(folder, records[0])))
    target = Target(str(manifest["run_id"]), hashlib.sha256(folder.read(MANIFEST)).hexdigest(), view.place)
    lists = sum(manifest["accounting"]["by_status"].values())
    increment = read_increment(folder, manifest)
    if options.changes and increment is None:
        raise ArtifactError(
            f"run {target.run_id} was computed since no other run, so it has no changes", "leave out --changes"
        )
    return Push(folder, records, target, view.repo, view, options, lists, increment)


def _journal(push: Push, storage: Storage) -> PushJournal:
    """Return the journal of a push to go on with, if the store still holds what is on record; otherwise a new one."""
    journal = PushJournal.resume(storage, push.target)
    if journal is None:
        of_changes = push.options.changes and holds_earlier_run(push, storage)
        return PushJournal.begin(storage, push.target, datetime.now(UTC), of_changes=of_changes)
    parts = list(journal.pushed(push.records))
    checked = read_back(push.view, push.folder, parts, push.options.sample)
    if checked.difference is None:
        say(f"going on: {len(parts):,} of {len(push.records):,} parts are in the store already")
        return journal
    say(f"the store has changed since it was pushed to ({checked.difference}): pushing everything again")
    return PushJournal.begin(storage, push.target, datetime.now(UTC))


def _pushed(push: Push, journal: PushJournal, there: Mapping[str, int]) -> Progress:
    """Push what is missing; return how far that went."""
    missing = [record for record in push.records if record.name not in there]
    options = push.options
    work = push.work(journal.at)
    with Progress("pushing", _share(push.lists, missing, push.records), "lists") as progress:
        if missing:
            push_parts(work, missing, options.workers, progress.advance, journal.append)
    return progress


def _emptied(push: Push, journal: PushJournal) -> int:
    """Give an empty list to users who have no row in this run but had one in a run that was pushed before."""
    emptied = 0
    for run_id in journal.before():
        before = _output_of(push.folder).folder(run_id)
        if run_id == push.target.run_id:
            continue
        if not before.exists(SUCCESS):
            say(f"run {run_id}, pushed before, is there no more: users who have no row now keep their lists from it")
            continue
        parts = [record.name for record in part_records(before, read_manifest(before))]
        for users in gone_users(before, parts, push.folder, push.parts):
            for begin in range(0, len(users), push.options.batch):
                push.view.empty(users.slice(begin, push.options.batch), journal.at)
            emptied += len(users)
    journal.settle()
    return emptied


def _share(lists: int, missing: list[PartRecord], records: list[PartRecord]) -> int:
    """Return about how many lists are missing: rows of layout ``long`` are items, so their share of all rows counts."""
    rows = sum(record.rows for record in records)
    return round(lists * sum(record.rows for record in missing) / rows) if rows else 0


def _differs(push: Push, checked: ReadBack) -> GateError:
    return GateError(
        f"the online store of {push.repo} gives back something else than was pushed: {checked.difference}",
        "see that nobody else writes into the view and that no row in it is from a later time, then push again: all "
        "rows are written anew",
    )


def _output_of(folder: Storage) -> Storage:
    return open_storage(folder.path().rstrip("/").rpartition("/")[0])


def _repo_of(folder: Storage, manifest: Mapping[str, Any]) -> Path:
    try:
        return Path(manifest["options"]["feature_repo"])
    except (KeyError, TypeError) as error:
        raise ArtifactError(
            f"{folder.shown(MANIFEST)} does not name a feature repository", "name it with --feature-repo"
        ) from error


def _schema(folder: Storage, record: PartRecord) -> pa.Schema:
    try:
        with folder.open(record.name) as file:
            return pq.read_schema(file)
    except (FileNotFoundError, pa.ArrowException) as error:
        raise ArtifactError(
            f"{folder.shown(record.name)} cannot be read ({error})", "restore it from a copy, or publish the run anew"
        ) from error
