"""The part files of a published run, held against its manifest before anyone reads them."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchrec.errors import ArtifactError, SinkError
from batchrec.output.manifest import MANIFEST
from batchrec.output.record import PartRecord, is_part

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchrec.output.storage import Storage

_REMEDY = "restore the part from a copy of the run, or publish the run again"


def verified_parts(storage: Storage, manifest: Mapping[str, Any]) -> list[str]:
    """Return the part files that the manifest names, each whole; other files of the folder are none of the run's.

    Every byte of the run is read, since a part that is left out or cut down would otherwise pass for a smaller run.

    Parameters
    ----------
    storage
        Folder of a published run.
    manifest
        Its manifest, as :func:`~batchrec.output.manifest.read_manifest` gives it.

    Returns
    -------
    list of str
        Names in the order of the manifest, that of the partitions.

    Raises
    ------
    ArtifactError
        A part is missing, cannot be read, or its bytes, SHA-256 or rows are not those of the manifest; or the manifest
        does not say them.
    """
    records = part_records(storage, manifest)
    for record in records:
        check_part_file(storage, record)
    return [record.name for record in records]


def part_records(storage: Storage, manifest: Mapping[str, Any]) -> list[PartRecord]:
    """Return what a manifest says of its parts.

    Raises
    ------
    ArtifactError
        It does not say it, or a part's name is none.
    """
    try:
        records = [PartRecord(**part) for part in manifest["parts"]]
        are_parts = all(is_part(record.name) for record in records)
    except (KeyError, TypeError) as error:
        raise _nameless(storage) from error
    if not are_parts:
        raise _nameless(storage)
    return records


def check_part_file(storage: Storage, record: PartRecord) -> None:
    """Hold one part file against its record, all of its bytes.

    Raises
    ------
    ArtifactError
        It is missing, cannot be read, or its bytes, SHA-256 or rows are others.
    """
    shown = storage.shown(record.name)
    try:
        with storage.open(record.name) as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
            _expect(shown, "bytes", file.seek(0, os.SEEK_END), record.bytes)
            _expect(shown, "SHA-256", found, record.sha256)
            file.seek(0)
            _expect(shown, "rows", pq.read_metadata(file).num_rows, record.rows)
    except FileNotFoundError as error:
        raise ArtifactError(f"{shown} is missing, expected a part of {record.rows} rows", _REMEDY) from error
    except (pa.ArrowException, OSError, SinkError) as error:
        raise ArtifactError(f"{shown} cannot be read ({error})", _REMEDY) from error


def is_whole(storage: Storage, record: PartRecord) -> bool:
    """Tell whether a part file is there with the bytes of its record."""
    try:
        check_part_file(storage, record)
    except ArtifactError:
        return False
    return True


def _nameless(storage: Storage) -> ArtifactError:
    return ArtifactError(
        f"{storage.shown(MANIFEST)} does not name its parts, each with rows, bytes and sha256", "publish the run again"
    )


def _expect(shown: str, what: str, found: object, expected: object) -> None:
    if found != expected:
        raise ArtifactError(f"{shown} is damaged: {what} {found}, expected {expected} by {MANIFEST}", _REMEDY)
