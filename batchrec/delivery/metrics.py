"""A run's figures as a text file for Prometheus' node exporter (its textfile collector).

Two groups of them: of the last run that was published, and of the last attempt, which leaves the first group as it is
unless it publishes. All carry the output folder, since one exporter may serve several jobs.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from batchrec.errors import SinkError
from batchrec.output.atomic import write_atomic
from batchrec.redact import redact
from batchrec.schema import Status

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_PREFIX = "batchrec"
_ATTEMPT = "last_attempt"


def write_metrics(path: Path, output: str, manifest: Mapping[str, Any], users_per_second: float) -> None:
    """Write the figures of a published run, whole or not at all; the file's folder must be there.

    Parameters
    ----------
    path
        The file; node exporter reads those that end in ``.prom``.
    output
        Folder of all runs.
    manifest
        Of the run, as :func:`~batchrec.output.manifest.read_manifest` gives it.
    users_per_second
        While lists were made.

    Raises
    ------
    SinkError
        It could not be written.
    """
    write_atomic(path, "".join(_of_success(_labels(output), manifest, users_per_second)).encode())


def write_attempt(path: Path, output: str, ended: datetime, exit_code: int) -> None:
    """Write how the last attempt ended, whole or not at all; what stands in the file of the last success stays.

    Parameters
    ----------
    path, output
        As for :func:`write_metrics`.
    ended
        When.
    exit_code
        Of the command: 0 where a run was published and all that was asked for afterwards was done.

    Raises
    ------
    SinkError
        The file could not be read or written.
    """
    text = "".join([*_without_attempt(path), *_of_attempt(_labels(output), ended, exit_code)])
    write_atomic(path, text.encode())


def _without_attempt(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise SinkError(f"{path} cannot be read ({error})", "see that it is a file of metrics, or remove it") from error
    return [line for line in lines if f"{_PREFIX}_{_ATTEMPT}" not in line]


def _of_attempt(labels: dict[str, str], ended: datetime, exit_code: int) -> Iterator[str]:
    at, code = {"": ended.timestamp()}, {"": exit_code}
    yield from _gauge(f"{_ATTEMPT}_timestamp_seconds", "When the last attempt ended.", labels, at)
    yield from _gauge(f"{_ATTEMPT}_exit_code", "Exit code of the last attempt, 0 for success.", labels, code)


def _of_success(labels: dict[str, str], manifest: Mapping[str, Any], users_per_second: float) -> Iterator[str]:
    published = datetime.fromisoformat(manifest["created"]).timestamp()
    as_of = datetime.fromisoformat(manifest["as_of"]).timestamp()
    users = {str(status): manifest["accounting"]["by_status"].get(status, 0) for status in Status}
    suppressed = manifest["accounting"]["suppressed_users"]
    size = sum(part["bytes"] for part in manifest["parts"])
    yield from _gauge("last_success_timestamp_seconds", "When the last run was published.", labels, {"": published})
    yield from _gauge("as_of_timestamp_seconds", "Time as of which it read features.", labels, {"": as_of})
    yield from _gauge("users", "Its users by status.", labels, users, "status")
    yield from _gauge("suppressed_users", "Users left out of it on request.", labels, {"": suppressed})
    yield from _gauge("rows", "Rows of its part files.", labels, {"": manifest["rows"]})
    yield from _gauge("output_bytes", "Size of its part files.", labels, {"": size})
    yield from _gauge("stage_seconds", "Seconds it spent, by stage.", labels, manifest["seconds"], "stage")
    yield from _gauge("users_per_second", "Users a second while lists were made.", labels, {"": users_per_second})


def _gauge(
    name: str, meaning: str, labels: dict[str, str], values: Mapping[str, float], label: str = ""
) -> Iterator[str]:
    yield f"# HELP {_PREFIX}_{name} {meaning}\n# TYPE {_PREFIX}_{name} gauge\n"
    for which, value in values.items():
        named = labels | {label: which} if label else labels
        pairs = ",".join(f'{key}="{_escaped(text)}"' for key, text in named.items())
        yield f"{_PREFIX}_{name}{{{pairs}}} {value}\n"


def _labels(output: str) -> dict[str, str]:
    return {"output": redact(output)}


def _escaped(text: str) -> str:
    """Write a label's value as the exposition format wants it."""
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
