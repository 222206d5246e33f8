"""What must hold of the rows of one part, checked in SQL over raw ids.

The lists were made by NumPy and Arrow over item positions; here they are looked at by DuckDB over the ids that stand in
the file, so that one mistake cannot be on both sides.
"""

from __future__ import annotations

import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from batchrec.errors import SchemaError
from batchrec.schema import ITEM_ID, USER_ID, Source, Status
from batchrec.verify import questions

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECKS = (
    "schema",
    "user_null",
    "user_order",
    "rank_order",
    "unequal_lengths",
    "status_word",
    "source_word",
    "status_source",
    "list_length",
    "score",
    "propensity",
    "repeated_item",
    "not_in_catalogue",
    "seen_item",
    "seen_missing",
    "suppressed_item",
    "suppressed_user",
)
"""Names of all checks, in the order in which they are reported; see :func:`check_part`."""

_IDS = "(int64|string)"
_SHAPES = {
    "list": {
        "user_id": _IDS,
        "item_ids": rf"list<\w+: {_IDS}>",
        "scores": r"list<\w+: float>",
        "propensities": r"list<\w+: float>",
        "status": "string",
        "source": "string",
    },
    "long": {"user_id": _IDS, "rank": "int32", "item_id": _IDS, "score": "float", "propensity": "float"},
}
"""The columns that the checks read, and what their types look like: the contract, whatever a manifest says."""

_SAMPLED_ONLY = {"propensities", "propensity"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What every part of one run should look like.

    Parameters
    ----------
    schema
        Name and type (as Arrow writes it) of every column, in order, kept columns included.
    layout
        ``list`` or ``long``.
    top_k
        Items of a full list.
    sampled
        Whether there are propensities.
    personal
        Sources that a personal list (``ok``, ``short``) may have.
    degraded
        Sources that a list may have in a part that was made with less than was asked for: there, ``degraded`` takes the
        place of ``ok`` and ``short``. None elsewhere.
    """

    schema: tuple[tuple[str, str], ...]
    layout: Literal["list", "long"]
    top_k: int
    sampled: bool
    personal: tuple[str, ...] = (Source.RANKER, Source.RETRIEVAL)
    degraded: tuple[str, ...] = ()


class _Beside(NamedTuple):
    """What is held against the part: (n,) or (m,) ids each, None where there is nothing to hold against it."""

    seen: pa.Table | None
    catalogue: pa.Array
    suppressed_items: pa.Array | None
    suppressed_users: pa.Array | None


def check_part(
    table: pa.Table,
    expected: Expectation,
    seen: pa.Table | None,
    catalogue: pa.Array,
    suppressed_items: pa.Array | None,
    suppressed_users: pa.Array | None,
) -> dict[str, int]:
    """Count what is wrong with one part of a run.

    Parameters
    ----------
    table
        The rows of the part, as read back from its file.
    expected
        What they should be.
    seen
        Columns ``user_id`` and ``seen`` (lists of raw item ids, perhaps null), a row for each user of the part; None
        leaves ``seen_item`` and ``seen_missing`` unchecked, at 0.
    catalogue
        (N,) raw ids of all items that may be recommended.
    suppressed_items, suppressed_users
        Raw ids that must not occur; None for none.

    Returns
    -------
    dict of str to int
        Violations by the names of :data:`CHECKS`, all of them, in their order, zeros included:

        - ``schema``: columns that are missing, too many, out of place or of another type. Where this hits a column
          that the other checks read, they stay at 0, because there is nothing to read.
        - ``user_null``: rows without a user id. ``user_order``: rows whose user id does not come after the one before
          (layout ``long``: comes before it). Strings compare by their UTF-8 bytes.
        - ``rank_order``: rows whose rank does not go on from 1 within a user's rows (``long``).
        - ``unequal_lengths``: users whose lists are null or differ in length (``list``).
        - ``status_word``, ``source_word``: users with an unknown word; ``status_source``: with two known words that do
          not fit each other (``list``).
        - ``list_length``: users with more or fewer items than their status says; in layout ``long``, which has no
          status, with more than a full list.
        - ``score``: scores that are null, NaN or infinite. ``propensity``: propensities that are not in (0, 1].
        - ``repeated_item``: items beyond the first of their kind in one list.
        - ``not_in_catalogue``, ``seen_item``, ``suppressed_item``: list items that are not in the catalogue or null,
          that the user has seen, that are suppressed.
        - ``seen_missing``: users of the part of whom `seen` says nothing.
        - ``suppressed_user``: rows of suppressed users.

    Raises
    ------
    SchemaError
        Ids to compare with are integers where the part holds strings, or the other way round.
    """
    found = dict.fromkeys(CHECKS, 0)
    read = {name: shape for name, shape in _SHAPES[expected.layout].items() if expected.sampled or _needed(name)}
    found["schema"], readable = _schema(table.schema, expected.schema, read)
    if not readable:
        return found
    with _connection() as connection:
        _register(connection, table.select(list(read)), expected)
        _register_beside(connection, table, _Beside(seen, catalogue, suppressed_items, suppressed_users))
        for name, question in _asked(expected, seen is not None):
            found[name] = _number(connection, question)
    return found


def counts_by_status(table: pa.Table) -> dict[str, int]:
    """Count the users of a part in layout ``list`` by status.

    Returns
    -------
    dict of str to int
        Every :class:`~batchrec.schema.Status` in its order, zeros included; then what else stands there, ``null`` for
        none, so that the sum is the number of rows.
    """
    with _connection() as connection:
        connection.register("part", table.select(["status"]))
        rows = connection.execute(questions.BY_STATUS).fetchall()
    return {str(status): 0 for status in Status} | dict(rows)


def _needed(name: str) -> bool:
    return name not in _SAMPLED_ONLY


def _schema(found: pa.Schema, expected: tuple[tuple[str, str], ...], read: dict[str, str]) -> tuple[int, bool]:
    """Count the places where columns differ, and tell whether each column to be read is there once, with its type."""
    columns = [(field.name, str(field.type)) for field in found]
    unread = sum(
        [column for column in columns if column[0] == name] != [column for column in expected if column[0] == name]
        or len(found.get_all_field_indices(name)) != 1
        or not re.fullmatch(shape, str(found.field(name).type))
        for name, shape in read.items()
    )
    differing = sum(one != other for one, other in zip_longest(columns, expected))
    return max(differing, unread), not unread


@contextmanager
def _connection() -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a connection whose tables nobody else sees, and which are forgotten afterwards."""
    with _opening:
        database = _database()
    with database.cursor() as connection:
        connection.execute("SET enable_progress_bar = false")
        yield connection


_opening = threading.Lock()


@cache
def _database() -> duckdb.DuckDBPyConnection:
    """Open the database of the process: opening one for each part took a fifth of the time of its checks."""
    return duckdb.connect(":memory:")


def _register(connection: duckdb.DuckDBPyConnection, table: pa.Table, expected: Expectation) -> None:
    """Make the part, its (user, item) pairs and the words that fit each other known to DuckDB."""
    placed = table.append_column("place", pc.cumulative_sum(pa.repeat(1, table.num_rows)))
    connection.register("part", placed)
    connection.execute(questions.PAIRS[expected.layout])
    connection.execute("CREATE TEMP TABLE wanted AS SELECT ?::BIGINT AS top_k", [expected.top_k])
    connection.register("statuses", pa.table({"status": [str(word) for word in Status]}))
    connection.register("sources", pa.table({"source": [str(word) for word in Source]}))
    fitting = [(Status.DEGRADED, source) for source in expected.degraded]
    if not expected.degraded:
        fitting = [(status, source) for status in (Status.OK, Status.SHORT) for source in expected.personal]
    fitting += [(Status.FALLBACK, Source.POPULARITY), (Status.UNKNOWN, Source.NONE), (Status.FAILED, Source.NONE)]
    words = [pa.array([str(pair[side]) for pair in fitting]) for side in (0, 1)]
    connection.register("fitting", pa.table(words, names=["status", "source"]))


def _register_beside(connection: duckdb.DuckDBPyConnection, table: pa.Table, beside: _Beside) -> None:
    users = table.schema.field(USER_ID).type
    items = table.schema.field(ITEM_ID).type if ITEM_ID in table.column_names else table["item_ids"].type.value_type
    nothing = pa.nulls(0)
    for name, column, ids, dtype in (
        ("catalogue", ITEM_ID, beside.catalogue, items),
        ("suppressed_items", ITEM_ID, beside.suppressed_items, items),
        ("suppressed_users", USER_ID, beside.suppressed_users, users),
    ):
        connection.register(name, pa.table({column: _of_kind(nothing if ids is None else ids, dtype, name)}))
    if beside.seen is not None:
        user_ids, lists = beside.seen[USER_ID], beside.seen["seen"]
        if pa.types.is_null(lists.type):
            lists = lists.cast(pa.list_(items))
        _refuse_other_kind(lists.type.value_type, items, "seen items")
        connection.register("seen", pa.table({USER_ID: _of_kind(user_ids, users, "seen's users"), "seen": lists}))


def _of_kind(ids: Any, dtype: pa.DataType, what: str) -> Any:
    if pa.types.is_null(ids.type):
        return ids.cast(dtype)
    _refuse_other_kind(ids.type, dtype, what)
    return ids


def _refuse_other_kind(found: pa.DataType, wanted: pa.DataType, what: str) -> None:
    # DuckDB would turn text into numbers on its own, and find '07' where 7 was meant, or stop at the first word.
    plain = found.value_type if pa.types.is_dictionary(found) else found
    if pa.types.is_integer(plain) != pa.types.is_integer(wanted) and not pa.types.is_null(plain):
        raise SchemaError(
            f"ids to verify with ({what.replace('_', ' ')}) are {found}, those of the run are {wanted}",
            f"give them as {wanted}",
        )


def _asked(expected: Expectation, with_seen: bool) -> Iterator[tuple[str, str]]:
    sampled = questions.OF_SAMPLED[expected.layout] if expected.sampled else {}
    seen = questions.OF_SEEN if with_seen else {}
    yield from (questions.OF_LAYOUT[expected.layout] | sampled | questions.OF_PAIRS | seen).items()


def _number(connection: duckdb.DuckDBPyConnection, question: str) -> int:
    row = connection.execute(question).fetchone()
    return int(row[0])  # every question is one aggregate: one row, whatever the tables hold
