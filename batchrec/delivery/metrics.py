"""A run's figures as a text file for Prometheus' node exporter (its textfile collector)."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from batchrec.output.atomic import write_atomic
from batchrec.schema import Status

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_PREFIX = "batchrec"


def write_metrics(path: Path, manifest: Mapping[str, Any], users_per_second: float) -> None:
    """Write the figures of a published run, whole or not at all; the file's folder must be there.

    A run that fails writes nothing: that the time of the last success grows old is what there is to be alerted by.

    Parameters
    ----------
    path
        The file; node exporter reads those that end in ``.prom``.
    manifest
        Of the run, as :func:`~batchrec.output.manifest.read_manifest` gives it.
    users_per_second
        While lists were made.

    Raises
    ------
    SinkError
        It could not be written.
    """
    write_atomic(path, "".join(_lines(manifest, users_per_second)).encode())


def _lines(manifest: Mapping[str, Any], users_per_second: float) -> Iterator[str]:
    published = datetime.fromisoformat(manifest["created"]).timestamp()
    as_of = datetime.fromisoformat(manifest["as_of"]).timestamp()
    users = {str(status): manifest["accounting"]["by_status"].get(status, 0) for status in Status}
    suppressed = manifest["accounting"]["suppressed_users"]
    size = sum(part["bytes"] for part in manifest["parts"])
    yield from _gauge("last_success_timestamp_seconds", "When the last run was published.", {"": published})
    yield from _gauge("as_of_timestamp_seconds", "Time as of which it read features.", {"": as_of})
    yield from _gauge("users", "Its users by status.", users, "status")
    yield from _gauge("suppressed_users", "Users left out of it on request.", {"": suppressed})
    yield from _gauge("rows", "Rows of its part files.", {"": manifest["rows"]})
    yield from _gauge("output_bytes", "Size of its part files.", {"": size})
    yield from _gauge("stage_seconds", "Seconds it spent, by stage.", manifest["seconds"], "stage")
    yield from _gauge("users_per_second", "Users a second while lists were made.", {"": users_per_second})


def _gauge(name: str, meaning: str, values: Mapping[str, float], label: str = "") -> Iterator[str]:
    yield f"# HELP {_PREFIX}_{name} {meaning}\n# TYPE {_PREFIX}_{name} gauge\n"
    for which, value in values.items():
        labels = f'{{{label}="{which}"}}' if label else ""
        yield f"{_PREFIX}_{name}{labels} {value}\n"
