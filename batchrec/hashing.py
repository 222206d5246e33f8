"""Hashes of raw ids: what ties randomness to an id and to nothing else, and what names a whole set of ids."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import xxhash

from batchrec.arrays import splitmix64
from batchrec.errors import SchemaError
from batchrec.schema import id_type, is_id_type

if TYPE_CHECKING:
    from numpy.typing import NDArray


def id_hash(ids: pa.Array) -> NDArray[np.uint64]:
    """Hash raw ids to 64 bits, the same on every machine and in every run.

    Integers go through SplitMix64, a bijection: two ids never share a hash. Strings go through XXH64 of their UTF-8
    bytes with seed 0.

    Parameters
    ----------
    ids
        ``(n,)`` integers or strings, no nulls.

    Returns
    -------
    numpy.ndarray
        ``(n,)`` uint64, in the order of `ids`.

    Raises
    ------
    SchemaError
        The ids are neither integers nor strings, or some are null.
    """
    if not is_id_type(ids.type):
        raise SchemaError(
            f"ids are of type {ids.type}, expected integers or strings", "cast the id column to one of these"
        )
    if ids.null_count:
        raise SchemaError(f"{ids.null_count} of {len(ids)} ids are null, expected none", "drop the null ids first")
    carried = ids.cast(id_type(ids.type))
    if pa.types.is_integer(carried.type):
        return np.asarray(splitmix64(carried.to_numpy().view(np.uint64)))
    encoded = carried.cast(pa.binary()).to_pylist()
    return np.fromiter(map(xxhash.xxh64_intdigest, encoded), dtype=np.uint64, count=len(encoded))


class IdFingerprint:
    """SHA-256 over a stream of ids, the same however the stream is cut.

    The digest of: the type's name, then the SHA-256 of the values (int64: 8 bytes each, little endian; string: the
    UTF-8 bytes, nothing between), then, for strings, the SHA-256 of their lengths in bytes (int64 each).

    Parameters
    ----------
    dtype
        int64 or string.
    """

    def __init__(self, dtype: pa.DataType) -> None:
        self._dtype = dtype
        self._values = hashlib.sha256()
        self._lengths = hashlib.sha256()

    def update(self, ids: pa.Array) -> None:
        """Go on with (n,) `ids`, none of them null."""
        if pa.types.is_integer(self._dtype):
            self._values.update(ids.to_numpy().astype("<i8", copy=False))
            return
        _, offset_buffer, bytes_buffer = ids.buffers()
        bounds = pa.Array.from_buffers(pa.int32(), len(ids) + 1, [None, offset_buffer], offset=ids.offset).to_numpy()
        if bytes_buffer is not None:  # pyarrow has no buffer where all strings are empty
            self._values.update(memoryview(bytes_buffer)[bounds[0] : bounds[-1]])
        self._lengths.update((bounds[1:] - bounds[:-1]).astype("<i8"))

    def hexdigest(self) -> str:
        """Return the digest of all ids so far."""
        whole = hashlib.sha256(str(self._dtype).encode() + self._values.digest())
        if not pa.types.is_integer(self._dtype):
            whole.update(self._lengths.digest())
        return whole.hexdigest()
