"""The part files of a published run, held against its manifest before anyone reads them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchrec.errors import ArtifactError
from batchrec.output.manifest import MANIFEST
from batchrec.output.part import PartRecord

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_REMEDY = "restore the part from a copy of the run, or publish the run again"


def verified_parts(folder: Path, manifest: Mapping[str, Any]) -> list[Path]:
    """Return the part files that the manifest names, each whole; other files of the folder are none of the run's.

    Every byte of the run is read, since a part that is left out or cut down would otherwise pass for a smaller run.

    Parameters
    ----------
    folder
        Folder of a published run.
    manifest
        Its manifest, as :func:`~batchrec.output.manifest.read_manifest` gives it.

    Returns
    -------
    list of Path
        In the order of the manifest, that of the partitions.

    Raises
    ------
    ArtifactError
        A part is missing, cannot be read, or its bytes, SHA-256 or rows are not those of the manifest; or the manifest
        does not say them.
    """
    records = _records(folder, manifest)
    for record in records:
        _verify(folder / record.name, record)
    return [folder / record.name for record in records]


def _records(folder: Path, manifest: Mapping[str, Any]) -> list[PartRecord]:
    try:
        return [PartRecord(**part) for part in manifest["parts"]]
    except (KeyError, TypeError) as error:
        raise ArtifactError(
            f"{folder / MANIFEST} does not name its parts, each with rows, bytes and sha256", "publish the run again"
        ) from error


def _verify(path: Path, record: PartRecord) -> None:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
            _expect(path, "bytes", file.tell(), record.bytes)
        _expect(path, "SHA-256", found, record.sha256)
        _expect(path, "rows", pq.read_metadata(path).num_rows, record.rows)
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} is missing, expected a part of {record.rows} rows", _REMEDY) from error
    except (pa.ArrowInvalid, OSError) as error:
        raise ArtifactError(f"{path} cannot be read ({error})", _REMEDY) from error


def _expect(path: Path, what: str, found: object, expected: object) -> None:
    if found != expected:
        raise ArtifactError(f"{path} is damaged: {what} {found}, expected {expected} by {MANIFEST}", _REMEDY)
