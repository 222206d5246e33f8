"""What a run does once it is published: write its figures, push its lists. Whatever fails here, it stays published."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from batchrec.delivery.metrics import write_metrics
from batchrec.delivery.push import push_run
from batchrec.delivery.push_options import PushOptions
from batchrec.errors import BatchrecError, BusyError, GateError, SinkError
from batchrec.output.manifest import read_manifest
from batchrec.output.storage import open_storage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchrec.config import JobConfig


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
        The online store is away, or somebody else pushes.
    GateError
        The online store gives back something else than was pushed.
    SinkError
        Anything else.
    """
    folder = open_storage(config.output).folder(run_id)
    if config.metrics is not None:
        with _stays_published(run_id, "metrics", "the run needs no repeating"):
            write_metrics(config.metrics, read_manifest(folder), users_per_second)
    if not config.push:
        return {}
    with _stays_published(run_id, "push", f"the command is `batchrec push {folder.shown()}`"):
        changes = read_manifest(folder)["increment"] is not None
        options = PushOptions(config.feature_repo, config.push_view, changes=changes)
        return {"push": asdict(push_run(folder.path(), options))}


@contextmanager
def _stays_published(run_id: str, what: str, hint: str) -> Iterator[None]:
    try:
        yield
    except BatchrecError as error:
        kind = type(error) if isinstance(error, (BusyError, GateError)) else SinkError
        problem = f"run {run_id} is published, but its {what} failed: {error.problem}"
        raise kind(problem, f"{error.remedy} ({hint})") from error
