"""Words that all frame code shares: how frames are made, and the few operations in which pandas and cuDF differ.

All else that frame code uses (``merge``, ``sort_values``, ``drop_duplicates``, ``take``, ``fillna``) both have, with
one meaning. Where they differ, the type of the data decides: :mod:`batchrec.engine.cudf_frames` says so for cuDF.
Values of pandas' frames are Arrow's, so that a null is a null in both.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from batchrec.arrays import Array

Frame = Any
"""A data frame of pandas or cuDF."""

Series = Any
"""A column of one."""


class FilePart(NamedTuple):
    """Some row groups of a Parquet file.

    Attributes
    ----------
    files
        The fsspec file system that it lies on.
    path
        What the file system calls it.
    groups
        Numbers of the row groups.
    is_remote
        Whether it lies elsewhere than on this machine.
    """

    files: Any
    path: str
    groups: list[int]
    is_remote: bool


@dataclass(frozen=True)
class FrameLibrary:
    """How a library makes frames.

    Parameters
    ----------
    from_arrow
        Copies a table.
    read
        Reads columns of Parquet files, all rows of some row groups, in their order. Names and types of the schema are
        those wanted; cuDF gives numbers as wide, and times in the unit, that the files have.
    """

    from_arrow: Callable[[pa.Table], Frame]
    read: Callable[[Sequence[FilePart], pa.Schema], Frame]


def read_with_arrow(parts: Sequence[FilePart], schema: pa.Schema) -> pa.Table:
    """Read columns of some row groups into host memory, times that are finer than the schema's cut off."""
    tables = []
    for part in parts:
        with part.files.open(part.path, "rb") as opened, pq.ParquetFile(opened) as file:
            found = file.read_row_groups(part.groups, columns=schema.names).select(schema.names)
            tables.append(found.cast(schema, safe=False))
    return pa.concat_tables(tables)


def pandas_frames() -> FrameLibrary:
    """Return how pandas makes frames."""
    import pandas as pd

    def from_arrow(table: pa.Table) -> Frame:
        return table.to_pandas(types_mapper=pd.ArrowDtype)

    return FrameLibrary(from_arrow, lambda parts, schema: from_arrow(read_with_arrow(parts, schema)))


@singledispatch
def to_array(series: Series, dtype: str, null: float) -> Array:
    """Return a column as an array (n,) of the library that its values lie in, `null` in place of nulls."""
    return series.to_numpy(dtype=dtype, na_value=null)


@singledispatch
def as_int64(series: Series) -> Series:
    """Return integers, or times in microseconds since 1970, as int64; nulls stay."""
    return series.astype("int64[pyarrow]")


@singledispatch
def values_of_lists(series: Series) -> Series:
    """Return the values of all lists of a column without nulls, one after the other."""
    return series.list.flatten()


def codes_of(values: Series, known: Frame) -> Array:
    """Look values up.

    Parameters
    ----------
    values
        (n,) of the type of `known`; nulls are not found.
    known
        Columns ``value``, distinct without nulls, and ``code``, int64.

    Returns
    -------
    Array
        (n,) int64: the code of each value, 0 where it is not known.
    """
    asked = values.to_frame("value")
    asked["place"] = range(len(asked))
    # cuDF joins in any order.
    found = asked.merge(known, on="value", how="left").sort_values("place")
    return to_array(found["code"], "int64", 0)
