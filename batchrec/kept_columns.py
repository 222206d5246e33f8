"""Columns of the users file that are carried to the output: which types they may have, and how they are sorted.

The run sorts them with DuckDB. So that every value comes back as it went in, whatever DuckDB makes of time zones and
units, dates and times are carried as the integers they are.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc


def kept_type(dtype: pa.DataType) -> pa.DataType | None:
    """Return the type in which a column leaves the run, or None where it cannot be kept.

    Types stay what they are; a dictionary becomes its values, and every kind of string becomes string.
    """
    values = dtype.value_type if pa.types.is_dictionary(dtype) else dtype
    if pa.types.is_string(values) or pa.types.is_large_string(values) or pa.types.is_string_view(values):
        return pa.string()
    return values if _is_scalar(values) else None


def to_sortable(column: pa.Array, dtype: pa.DataType) -> pa.Array:
    """Return (n,) `column` of type `dtype` in a form that DuckDB sorts as its values and gives back unchanged.

    -0.0 becomes 0.0, and all that is not a number becomes one NaN: of values that compare equal there must be one form.
    """
    if _is_time(dtype):
        return column.view(_integers(dtype))
    if pa.types.is_floating(dtype):
        wide = column.cast(pa.float32()) if pa.types.is_float16(dtype) else column
        nan = pa.scalar(float("nan"), wide.type)
        return pc.if_else(pc.is_nan(wide), nan, pc.add(wide, pa.scalar(0.0, wide.type)))
    return column


def from_sortable(column: pa.Array, dtype: pa.DataType) -> pa.Array:
    """Undo :func:`to_sortable`."""
    return column.view(dtype) if _is_time(dtype) else column.cast(dtype)


def to_hashable(column: pa.Array) -> pa.Array:
    """Return a sortable column as int64 or string without nulls; distinct values stay distinct, null becomes a zero."""
    dtype = column.type
    if pa.types.is_string(dtype) or pa.types.is_decimal(dtype):
        return column.cast(pa.string()).fill_null("")
    if pa.types.is_floating(dtype):
        return column.cast(pa.float64()).fill_null(0.0).view(pa.int64())
    if pa.types.is_uint64(dtype):
        return column.fill_null(0).view(pa.int64())
    return column.cast(pa.int64()).fill_null(0)


def _is_scalar(dtype: pa.DataType) -> bool:
    kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_null, pa.types.is_decimal128)
    return _is_time(dtype) or any(is_kind(dtype) for is_kind in kinds)


def _is_time(dtype: pa.DataType) -> bool:
    return bool(pa.types.is_date(dtype) or pa.types.is_timestamp(dtype))


def _integers(dtype: pa.DataType) -> pa.DataType:
    return pa.int32() if pa.types.is_date32(dtype) else pa.int64()
