"""The id columns of the tables that an evaluation reads, checked on the way in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from batchrec.errors import SchemaError
from batchrec.schema import ITEM_ID, id_type, is_id_type

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from batchrec.evaluate.metrics import Positions


@dataclass(frozen=True)
class IdTable:
    """Id columns of a Parquet file, or of a folder of files, read batch by batch."""

    path: Path
    schema: pa.Schema
    """The columns, each int64 or string whatever the width in the file."""
    dataset: ds.Dataset

    @classmethod
    def open(cls, path: Path, columns: Sequence[str]) -> IdTable:
        """Open a table that has these id columns.

        Raises
        ------
        SchemaError
            Where the path is missing or no Parquet, or a column is missing or holds neither integers nor strings.
        """
        if not path.exists():
            raise SchemaError(f"{path} does not exist", "give the path of a Parquet file")
        try:
            dataset = ds.dataset(path, format="parquet")
        except (pa.ArrowInvalid, OSError) as error:
            raise _unreadable(path, error) from error
        return cls(path, pa.schema([(name, _id_type_of(dataset.schema, name, path)) for name in columns]), dataset)

    def require(self, column: str, expected: pa.DataType, reference: str) -> None:
        """Raise :class:`SchemaError` unless the column's ids can be compared with those of ``reference``."""
        require_type(self.schema.field(column).type, expected, f"column {column} of {self.path}", reference)

    def batches(self) -> Iterator[pa.Table]:
        """Yield the rows in file order, rows with nulls included."""
        try:
            for batch in self.dataset.to_batches(columns=self.schema.names):
                yield pa.Table.from_batches([batch]).cast(self.schema)
        except (pa.ArrowInvalid, OSError) as error:
            raise _unreadable(self.path, error) from error


def require_type(found: pa.DataType, expected: pa.DataType, place: str, reference: str) -> None:
    """Raise :class:`SchemaError` unless two columns hold ids of one kind, integers of any width or strings."""
    if not is_id_type(found) or id_type(found) != id_type(expected):
        raise SchemaError(
            f"{place} has type {found}, but {reference} has ids of type {expected}", "write both with ids of one type"
        )


def read_item_ids(path: Path) -> pa.Array:
    """Return the distinct non-null item ids of a table, ascending.

    Raises
    ------
    SchemaError
        Where the table cannot be read or holds no item id.
    """
    table = IdTable.open(path, (ITEM_ID,))
    found = pa.array([], table.schema.field(ITEM_ID).type)
    for batch in table.batches():
        found = pc.unique(pa.concat_arrays([found, batch[ITEM_ID].drop_null().combine_chunks()]))
    if len(found) == 0:
        raise SchemaError(f"{path} holds no item id", "give the table of the items that can be recommended")
    return sorted_ids(found)


def sorted_ids(ids: pa.Array) -> pa.Array:
    """Return ids in ascending order: integers by value, strings by their UTF-8 bytes."""
    return ids.take(pc.sort_indices(ids))


def positions_in(ids: pa.Array, values: pa.ChunkedArray) -> Positions:
    """Return each value's position in ``ids``, ``(len(values),)`` int64; -1 for nulls and for values not among them."""
    found = pc.index_in(values, value_set=ids).fill_null(-1)
    return np.asarray(found.to_numpy(), dtype=np.int64)


def _id_type_of(schema: pa.Schema, column: str, path: Path) -> pa.DataType:
    if column not in schema.names:
        found = ", ".join(schema.names) or "none"
        raise SchemaError(f"{path} has no column {column} (columns found: {found})", f"name the id column {column}")
    dtype = schema.field(column).type
    dtype = dtype.value_type if pa.types.is_dictionary(dtype) else dtype
    if not is_id_type(dtype):
        raise SchemaError(
            f"column {column} of {path} has type {dtype}, expected integers or strings",
            "write ids as integers or strings",
        )
    return id_type(dtype)


def _unreadable(path: Path, error: Exception) -> SchemaError:
    return SchemaError(f"{path} cannot be read as Parquet ids ({error})", "give an undamaged Parquet file of such ids")
