"""Hashes of raw ids: what ties a user's and an item's randomness to their ids and to nothing else."""

from __future__ import annotations

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
