"""Every table that batchrec reads or writes: columns, dtypes, keys. One place."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Iterable

USER_ID = "user_id"
"""Raw user id, as users of the data know it. Never an internal position."""

ITEM_ID = "item_id"
"""Raw item id."""

EVENT_TIMESTAMP = "event_timestamp"
"""When a feature value or an interaction became true, UTC."""

EMBEDDING = "embedding"
INTERACTIONS = "interactions"

TIMESTAMP_TYPE = pa.timestamp("us", tz="UTC")


class Status(StrEnum):
    """Why a user's row looks as it does. Every distinct user id has exactly one row with one of these."""

    OK = "ok"
    """A full personal list of k items."""
    SHORT = "short"
    """A personal list, shorter than k because no further eligible unseen item exists."""
    DEGRADED = "degraded"
    """Made with less than was asked for, or without features, because a deadline was near."""
    FALLBACK = "fallback"
    """No features at the as-of time; the list is the most popular unseen items."""
    UNKNOWN = "unknown"
    """No features at the as-of time, and no fallback was asked for; the list is empty."""
    FAILED = "failed"
    """The partition could not be computed; the list is empty."""


class Source(StrEnum):
    """What ordered a user's list."""

    RANKER = "ranker"
    RETRIEVAL = "retrieval"
    POPULARITY = "popularity"
    NONE = "none"


def is_id_type(dtype: pa.DataType) -> bool:
    """Tell whether a column of this type can hold raw ids: any integer or string type."""
    return bool(pa.types.is_integer(dtype) or pa.types.is_string(dtype) or pa.types.is_large_string(dtype))


def id_type(dtype: pa.DataType) -> pa.DataType:
    """Return the one type ids of this kind are carried in: int64 for integers, string for strings."""
    return pa.int64() if pa.types.is_integer(dtype) else pa.string()


def list_of(dtype: pa.DataType) -> pa.DataType:
    """Return the type of a list column as it is read back: Parquet calls the values of a list ``element``."""
    return pa.list_(pa.field("element", dtype))


def interactions_schema(user_type: pa.DataType, item_type: pa.DataType) -> pa.Schema:
    """Interactions: one row an event, sorted by user, then time, then item."""
    return pa.schema(
        [
            pa.field(USER_ID, user_type, nullable=False),
            pa.field(ITEM_ID, item_type, nullable=False),
            pa.field(EVENT_TIMESTAMP, TIMESTAMP_TYPE, nullable=False),
        ]
    )


def list_schema(
    user_type: pa.DataType, item_type: pa.DataType, *, sampled: bool, kept: Iterable[pa.Field] = ()
) -> pa.Schema:
    """Output, layout ``list``: one row a user, sorted by user id inside a part.

    ``propensities`` stands only in sampled runs (a finite temperature). Kept columns of the users file come last.
    """
    fields = [
        pa.field(USER_ID, user_type, nullable=False),
        pa.field("item_ids", list_of(item_type), nullable=False),
        pa.field("scores", list_of(pa.float32()), nullable=False),
    ]
    if sampled:
        fields.append(pa.field("propensities", list_of(pa.float32()), nullable=False))
    fields += [
        pa.field("status", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
    ]
    return pa.schema([*fields, *kept])


def long_schema(
    user_type: pa.DataType, item_type: pa.DataType, *, sampled: bool, kept: Iterable[pa.Field] = ()
) -> pa.Schema:
    """Output, layout ``long``: one row an item of a list, sorted by user id, then rank (from 1).

    Users without a single item have no row here; the manifest still counts them by status. Kept columns of the users
    file come last, repeated on every row of a user.
    """
    fields = [
        pa.field(USER_ID, user_type, nullable=False),
        pa.field("rank", pa.int32(), nullable=False),
        pa.field(ITEM_ID, item_type, nullable=False),
        pa.field("score", pa.float32(), nullable=False),
    ]
    if sampled:
        fields.append(pa.field("propensity", pa.float32(), nullable=False))
    return pa.schema([*fields, *kept])


def output_columns() -> frozenset[str]:
    """Return the names that the columns of either layout have, kept columns apart."""
    schemas = (make(pa.string(), pa.string(), sampled=True) for make in (list_schema, long_schema))
    return frozenset(name for schema in schemas for name in schema.names)
