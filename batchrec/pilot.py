"""A pilot: a few partitions really computed and proven, to measure what a run will need.

Everything is measured at two sizes of partitions and taken to be linear: what a partition costs by itself, and what
each user adds.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pyarrow.parquet as pq

from batchrec.engine.cluster import THREADS, as_they_finish, open_cluster
from batchrec.errors import FeatureError
from batchrec.progress import say
from batchrec.reserve import seconds_of
from batchrec.resources import release_resources
from batchrec.room import resident, watched
from batchrec.users import USERS, partition_sizes
from batchrec.worker import compute_partition

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from distributed import Client

    from batchrec.output.record import PartRecord
    from batchrec.worker import Outcome, Work

SHARE = 0.01
FEWEST_USERS, MOST_USERS = 4096, 20_480
"""Users of the pilot: a hundredth of all, but so many that there is something to measure, and not so many that it is
a run of its own."""

SMALL = 512
"""Users of a small partition: two batches of the query tower, whose last one is padded."""

SMALL_ONES = 4
WARM_UP_ROUNDS = 2


class Linear(NamedTuple):
    """What a partition of n users needs: `own` and n times `a_user`."""

    own: float
    a_user: float

    def of(self, sizes: Sequence[int]) -> float:
        """Add up over partitions of these sizes."""
        return len(sizes) * self.own + sum(sizes) * self.a_user


@dataclass(frozen=True)
class Measured:
    """What a pilot found.

    Parameters
    ----------
    users
        Users of the pilot.
    warm_up
        Seconds until the cluster and the models were in full swing, which every run spends once.
    compute, proof
        Seconds by the wall clock, as partitions overlap.
    bytes, rows
        Of the part files.
    memory
        Bytes that come on top of `resident` while as many partitions are in work as a run has in work.
    resident
        Bytes of all processes when models are loaded and nothing is in work.
    """

    users: int
    warm_up: float
    compute: Linear
    proof: Linear
    bytes: Linear
    rows: Linear
    memory: Linear
    resident: int


class _Block(NamedTuple):
    """What partitions of one size needed, each."""

    users: int
    compute: float
    proof: float
    bytes: float
    rows: float
    memory: float


def pilot(
    work: Work, sizes: Sequence[int], folder: Path, cluster: str, prove_part: Callable[[PartRecord], object] | None
) -> Measured:
    """Compute and prove a few partitions of the users of a run.

    Parameters
    ----------
    work
        The run; its part files go to a scratch folder.
    sizes
        Users of each partition of the run.
    folder
        For the pilot's users and for Dask.
    cluster
        ``local`` or ``processes:N``.
    prove_part
        Proves one part; None where the run is not to be proven.

    Raises
    ------
    FeatureError
        The users' features cannot be read.
    BatchrecError
        Whatever else would end the run.
    """
    groups = _groups(sizes)
    small, users = groups[0][0], min(sum(map(sum, groups)), sum(sizes))
    say(f"pilot: {users:,} of {sum(sizes):,} users")
    with open_cluster(cluster, folder, None, release_resources) as client:
        threads = sum(client.nthreads().values())
        together = min(threads, len(sizes))
        groups = [[small] * threads * WARM_UP_ROUNDS, *groups]
        ends = [0, *accumulate(map(len, groups))]
        warm_ups, *rest = [range(first, end) for first, end in pairwise(ends)]
        function = partial(compute_partition, _cuts(work, folder, [size for group in groups for size in group]))
        warm: list[Outcome] = []
        warm_up = seconds_of(lambda: warm.extend(_computed(client, function, warm_ups, threads)))
        if prove_part is not None:
            prove_part(_record(warm[0]))
        before = resident()
        blocks = [_measured(client, function, numbers, together, prove_part, before) for numbers in rest]
    lines = {name: _line(blocks, name) for name in ("compute", "proof", "bytes", "rows", "memory")}
    # A warm-up computes as well: only what is beyond that is spent once.
    beyond = max(0.0, warm_up - lines["compute"].of(groups[0]))
    return Measured(users=users, warm_up=beyond, resident=before, **lines)


def _groups(sizes: Sequence[int]) -> list[list[int]]:
    """Return the users of small partitions, and those of large ones; of the latter alone where they are as small."""
    users = sum(sizes)
    wanted = min(users, max(FEWEST_USERS, min(MOST_USERS, round(SHARE * users))))
    at_least = min(2, len(sizes))
    large = min(sizes[0], max(wanted // at_least, 1))
    larges = [large] * max(at_least, wanted // large)
    return [[SMALL] * SMALL_ONES, larges] if large > SMALL else [larges]


def _cuts(work: Work, folder: Path, sizes: Sequence[int]) -> Work:
    """Write the pilot's partitions, each a stretch of neighbouring users, spread over all of them."""
    path = folder / f"pilot-{USERS}"
    ends = list(accumulate(partition_sizes(Path(work.users))))
    with pq.ParquetFile(work.users) as file, pq.ParquetWriter(path, file.schema_arrow) as writer:
        for place, size in enumerate(sizes):
            first = (ends[-1] - size) * place // max(len(sizes) - 1, 1)
            partition, last = bisect_right(ends, first), bisect_left(ends, first + size)
            rows = file.read_row_groups(list(range(partition, last + 1)))
            before = ends[partition - 1] if partition else 0
            writer.write_table(rows.slice(first - before, size).combine_chunks(), row_group_size=size)
    return replace(work, users=path)


def _computed(
    client: Client, function: Callable[[int], Outcome], numbers: Sequence[int], together: int
) -> list[Outcome]:
    """Compute partitions, so many at a time."""
    groups = [numbers] if together > 1 else [[number] for number in numbers]
    outcomes = [outcome for group in groups for outcome in as_they_finish(client, function, group)]
    for outcome in outcomes:
        if outcome.part is None:
            raise FeatureError(outcome.failure, "mend the cause: the run would fail as well")
    return outcomes


def _measured(
    client: Client,
    function: Callable[[int], Outcome],
    numbers: Sequence[int],
    together: int,
    prove_part: Callable[[PartRecord], object] | None,
    before: int,
) -> _Block:
    outcomes: list[Outcome] = []
    proof = 0.0
    with watched() as peak:
        compute = seconds_of(lambda: outcomes.extend(_computed(client, function, numbers, together)))
        records = [_record(outcome) for outcome in outcomes]
        if prove_part is not None:
            with ThreadPoolExecutor(min(THREADS, together)) as threads:
                proof = seconds_of(lambda: list(threads.map(prove_part, records)))
    count = len(outcomes)
    return _Block(
        users=outcomes[0].users,
        compute=compute / count,
        proof=proof / count,
        bytes=sum(record.bytes for record in records) / count,
        rows=sum(record.rows for record in records) / count,
        memory=max(0, peak.bytes - before),
    )


def _record(outcome: Outcome) -> PartRecord:
    assert outcome.part is not None, "checked where it was computed"  # noqa: S101 - narrows the type
    return outcome.part


def _line(blocks: Sequence[_Block], name: str) -> Linear:
    """Draw a line through two sizes, or one and zero; neither what is fixed nor what a user adds is negative."""
    small, large = blocks[0], blocks[-1]
    of_small, of_large = getattr(small, name), getattr(large, name)
    if len(blocks) == 1:
        return Linear(0.0, of_large / large.users)
    a_user = (of_large - of_small) / (large.users - small.users)
    a_user = min(max(a_user, 0.0), of_large / large.users)
    return Linear(of_large - large.users * a_user, a_user)
