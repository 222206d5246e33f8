"""Arrow types by name, as bundles and error messages write them: ``int64``, ``string``, ``list<int64>``."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from batchrec.errors import FeatureError

_SCALARS = (
    pa.bool_(),
    pa.int32(),
    pa.int64(),
    pa.float32(),
    pa.float64(),
    pa.string(),
    pa.timestamp("us", tz="UTC"),
)
_BY_NAME = {str(dtype): dtype for dtype in _SCALARS} | {f"list<{dtype}>": pa.list_(dtype) for dtype in _SCALARS}


def plain_type(dtype: pa.DataType) -> pa.DataType:
    """Return the type without what carries no meaning: 64-bit offsets, dictionary encoding, names of list items."""
    if pa.types.is_dictionary(dtype):
        return plain_type(dtype.value_type)
    if pa.types.is_large_string(dtype) or pa.types.is_string_view(dtype):
        return pa.string()
    if pa.types.is_list(dtype) or pa.types.is_large_list(dtype) or pa.types.is_fixed_size_list(dtype):
        return pa.list_(plain_type(dtype.value_type))
    return dtype


def type_name(dtype: pa.DataType) -> str:
    """Return the name of a type: ``str(dtype)`` of the plain type, list items without their field name."""
    plain = plain_type(dtype)
    return f"list<{type_name(plain.value_type)}>" if pa.types.is_list(plain) else str(plain)


def parse_type(name: str) -> pa.DataType:
    """Return the Arrow type of a name that :func:`type_name` gave.

    Raises
    ------
    FeatureError
        If features cannot have a type of this name; the message lists the names there are.
    """
    if name not in _BY_NAME:
        raise FeatureError(f"features cannot have type {name!r}", f"use one of {', '.join(_BY_NAME)}")
    return _BY_NAME[name]


def cast_exactly(column: pa.ChunkedArray, dtype: pa.DataType) -> pa.ChunkedArray:
    """Return a column in another type of the same kind, every value as it was.

    Floats become integers where they are whole; NaN becomes null, for that is how pandas writes a gap in a column of
    integers.

    Raises
    ------
    pyarrow.ArrowInvalid
        If the types are not of one kind (no number is read from a string), or a value does not fit.
    """
    if column.null_count < len(column) and _kind(column.type) != _kind(dtype):
        raise pa.ArrowInvalid(f"a {_kind(column.type)} is not a {_kind(dtype)}")
    if pa.types.is_floating(column.type) and pa.types.is_integer(dtype):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    return column.cast(dtype)


def _kind(dtype: pa.DataType) -> str:
    plain = plain_type(dtype)
    if pa.types.is_list(plain):
        return f"list of {_kind(plain.value_type)}"
    if pa.types.is_integer(plain) or pa.types.is_floating(plain) or pa.types.is_decimal(plain):
        return "number"
    if pa.types.is_timestamp(plain) or pa.types.is_date(plain):
        return "time"
    return str(plain)
