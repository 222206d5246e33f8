"""Entity rows, the question of a point-in-time join: which ids, each as of which time."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pyarrow as pa

from batchrec.errors import FeatureError
from batchrec.features.dtypes import type_name
from batchrec.schema import TIMESTAMP_TYPE, id_type, is_id_type


def checked_ids(ids: pa.Array, join_key: str, dtype: pa.DataType) -> pa.Array:
    """Return ids as one array of the type that ids of this kind are carried in.

    Parameters
    ----------
    ids
        ``(n,)`` raw ids.
    join_key
        Name of the column they will be joined with, for messages.
    dtype
        Type of that column.

    Raises
    ------
    FeatureError
        If an id is null, or the ids are integers and the join key is a string, or the reverse.
    """
    if isinstance(ids, pa.ChunkedArray):
        ids = ids.combine_chunks()
    if ids.null_count:
        raise FeatureError(f"{ids.null_count} of {len(ids)} ids are null, expected none", "leave null ids out")
    if not is_id_type(ids.type) or id_type(ids.type) != id_type(dtype):
        raise FeatureError(
            f"the ids are of type {type_name(ids.type)}, the join key {join_key} is of type {type_name(dtype)}",
            f"give ids of type {id_type(dtype)}, or register the entity with the type of the ids",
        )
    return ids.cast(id_type(dtype))


def timestamps(as_of: datetime | pa.Array, n: int) -> pa.Array:
    """Return one UTC timestamp for each of n ids.

    Parameters
    ----------
    as_of
        One aware time for all ids, or ``(n,)`` timestamps with a time zone; what is finer than a microsecond is
        cut off.
    n
        Number of ids.

    Raises
    ------
    FeatureError
        If a time has no zone or is null, or the lengths differ.
    """
    if isinstance(as_of, datetime):
        _refuse_naive(as_of.tzinfo is not None, as_of)
        return pa.repeat(pa.scalar(as_of, TIMESTAMP_TYPE), n)
    if isinstance(as_of, pa.ChunkedArray):
        as_of = as_of.combine_chunks()
    _refuse_naive(pa.types.is_timestamp(as_of.type) and as_of.type.tz is not None, as_of.type)
    if len(as_of) != n or as_of.null_count:
        raise FeatureError(
            f"{n} ids came with {len(as_of)} as-of times, {as_of.null_count} of them null",
            "give one time for all ids, or one for each",
        )
    return as_of.cast(TIMESTAMP_TYPE, safe=False)


def distinct_pairs(ids: pa.Array, times: pa.Array) -> tuple[pa.Array, pa.Array, pa.Array]:
    """Return each (id, time) pair once.

    Parameters
    ----------
    ids, times
        ``(n,)`` without nulls.

    Returns
    -------
    ids, times : pa.Array
        ``(m,)`` the distinct pairs, in order of first appearance.
    row : pa.Array
        ``(n,)`` index of every input row's pair.
    """
    id_codes = ids.dictionary_encode()
    time_codes = times.dictionary_encode()
    n_times = max(len(time_codes.dictionary), 1)
    pairs = pa.array(id_codes.indices.to_numpy().astype(np.int64) * n_times + time_codes.indices.to_numpy())
    encoded = pairs.dictionary_encode()
    first = encoded.dictionary.to_numpy()
    return (
        id_codes.dictionary.take(pa.array(first // n_times)),
        time_codes.dictionary.take(pa.array(first % n_times)),
        encoded.indices,
    )


def _refuse_naive(aware: bool, found: object) -> None:
    if not aware:
        raise FeatureError(f"the as-of time {found} has no time zone", "give times with a time zone, best UTC")
