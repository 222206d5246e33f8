"""The status of every user of a partition, kept beside the journal where the part's own rows do not tell it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from batchrec.errors import SinkError
from batchrec.output.journal import JOURNAL
from batchrec.schema import Status

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    from batchrec.output.storage import Storage

_WORDS = np.array([str(status) for status in Status])


def write_status(storage: Storage, part: str, status: npt.NDArray[np.str_]) -> None:
    """Write (n,) status of a partition's users, in their order, a byte a user.

    Raises
    ------
    SinkError
        It could not be written.
    """
    codes = (np.asarray(status)[:, None] == _WORDS[None, :]).argmax(axis=1)
    storage.write(_name(part), codes.astype(np.uint8).tobytes())


def read_status(storage: Storage, part: str, users: int) -> npt.NDArray[np.str_]:
    """Read what :func:`write_status` wrote for a partition of so many users.

    Raises
    ------
    SinkError
        It is missing or damaged.
    """
    try:
        codes = np.frombuffer(storage.read(_name(part)), np.uint8)
    except FileNotFoundError:
        codes = np.zeros(0, np.uint8)
    if len(codes) != users or (codes >= len(_WORDS)).any():
        raise SinkError(
            f"{storage.shown(_name(part))} does not hold the status of {users} users",
            f"remove {storage.shown()} and start the run anew",
        )
    return _WORDS[codes]


def _name(part: str) -> str:
    return f"{JOURNAL}/{part.removesuffix('.parquet')}.status"


def status_of(table: pa.Table) -> npt.NDArray[np.str_]:
    """Return the status of the users of a part in layout ``list``, (n,)."""
    return np.array(table["status"].to_pylist(), dtype=np.str_)
