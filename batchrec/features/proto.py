"""Columns to the protobuf values of Feast's online stores, without a data frame between.

Feast's own conversion goes through pandas and asks every value for its type; here a column has one type, so a value is
one constructor call.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from batchrec.features.refs import JoinKey

_FIELDS = {
    "bool": "bool_val",
    "int32": "int32_val",
    "int64": "int64_val",
    "float": "float_val",
    "double": "double_val",
    "string": "string_val",
}
"""Field of Feast's ``Value`` message for a scalar, by Arrow type name; that of a list is named likewise."""

PUSHED_TYPES = frozenset(_FIELDS) | {f"list<{name}>" for name in _FIELDS}
"""Arrow type names of the features that can be pushed."""


def online_rows(table: pa.Table, key: JoinKey, features: dict[str, str], at: datetime) -> list[tuple[Any, ...]]:
    """Return the rows of a table as an online store of Feast's takes them.

    Parameters
    ----------
    table
        ``(n,)`` rows: the column of the join key, without nulls, and one for each feature, of its type.
    key
        The join key.
    features
        Arrow type name of each feature, one of :data:`PUSHED_TYPES`.
    at
        Event timestamp of all rows.

    Returns
    -------
    list of tuple
        ``(n,)`` entity key, value by feature, event timestamp, no created timestamp. A null is an empty value.
    """
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey

    names = [key.name]
    keys = (EntityKey(join_keys=names, entity_values=[one]) for one in feast_values(table[key.name], key.dtype))
    columns = [feast_values(table[name], dtype) for name, dtype in features.items()]
    named = (dict(zip(features, row, strict=True)) for row in zip(*columns, strict=True))
    return [(entity, values, at, None) for entity, values in zip(keys, named, strict=True)]


def feast_values(column: pa.ChunkedArray, dtype: str) -> Iterator[Any]:
    """Yield ``(n,)`` messages ``Value`` of a column of a type of :data:`PUSHED_TYPES`."""
    value = value_class()
    scalar = dtype.removeprefix("list<").removesuffix(">")
    field = _FIELDS[scalar]
    if scalar == dtype:
        return (value() if one is None else value(**{field: one}) for one in column.to_pylist())
    field = field.replace("_val", "_list_val")
    make = _list_maker(field)
    return (value() if one is None else make(one) for chunk in column.chunks for one in lists(chunk))


def _list_maker(field: str) -> Callable[[list[Any]], Any]:
    value = value_class()
    if field == "int64_list_val":  # a keyword in the source is faster than one out of a dictionary
        return lambda values: value(int64_list_val={"val": values})
    if field == "float_list_val":
        return lambda values: value(float_list_val={"val": values})
    return lambda values: value(**{field: {"val": values}})


def value_class() -> Any:
    """Return the class of Feast's message for a value."""
    from feast.protos.feast.types.Value_pb2 import Value

    return Value


def lists(array: pa.ListArray) -> Iterator[list[Any] | None]:
    """Yield the lists of a column; its values become Python objects all at once, which Arrow does faster."""
    values = array.values
    flat = values.to_pylist() if values.null_count or not _is_number(values.type) else values.to_numpy().tolist()
    ends = array.offsets.to_numpy().tolist()
    empty = array.is_null().to_pylist() if array.null_count else None
    for row, (begin, end) in enumerate(pairwise(ends)):
        yield None if empty is not None and empty[row] else flat[begin:end]


def _is_number(dtype: pa.DataType) -> bool:
    return bool(pa.types.is_integer(dtype) or pa.types.is_floating(dtype))
