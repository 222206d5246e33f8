"""What a run does once it is published: figures, a Delta table, a push. Whatever fails here, it stays published."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchrec.delivery.delta import check_delta, write_delta
from batchrec.delivery.metrics import write_attempt, write_metrics
from batchrec.delivery.push import push_run
from batchrec.delivery.push_options import PushOptions
from batchrec.errors import EXIT_INTERRUPTED, BatchrecError, BusyError, ConfigError, GateError, SinkError
from batchrec.log import say
from batchrec.output.location import CURRENT
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
        A package that it takes is not installed, the place of the Delta table holds something else, or there is no
        folder for the metrics.
    SinkError
        The object store of the Delta table does not answer.
    """
    if config.metrics is not None and not config.metrics.absolute().parent.is_dir():
        raise ConfigError(
            f"--metrics is {config.metrics}, and there is no folder {config.metrics.absolute().parent}",
            "make the folder, or name a file in another",
        )
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
    added = _delivered(config, run_id)
    if config.metrics is not None:
        folder = open_storage(config.output).folder(run_id)
        with _stays_published(run_id, "metrics", "the run needs no repeating"):
            write_metrics(config.metrics, _shown_output(config), read_manifest(folder), users_per_second)
    return added


def after_earlier_run(config: JobConfig) -> None:
    """Deliver a run that was published before, as the options ask for; what is delivered already is left alone.

    So a command that was killed behind the publication is finished by its repetition. A run that is not the current one
    is left alone: newer lists may have been delivered since.

    Raises
    ------
    BusyError, GateError, SinkError
        As :func:`after_run`.
    """
    if config.run_id is not None and config.run_id == open_storage(config.output).pointed(CURRENT):
        _delivered(config, config.run_id)


def _delivered(config: JobConfig, run_id: str) -> dict[str, Any]:
    folder = open_storage(config.output).folder(run_id)
    added: dict[str, Any] = {}
    if config.delta is not None:
        again = f"the command is `batchrec delta {folder.shown()} {redact(config.delta)}`"
        with _stays_published(run_id, "Delta table", again + (", then `batchrec push`" if config.push else "")):
            added["delta"] = asdict(write_delta(folder.path(), config.delta))
    if config.push:
        with _stays_published(run_id, "push", f"the command is `batchrec push {folder.shown()}`"):
            changes = read_manifest(folder)["increment"] is not None
            options = PushOptions(config.feature_repo, config.push_view, changes=changes)
            added["push"] = asdict(push_run(folder.path(), options))
    return added


@contextmanager
def attempt_recorded(config: JobConfig) -> Iterator[None]:
    """Write, if the options ask for figures, how the run inside the block ended and when, whatever happens there.

    Where that cannot be written it is said, and the outcome stays what it is.
    """
    exit_code = 0
    try:
        yield
    except KeyboardInterrupt:
        exit_code = EXIT_INTERRUPTED
        raise
    except BaseException as error:
        exit_code = getattr(error, "exit_code", 1)
        raise
    finally:
        if config.metrics is not None:
            _write_attempt(config, config.metrics, exit_code)


def _write_attempt(config: JobConfig, path: Path, exit_code: int) -> None:
    try:
        write_attempt(path, _shown_output(config), datetime.now(UTC), exit_code)
    except BatchrecError as error:
        say(f"metrics: {error}", level="warning")


def _shown_output(config: JobConfig) -> str:
    output = open_storage(config.output)
    return str(Path(output.path()).absolute()) if output.is_local else output.shown()


@contextmanager
def _stays_published(run_id: str, what: str, hint: str) -> Iterator[None]:
    try:
        yield
    except BatchrecError as error:
        kind = type(error) if isinstance(error, (BusyError, GateError)) else SinkError
        problem = f"run {run_id} is published, but its {what} failed: {error.problem}"
        raise kind(problem, f"{error.remedy} ({hint})") from error
