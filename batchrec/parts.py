"""The parts of a run: made where they are missing, failed ones filled in, suppressed rows taken out."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from batchrec.engine.cluster import LOCAL, as_they_finish, open_cluster
from batchrec.errors import GateError
from batchrec.lending import within_reach
from batchrec.output import journal
from batchrec.output.digests import keep_digests
from batchrec.output.part import count_by_status, write_part
from batchrec.output.record import PartRecord, part_name
from batchrec.output.status import read_status, status_of
from batchrec.progress import Progress, say
from batchrec.resume import finished_parts
from batchrec.schema import USER_ID, Status
from batchrec.suppression import Suppression, suppress
from batchrec.users import partition_count, read_partition
from batchrec.worker import compute_partition, release_resources, write_failed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchrec.output.journal import JournalEntry
    from batchrec.worker import Outcome, Work


@dataclass(frozen=True)
class FinalPart:
    """One part as it is to be published.

    Parameters
    ----------
    record
        The file.
    by_status
        Users of the partition that were not suppressed, counted by status.
    seconds
        Wall-clock seconds that the partition spent, by stage.
    suppressed_users
        Users whose rows were left out.
    suppressed_items
        Items that were taken out of lists.
    digests
        The file of the digests of users whose lists stand as they were computed; None where the partition failed.
    carried
        Users whose lists were carried over from an earlier run.
    """

    record: PartRecord
    by_status: Mapping[str, int]
    seconds: Mapping[str, float]
    suppressed_users: int = 0
    suppressed_items: int = 0
    digests: PartRecord | None = None
    carried: int = 0


@dataclass(frozen=True)
class Made:
    """All partitions of a run, each either finished or failed.

    Parameters
    ----------
    entries
        Finished partitions, by number.
    failed
        Failed ones, by number.
    """

    entries: Mapping[int, JournalEntry]
    failed: Mapping[int, Outcome]


def make_parts(work: Work, users: int, scratch: Path, cluster: str = LOCAL, memory_limit: int | None = None) -> Made:
    """Compute every partition that is not finished, and enter each in the journal when its file is there.

    Parameters
    ----------
    work
        The run.
    users
        Distinct users of the run, for the progress.
    scratch
        For Dask's temporary files.
    cluster, memory_limit
        Where partitions are computed; see :func:`~batchrec.engine.cluster.open_cluster`.

    Raises
    ------
    BatchrecError
        If something is wrong that another partition would meet too. Parts that are finished stay.
    """
    numbers = range(partition_count(Path(work.users)))
    done = finished_parts(work.folder)
    entries = {number: done[part_name(number)] for number in numbers if part_name(number) in done}
    missing = [number for number in numbers if number not in entries]
    left = users - sum(sum(entry.by_status.values()) for entry in entries.values())
    say(_plan(work, len(numbers), len(entries), left))
    if not missing:
        return Made(entries, {})
    failed = {}
    with (
        nullcontext(work) if cluster == LOCAL else within_reach(work) as reached,
        open_cluster(cluster, scratch, memory_limit, release_resources) as client,
        Progress("Recommending", left, "users") as progress,
    ):
        for outcome in as_they_finish(client, partial(compute_partition, reached), missing):
            if outcome.part is None or outcome.digests is None:
                say(f"{part_name(outcome.partition)} failed: {outcome.failure}")
                failed[outcome.partition] = outcome
            else:
                made = (outcome.part, outcome.by_status, outcome.seconds, outcome.digests, outcome.carried)
                entry = journal.JournalEntry(*made)
                journal.append(work.folder, entry)
                entries[outcome.partition] = entry
            progress.advance(outcome.users)
    return Made(entries, failed)


def check_failed_share(made: Made, users: int, most: float) -> None:
    """See that no more users failed than may.

    Raises
    ------
    GateError
        More did. What is finished stays, and the failed partitions are tried again when the run is resumed.
    """
    failed = sum(outcome.users for outcome in made.failed.values())
    if failed > most * users:
        first = made.failed[min(made.failed)]
        raise GateError(
            f"{failed:,} of {users:,} users failed ({failed / users:.1%}), more than --max-failed-share {most:g}; "
            f"first {part_name(first.partition)}: {first.failure}",
            "mend the cause and run again with --resume, which tries the failed partitions only, or allow more",
        )


def final_parts(work: Work, made: Made, suppression: Suppression | None) -> list[FinalPart]:
    """Write the parts of failed partitions and take suppressed rows out; in the order of the partitions.

    Nothing of this enters the journal: where the run dies before it is published, these parts are made anew.

    Raises
    ------
    SinkError
        A part could not be written or read back.
    """
    parts = []
    for number in sorted(made.entries.keys() | made.failed.keys()):
        if number in made.failed:
            outcome = made.failed[number]
            part = FinalPart(write_failed(work, number), outcome.by_status, outcome.seconds)
        else:
            entry = made.entries[number]
            digests, carried = entry.digests, entry.carried
            part = FinalPart(entry.part, entry.by_status, entry.seconds, digests=digests, carried=carried)
        parts.append(part if suppression is None else _without_suppressed(work, number, part, suppression))
    return parts


def _without_suppressed(work: Work, number: int, part: FinalPart, suppression: Suppression) -> FinalPart:
    folder = work.folder
    with folder.open(part.record.name) as file:
        table = pq.read_table(file)
    if work.layout == "long":
        user_ids = read_partition(work.users, number)[USER_ID].combine_chunks()
        status = read_status(folder, part.record.name, len(user_ids))
    else:
        user_ids, status = table[USER_ID].combine_chunks(), status_of(table)
    left = suppress(table, user_ids, status, suppression)
    if not left.users and not left.items:
        return part
    record = write_part(left.table, folder, part.record.name)
    return replace(
        part,
        record=record,
        by_status=count_by_status(left.status),
        suppressed_users=left.users,
        suppressed_items=left.items,
        digests=None if part.digests is None else keep_digests(folder, part.record.name, left.untouched),
    )


def by_status(parts: Sequence[FinalPart]) -> dict[str, int]:
    """Add users up by status: every :class:`~batchrec.schema.Status` in its order, zeros included."""
    return {str(name): sum(part.by_status.get(str(name), 0) for part in parts) for name in Status}


def by_stage(parts: Sequence[FinalPart]) -> dict[str, float]:
    """Seconds of every stage, added over partitions; partitions overlap, so this may exceed the wall clock."""
    stages = dict.fromkeys(stage for part in parts for stage in part.seconds)
    return {stage: sum(part.seconds.get(stage, 0.0) for part in parts) for stage in stages}


def _plan(work: Work, partitions: int, finished: int, users: int) -> str:
    as_of = f"features as of {work.as_of:%Y-%m-%d %H:%M:%S} UTC"
    if not finished:
        return f"{users:,} users in {partitions:,} partitions, {as_of}"
    return f"going on: {finished:,} of {partitions:,} partitions are finished, {users:,} users are left, {as_of}"
