"""Rows written into SQLite and Redis as the very bytes that Feast would write, without its detour over every value.

Feast builds a message for each value, asks it for its kind, serialises it, and joins the key of each row piece by
piece. Here every constant part is taken once from Feast's own serialisation, and what differs between rows is put to
it. Stores and settings that are not known here to the last column are left to Feast: :func:`direct_writer` gives None.
"""

from __future__ import annotations

import sqlite3
import struct
from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from batchrec.features.proto import feast_values, lists, value_class

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batchrec.features.refs import JoinKey

    Writer = Callable[[pa.Table, datetime], None]

_PACKED = {"list<float>": ("float_list_val", "<f4"), "list<double>": ("double_list_val", "<f8")}
"""Lists whose bytes in memory are those on the wire: field of Feast's ``Value`` message and dtype."""


def direct_writer(config: Any, store: Any, view: Any, key: JoinKey, features: dict[str, str]) -> Writer | None:
    """Return what writes a table of rows, with an event timestamp, straight into the store; None to leave it to Feast.

    Parameters
    ----------
    config
        Feast's configuration of the repository.
    store
        Feast's online store.
    view
        Feast's view.
    key, features
        The join key, and the Arrow type name of each feature.
    """
    settings, kind = config.online_store, f"{type(store).__module__}.{type(store).__qualname__}"
    if config.registry.enable_online_feature_view_versioning:
        return None
    if kind == "feast.infra.online_stores.redis.RedisOnlineStore" and settings.redis_type != "redis_cluster":
        return _redis_writer(config, store, view, key, features)
    is_plain = not settings.__dict__.get("vector_enabled") and not settings.__dict__.get(
        "enable_openai_compatible_store"
    )
    # Of a scalar, the table also holds the text.
    has_lists_only = all(dtype.startswith("list<") for dtype in features.values())
    if kind == "feast.infra.online_stores.sqlite.SqliteOnlineStore" and is_plain and has_lists_only:
        return _sqlite_writer(config, store, view, key, features)
    return None


def _redis_writer(config: Any, store: Any, view: Any, key: JoinKey, features: dict[str, str]) -> Writer:
    """Write a hash a user. Feast would first read, row by row, whether the store holds a later time."""
    from feast.infra.online_stores.helpers import _mmh3
    from google.protobuf.timestamp_pb2 import Timestamp

    fields = {name: _mmh3(f"{view.name}:{name}") for name in features}
    project, lifetime = config.project.encode(), config.online_store.key_ttl_seconds

    def write(table: pa.Table, at: datetime) -> None:
        time = Timestamp()
        time.FromDatetime(at)
        time_field = f"_ts:{view.name}", time.SerializeToString()
        columns = [serialized_values(table[name], dtype) for name, dtype in features.items()]
        named = [[(fields[name], one) for one in column] for name, column in zip(features, columns, strict=True)]
        keys = serialized_keys(table[key.name], key, config.entity_key_serialization_version)
        with store._get_client(config.online_store).pipeline(transaction=False) as pipe:  # noqa: SLF001
            for entity, *values in zip(keys, *named, strict=True):
                name = entity + project
                pipe.execute_command("HSET", name, *time_field, *chain.from_iterable(values))
                if lifetime:
                    pipe.expire(name, lifetime)
            pipe.execute()

    return write


def _sqlite_writer(config: Any, store: Any, view: Any, key: JoinKey, features: dict[str, str]) -> Writer:
    """Write a row a user and feature, all in one transaction."""
    from feast.infra.online_stores.helpers import compute_table_id

    table_name = compute_table_id(config.project, view).replace('"', '""')
    statement = (
        f'INSERT INTO "{table_name}" (entity_key, feature_name, value, event_ts) VALUES (?, ?, ?, ?) '  # noqa: S608
        "ON CONFLICT(entity_key, feature_name) DO UPDATE SET "
        "value = excluded.value, value_text = NULL, event_ts = excluded.event_ts, created_ts = NULL"
    )

    def write(table: pa.Table, at: datetime) -> None:
        # By the adapter that Feast registers, whatever that makes of a time.
        time = sqlite3.adapt(at.astimezone(UTC).replace(tzinfo=None), sqlite3.PrepareProtocol)
        keys = serialized_keys(table[key.name], key, config.entity_key_serialization_version)
        columns = [serialized_values(table[name], dtype) for name, dtype in features.items()]
        rows = [
            (entity, name, value, time)
            for entity, *values in zip(keys, *columns, strict=True)
            for name, value in zip(features, values, strict=True)
        ]
        with store._get_conn(config) as connection:  # noqa: SLF001 - the connection that Feast itself writes by
            connection.executemany(statement, rows)

    return write


def serialized_keys(ids: pa.ChunkedArray, key: JoinKey, version: int) -> list[bytes]:
    """Return ``(n,)`` serialised entity keys, as Feast's ``serialize_entity_key`` gives them."""
    from feast.infra.key_encoding_utils import serialize_entity_key
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey

    def whole(value: Any) -> bytes:
        made: bytes = serialize_entity_key(EntityKey(join_keys=[key.name], entity_values=[value]), version)
        return made

    if key.dtype != "int64":
        return [whole(value) for value in feast_values(ids, key.dtype)]
    (one,) = feast_values(pa.chunked_array([[1]], pa.int64()), key.dtype)
    start = whole(one).removesuffix(struct.pack("<q", 1))
    data = ids.to_numpy().astype("<i8").tobytes()
    return [start + data[place : place + 8] for place in range(0, len(data), 8)]


def serialized_values(column: pa.ChunkedArray, dtype: str) -> Iterator[bytes]:
    """Yield ``(n,)`` serialised values, as Feast's ``Value`` messages give them."""
    if dtype not in _PACKED or column.null_count:
        return (value.SerializeToString() for value in feast_values(column, dtype))
    return (one for chunk in column.chunks for one in _packed(chunk, *_PACKED[dtype]))


def _packed(array: pa.ListArray, field: str, dtype: str) -> Iterator[bytes]:
    """Yield the messages of lists of floats: a head that depends on the length alone, then the numbers' own bytes."""
    value = value_class()
    if array.values.null_count:
        yield from (value(**{field: {"val": one}}).SerializeToString() for one in lists(array))
        return
    data, size = array.values.to_numpy().astype(dtype).tobytes(), np.dtype(dtype).itemsize
    ends = array.offsets.to_numpy().astype(np.int64) * size
    heads: dict[int, bytes] = {}
    for begin, length in zip(ends[:-1].tolist(), np.diff(ends).tolist(), strict=True):
        if length not in heads:
            whole = value(**{field: {"val": [1.0] * (length // size)}}).SerializeToString()
            heads[length] = whole[: len(whole) - length]
        yield heads[length] + data[begin : begin + length]
