"""One run: check everything, compute every partition, publish, report."""

from __future__ import annotations

import hashlib
import platform
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import batchrec
from batchrec.engine.cluster import as_they_finish, local_cluster
from batchrec.errors import ConfigError, SchemaError
from batchrec.models.bundle import read_format
from batchrec.output.journal import Journal, JournalEntry, JournalHeader
from batchrec.output.lock import run_lock
from batchrec.output.manifest import Accounting, Manifest, check_accounting
from batchrec.output.publish import RunFolder, published_manifest
from batchrec.pipeline import Options
from batchrec.progress import Progress, say
from batchrec.schema import Status, list_schema, long_schema
from batchrec.stopwatch import Stopwatch
from batchrec.users import UsersSummary, partition_count, prepare_users
from batchrec.worker import Outcome, Resources, Work, compute_partition, release_resources, resources

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from batchrec.config import JobConfig

_VERSIONS_OF = ("dask", "faiss-cpu", "faiss-gpu", "feast", "keras", "numpy", "pyarrow", "tensorflow-cpu", "tensorflow")


@dataclass(frozen=True)
class RunSummary:
    """What a run prints last: where the output is and what became of every user."""

    run_id: str
    path: str
    rows: int
    users: int
    by_status: dict[str, int]
    null_rows: int
    duplicate_rows: int
    parts: int
    seconds: float
    users_per_second: float


def run(config: JobConfig) -> RunSummary:
    """Make a list for every user and publish them as one run.

    Raises
    ------
    BatchrecError
        If anything that the run needs cannot be used, or something fails on the way. Nothing is published then, and
        nothing half-written is left.
    """
    started = datetime.now(UTC)
    stopwatch = Stopwatch()
    config = _settled(config, started)
    with _run_folder(config) as folder:
        with stopwatch("read users"):
            summary, users = prepare_users(
                config.users, config.user_id_column, folder.work, config.users_per_partition, config.keep_columns
            )
        _check_id_type(summary, config)
        with stopwatch("load models"):
            loaded = resources(config.bundle, config.feature_repo, _as_of(config))
        if config.fallback == "popularity" and loaded.bundle.popularity is None:
            say(f"bundle {config.bundle} has no popularity.parquet: users without any features get empty lists")
        fingerprints = {
            "users": summary.fingerprint,
            "bundle": loaded.bundle.fingerprint,
            "config": config.fingerprint(),
            "code": code_fingerprint(),
        }
        with stopwatch("compute"):
            journal = Journal(folder.path, JournalHeader(folder.run_id, fingerprints))
            outcomes = _compute(_work(config, users, folder), summary, journal, folder.work)
        manifest = Manifest(
            run_id=folder.run_id,
            created=datetime.now(UTC),
            as_of=_as_of(config),
            parts=[outcome.part for outcome in outcomes],
            schema=_schema(summary, loaded, config),
            accounting=_accounting(summary, outcomes),
            fingerprints=fingerprints,
            seconds=stopwatch.seconds | _by_stage(outcomes),
            options=config.options(),
            versions=_versions(),
        )
        check_accounting(manifest.accounting, sum(part.rows for part in manifest.parts), config.layout)
        folder.publish(manifest)
    return _summary(folder, manifest, (datetime.now(UTC) - started).total_seconds(), stopwatch.seconds["compute"])


def _settled(config: JobConfig, started: datetime) -> JobConfig:
    """Put in what follows from the clock, so that the manifest and the fingerprint tell what was really asked for."""
    as_of = config.as_of or started.replace(microsecond=0)
    run_id = f"{as_of:%Y%m%dT%H%M%SZ}" if config.run_id is None else config.run_id
    return config.model_copy(update={"as_of": as_of, "run_id": run_id})


def _as_of(config: JobConfig) -> datetime:
    assert config.as_of is not None, "settled before anything else"  # noqa: S101 - narrows the type
    return config.as_of


@contextmanager
def _run_folder(config: JobConfig) -> Iterator[RunFolder]:
    """Make the run's folder; on any failure leave the output as it was found."""
    run_id, output = str(config.run_id), Path(config.output)
    if published_manifest(config.output, run_id) is not None:
        raise ConfigError(
            f"{output / run_id} already holds a published run", "choose another --run-id, or move that run away"
        )
    is_new = not output.exists()
    try:
        with run_lock(config.output, run_id):
            yield from _emptied_on_failure(RunFolder.create(config.output, run_id))
    except BaseException:
        if is_new:
            with suppress(OSError):  # another run has begun here meanwhile
                output.rmdir()
        raise
    finally:
        release_resources()


def _emptied_on_failure(folder: RunFolder) -> Iterator[RunFolder]:
    try:
        yield folder
    except BaseException:
        folder.abandon()
        raise


def _compute(work: Work, summary: UsersSummary, journal: Journal, scratch: Path) -> list[Outcome]:
    """Compute all partitions; outcomes in the order of partitions."""
    numbers = range(partition_count(work.users))
    outcomes: dict[int, Outcome] = {}
    say(
        f"{summary.distinct_users:,} users in {len(numbers):,} partitions, "
        f"features as of {work.as_of:%Y-%m-%d %H:%M:%S} UTC"
    )
    with (
        journal,
        local_cluster(scratch) as client,
        Progress("Recommending", summary.distinct_users, "users") as progress,
    ):
        for outcome in as_they_finish(client, partial(compute_partition, work), numbers):
            journal.append(JournalEntry(outcome.part, outcome.by_status, outcome.seconds))
            outcomes[outcome.partition] = outcome
            progress.advance(outcome.users)
    return [outcomes[number] for number in numbers]


def _work(config: JobConfig, users: Path, folder: RunFolder) -> Work:
    return Work(
        bundle=config.bundle,
        feature_repo=config.feature_repo,
        users=users,
        folder=folder.path,
        as_of=_as_of(config),
        options=Options(config.candidates, config.top_k, config.temperature, config.seed, config.rank_by),
        fallback=config.fallback,
        layout=config.layout,
    )


def _check_id_type(summary: UsersSummary, config: JobConfig) -> None:
    """See that users and bundle go together, before anything slow is loaded."""
    expected = read_format(config.bundle).user_id_type
    if str(summary.id_type) != expected:
        raise SchemaError(
            f"column {config.user_id_column!r} of {config.users} holds {summary.id_type} ids, "
            f"bundle {config.bundle} was trained on {expected} ids",
            "cast the column, or name the bundle that belongs to these users",
        )


def _schema(summary: UsersSummary, loaded: Resources, config: JobConfig) -> pa.Schema:
    make = list_schema if config.layout == "list" else long_schema
    finite = config.temperature != float("inf")
    return make(summary.id_type, loaded.bundle.item_ids.type, sampled=finite, kept=summary.kept)


def _accounting(summary: UsersSummary, outcomes: list[Outcome]) -> Accounting:
    return Accounting(
        input_rows=summary.input_rows,
        null_rows=summary.null_rows,
        duplicate_rows=summary.duplicate_rows,
        distinct_users=summary.distinct_users,
        by_status={str(name): sum(outcome.by_status[str(name)] for outcome in outcomes) for name in Status},
    )


def _by_stage(outcomes: list[Outcome]) -> dict[str, float]:
    """Seconds of every stage, added over partitions; partitions overlap, so this may exceed the wall clock."""
    stages = dict.fromkeys(stage for outcome in outcomes for stage in outcome.seconds)
    return {stage: sum(outcome.seconds.get(stage, 0.0) for outcome in outcomes) for stage in stages}


def _summary(folder: RunFolder, manifest: Manifest, seconds: float, computing: float) -> RunSummary:
    accounting = manifest.accounting
    return RunSummary(
        run_id=manifest.run_id,
        path=str(folder.path),
        rows=sum(part.rows for part in manifest.parts),
        users=accounting.distinct_users,
        by_status={name: count for name, count in accounting.by_status.items() if count},
        null_rows=accounting.null_rows,
        duplicate_rows=accounting.duplicate_rows,
        parts=len(manifest.parts),
        seconds=round(seconds, 2),
        users_per_second=round(accounting.distinct_users / computing, 1),
    )


@lru_cache(maxsize=1)
def code_fingerprint() -> str:
    """SHA-256 over the sources of this package, so that a run can tell which code made it."""
    root = Path(batchrec.__file__).parent
    whole = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        whole.update(f"{path.relative_to(root).as_posix()}\0".encode())
        whole.update(hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()


def _versions() -> dict[str, str]:
    found = {"batchrec": batchrec.__version__, "python": platform.python_version()}
    for name in _VERSIONS_OF:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
