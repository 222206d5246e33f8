"""The layout of a prepared data folder: which files it holds, their columns, and how they are written.

``jobs/demo_data.py`` and ``jobs/movielens.py`` write this layout; training, evaluation and the Feast repositories read
it. A folder of your own data in the same layout works in their place.

========================  ==========================================================================================
``interactions.parquet``  user_id, item_id, event_timestamp: what models learn from, nothing later than the cut-off
``validation.parquet``    the same columns; only where the split protocol has a validation part of its own
``holdout.parquet``       the same columns; what is to be predicted
``users.parquet``         user_id: whom a run recommends to
``items.parquet``         item_id, title and further readable columns, for display
``user_features.parquet`` user key, features, event_timestamp: one row a change
``item_features.parquet`` item key, features, event_timestamp: one row a change
``item_id_seen.parquet``  user key, item_id_seen list (oldest first), event_timestamp: one row a snapshot
``prepared.json``         cut-off, rows of every file, source, seed
``user_recommendations``  (.parquet) no rows: the offline side of the push view
========================  ==========================================================================================

All ids are raw. Interactions are sorted by user, time, item; feature files by entity key, then time. Timestamps are
microseconds, UTC.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Self

import pyarrow as pa
import pyarrow.parquet as pq

from batchrec.errors import SchemaError, SinkError
from batchrec.features.snapshots import seen_snapshots
from batchrec.schema import EVENT_TIMESTAMP, TIMESTAMP_TYPE, interactions_schema

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

    import numpy as np
    import numpy.typing as npt

INTERACTIONS_FILE = "interactions.parquet"
VALIDATION_FILE = "validation.parquet"
HOLDOUT_FILE = "holdout.parquet"
USERS_FILE = "users.parquet"
ITEMS_FILE = "items.parquet"
USER_FEATURES_FILE = "user_features.parquet"
ITEM_FEATURES_FILE = "item_features.parquet"
SEEN_FILE = "item_id_seen.parquet"
RECOMMENDATIONS_FILE = "user_recommendations.parquet"
PREPARED_FILE = "prepared.json"

FILES = (
    INTERACTIONS_FILE, VALIDATION_FILE, HOLDOUT_FILE, USERS_FILE, ITEMS_FILE, USER_FEATURES_FILE, ITEM_FEATURES_FILE,
    SEEN_FILE, RECOMMENDATIONS_FILE, PREPARED_FILE,
)  # fmt: skip

SEEN = "item_id_seen"
"""Column of :data:`SEEN_FILE`: the distinct items of a user so far, in order of their first interaction."""

ROWS_PER_GROUP = 65_536
"""Rows of a row group, the least that a join of a partition's users reads; smaller ones make footers long."""


def seen_schema(key: str, user_type: pa.DataType, item_type: pa.DataType) -> pa.Schema:
    """Seen items: one row a user and snapshot, sorted by user, then time."""
    return pa.schema(
        [
            pa.field(key, user_type, nullable=False),
            pa.field(SEEN, pa.list_(item_type), nullable=False),
            pa.field(EVENT_TIMESTAMP, TIMESTAMP_TYPE, nullable=False),
        ]
    )


def as_timestamps(seconds: npt.NDArray[np.int64]) -> pa.Array:
    """Turn seconds since 1970 into timestamps."""
    return pa.array(seconds * 1_000_000, pa.int64()).cast(TIMESTAMP_TYPE)


def interactions_table(
    user_id: npt.NDArray[np.int64], item_id: npt.NDArray[np.int64], seconds: npt.NDArray[np.int64]
) -> pa.Table:
    """Return events, ``(e,)`` each, as interactions."""
    columns = [pa.array(user_id), pa.array(item_id), as_timestamps(seconds)]
    return pa.Table.from_arrays(columns, schema=interactions_schema(pa.int64(), pa.int64()))


def seen_table(
    key: str, user_id: npt.NDArray[np.int64], item_id: npt.NDArray[np.int64], seconds: npt.NDArray[np.int64],
    stretch: npt.NDArray[np.int64],
) -> pa.Table:  # fmt: skip
    """Return the seen items of :func:`~batchrec.features.snapshots.seen_snapshots`.

    Parameters
    ----------
    key
        Name of the user key.
    user_id, item_id, seconds, stretch
        Events sorted by user, then time; ``(e,)`` each. ``stretch`` numbers the stretch of time an event falls in.
    """
    snapshots = seen_snapshots(user_id, item_id, stretch)
    lists = pa.ListArray.from_arrays(pa.array(snapshots.offsets, pa.int32()), pa.array(snapshots.values))
    columns = [pa.array(user_id[snapshots.event]), lists, as_timestamps(seconds[snapshots.event])]
    return pa.Table.from_arrays(columns, schema=seen_schema(key, pa.int64(), pa.int64()))


class TableWriter:
    """Writes tables of any length to one Parquet file, in row groups of a fixed length.

    The bytes depend on the rows and the schema only, not on how the rows were cut into tables, so that the same seed
    gives the same file. Memory is bounded by one row group and the largest table written.

    Parameters
    ----------
    path
        File to write; its folder exists.
    schema
        Schema of every table written.
    rows_per_group
        Rows of every row group but the last.
    """

    def __init__(self, path: Path, schema: pa.Schema, rows_per_group: int = ROWS_PER_GROUP) -> None:
        self.rows: int = 0
        self._rows_per_group = rows_per_group
        self._waiting = schema.empty_table()
        self._writer = pq.ParquetWriter(path, schema, compression="zstd", store_schema=True)

    def write(self, table: pa.Table) -> None:
        """Append the rows of a table, in order."""
        self.rows += table.num_rows
        waiting = pa.concat_tables([self._waiting, table.cast(self._waiting.schema)])
        whole = waiting.num_rows - waiting.num_rows % self._rows_per_group
        for start in range(0, whole, self._rows_per_group):
            self._write_group(waiting.slice(start, self._rows_per_group))
        self._waiting = waiting.slice(whole)

    def _write_group(self, table: pa.Table) -> None:
        self._writer.write_table(table.combine_chunks(), row_group_size=self._rows_per_group)

    def close(self) -> None:
        """Write what is waiting and finish the file."""
        if self._waiting.num_rows:
            self._write_group(self._waiting)
        self._waiting = self._waiting.slice(0, 0)
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        with suppress(Exception):  # what went wrong first is what counts
            self._writer.close()


def write_table(path: Path, table: pa.Table) -> int:
    """Write a whole table as :class:`TableWriter` would; return its rows."""
    with TableWriter(path, table.schema) as writer:
        writer.write(table)
    return writer.rows


def write_no_recommendations(folder: Path, key: str, user_type: pa.DataType, item_type: pa.DataType) -> dict[str, int]:
    """Write the offline side of the push view, which Feast wants before anything is pushed; return its rows."""
    schema = pa.schema(
        [
            pa.field(key, user_type, nullable=False),
            pa.field("item_ids", pa.list_(item_type)),
            pa.field("scores", pa.list_(pa.float32())),
            pa.field(EVENT_TIMESTAMP, TIMESTAMP_TYPE, nullable=False),
        ]
    )
    return {RECOMMENDATIONS_FILE: write_table(folder / RECOMMENDATIONS_FILE, schema.empty_table())}


def clear(folder: Path) -> None:
    """Make the folder if need be and remove prepared data from it; other files stay.

    Raises
    ------
    SinkError
        The folder cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise SinkError(f"{folder} cannot be written ({error.strerror})", "name another folder for --output") from error


@dataclass(frozen=True)
class Prepared:
    """What ``prepared.json`` says about a prepared data folder.

    Attributes
    ----------
    source
        Where the data come from, in words.
    cutoff
        Nothing in the folder but the validation and the holdout file is later than this. The as-of time of a run that
        is compared with the holdout.
    seed
        Seed of the generator or of the split; None where nothing was drawn.
    rows
        Rows by file name.
    """

    source: str
    cutoff: datetime
    seed: int | None
    rows: Mapping[str, int]


def write_prepared(folder: Path, prepared: Prepared) -> None:
    """Write ``prepared.json``; last of all files, so that it stands for a complete folder."""
    content = asdict(prepared) | {"cutoff": prepared.cutoff.isoformat(), "rows": dict(sorted(prepared.rows.items()))}
    (folder / PREPARED_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_prepared(folder: Path) -> Prepared:
    """Read ``prepared.json``.

    Raises
    ------
    SchemaError
        The file is missing or is not what :func:`write_prepared` writes.
    """
    path = folder / PREPARED_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Prepared(
            source=str(content["source"]),
            cutoff=datetime.fromisoformat(content["cutoff"]),
            seed=None if content["seed"] is None else int(content["seed"]),
            rows={str(name): int(rows) for name, rows in content["rows"].items()},
        )
    except FileNotFoundError:
        raise SchemaError(
            f"{folder} holds no {PREPARED_FILE}", "prepare the data with jobs/demo_data.py or jobs/movielens.py"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SchemaError(f"{path} cannot be read ({error})", "prepare the data again") from error


def describe(folder: Path, prepared: Prepared) -> str:
    """Return the lines that a preparing job ends with: rows of every file, then the cut-off and the folder."""
    lines = [f"{name:28} {rows:>14,} rows" for name, rows in sorted(prepared.rows.items())]
    return "\n".join([*lines, f"cut-off {prepared.cutoff.isoformat()}, in {folder}"])
