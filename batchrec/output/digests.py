"""The digest of every user's inputs, beside the parts: by it a later run knows whose list need not be made again.

A digest stands only beside a list that was published as it was computed. Whoever lost items or the whole row to a
suppression list has none, and is computed again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchrec.errors import ArtifactError, SinkError
from batchrec.output.manifest import MANIFEST
from batchrec.output.part import write_part
from batchrec.output.record import PartRecord, is_part
from batchrec.schema import USER_ID

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import numpy.typing as npt

    from batchrec.output.storage import Storage

DIGESTS = "_digests"
"""Folder inside a run folder; a file there has the name of its part. Readers of Parquet pass over names with ``_``."""

DIGEST = "digest"
"""Column of the digests, 16 bytes each."""


def digests_name(part: str) -> str:
    """Return the name, inside the run folder, of the digests that belong to a part."""
    return f"{DIGESTS}/{part}"


def write_digests(storage: Storage, part: str, user_ids: pa.Array, digests: pa.Array) -> PartRecord:
    """Write the digests of a partition.

    Parameters
    ----------
    storage
        The run folder.
    part
        Name of the part that they belong to.
    user_ids, digests
        (n,) each; ids ascending.

    Raises
    ------
    SinkError
        They could not be written.
    """
    return write_part(pa.table({USER_ID: user_ids, DIGEST: digests}), storage, digests_name(part))


def keep_digests(storage: Storage, part: str, stays: npt.NDArray[np.bool_]) -> PartRecord:
    """Write the digests of a part anew, only those of (n,) users that stay.

    Raises
    ------
    SinkError
        They could not be read or written.
    """
    name = digests_name(part)
    return write_part(read_digests(storage, part).filter(pa.array(stays)), storage, name)


def read_digests(storage: Storage, part: str) -> pa.Table:
    """Read what :func:`write_digests` wrote.

    Raises
    ------
    SinkError
        It is missing or damaged.
    """
    name = digests_name(part)
    try:
        with storage.open(name) as file:
            return pq.read_table(file)
    except (FileNotFoundError, pa.ArrowException) as error:
        raise SinkError(
            f"{storage.shown(name)} cannot be read ({error})", "run again, which makes what is missing"
        ) from error


def digest_records(storage: Storage, manifest: Mapping[str, Any]) -> list[PartRecord]:
    """Return what a manifest says of its digests; nothing where the run keeps none.

    Raises
    ------
    ArtifactError
        It does not say it, or a file lies elsewhere.
    """
    content = manifest.get("digests")
    if content is None:
        return []
    try:
        records = [PartRecord(**one) for one in content["parts"]]
        are_digests = all(is_part(record.name.removeprefix(f"{DIGESTS}/")) for record in records)
    except (AttributeError, KeyError, TypeError) as error:
        raise _nameless(storage) from error
    if not are_digests:
        raise _nameless(storage)
    return records


def _nameless(storage: Storage) -> ArtifactError:
    return ArtifactError(f"{storage.shown(MANIFEST)} does not name its digests", "publish the run again")
