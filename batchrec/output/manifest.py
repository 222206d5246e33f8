"""The manifest of a run: what it read, what it wrote, and that the numbers add up."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from batchrec.errors import ArtifactError, GateError, SinkError
from batchrec.redact import redact_value

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa

    from batchrec.output.changes import Increment
    from batchrec.output.part import Layout
    from batchrec.output.record import PartRecord
    from batchrec.output.storage import Storage

MANIFEST = "_manifest.json"
"""Name of the manifest inside a run folder."""

_FORMAT_VERSION = 2


@dataclass(frozen=True, slots=True)
class Accounting:
    """Where every row of the users file went.

    Parameters
    ----------
    input_rows
        Rows read.
    null_rows
        Rows without an id.
    duplicate_rows
        Rows whose id had been read before.
    distinct_users
        Ids that are left; each one is owed exactly one outcome.
    by_status
        Users by :class:`~batchrec.schema.Status`.
    suppressed_users
        Users who were left out on request, with neither row nor status.
    """

    input_rows: int
    null_rows: int
    duplicate_rows: int
    distinct_users: int
    by_status: Mapping[str, int]
    suppressed_users: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """All that a reader can know of a run without opening a part.

    Parameters
    ----------
    run_id
        Name of the run.
    created
        When the run was published.
    as_of
        The time as of which features were read.
    parts
        The part files, in the order of their partitions.
    schema
        Schema of every part.
    accounting
        Where every input row went.
    fingerprints
        Of users, bundle, features, config and code, by name.
    seconds
        Wall-clock seconds by stage, in the order of the stages.
    options
        The options of the run, by name.
    versions
        Versions of the libraries that computed it, by name.
    suppression
        Which suppression lists were applied and what they took out; None where none was given.
    verification
        What the check of the finished parts found, see :mod:`batchrec.verify`; None where it was left out.
    deadline
        When the run had to be published, and which parts were made with less than was asked for; None where neither is
        the case.
    digests
        What all lists were computed from, and the files of the digests of users; see :mod:`batchrec.output.digests`.
    increment
        Since which run it was computed and what differs from that; None where it was computed since none.
    """

    run_id: str
    created: datetime
    as_of: datetime
    parts: Sequence[PartRecord]
    schema: pa.Schema
    accounting: Accounting
    fingerprints: Mapping[str, str]
    seconds: Mapping[str, float]
    options: Mapping[str, Any]
    versions: Mapping[str, str]
    suppression: Mapping[str, Any] | None = None
    verification: Mapping[str, Any] | None = None
    deadline: Mapping[str, Any] | None = None
    digests: Mapping[str, Any] | None = None
    increment: Increment | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the manifest as JSON values, keys always in the same order."""
        return {
            "format_version": _FORMAT_VERSION,
            "run_id": self.run_id,
            "created": _utc(self.created),
            "as_of": _utc(self.as_of),
            "rows": sum(part.rows for part in self.parts),
            "parts": [asdict(part) for part in self.parts],
            "schema": {field.name: str(field.type) for field in self.schema},
            "accounting": asdict(self.accounting),
            "fingerprints": _by_name(self.fingerprints),
            "seconds": dict(self.seconds),
            "options": redact_value(_by_name(self.options)),
            "versions": _by_name(self.versions),
            "suppression": None if self.suppression is None else dict(self.suppression),
            "verification": None if self.verification is None else dict(self.verification),
            "deadline": None if self.deadline is None else dict(self.deadline),
            "digests": None if self.digests is None else dict(self.digests),
            "increment": None if self.increment is None else self.increment.as_dict(),
        }


def write_manifest(storage: Storage, manifest: Manifest) -> None:
    """Write the manifest into a run folder, whole or not at all.

    Raises
    ------
    SinkError
        It could not be written.
    """
    text = json.dumps(manifest.as_dict(), indent=2, ensure_ascii=False, allow_nan=False)
    storage.write(MANIFEST, f"{text}\n".encode())


def read_manifest(storage: Storage) -> dict[str, Any]:
    """Read the manifest of a run folder, as :meth:`Manifest.as_dict` gave it.

    Raises
    ------
    ArtifactError
        There is none, it is not JSON, or its format version is another.
    """
    shown = storage.shown(MANIFEST)
    remedy = "give a folder that batchrec published"
    try:
        manifest = json.loads(storage.read(MANIFEST))
    except FileNotFoundError as error:
        raise ArtifactError(f"{shown} cannot be read (there is no such file)", remedy) from error
    except SinkError as error:
        raise ArtifactError(error.problem, remedy) from error
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{shown} is not JSON", remedy) from error
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if version != _FORMAT_VERSION:
        raise ArtifactError(
            f"{shown} has format version {version}, this batchrec reads {_FORMAT_VERSION}",
            "read it with the batchrec that wrote it, or publish the run anew",
        )
    return dict(manifest)


def check_accounting(accounting: Accounting, rows: int, layout: Layout) -> None:
    """Hold a run to its promise: every input row is accounted for, every distinct user has one outcome.

    Parameters
    ----------
    accounting
        Of the whole run.
    rows
        Rows of all parts together.
    layout
        In layout ``list`` a row is a user, so `rows` must equal the users with a status; in layout ``long`` it is an
        item.

    Raises
    ------
    GateError
        The numbers do not add up; the run must not be published.
    """
    a = accounting
    left = a.input_rows - a.null_rows - a.duplicate_rows
    if left != a.distinct_users:
        raise _unbalanced(
            f"{a.input_rows} input rows less {a.null_rows} nulls and {a.duplicate_rows} duplicates are {left} users, "
            f"but {a.distinct_users} distinct users were found"
        )
    outcomes = sum(a.by_status.values())
    if outcomes + a.suppressed_users != a.distinct_users:
        raise _unbalanced(
            f"{a.distinct_users} distinct users came in, but {outcomes} have a status and {a.suppressed_users} were "
            "suppressed"
        )
    if layout == "list" and rows != outcomes:
        raise _unbalanced(f"{outcomes} users have a status, but the parts hold {rows} rows")


def _unbalanced(problem: str) -> GateError:
    return GateError(problem, "keep the log, start the run anew, and report it if it happens again")


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _by_name(mapping: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _json_value(mapping[name]) for name in sorted(mapping)}


def _json_value(value: Any) -> Any:
    """JSON has no infinity, no path and no time: they stand as text."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, (list, tuple)):
        return [_json_value(each) for each in value]
    return str(value)
