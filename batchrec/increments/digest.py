"""What a list is computed from, in 128 bits a user; and what all lists share, in one sum."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from batchrec.pipeline import Users

    Column = npt.NDArray[np.generic]

BYTES = 16
"""Of a digest: among 10**9 users the chance that any changed one keeps its digest is below 10**-29."""


def user_digests(users: Users, found: npt.NDArray[np.bool_]) -> pa.Array:
    """Digest all that a user's list is computed from and no other user shares.

    XXH3 (128 bits) of a user's bytes: whether there are features, the values of all model inputs in the bundle's order,
    then the positions of the items seen. All users have the same inputs, so no two sequences of values give the same
    bytes.

    Parameters
    ----------
    users
        n users, in memory of this process.
    found
        (n,) bool: whose features there are.

    Returns
    -------
    pa.Array
        (n,) of 16 bytes each.
    """
    rows, seen = len(found), users.seen
    columns = [found, *users.query_inputs.values(), *users.ranker_inputs.values()]
    table = np.concatenate([_bytes_of(column, rows) for column in columns], axis=1)
    fixed = _binary(table, np.arange(rows + 1) * table.shape[1])
    ragged = _binary(seen.values, seen.offsets * seen.values.itemsize)
    records = pc.binary_join_element_wise(fixed, ragged, pa.scalar(b"", pa.large_binary()))
    _, offsets, values = records.buffers()
    # Cut here: Arrow takes three times as long to make an object of Python of each record.
    ends, whole = np.frombuffer(offsets, np.int64, rows + 1).tolist(), memoryview(values)
    digests = b"".join([xxhash.xxh3_128_digest(whole[begin:end]) for begin, end in pairwise(ends)])
    return pa.Array.from_buffers(pa.binary(BYTES), rows, [None, pa.py_buffer(digests)])


def items_fingerprint(inputs: Mapping[str, Column], eligible: npt.NDArray[np.bool_]) -> str:
    """SHA-256 over the items as all lists see them: their encoded features, and which may be recommended.

    Parameters
    ----------
    inputs
        (N,) each, by name.
    eligible
        (N,) bool.
    """
    whole = hashlib.sha256(np.packbits(eligible).tobytes())
    for name in sorted(inputs):
        whole.update(f"{name}\0{inputs[name].dtype}\0".encode())
        whole.update(np.ascontiguousarray(inputs[name]).data)
    return whole.hexdigest()


def _bytes_of(column: Column, rows: int) -> npt.NDArray[np.uint8]:
    """Return the bytes of (n,) values, one row a value."""
    return np.ascontiguousarray(column).view(np.uint8).reshape(rows, column.dtype.itemsize)


def _binary(values: Column, offsets: npt.NDArray[np.int64]) -> pa.Array:
    """Cut the bytes of an array at (n + 1,) offsets."""
    buffers = [None, pa.py_buffer(offsets.astype(np.int64)), pa.py_buffer(np.ascontiguousarray(values))]
    return pa.Array.from_buffers(pa.large_binary(), len(offsets) - 1, buffers)
