"""Raw columns to numbers: vocabularies, dense scaling, and item ids to positions in the catalogue."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from array_api_compat import array_namespace

from batchrec.arrays import MISSING, Ragged
from batchrec.errors import FeatureError
from batchrec.features.dtypes import plain_type, type_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from batchrec.arrays import Array

Column: TypeAlias = "pa.Array | pa.ChunkedArray"


def fit_vocabulary(column: Column, min_count: int = 1) -> pa.Array:
    """Return the distinct values of a column, sorted ascending.

    Parameters
    ----------
    column
        ``(n,)`` integers, strings or booleans; nulls are left out.
    min_count
        Fewest occurrences of a value that is kept.

    Returns
    -------
    pa.Array
        int64, string or bool. Strings stand in the order of their UTF-8 bytes.
    """
    counts = pc.value_counts(categories(column).drop_null())
    kept = counts.filter(pc.greater_equal(counts.field("counts"), min_count)).field("values")
    return kept.take(pc.sort_indices(kept))


def encode(column: Column, vocabulary: pa.Array) -> NDArray[np.int32]:
    """Return each value's code in a vocabulary.

    Parameters
    ----------
    column
        ``(n,)`` integers, strings or booleans of any width or encoding; they match by value.
    vocabulary
        Distinct values, as :func:`fit_vocabulary` gives them.

    Returns
    -------
    ndarray
        ``(n,)`` int32: 1 + index in the vocabulary; 0 where the value is null or not in the vocabulary.

    Raises
    ------
    FeatureError
        If column and vocabulary are not of one kind.
    """
    return (_index_in(column, vocabulary) + 1).astype(np.int32)


def fit_dense(column: Column) -> tuple[float, float]:
    """Return mean and (population) standard deviation of the finite values of a numeric column.

    Returns
    -------
    tuple of float
        ``(0.0, 1.0)`` where there is no finite value; a standard deviation of 1 where all values are equal.
    """
    values = _numbers(column)
    values = values[np.isfinite(values)]
    if not len(values):
        return 0.0, 1.0
    # Rounding can give equal values a deviation, and values that hardly differ none.
    constant = values.min() == values.max()
    return float(values.mean()), 1.0 if constant else float(values.std()) or 1.0


def standardise(column: Column, mean: float, std: float) -> NDArray[np.float32]:
    """Return ``(value - mean) / std``.

    Returns
    -------
    ndarray
        ``(n,)`` float32; 0, which is the mean, where the value is null, NaN or infinite.
    """
    return np.asarray(scaled(_numbers(column), mean, std))


def scaled(values: Array, mean: float, std: float) -> Array:
    """Return ``(value - mean) / std`` of (n,) float64 as float32, 0 where the value is NaN or infinite; any library."""
    xp = array_namespace(values)
    return xp.astype(xp.where(xp.isfinite(values), (values - mean) / std, 0.0), xp.float32)


def positions_of(ids: Column, item_ids: pa.Array) -> NDArray[np.int64]:
    """Return each id's position in the item catalogue.

    Parameters
    ----------
    ids
        ``(n,)`` raw item ids; nulls are allowed.
    item_ids
        ``(N,)`` the catalogue: raw ids, distinct, sorted ascending.

    Returns
    -------
    ndarray
        ``(n,)`` int64 item positions, -1 where the id is null or not in the catalogue.

    Raises
    ------
    FeatureError
        If one side holds integers and the other strings.
    """
    return _index_in(ids, item_ids)


def ragged(column: Column, item_ids: pa.Array) -> Ragged:
    """Return lists of raw item ids as one ragged array of item positions.

    Parameters
    ----------
    column
        ``(n,)`` lists of raw item ids. A null list is empty.
    item_ids
        ``(N,)`` the catalogue: raw ids, distinct, sorted ascending.

    Returns
    -------
    Ragged
        ``offsets (n+1,)`` and ``values (m,)``, both int64. Order and length of every list are kept: an id that is
        null or not in the catalogue is -1.

    Raises
    ------
    FeatureError
        If the column does not hold lists, or its ids and the catalogue's are not of one kind.
    """
    lists = _decoded(column)
    if pa.types.is_null(lists.type):
        lists = lists.cast(pa.list_(item_ids.type))
    if not pa.types.is_list(plain_type(lists.type)):
        raise FeatureError(
            f"values of type {type_name(lists.type)} are not lists of item ids",
            "store the feature as a list of item ids",
        )
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
    # flatten() leaves out what lies under null lists and outside a slice, so its values line up with the lengths.
    return Ragged(offsets, positions_of(lists.flatten(), item_ids))


def _index_in(column: Column, values: pa.Array) -> NDArray[np.int64]:
    wanted, known = categories(column), categories(values)
    if pa.types.is_null(wanted.type):
        wanted = wanted.cast(known.type)
    if pa.types.is_null(known.type):
        known = known.cast(wanted.type)
    if wanted.type != known.type:
        raise FeatureError(
            f"values of type {type_name(wanted.type)} cannot be looked up among values of type {type_name(known.type)}",
            "give both the same type, as they had when the vocabulary or catalogue was made",
        )
    index = pc.index_in(wanted, value_set=known)
    return np.asarray(pc.fill_null(index, MISSING).to_numpy(zero_copy_only=False), dtype=np.int64)


def categories(column: Column) -> pa.Array:
    """Return a column of integers, strings or booleans as one array of int64, string or bool; null where all is null.

    Raises
    ------
    FeatureError
        If it holds anything else.
    """
    values = _decoded(column)
    dtype = plain_type(values.type)
    if pa.types.is_integer(dtype):
        return _as_int64(values)
    if pa.types.is_string(dtype) or pa.types.is_boolean(dtype) or pa.types.is_null(dtype):
        return values.cast(dtype)
    raise FeatureError(
        f"values of type {type_name(dtype)} are not categories, expected integers, strings or booleans",
        "use the column as a dense feature, or store it as one of these types",
    )


def _as_int64(values: pa.Array) -> pa.Array:
    try:
        return values.cast(pa.int64())
    except pa.ArrowInvalid as error:
        raise FeatureError(
            f"values of type {values.type} reach beyond int64 ({error})", "store such values as strings"
        ) from error


def _numbers(column: Column) -> NDArray[np.float64]:
    """Return the column as float64, NaN where it is null."""
    values = _decoded(column)
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.uint8())
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_null(values.type)):
        raise FeatureError(
            f"values of type {type_name(values.type)} are not numbers, expected integers, floats or booleans",
            "use the column as a categorical feature, or store it as one of these types",
        )
    return np.asarray(values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))


def _decoded(column: Column) -> pa.Array:
    """Return the column as one chunk, without dictionary encoding."""
    values = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values
