"""A push of what differs from the earlier run alone, into a store that holds that run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from batchrec.delivery.push_journal import PushJournal, Target
from batchrec.delivery.push_workers import push_parts
from batchrec.delivery.readback import read_back
from batchrec.errors import ArtifactError
from batchrec.output.changes import CHANGED, INSERTED
from batchrec.output.manifest import read_manifest
from batchrec.output.storage import open_storage
from batchrec.output.sums import part_records
from batchrec.progress import Progress, say
from batchrec.schema import USER_ID

if TYPE_CHECKING:
    from batchrec.delivery.push_options import Push
    from batchrec.output.changes import Increment
    from batchrec.output.record import PartRecord
    from batchrec.output.storage import Storage


def holds_earlier_run(push: Push, storage: Storage) -> bool:
    """Tell whether the store holds the lists of the earlier run and no others; say why not.

    By the journal of the last push, and a sample read back.

    Raises
    ------
    BusyError, SinkError
        Journal or store cannot be read.
    """
    increment = push.increment
    reason = "there is no earlier run" if increment is None else _why_not(push, increment, storage)
    if reason:
        say(f"pushing every list and not the changes alone: {reason}")
    return not reason


def push_changes(push: Push, increment: Increment, journal: PushJournal) -> Progress:
    """Write the lists that are new or others; after that the store holds every part of the run, and so it is recorded.

    Cut short, it writes them all again: they are few.

    Raises
    ------
    ArtifactError
        A file is not the one that was published.
    BusyError, SinkError
        The store does not take the rows, or a process died.
    """
    records = [record for kind in (INSERTED, CHANGED) for record in increment.files[kind] if record.rows]
    users = increment.users[INSERTED] + increment.users[CHANGED]
    with Progress("pushing changes", users, "lists") as progress:
        if records:
            push_parts(push.work(journal.at), records, push.options.workers, progress.advance, lambda *_: None)
    for record in push.records:
        journal.append(record, _users_of(push.folder, record))
    return progress


def _why_not(push: Push, increment: Increment, storage: Storage) -> str:
    """Say what keeps the changes alone from being enough; empty where nothing does."""
    run = f"run {increment.run_id}"
    if push.view.expires:
        return f"view {push.view.name} has a time to live, which lists that are not written anew would outlive"
    journal = PushJournal.resume(storage, Target(increment.run_id, increment.manifest, push.view.place))
    if journal is None:
        return f"it is not {run} that was pushed last"
    folder = open_storage(increment.place)
    try:
        records = part_records(folder, read_manifest(folder))
        if journal.before() or len(journal.pushed(records)) < len(records):
            return f"the push of {run} was cut short"
        checked = read_back(push.view, folder, [record.name for record in records], push.options.sample)
    except ArtifactError as error:
        return f"{run} cannot be read any more ({error.problem})"
    return "" if checked.difference is None else f"the store has changed since it was pushed to ({checked.difference})"


def _users_of(folder: Storage, record: PartRecord) -> int:
    with folder.open(record.name) as file:
        return len(pq.read_table(file, columns=[USER_ID])[USER_ID].unique())
