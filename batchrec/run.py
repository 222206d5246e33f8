"""One run: check everything, make every part, prove them, publish, report."""

from __future__ import annotations

import time
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from batchrec.deadline import Deadline
from batchrec.degraded import degraded, told
from batchrec.delivery.lineage import check_lineage, recorded
from batchrec.engine.cluster import LOCAL
from batchrec.engine.device import CPU, Choice
from batchrec.errors import BusyError, GateError, SchemaError, SinkError
from batchrec.features.feast_import import import_meanwhile
from batchrec.increments.changes import write_changes
from batchrec.increments.previous import open_previous, reusable
from batchrec.log import about
from batchrec.output.journal import Begun, begin, read_begun
from batchrec.output.location import LOCK
from batchrec.output.manifest import Accounting, Manifest, check_accounting
from batchrec.output.publish import RunFolder
from batchrec.output.storage import open_storage
from batchrec.parts import by_stage, by_status, check_failed_share, final_parts, make_parts
from batchrec.pipeline import Options
from batchrec.progress import say
from batchrec.proof_of_run import evidence_of, proof_of, reserve_for
from batchrec.redact import redact_value
from batchrec.remote_bundle import format_at
from batchrec.resources import release_resources, resources
from batchrec.resume import check_unchanged, device_choice, settle
from batchrec.schema import list_schema, long_schema
from batchrec.stopwatch import Stopwatch
from batchrec.suppression import read_suppression
from batchrec.users import prepare_users
from batchrec.versions import code_fingerprint, versions
from batchrec.worker import Work

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    import pyarrow as pa

    from batchrec.config import JobConfig
    from batchrec.features.sources import ViewSource
    from batchrec.increments.previous import Previous
    from batchrec.output.changes import Increment
    from batchrec.output.storage import Held
    from batchrec.parts import FinalPart
    from batchrec.reserve import Reserve
    from batchrec.resources import Resources
    from batchrec.suppression import Suppression
    from batchrec.users import UsersSummary


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
    suppressed_users: int
    parts: int
    verified: bool
    seconds: float
    users_per_second: float
    deadline: dict[str, Any] | None
    since: dict[str, Any] | None = None


@dataclass(frozen=True)
class _Finished:
    """What a run holds when its last part is made."""

    users: UsersSummary
    parts: list[FinalPart]
    suppression: Suppression | None
    fingerprints: dict[str, str]
    reserve: Reserve | None
    list_inputs: dict[str, Any]
    increment: Increment | None
    new_users: int


def run(config: JobConfig) -> RunSummary:
    """Make a list for every user and publish them as one run.

    Raises
    ------
    BatchrecError
        If anything that the run needs cannot be used, or something fails on the way. Nothing is published then; parts
        that are finished stay, and a run with ``resume``, or of the same run id, goes on from there.
    """
    now, started = datetime.now(UTC), time.monotonic()
    stopwatch = Stopwatch()
    deadline = Deadline.of(config, now, started)
    check_lineage(config.lineage)
    output = open_storage(config.output)
    with _released(), output.lock(LOCK, f"to {output.shown()}") as held:
        config = settle(config, output, now)
        about(run_id=config.run_id)
        folder = RunFolder.open(output, str(config.run_id))
        with _resumable(folder), recorded(config, folder) as lineage:
            finished = _finish(config, folder, now, stopwatch, deadline)
            manifest = _publish(config, folder, finished, held, stopwatch)
            lineage.complete(manifest, lambda: _sources(config))
    ended = time.monotonic()
    kept = None if manifest.deadline is None else told(deadline, manifest.deadline, ended)
    return _summary(folder, manifest, ended - started, finished.new_users / stopwatch.seconds["compute"], kept)


def _finish(
    config: JobConfig, folder: RunFolder, now: datetime, stopwatch: Stopwatch, deadline: Deadline | None
) -> _Finished:
    """Make every part of the run that is not there yet, as it is to be published."""
    previous = None if config.since is None else open_previous(config.since, folder.output)
    with folder.scratch() as scratch:
        import_meanwhile()
        with stopwatch("read users"):
            users, path = prepare_users(
                config.users,
                config.user_id_column,
                scratch,
                config.users_per_partition,
                config.keep_columns,
                config.memory_limit,
            )
        check_id_type(users, config)
        with stopwatch("load models"):
            loaded = _loaded(config)
        # Once now, so that a mistyped list does not cost the night, and once more when all lists are made.
        read_suppression(config.suppress, users.id_type, loaded.bundle.item_ids.type)
        if config.fallback == "popularity" and loaded.bundle.popularity is None:
            without = f"bundle {config.bundle} has no popularity.parquet: users without any features get empty lists"
            say(without, level="warning")
        fingerprints = _fingerprints(users, loaded, config)
        _begin(config, folder, fingerprints, now)
        list_inputs = _list_inputs(loaded, config)
        work = work_of(config, path, loaded.bundle.fingerprint, reusable(previous, list_inputs))
        reserve = None
        if deadline is not None:
            schema = schema_of(users, loaded, config)
            reserve = reserve_for(deadline, config, folder.storage, schema, loaded, users.distinct_users)
        with stopwatch("compute"):
            made = make_parts(work, users.distinct_users, scratch, config.cluster, config.memory_limit, reserve)
        check_failed_share(made, users.distinct_users, config.max_failed_share)
        with stopwatch("suppress"):
            suppression = read_suppression(config.suppress, users.id_type, loaded.bundle.item_ids.type)
            parts = final_parts(replace(work, device=own_device(config)), made, suppression)
        increment = None
        if previous is not None:
            with stopwatch("changes"):
                carried = sum(part.carried for part in parts)
                records = [part.record for part in parts]
                increment = write_changes(folder.storage, records, previous, carried, users.distinct_users - carried)
        written = {record.name for part in parts for record in (part.record, part.digests) if record is not None}
        folder.keep_parts(written | {record.name for record in (increment.records if increment else ())})
    return _Finished(users, parts, suppression, fingerprints, reserve, list_inputs, increment, made.new_users)


def _publish(config: JobConfig, folder: RunFolder, finished: _Finished, held: Held, stopwatch: Stopwatch) -> Manifest:
    """Check that the numbers add up, prove the parts, and move readers to them."""
    loaded = _loaded(config)
    users, parts = finished.users, finished.parts
    accounting = Accounting(
        input_rows=users.input_rows,
        null_rows=users.null_rows,
        duplicate_rows=users.duplicate_rows,
        distinct_users=users.distinct_users,
        by_status=by_status(parts),
        suppressed_users=sum(part.suppressed_users for part in parts),
    )
    check_accounting(accounting, sum(part.record.rows for part in parts), config.layout)

    def manifest(verification: dict[str, Any] | None) -> Manifest:
        return Manifest(
            run_id=folder.run_id,
            created=datetime.now(UTC),
            as_of=_as_of(config),
            parts=[part.record for part in parts],
            schema=schema_of(users, loaded, config),
            accounting=accounting,
            fingerprints=finished.fingerprints,
            seconds=stopwatch.seconds | by_stage(parts),
            options=config.options(),
            versions=versions(),
            suppression=_suppressed(finished),
            verification=verification,
            deadline=degraded(parts, None if finished.reserve is None else finished.reserve.deadline),
            digests={"inputs": finished.list_inputs, "parts": [asdict(part.digests) for part in parts if part.digests]},
            increment=finished.increment,
        )

    proof = None
    if config.verify:
        with stopwatch("verify"):
            ask_until = None if finished.reserve is None else finished.reserve.ask_until
            evidence = evidence_of(loaded, config, finished.suppression, ask_until)
            proof = proof_of(folder.storage, manifest(None), evidence)
    held.check()
    published = manifest(proof)
    folder.publish(published)
    return published


def _begin(config: JobConfig, folder: RunFolder, fingerprints: dict[str, str], now: datetime) -> None:
    """Write what the run begins with; where it has begun before, see that nothing has changed since."""
    options = redact_value(config.row_options())
    begun = read_begun(folder.storage)
    if begun is None:
        folder.clear()
        begin(folder.storage, Begun(folder.run_id, now, _as_of(config), fingerprints, options))
    else:
        check_unchanged(begun, fingerprints, options, folder.shown)
    folder.tidy()


def _fingerprints(users: UsersSummary, loaded: Resources, config: JobConfig) -> dict[str, str]:
    return {
        "users": users.fingerprint,
        "user_ids": users.ids_fingerprint,
        "bundle": loaded.bundle.fingerprint,
        "features": loaded.store.source_fingerprint(loaded.refs),
        "config": config.fingerprint(),
        "code": code_fingerprint(),
    }


def _sources(config: JobConfig) -> Iterable[ViewSource]:
    loaded = _loaded(config)
    return loaded.store.sources(loaded.refs)


def _list_inputs(loaded: Resources, config: JobConfig) -> dict[str, Any]:
    """Return what all lists are computed from, beside what is each user's own."""
    return {
        "bundle": loaded.bundle.fingerprint,
        "items": loaded.items_fingerprint,
        "options": config.list_options(),
        "code": code_fingerprint(),
    }


def _suppressed(finished: _Finished) -> dict[str, Any] | None:
    if finished.suppression is None:
        return None
    return {
        "fingerprint": finished.suppression.fingerprint,
        "items": len(finished.suppression.items),
        "users": len(finished.suppression.users),
        "items_taken_out": sum(part.suppressed_items for part in finished.parts),
        "users_left_out": sum(part.suppressed_users for part in finished.parts),
    }


def load(config: JobConfig, as_of: datetime) -> Resources:
    """Load what this process needs of a run: the models only where it computes partitions itself.

    Raises
    ------
    BatchrecError
        Something of it cannot be used.
    """
    loaded = resources(config.bundle, config.feature_repo, as_of, own_device(config))
    if config.cluster == LOCAL:
        loaded.line()
    return loaded


def _loaded(config: JobConfig) -> Resources:
    return load(config, _as_of(config))


def own_device(config: JobConfig) -> Choice:
    """Return the device of this process: that of the run where it computes partitions itself."""
    return device_choice(config) if config.cluster == LOCAL else Choice(CPU)


def _as_of(config: JobConfig) -> datetime:
    assert config.as_of is not None, "settled before anything else"  # noqa: S101 - narrows the type
    return config.as_of


@contextmanager
def _released() -> Iterator[None]:
    try:
        yield
    finally:
        release_resources()


@contextmanager
def _resumable(folder: RunFolder) -> Iterator[None]:
    """On any failure leave what can be gone on with, and nothing else."""
    try:
        yield
    except (GateError, BusyError, SinkError):
        raise  # what stopped the run may pass, and then it is asked to go on
    except Exception:
        with suppress(SinkError):  # a store that is away is told of already
            folder.abandon()
        raise


def work_of(config: JobConfig, users: Path, bundle_fingerprint: str, previous: Previous | None = None) -> Work:
    """Return what workers must know of a run whose options are settled and whose users are prepared."""
    return Work(
        bundle=config.bundle,
        feature_repo=config.feature_repo,
        bundle_fingerprint=bundle_fingerprint,
        users=users,
        output=config.output,
        run_id=str(config.run_id),
        as_of=_as_of(config),
        options=Options(config.candidates, config.top_k, config.temperature, config.seed, config.rank_by),
        fallback=config.fallback,
        layout=config.layout,
        previous=previous,
        device=device_choice(config),
    )


def check_id_type(summary: UsersSummary, config: JobConfig) -> None:
    """See that users and bundle go together, before anything slow is loaded."""
    expected = format_at(config.bundle).user_id_type
    if str(summary.id_type) != expected:
        raise SchemaError(
            f"column {config.user_id_column!r} of {config.users} holds {summary.id_type} ids, "
            f"bundle {config.bundle} was trained on {expected} ids",
            "cast the column, or name the bundle that belongs to these users",
        )


def schema_of(summary: UsersSummary, loaded: Resources, config: JobConfig) -> pa.Schema:
    """Return the schema of every part of a run."""
    make = list_schema if config.layout == "list" else long_schema
    finite = config.temperature != float("inf")
    return make(summary.id_type, loaded.bundle.item_ids.type, sampled=finite, kept=summary.kept)


def _summary(
    folder: RunFolder, manifest: Manifest, seconds: float, users_per_second: float, deadline: dict[str, Any] | None
) -> RunSummary:
    accounting = manifest.accounting
    return RunSummary(
        run_id=manifest.run_id,
        path=folder.shown,
        rows=sum(part.rows for part in manifest.parts),
        users=accounting.distinct_users,
        by_status={name: count for name, count in accounting.by_status.items() if count},
        null_rows=accounting.null_rows,
        duplicate_rows=accounting.duplicate_rows,
        suppressed_users=accounting.suppressed_users,
        parts=len(manifest.parts),
        verified=manifest.verification is not None,
        seconds=round(seconds, 2),
        users_per_second=round(users_per_second, 1),
        deadline=deadline,
        since=None if manifest.increment is None else manifest.increment.figures(),
    )
