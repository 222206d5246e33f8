"""The journal of a run: which parts are on disk, one line each, in the order they were finished."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

from batchrec.errors import ArtifactError
from batchrec.output.atomic import sink_error, sync_folder, write_all
from batchrec.output.part import PartRecord

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

JOURNAL = "_journal.jsonl"
"""Name of the journal inside a run folder."""

_FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class JournalHeader:
    """What all parts of a journal were computed from.

    Parameters
    ----------
    run_id
        Name of the run.
    fingerprints
        Fingerprint of each input (users, bundle, config, code), by name.
    """

    run_id: str
    fingerprints: Mapping[str, str]


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
    """

    part: PartRecord
    by_status: Mapping[str, int]
    seconds: Mapping[str, float]


class Journal:
    """An append-only file of JSON lines: a header, then one line a finished part. One process writes it.

    A line is on disk when :meth:`append` returns. A process that dies while it writes leaves at most one torn line, the
    last, which :func:`read_journal` passes over: its part counts as not finished.

    Parameters
    ----------
    folder
        The run folder; it holds no journal yet.
    header
        Written as the first line.

    Raises
    ------
    SinkError
        The journal is there already or cannot be written.
    """

    def __init__(self, folder: Path, header: JournalHeader) -> None:
        self._path = folder / JOURNAL
        try:
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o666)
        except OSError as error:
            raise sink_error(self._path, error) from error
        try:
            self._append_line({"format_version": _FORMAT_VERSION, **asdict(header)})
            sync_folder(folder)
        except BaseException:
            self.close()
            raise

    def append(self, entry: JournalEntry) -> None:
        """Record one finished part; call it after the part's file has its final name.

        Raises
        ------
        SinkError
            The line could not be written; the journal ends where it ended before.
        """
        self._append_line({**asdict(entry.part), "by_status": dict(entry.by_status), "seconds": dict(entry.seconds)})

    def close(self) -> None:
        """Close the file; the journal stays."""
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _append_line(self, record: dict[str, Any]) -> None:
        end = os.fstat(self._descriptor).st_size
        try:
            write_all(self._descriptor, json.dumps(record, allow_nan=False).encode() + b"\n")
            os.fsync(self._descriptor)
        except OSError as error:
            os.ftruncate(self._descriptor, end)  # else the next line would join this one's torn beginning
            raise sink_error(self._path, error) from error


def read_journal(folder: Path) -> tuple[JournalHeader, dict[str, JournalEntry]]:
    """Read the journal of a run folder, without a torn last line.

    Returns
    -------
    header : JournalHeader
    entries : dict[str, JournalEntry]
        By part name, in the order the parts were first finished. A part that was written again has its last entry.

    Raises
    ------
    ArtifactError
        There is no journal, its header is torn, or a line before the last is damaged.
    """
    path = folder / JOURNAL
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror})", "start the run anew") from error
    # Only a whole line ends in a newline, so what stands behind the last one is empty or torn.
    records = [_parse(line, number, path) for number, line in enumerate(lines[:-1], start=1)]
    if not records:
        raise ArtifactError(f"{path} has no header line", "remove the run folder and start the run anew")
    try:
        header = _header(records[0], path)
        entries = [_entry(record) for record in records[1:]]
    except (KeyError, TypeError) as error:
        raise _damaged(path, f"a line lacks {error}") from error
    return header, {entry.part.name: entry for entry in entries}


def _parse(line: bytes, number: int, path: Path) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise _damaged(path, f"line {number} is not JSON") from error
    if not isinstance(record, dict):
        raise _damaged(path, f"line {number} is not a JSON object")
    return record


def _header(record: dict[str, Any], path: Path) -> JournalHeader:
    if record["format_version"] != _FORMAT_VERSION:
        raise ArtifactError(
            f"{path} has format version {record['format_version']}, this batchrec reads {_FORMAT_VERSION}",
            "start the run anew under another --run-id",
        )
    return JournalHeader(record["run_id"], record["fingerprints"])


def _entry(record: dict[str, Any]) -> JournalEntry:
    part = PartRecord(record["name"], record["rows"], record["bytes"], record["sha256"])
    return JournalEntry(part, record["by_status"], record["seconds"])


def _damaged(path: Path, what: str) -> ArtifactError:
    return ArtifactError(f"{path} is damaged ({what})", "remove the run folder and start the run anew")
