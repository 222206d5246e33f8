"""The point-in-time join as one DuckDB query over Parquet files that are best sorted by key."""

from __future__ import annotations

import atexit
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from batchrec.features.remote_files import duckdb_files, is_remote
from batchrec.models.threads import cores
from batchrec.temporary import temporary_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import timedelta


@dataclass(frozen=True)
class Limits:
    """What one query may take.

    Parameters
    ----------
    memory
        Most memory of DuckDB, as it writes sizes (``1GB``); beyond it, it works on disk.
    threads
        Threads; None for as many as may compute.
    """

    memory: str
    threads: int | None = None


@dataclass(frozen=True)
class ViewRows:
    """The rows of one feature view: where they lie, and what is asked of them.

    Parameters
    ----------
    path
        Parquet file, folder or glob; a path of this machine or a URL that fsspec knows.
    keys
        Column of the entity rows by column of the file.
    time, created
        Columns of the event timestamp and the created timestamp; without zone they are UTC.
    features
        Column of the file by column of the result.
    ttl
        How long a row holds; None or zero for ever.
    endpoint
        Of the S3 API, where it is another than the environment says.
    """

    path: str
    keys: Mapping[str, str]
    time: str
    created: str | None
    features: Mapping[str, str]
    ttl: timedelta | None
    endpoint: str | None = None


def asof_join(entities: pa.Table, time: str, views: Sequence[ViewRows], limits: Limits) -> pa.Table:
    """Join to every entity row, of each view, the latest row of its keys that is not after its time.

    Of rows with the same keys and event timestamp the one created last counts, those without a created timestamp
    last of all; where that leaves several, any. A row that its time to live has ended gives nulls, as does none.

    Parameters
    ----------
    entities
        (n,) rows: keys, the column `time` with time zone, any other columns.
    time
        Column of `entities`: as of when.
    views
        Whose features to join.
    limits
        Of memory and threads.

    Returns
    -------
    pa.Table
        (n,) rows in any order: the columns of `entities`, then those of each view's features.

    Raises
    ------
    duckdb.Error
        If a file cannot be read or lacks a column, or keys are not of one type.
    """
    column = {name: f"e.e{number}" for number, name in enumerate(entities.column_names)}
    features = [
        _unless_ended(view, f"v{number}", f"f{place}", column[time])
        for number, view in enumerate(views)
        for place in range(len(view.features))
    ]
    with _connection(limits) as connection:
        places = [_within_reach(view, connection) for view in views]
        joins = [
            _join(view, place, f"v{number}", column, time, entities)
            for number, (view, place) in enumerate(zip(views, places, strict=True))
        ]
        query = f"SELECT {', '.join([*column.values(), *features])} FROM entities e {' '.join(joins)}"  # noqa: S608
        # Our own short names: DuckDB takes names that differ in case only for the same.
        connection.register("entities", entities.rename_columns([f"e{number}" for number in range(len(column))]))
        joined = connection.sql(query).to_arrow_table()
    return joined.rename_columns([*column, *(name for view in views for name in view.features)])


@contextmanager
def _connection(limits: Limits) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a connection for one query; what is registered with it is forgotten afterwards."""
    with _opening:
        database = _database(limits)
    with database.cursor() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        yield connection


_opening = threading.Lock()


@lru_cache
def _database(limits: Limits) -> duckdb.DuckDBPyConnection:
    """Open the database of the process; opening one takes longer than joining a partition."""
    until_the_end = ExitStack()
    spill = until_the_end.enter_context(temporary_folder("batchrec-join-"))
    config: dict[str, Any] = {
        "memory_limit": limits.memory,
        "temp_directory": str(spill),
        "preserve_insertion_order": False,
        "enable_external_file_cache": False,  # the process outlives the feature files of one night
        "threads": limits.threads or cores(),
    }
    database = duckdb.connect(":memory:", config=config)
    database.execute("SET enable_progress_bar = false")
    until_the_end.callback(database.close)
    atexit.register(until_the_end.close)
    return database


def _within_reach(view: ViewRows, connection: duckdb.DuckDBPyConnection) -> str:
    """Return the path by which DuckDB finds the rows of a view."""
    if not is_remote(view.path):
        return view.path
    files = duckdb_files(view.path.partition("://")[0], view.endpoint)
    files.forget()
    with _opening:
        if not connection.filesystem_is_registered(files.protocol):
            connection.register_filesystem(files)
    return files.name(view.path)


def _join(view: ViewRows, place: str, name: str, column: Mapping[str, str], time: str, entities: pa.Table) -> str:
    keys = [f"{name}.k{number} = {column[asked]}" for number, asked in enumerate(view.keys.values())]
    conditions = [*keys, f"{name}.t <= {column[time]}"]
    return f"ASOF LEFT JOIN ({_rows(view, place, entities)}) {name} ON {' AND '.join(conditions)}"


def _rows(view: ViewRows, place: str, entities: pa.Table) -> str:
    """Return a query for the rows of a view whose keys lie in the range of those asked for, each moment once."""
    keys = [f"{_quoted(key)} AS k{number}" for number, key in enumerate(view.keys)]
    features = [f"{_quoted(feature)} AS f{number}" for number, feature in enumerate(view.features.values())]
    time = f"CAST({_quoted(view.time)} AS TIMESTAMPTZ)"
    query = f"SELECT {', '.join([*keys, f'{time} AS t', *features])} FROM read_parquet({_literal(place)})"  # noqa: S608
    ranges = [_range(key, entities[asked]) for key, asked in view.keys.items()]
    if any(ranges):
        query += f" WHERE {' AND '.join(filter(None, ranges))}"
    if view.created is not None:
        moment = ", ".join([*map(_quoted, view.keys), time])
        created = f"CAST({_quoted(view.created)} AS TIMESTAMPTZ)"
        query += f" QUALIFY row_number() OVER (PARTITION BY {moment} ORDER BY {created} DESC NULLS LAST) = 1"
    return query


def _range(key: str, asked: pa.ChunkedArray) -> str | None:
    """Return the predicate that lets DuckDB skip row groups, or None for keys that are no whole numbers or strings."""
    if not (pa.types.is_integer(asked.type) or pa.types.is_string(asked.type)):
        return None
    bounds = pc.min_max(asked).as_py()
    if bounds["min"] is None:
        return None
    return f"{_quoted(key)} BETWEEN {_literal(bounds['min'])} AND {_literal(bounds['max'])}"


def _unless_ended(view: ViewRows, name: str, feature: str, time: str) -> str:
    if not view.ttl:
        return f"{name}.{feature}"
    # Of an expired row the older ones have expired as well: looking at the latest is enough.
    lifetime = f"to_microseconds({round(view.ttl.total_seconds() * 1_000_000)})"
    return f"CASE WHEN {name}.t + {lifetime} >= {time} THEN {name}.{feature} END"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(value: int | str) -> str:
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"
