"""The journal of a run: what it began with, and which parts are finished.

One small file each, written whole or not at all, with the SHA-256 of its content. A damaged entry counts as missing,
so that its part is made again.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from batchrec.errors import ArtifactError
from batchrec.output.record import PartRecord

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchrec.output.storage import Storage

JOURNAL = "_journal"
"""Folder of the journal inside a run folder; gone when the run is published."""

BEGUN = f"{JOURNAL}/begun.json"
"""Name of the file that says what the run began with."""

_FORMAT_VERSION = 2


@dataclass(frozen=True, slots=True)
class Begun:
    """What all parts of a run are computed from.

    Parameters
    ----------
    run_id
        Name of the run.
    began
        When.
    as_of
        The time as of which features are read.
    fingerprints
        Fingerprint of each input (users, bundle, features, config, code), by name.
    options
        The options that decide what stands in the output, so that a difference can be told by name.
    """

    run_id: str
    began: datetime
    as_of: datetime
    fingerprints: Mapping[str, str]
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One finished part.

    Parameters
    ----------
    part
        The part file.
    by_status
        Users of the partition, counted by status.
    seconds
        Wall-clock seconds that the partition spent, by stage.
    level
        The level of effort it was made with; see :mod:`batchrec.levels`.
    digests
        The file of its users' digests; None where it was made with less than was asked for.
    carried
        Users whose lists were carried over from an earlier run.
    """

    part: PartRecord
    by_status: Mapping[str, int]
    seconds: Mapping[str, float]
    level: str = "full"
    digests: PartRecord | None = None
    carried: int = 0


def begin(storage: Storage, begun: Begun) -> None:
    """Write what a run begins with, before its first part.

    Raises
    ------
    SinkError
        It could not be written.
    """
    times = {"began": begun.began.isoformat(), "as_of": begun.as_of.isoformat()}
    _write(storage, BEGUN, asdict(begun) | times)


def read_begun(storage: Storage) -> Begun | None:
    """Return what an unfinished run began with; None where there is no run that began.

    Raises
    ------
    ArtifactError
        It is there, but damaged or of another version.
    """
    try:
        content = _content(storage.read(BEGUN))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise _unusable(storage, str(error)) from error
    try:
        times = {name: datetime.fromisoformat(content[name]) for name in ("began", "as_of")}
        return Begun(**(content | times))
    except (KeyError, TypeError, ValueError) as error:
        raise _unusable(storage, f"{type(error).__name__}: {error}") from error


def append(storage: Storage, entry: JournalEntry) -> None:
    """Record one finished part; call it after the part's file is there.

    Raises
    ------
    SinkError
        It could not be written; the part counts as not finished.
    """
    _write(storage, _entry_name(entry.part.name), asdict(entry))


def read_entries(storage: Storage) -> dict[str, JournalEntry]:
    """Return the finished parts by name, ascending; entries that are damaged are left out."""
    entries = {}
    for name in (name for name in storage.names(JOURNAL) if name.endswith(".json")):
        entry = _entry(storage, name) if name != BEGUN else None
        if entry is not None and name == _entry_name(entry.part.name):
            entries[entry.part.name] = entry
    return entries


def _entry(storage: Storage, name: str) -> JournalEntry | None:
    try:
        content = _content(storage.read(name))
        records = {name: PartRecord(**content[name]) for name in ("part", "digests") if content[name] is not None}
        return JournalEntry(**(content | records))
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        return None


def _entry_name(part: str) -> str:
    return f"{JOURNAL}/{part.removesuffix('.parquet')}.json"


def _write(storage: Storage, name: str, content: dict[str, Any]) -> None:
    text = json.dumps(content, allow_nan=False)
    record = {"format_version": _FORMAT_VERSION, "sha256": hashlib.sha256(text.encode()).hexdigest(), "content": text}
    storage.write(name, json.dumps(record).encode())


def _content(data: bytes) -> dict[str, Any]:
    """Return what a journal file says; ValueError where it is not what was written."""
    try:
        record = json.loads(data)
        version, text, expected = (record[name] for name in ("format_version", "content", "sha256"))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError("it is not a journal file") from error
    if version != _FORMAT_VERSION:
        raise ValueError(f"it has format version {version}, this batchrec reads {_FORMAT_VERSION}")
    if not isinstance(text, str) or hashlib.sha256(text.encode(errors="replace")).hexdigest() != expected:
        raise ValueError("its content is not the one that was summed")
    content: dict[str, Any] = json.loads(text)
    return content


def _unusable(storage: Storage, what: str) -> ArtifactError:
    return ArtifactError(
        f"{storage.shown(BEGUN)} cannot be used ({what})",
        f"remove {storage.shown()} and start the run anew, or choose another --run-id",
    )
