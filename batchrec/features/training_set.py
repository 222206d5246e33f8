"""From an interaction log and a feature store to training arrays, every feature as of its interaction's time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batchrec.errors import ConfigError, SchemaError
from batchrec.features.encode import positions_of
from batchrec.features.inputs import encode_inputs, fit_inputs
from batchrec.models.bundle_format import RESERVED_INPUTS
from batchrec.models.events import Events, ItemRows
from batchrec.schema import EVENT_TIMESTAMP, ITEM_ID, TIMESTAMP_TYPE, USER_ID, id_type, is_id_type

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from pathlib import Path

    from batchrec.features.store import FeatureRef, FeatureStore
    from batchrec.models.bundle_format import FeatureInput

MIN_COUNT = 2
"""Rows a value needs to enter a vocabulary; what is rarer trains the code that unknown values will get."""


@dataclass(frozen=True)
class TrainingSet:
    """All that training reads, as arrays, and what it takes to encode the same features again.

    Parameters
    ----------
    events
        First interactions, with user features.
    item_rows
        Distinct versions of item features.
    item_since
        (R,) int64: the earliest time each version was seen to hold, microseconds since 1970.
    catalogue_row
        (N,) int64: each item's version at the training cut-off.
    item_ids
        (N,) raw ids, ascending: the catalogue.
    user_inputs, item_inputs
        How features become model inputs.
    vocabularies
        By input name.
    user_id_type
        Arrow type of raw user ids.
    trained_until
        Time of the last interaction.
    """

    events: Events
    item_rows: ItemRows
    item_since: np.ndarray[tuple[int], np.dtype[np.int64]]
    catalogue_row: np.ndarray[tuple[int], np.dtype[np.int64]]
    item_ids: pa.Array
    user_inputs: list[FeatureInput]
    item_inputs: list[FeatureInput]
    vocabularies: dict[str, pa.Array]
    user_id_type: pa.DataType
    trained_until: datetime


def load_training_set(
    interactions: Path,
    items: Path | None,
    store: FeatureStore,
    user_refs: Sequence[FeatureRef],
    item_refs: Sequence[FeatureRef],
) -> TrainingSet:
    """Read interactions and join the features that were known at each one's time.

    Features are those of the microsecond before an interaction, since features may count the interaction itself.
    Only a user's first interaction with an item stands in the set. The catalogue's own versions of item features are
    those at the time of the last interaction.

    Parameters
    ----------
    interactions
        Parquet file of ``user_id``, ``item_id`` and ``event_timestamp``.
    items
        Parquet file whose ``item_id`` column adds items without interactions to the catalogue; None for none.
    store
        Where features come from.
    user_refs, item_refs
        Which features.

    Raises
    ------
    SchemaError
        If a table cannot be used.
    ConfigError
        If a feature cannot be a model input, or two inputs of a model would share one name.
    FeatureError
        If the store cannot answer.
    """
    _refuse_shared_names(user_refs, item_refs)
    log = read_interactions(interactions)
    item_ids = _catalogue(log[ITEM_ID], items)
    last = pa.scalar(pc.max(log[EVENT_TIMESTAMP]).as_py(), TIMESTAMP_TYPE)
    log = first_interactions(log)
    times = log[EVENT_TIMESTAMP].combine_chunks()
    before = pc.cast(pc.subtract(pc.cast(times, pa.int64()), 1), TIMESTAMP_TYPE)
    user_table = _joined(store, log[USER_ID].combine_chunks(), before, user_refs)
    asked_ids = pa.concat_arrays([log[ITEM_ID].combine_chunks(), item_ids])
    asked_times = pa.concat_arrays([before, pa.repeat(last, len(item_ids))])
    item_table = _joined(store, asked_ids, asked_times, item_refs)
    user_inputs, vocabularies = fit_inputs(user_table, user_refs, MIN_COUNT)
    item_inputs, item_vocabularies = fit_inputs(item_table, item_refs, 1)
    vocabularies |= item_vocabularies
    positions = positions_of(asked_ids, item_ids)
    rows, row, since = distinct_versions(
        positions, pc.cast(asked_times, pa.int64()).to_numpy(), encode_inputs(item_table, item_inputs, vocabularies)
    )
    users = pc.dictionary_encode(log[USER_ID].combine_chunks()).indices.to_numpy().astype(np.int64)
    events = Events(
        user=users,
        time=pc.cast(times, pa.int64()).to_numpy(),
        item=positions[: len(log)],
        item_row=row[: len(log)],
        user_features=encode_inputs(user_table, user_inputs, vocabularies),
    )
    return TrainingSet(
        events=events,
        item_rows=rows,
        item_since=since,
        catalogue_row=row[len(log) :],
        item_ids=item_ids,
        user_inputs=user_inputs,
        item_inputs=item_inputs,
        vocabularies=vocabularies,
        user_id_type=log.schema.field(USER_ID).type,
        trained_until=last.as_py(),
    )


def read_interactions(path: Path) -> pa.Table:
    """Read an interaction log: ids in the one type they are carried in, times in UTC, rows with nulls left out.

    Times without a zone are taken as UTC; what is finer than a microsecond is cut off.

    Raises
    ------
    SchemaError
        If the file is missing or unreadable, lacks a column, a column has another type, or no row is left.
    """
    columns = {USER_ID: is_id_type, ITEM_ID: is_id_type, EVENT_TIMESTAMP: pa.types.is_timestamp}
    table = _read_columns(path, list(columns))
    for name, fits in columns.items():
        if not fits(table.schema.field(name).type):
            wanted = "a timestamp" if name == EVENT_TIMESTAMP else "an integer or a string"
            raise SchemaError(
                f"column {name!r} of {path} is {table.schema.field(name).type}, expected {wanted}", "cast the column"
            )
    table = table.drop_null()
    if not len(table):
        raise SchemaError(f"{path} holds no interaction", "name a log with at least one complete row")
    return pa.table(
        {
            USER_ID: _ids(path, USER_ID, table[USER_ID]),
            ITEM_ID: _ids(path, ITEM_ID, table[ITEM_ID]),
            # Unsafe only in that it cuts off what is finer than a microsecond.
            EVENT_TIMESTAMP: table[EVENT_TIMESTAMP].cast(TIMESTAMP_TYPE, safe=False),
        }
    )


def first_interactions(log: pa.Table) -> pa.Table:
    """Keep each user's first interaction with each item, sorted by user, time, item."""
    first = log.group_by([USER_ID, ITEM_ID]).aggregate([(EVENT_TIMESTAMP, "min")])
    first = first.rename_columns({f"{EVENT_TIMESTAMP}_min": EVENT_TIMESTAMP})
    order = [(USER_ID, "ascending"), (EVENT_TIMESTAMP, "ascending"), (ITEM_ID, "ascending")]
    return first.sort_by(order).select([USER_ID, ITEM_ID, EVENT_TIMESTAMP]).combine_chunks()


def distinct_versions(
    positions: np.ndarray[tuple[int], np.dtype[np.int64]],
    times: np.ndarray[tuple[int], np.dtype[np.int64]],
    features: dict[str, np.ndarray[tuple[int], np.dtype[np.generic]]],
) -> tuple[ItemRows, np.ndarray[tuple[int], np.dtype[np.int64]], np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Find the distinct combinations of item and features among n observations.

    Returns
    -------
    rows
        The R distinct versions.
    row
        (n,) int64: version of each observation.
    since
        (R,) int64: earliest time of each version.
    """
    number = np.unique(positions, return_inverse=True)[1]
    for column in features.values():
        value = np.unique(column, return_inverse=True)[1]
        # Renumbered after every column, so that the product never leaves int64.
        number = np.unique(number * (value.max(initial=0) + 1) + value, return_inverse=True)[1]
    _, example, row = np.unique(number, return_index=True, return_inverse=True)
    since = np.full(len(example), np.iinfo(np.int64).max)
    np.minimum.at(since, row, times)
    rows = ItemRows(positions[example], {name: column[example] for name, column in features.items()})
    return rows, row, since


def _catalogue(interacted: pa.ChunkedArray, items: Path | None) -> pa.Array:
    """All raw item ids, each once, ascending."""
    ids = pc.unique(interacted)
    if items is not None:
        listed = _read_columns(items, [ITEM_ID])[ITEM_ID].drop_null()
        if not is_id_type(listed.type) or id_type(listed.type) != ids.type:
            raise SchemaError(
                f"column {ITEM_ID!r} of {items} is {listed.type}, that of the interactions is {ids.type}",
                "cast one of them",
            )
        ids = pc.unique(pa.concat_arrays([ids, *_ids(items, ITEM_ID, listed).chunks]))
    return ids.take(pc.sort_indices(ids))


def _joined(store: FeatureStore, ids: pa.Array, times: pa.Array, refs: Sequence[FeatureRef]) -> pa.Table:
    """Return a column for each feature; none where the models read no features of this kind."""
    return store.point_in_time(ids, times, refs) if refs else pa.table({})


def _ids(path: Path, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    try:
        return column.cast(id_type(column.type))
    except pa.ArrowInvalid as error:
        raise SchemaError(
            f"column {name!r} of {path} holds ids beyond int64 ({error})", "store such ids as strings"
        ) from error


def _read_columns(path: Path, columns: list[str]) -> pa.Table:
    try:
        file = pq.ParquetFile(path)
        missing = [name for name in columns if name not in file.schema_arrow.names]
        if missing:
            raise SchemaError(
                f"{path} has no column {missing[0]!r}; it has {', '.join(file.schema_arrow.names)}",
                f"rename or add the columns {', '.join(columns)}",
            )
        return file.read(columns)
    except (pa.ArrowException, OSError) as error:
        raise SchemaError(f"{path} cannot be read as Parquet ({error})", "name a Parquet file") from error


def _refuse_shared_names(user_refs: Sequence[FeatureRef], item_refs: Sequence[FeatureRef]) -> None:
    users, items = ({ref.feature for ref in refs} for refs in (user_refs, item_refs))
    if users & items:
        raise ConfigError(
            f"a user view and an item view both have a feature {min(users & items)!r}; it would be one model input",
            "rename one of them in its view",
        )
    taken = (users | items) & RESERVED_INPUTS
    if taken:
        raise ConfigError(
            f"feature {min(taken)!r} has the name of a model input that is no feature",
            "rename it in its view",
        )
