"""What a run does once it is published: figures, a Delta table, a push. Whatever fails here, it stays published."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from batchrec.delivery.delta import check_delta, write_delta
from batchrec.delivery.metrics import write_metrics
from batchrec.delivery.push import PushOptions, push_run
from batchrec.errors import BatchrecError, BusyError, GateError, SinkError
from batchrec.output.manifest import read_manifest
from batchrec.output.storage import open_storage
from batchrec.redact import redact

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchrec.config import JobConfig


def check_before(config: JobConfig) -> None:
    """See before a run that what the options ask for after it can be done.

    Raises
    ------
    ConfigError
        A package that it takes is not installed, or the place of the Delta table holds something else.
    SinkError
        The object store of the Delta table does not answer.
    """
    if config.delta is not None:
        check_delta(config.delta)


def after_run(config: JobConfig, run_id: str, users_per_second: float) -> dict[str, Any]:
    """Do what the options ask for after a run; return what that adds to its summary.

    Parameters
    ----------
    config
        Options of the run.
    run_id, users_per_second
        As its summary says.

    Raises
    ------
    BusyError
        The online store is away, or somebody else pushes, or commits to the Delta table.
    GateError
        The online store gives back something else than was pushed.
    SinkError
        Anything else.
    """
    folder = open_storage(config.output).folder(run_id)
    if config.metrics is not None:
        with _stays_published(run_id, "metrics", "the run needs no repeating"):
            write_metrics(config.metrics, read_manifest(folder), users_per_second)
    added: dict[str, Any] = {}
    if config.delta is not None:
        again = f"the command is `batchrec delta {folder.shown()} {redact(config.delta)}`"
        with _stays_published(run_id, "Delta table", again + (", then `batchrec push`" if config.push else "")):
            added["delta"] = asdict(write_delta(folder.path(), config.delta))
    if config.push:
        with _stays_published(run_id, "push", f"the command is `batchrec push {folder.shown()}`"):
            added["push"] = asdict(push_run(folder.path(), PushOptions(config.feature_repo, config.push_view)))
    return added


@contextmanager
def _stays_published(run_id: str, what: str, hint: str) -> Iterator[None]:
    try:
        yield
    except BatchrecError as error:
        kind = type(error) if isinstance(error, (BusyError, GateError)) else SinkError
        problem = f"run {run_id} is published, but its {what} failed: {error.problem}"
        raise kind(problem, f"{error.remedy} ({hint})") from error
