"""A small clean part of a run, for tests to spoil."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from batchrec.schema import list_schema, long_schema
from batchrec.verify.checks import CHECKS, Expectation, check_part
from tests.verify.reference import PERSONAL

KINDS = {"int": (pa.int64(), int), "str": (pa.string(), lambda number: f"ü{number:02d}")}
KEPT = (pa.field("plan", pa.string()), pa.field("place", pa.int8()))
TOP_K = 3
USERS = {3: "ok", 5: "short", 8: "unknown", 13: "fallback", 21: "failed"}
LISTS = {3: [40, 10, 20], 5: [30], 8: [], 13: [10, 20, 30], 21: []}
SEEN = {3: [30, 77, None], 5: [10, 20], 8: None, 13: [], 21: [40]}
SOURCES = {"ok": "ranker", "short": "ranker", "unknown": "none", "fallback": "popularity", "failed": "none"}


class Part:
    """A clean part and all that it is checked against, for a test to spoil."""

    def __init__(self, layout: str, kind: str, *, sampled: bool = True) -> None:
        self.dtype, self.id = KINDS[kind]
        self.layout, self.sampled = layout, sampled
        self.rows = self._list_rows() if layout == "list" else self._long_rows()
        self.catalogue = [self.id(item) for item in (10, 20, 30, 40)]
        self.seen = {self.id(user): items and [self.item(item) for item in items] for user, items in SEEN.items()}
        self.suppressed_items = [self.id(77), self.id(78)]
        self.suppressed_users = [self.id(4)]

    def item(self, item: int | None) -> Any:
        return None if item is None else self.id(item)

    @property
    def schema(self) -> pa.Schema:
        make = list_schema if self.layout == "list" else long_schema
        return make(self.dtype, self.dtype, sampled=self.sampled, kept=KEPT)

    @property
    def expected(self) -> Expectation:
        schema = tuple((field.name, str(field.type)) for field in self.schema)
        return Expectation(schema=schema, layout=self.layout, top_k=TOP_K, sampled=self.sampled, personal=PERSONAL)

    @property
    def table(self) -> pa.Table:
        # Without the schema's promise that nothing is null: a promise cannot be looked at.
        return pa.Table.from_pylist(self.rows, pa.schema([(field.name, field.type) for field in self.schema]))

    @property
    def seen_table(self) -> pa.Table:
        schema = pa.schema({"user_id": self.dtype, "seen": pa.list_(self.dtype)})
        return pa.Table.from_pylist([{"user_id": user, "seen": items} for user, items in self.seen.items()], schema)

    def check(self, table: pa.Table | None = None) -> dict[str, int]:
        ids = [pa.array(ids, self.dtype) for ids in (self.catalogue, self.suppressed_items, self.suppressed_users)]
        return check_part(self.table if table is None else table, self.expected, self.seen_table, *ids)

    def _list_rows(self) -> list[dict[str, Any]]:
        return [
            {
                "user_id": self.id(user),
                "item_ids": [self.id(item) for item in LISTS[user]],
                "scores": [0.5 - rank for rank in range(len(LISTS[user]))],
                "propensities": [1 / (1 + rank) for rank in range(len(LISTS[user]))],
                "status": status,
                "source": SOURCES[status],
                "plan": "basic",
                "place": 7,
            }
            for user, status in USERS.items()
        ]

    def _long_rows(self) -> list[dict[str, Any]]:
        return [
            {
                "user_id": self.id(user),
                "rank": rank,
                "item_id": self.id(item),
                "score": 0.5 - rank,
                "propensity": 1 / rank,
                "plan": None,
                "place": 7,
            }
            for user, items in LISTS.items()
            for rank, item in enumerate(items, start=1)
        ]


def spoiled(**found: int) -> dict[str, int]:
    return dict.fromkeys(CHECKS, 0) | found
