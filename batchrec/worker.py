"""What a worker does: turn one partition of user ids into one part file after another."""

from __future__ import annotations

import platform
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from batchrec.errors import ArtifactError, FeatureError
from batchrec.fence import FencedStopwatch, passing
from batchrec.increments.carry import carry_over
from batchrec.log import about
from batchrec.output.digests import write_digests
from batchrec.output.part import build_table, count_by_status, write_part
from batchrec.output.record import part_name
from batchrec.output.status import write_status
from batchrec.output.storage import open_storage
from batchrec.pipeline import Options, recommend
from batchrec.redact import redact
from batchrec.resources import Resources, resources
from batchrec.schema import USER_ID, Source, Status
from batchrec.stages.sample import Sampled
from batchrec.users import read_partition

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    import numpy.typing as npt
    import pyarrow as pa

    from batchrec.engine.device import Choice
    from batchrec.increments.previous import Previous
    from batchrec.output.record import PartRecord
    from batchrec.output.storage import Storage

    Bools = npt.NDArray[np.bool_]
    Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Work:
    """All that a worker must know; small, so that it travels with every task.

    Parameters
    ----------
    bundle, feature_repo
        Folders to load from; of the bundle perhaps a URL.
    bundle_fingerprint
        Of the bundle that the run began with.
    users
        The sorted ids and the kept columns, one row group a partition; a path or a URL.
    output
        Folder of all runs, a local path or a URL.
    run_id
        Name of the run: part files go into the folder of this name.
    as_of
        Time as of which features are read.
    options
        What kind of lists.
    fallback
        What users without any features get.
    layout
        Of the part files.
    device
        What partitions are computed on.
    is_degraded
        Whether `options` are less than what was asked for, because of a deadline.
    attempt
        Names the attempt at the run, so that its work can be given up; see :mod:`batchrec.fence`.
    previous
        The run whose lists are carried over where a user's inputs are the same; None to compute every user.
    """

    bundle: Path | str
    feature_repo: Path
    bundle_fingerprint: str
    users: Path | str
    output: str
    run_id: str
    as_of: datetime
    options: Options
    fallback: Literal["popularity", "none"]
    layout: Literal["list", "long"]
    device: Choice
    is_degraded: bool = False
    attempt: str = ""
    previous: Previous | None = None

    @property
    def folder(self) -> Storage:
        """The run folder."""
        return open_storage(self.output).folder(self.run_id)


@dataclass(frozen=True)
class Outcome:
    """What came of one partition.

    Parameters
    ----------
    partition
        Its number.
    part
        Its part file; None where the partition failed and nothing was written.
    users
        Users of the partition.
    by_status
        The same, counted by status.
    seconds
        Wall-clock seconds, by stage.
    failure
        Why it failed; empty where it did not.
    digests
        The file of its users' digests; None where the partition failed.
    carried
        Users whose lists were carried over.
    """

    partition: int
    part: PartRecord | None
    users: int
    by_status: dict[str, int]
    seconds: dict[str, float]
    failure: str = ""
    digests: PartRecord | None = None
    carried: int = 0


def compute_partition(work: Work, number: int) -> Outcome:
    """Compute one partition and write its part file.

    Where the users' features cannot be read, the partition has failed and not the run: nothing is written, and the
    outcome says why.

    Parameters
    ----------
    work
        The run.
    number
        Which partition; also names the part file.

    Raises
    ------
    BatchrecError
        If models, index or items cannot be used, or the part cannot be written.
    """
    about(run_id=work.run_id, partition=number)
    loaded = resources(work.bundle, work.feature_repo, work.as_of, work.device)
    if loaded.bundle.fingerprint != work.bundle_fingerprint:
        raise ArtifactError(
            f"{platform.node()} finds another bundle at {redact(str(work.bundle))} than the run began with",
            "let all machines see the same bundle at this path, and leave it alone during the run",
        )
    line = loaded.line()
    stopwatch = FencedStopwatch(work.attempt)
    rows = read_partition(work.users, number)
    ids = rows[USER_ID].combine_chunks()
    try:
        with stopwatch("read features"):
            features = loaded.features.read(ids)
    except FeatureError as error:
        by_status = count_by_status(np.full(len(ids), Status.FAILED))
        return Outcome(number, None, len(ids), by_status, stopwatch.seconds, error.problem)
    with stopwatch("encode"):
        users, found, digests = loaded.features.encode(ids, features)
    with nullcontext() if work.previous is None else stopwatch("carry over"):
        # A partition for which there is less time is made in one way, so that all its rows have one source.
        previous = None if work.is_degraded else work.previous
        carried = carry_over(previous, ids, digests, loaded.bundle.item_ids, work.options.top_k)

    def compute(rows: Int64 | None) -> Sampled:
        with loaded.device.alone:
            some = users if rows is None else users.take(loaded.device.put(rows))
            return Sampled(*map(loaded.device.fetch, recommend(some, line, work.options, stopwatch)))

    lists = carried.completed(len(ids), compute)
    with stopwatch("write"):
        popular = loaded.popular if work.fallback == "popularity" else loaded.popular[:0]
        if not found.all():
            lists = with_fallback(lists, found, popular, loaded.bundle.popularity)
        status = statuses(lists, found, fallback=len(popular) > 0, degraded=work.is_degraded)
        # Lists made with less than was asked for must not be carried over from here: they leave no digests.
        digested = None if work.is_degraded else write_digests(work.folder, part_name(number), ids, digests)
        record = write_lists(rows, lists, status, sources(status, work.options), loaded, work, number)
    counts = count_by_status(status)
    return Outcome(number, record, len(ids), counts, stopwatch.seconds, "", digested, len(carried.rows))


def with_fallback(
    lists: Sampled, found: Bools, popular: npt.NDArray[np.int64], popularity: npt.NDArray[np.int64] | None
) -> Sampled:
    """Replace the lists of users without any features by the most popular items, scored by their popularity.

    Parameters
    ----------
    lists
        (n, k) lists.
    found
        (n,) bool: whose features there are.
    popular
        Positions of items, most popular first; none for empty lists.
    popularity
        Interactions of each item (N,); None where `popular` is empty for want of them.
    """
    k = lists.positions.shape[1]
    chosen = popular[:k]
    positions = np.full(k, -1, np.int64)
    scores = np.full(k, -np.inf, np.float32)
    if popularity is not None:
        positions[: len(chosen)] = chosen
        scores[: len(chosen)] = popularity[chosen]
    certain = (positions >= 0).astype(np.float32)
    return Sampled(*(np.where(found[:, None], *pair) for pair in zip(lists, (positions, scores, certain), strict=True)))


def statuses(lists: Sampled, found: Bools, *, fallback: bool, degraded: bool = False) -> npt.NDArray[np.str_]:
    """Say of every user (n,) why the list looks as it does; see :class:`~batchrec.schema.Status`."""
    full = (lists.positions >= 0).all(axis=1)
    personal = np.full(len(full), Status.DEGRADED) if degraded else np.where(full, Status.OK, Status.SHORT)
    without = Status.FALLBACK if fallback else Status.UNKNOWN
    return np.where(found, personal, without)


def sources(status: npt.NDArray[np.str_], options: Options) -> npt.NDArray[np.str_]:
    """Say of every user (n,) what ordered the list; see :class:`~batchrec.schema.Source`."""
    personal = Source.RANKER if options.rank_by == "ranker" else Source.RETRIEVAL
    return np.select([status == Status.FALLBACK, status == Status.UNKNOWN], [Source.POPULARITY, Source.NONE], personal)


def write_lists(
    rows: pa.Table,
    lists: Sampled,
    status: npt.NDArray[np.str_],
    source: npt.NDArray[np.str_],
    loaded: Resources,
    work: Work,
    number: int,
) -> PartRecord:
    """Write the part of a partition: n rows of users, their (n, k) lists, and (n,) status and source.

    Raises
    ------
    BusyError
        The attempt was given up; nothing is written.
    SinkError
        It could not be written.
    """
    table = build_table(
        user_ids=rows[USER_ID].combine_chunks(),
        item_ids=loaded.bundle.item_ids,
        positions=lists.positions,
        scores=lists.relevance,
        propensities=lists.propensity if np.isfinite(work.options.temperature) else None,
        status=status,
        source=source,
        layout=work.layout,
        kept=rows.drop_columns(USER_ID) if rows.num_columns > 1 else None,
    )
    folder, name = work.folder, part_name(number)
    with passing(work.attempt):
        if work.layout == "long":  # whose rows do not tell
            write_status(folder, name, status)
        return write_part(table, folder, name)
