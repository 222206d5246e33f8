"""The parts of a run: made where they are missing, failed ones filled in, suppressed rows taken out."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from batchrec.engine.cluster import LOCAL, THREADS, as_they_finish, let_go, open_cluster
from batchrec.errors import BusyError, GateError
from batchrec.fence import shut
from batchrec.lending import within_reach
from batchrec.levels import FULL, POPULARITY, levels
from batchrec.log import detail
from batchrec.output import journal
from batchrec.output.digests import keep_digests
from batchrec.output.part import count_by_status, write_part
from batchrec.output.record import PartRecord, part_name
from batchrec.output.status import read_status, status_of
from batchrec.progress import Progress, say
from batchrec.reserve import seconds_of
from batchrec.resources import release_resources
from batchrec.resume import finished_parts
from batchrec.schedule import Schedule, compute_at_level
from batchrec.schema import USER_ID, Status
from batchrec.stand_in import write_failed, write_popular
from batchrec.suppression import Suppression, suppress
from batchrec.users import partition_count, partition_sizes, read_partition
from batchrec.worker import compute_partition

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from distributed import Client

    from batchrec.output.journal import JournalEntry
    from batchrec.reserve import Reserve
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
    level
        The level of effort it was made with; see :mod:`batchrec.levels`.
    digests
        The file of the digests of users whose lists stand as they were computed; None where the partition failed or was
        made with less than was asked for.
    carried
        Users whose lists were carried over from an earlier run.
    """

    record: PartRecord
    by_status: Mapping[str, int]
    seconds: Mapping[str, float]
    suppressed_users: int = 0
    suppressed_items: int = 0
    level: str = FULL
    digests: PartRecord | None = None
    carried: int = 0


@dataclass(frozen=True)
class Made:
    """All partitions of a run, each either finished or failed or left over.

    Parameters
    ----------
    entries
        Finished partitions, by number.
    failed
        Failed ones, by number.
    left_over
        Numbers of those that there was no time for.
    new_users
        Users of the partitions that this attempt computed; the rest was finished before.
    """

    entries: Mapping[int, JournalEntry]
    failed: Mapping[int, Outcome]
    left_over: Sequence[int] = ()
    new_users: int = 0


def make_parts(
    work: Work,
    users: int,
    scratch: Path,
    cluster: str = LOCAL,
    memory_limit: int | None = None,
    reserve: Reserve | None = None,
) -> Made:
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
    reserve
        The deadline of the run and what is kept free before it; None for as long as it takes.

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
    plan = _plan(work, len(numbers), len(entries), left)
    say(plan, event="begun", users=left, partitions=len(numbers), finished=len(entries))
    if not missing:
        return Made(entries, {})
    failed, new_users = {}, 0
    attempt = replace(work, attempt=secrets.token_hex(8))
    schedule = None if reserve is None else _schedule(work, missing, reserve)
    with (
        nullcontext(attempt) if cluster == LOCAL else within_reach(attempt) as reached,
        open_cluster(cluster, scratch, memory_limit, release_resources) as client,
        Progress("Recommending", left, "users") as progress,
    ):
        for outcome in _outcomes(client, reached, missing, schedule):
            level = FULL if schedule is None else schedule.done(outcome).name
            if outcome.part is None:
                say(
                    f"{part_name(outcome.partition)} failed: {outcome.failure}",
                    event="partition_failed",
                    level="warning",
                    partition=outcome.partition,
                    users=outcome.users,
                    seconds=_rounded(outcome.seconds),
                )
                failed[outcome.partition] = outcome
            else:
                made = (outcome.part, outcome.by_status, outcome.seconds, level, outcome.digests, outcome.carried)
                entry = journal.JournalEntry(*made)
                journal.append(work.folder, entry)
                entries[outcome.partition] = entry
                if reserve is not None:
                    reserve.measure(outcome.part, outcome.users)
                detail(
                    f"{outcome.part.name} finished",
                    event="partition_finished",
                    partition=outcome.partition,
                    users=outcome.users,
                    by_status={status: users for status, users in outcome.by_status.items() if users},
                    seconds=_rounded(outcome.seconds),
                    rows=outcome.part.rows,
                    bytes=outcome.part.bytes,
                )
            new_users += outcome.users
            progress.advance(outcome.users)
        left_over = [] if schedule is None else schedule.left_over()
        if left_over:
            _give_up(client, attempt)
    return Made(entries, failed, left_over, new_users)


def _schedule(work: Work, missing: Sequence[int], reserve: Reserve) -> Schedule:
    """Plan to make the missing partitions in time.

    The part for which there is no time is written for one partition, to measure it; whatever is made of that partition
    takes its place.
    """
    users = partition_sizes(Path(work.users))
    sizes = {number: users[number] for number in missing}
    first = missing[0]
    popular = min(seconds_of(partial(write_popular, work, first)) for _ in range(2)) / sizes[first]
    steps = levels(work.options)
    say(
        f"deadline {reserve.deadline.words()}; if the time does not suffice: "
        f"{', '.join([*(step.name for step in steps[1:]), POPULARITY])}"
    )
    return Schedule(reserve.deadline, steps, sizes, popular, reserve.seconds)


def _outcomes(client: Client, work: Work, missing: Sequence[int], schedule: Schedule | None) -> Iterator[Outcome]:
    if schedule is None:
        return as_they_finish(client, partial(compute_partition, work), missing)
    tasks = schedule.tasks(work.run_id, sum(client.nthreads().values()))
    # One a thread: what waits in a queue would have been given its level too early.
    return as_they_finish(client, partial(compute_at_level, work, levels(work.options)), tasks, 1, schedule.until)


def _give_up(client: Client, attempt: Work) -> None:
    """Let nothing be written any more by partitions that are still in work: their parts are about to be written here.

    Raises
    ------
    BusyError
        A worker is in the middle of writing and does not end.
    """
    if not let_go(client, shut, attempt.attempt):
        raise BusyError(
            "a worker is writing a part and does not come to an end, so that nothing can be published in time",
            "see that the disk or object store of the output answers, and run again with --resume",
        )


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
    """Write the parts of partitions that failed or are left over, and take suppressed rows out; in order.

    Nothing of this enters the journal: where the run dies before it is published, these parts are made anew.

    Raises
    ------
    SinkError
        A part could not be written or read back.
    """
    parts = []
    with ThreadPoolExecutor(THREADS) as threads:
        popular = dict(zip(made.left_over, threads.map(partial(write_popular, work), made.left_over), strict=True))
    for number in sorted(made.entries.keys() | made.failed.keys() | popular.keys()):
        if number in popular:
            part = FinalPart(*popular[number], {}, level=POPULARITY)
        elif number in made.failed:
            outcome = made.failed[number]
            part = FinalPart(write_failed(work, number), outcome.by_status, outcome.seconds)
        else:
            entry = made.entries[number]
            digests, carried = entry.digests, entry.carried
            made_part = (entry.part, entry.by_status, entry.seconds)
            part = FinalPart(*made_part, level=entry.level, digests=digests, carried=carried)
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


def users_by_level(parts: Sequence[FinalPart]) -> dict[str, int]:
    """Add users up by the level of effort that their partition was made with, suppressed ones left out."""
    levels_of = dict.fromkeys(part.level for part in parts)
    return {level: sum(sum(part.by_status.values()) for part in parts if part.level == level) for level in levels_of}


def by_stage(parts: Sequence[FinalPart]) -> dict[str, float]:
    """Seconds of every stage, added over partitions; partitions overlap, so this may exceed the wall clock."""
    stages = dict.fromkeys(stage for part in parts for stage in part.seconds)
    return {stage: sum(part.seconds.get(stage, 0.0) for part in parts) for stage in stages}


def _rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    return {stage: round(spent, 4) for stage, spent in seconds.items()}


def _plan(work: Work, partitions: int, finished: int, users: int) -> str:
    as_of = f"features as of {work.as_of:%Y-%m-%d %H:%M:%S} UTC"
    if not finished:
        return f"{users:,} users in {partitions:,} partitions, {as_of}"
    return f"going on: {finished:,} of {partitions:,} partitions are finished, {users:,} users are left, {as_of}"
