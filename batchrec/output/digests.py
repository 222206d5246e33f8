"""The digest of every user's inputs, beside the parts: by it a later run knows whose list need not be made again.

A digest stands only beside a list that was published as it was computed. Whoever lost items or the whole row to a
suppression list has none, and is computed again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from batchrec.errors import SinkError
from batchrec.output.part import write_part
from batchrec.schema import USER_ID

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from batchrec.output.record import PartRecord
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
