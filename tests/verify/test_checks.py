"""Every violation is planted by hand and found by its check; a clean part has none; a loop over rows finds the same."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec.errors import SchemaError
from batchrec.schema import list_schema, long_schema
from batchrec.verify.checks import CHECKS, Expectation, check_part, counts_by_status
from tests.verify.reference import PERSONAL, violations

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


def put(column: str, value: Any, row: int = 0, place: int | None = None):
    """Make the change that puts a value into a row, or at a place of its list."""

    def change(part: Part) -> None:
        wanted = value(part) if callable(value) else value
        if place is None:
            part.rows[row][column] = wanted
        else:
            part.rows[row][column][place] = wanted

    return change


def swap(one: int, other: int):
    def change(part: Part) -> None:
        part.rows[one], part.rows[other] = part.rows[other], part.rows[one]

    return change


def shorten(column: str):
    return lambda part: part.rows[0][column].pop()


def list_of(user: int, items: int):
    """Give a user of layout list so many items."""

    def change(part: Part) -> None:
        row = part.rows[list(USERS).index(user)]
        part.catalogue += [part.id(90 + place) for place in range(items)]
        row["item_ids"] = [part.id(90 + place) for place in range(items)]
        row["scores"], row["propensities"] = [1.0] * items, [1.0] * items

    return change


def fourth_item(part: Part) -> None:
    part.rows.insert(3, part.rows[2] | {"rank": 4, "item_id": part.id(30)})
    part.seen[part.id(3)] = []


def same_user_twice(part: Part) -> None:
    part.rows.insert(1, dict(part.rows[0]))


def forget_seen(part: Part) -> None:
    del part.seen[part.id(5)]


def see(part: Part) -> None:
    part.seen[part.id(3)] += [part.id(10), part.id(10), part.id(40)]


def suppress(part: Part) -> None:
    part.suppressed_items.append(part.id(20))


def drop_from_catalogue(part: Part) -> None:
    part.catalogue.remove(part.id(40))


LIST_ONLY = [
    (put("user_id", None, row=1), {"user_null": 1}),
    (same_user_twice, {"user_order": 1}),
    (swap(0, 1), {"user_order": 1}),
    (shorten("scores"), {"unequal_lengths": 1}),
    (shorten("propensities"), {"unequal_lengths": 1}),
    (put("scores", None), {"unequal_lengths": 1}),
    (put("item_ids", None, row=2), {"unequal_lengths": 1}),
    (put("status", "good", row=1), {"status_word": 1}),
    (put("status", None, row=1), {"status_word": 1}),
    (put("source", "Ranker"), {"source_word": 1}),
    (put("source", None), {"source_word": 1}),
    (put("source", "retrieval"), {"status_source": 1}),
    (put("source", "none", row=1), {"status_source": 1}),
    (put("source", "ranker", row=2), {"status_source": 1}),
    (put("source", "none", row=3), {"status_source": 1}),
    (put("source", "popularity", row=4), {"status_source": 1}),
    (list_of(3, 2), {"list_length": 1}),
    (list_of(3, 4), {"list_length": 1}),
    (list_of(5, 3), {"list_length": 1}),
    (list_of(8, 1), {"list_length": 1}),
    (list_of(13, 4), {"list_length": 1}),
    (list_of(21, 1), {"list_length": 1}),
    (put("scores", None, place=1), {"score": 1}),
    (put("scores", float("nan"), row=3, place=2), {"score": 1}),
    (put("scores", float("-inf"), place=0), {"score": 1}),
    (put("propensities", None, place=1), {"propensity": 1}),
    (put("propensities", float("nan"), place=1), {"propensity": 1}),
    (put("propensities", 0.0, place=1), {"propensity": 1}),
    (put("propensities", 1.5, place=1), {"propensity": 1}),
    (put("propensities", -0.5, place=1), {"propensity": 1}),
    (put("item_ids", lambda part: part.id(10), place=0), {"repeated_item": 1}),
    (put("item_ids", lambda part: part.id(11), place=0), {"not_in_catalogue": 1}),
    (put("item_ids", None, place=0), {"not_in_catalogue": 1}),
    (put("user_id", lambda part: part.id(4), row=1), {"suppressed_user": 1, "seen_missing": 1}),
]
LONG_ONLY = [
    (put("user_id", None, row=3), {"user_null": 1}),
    (lambda part: part.rows.append(part.rows.pop(3)), {"user_order": 1}),
    (swap(0, 1), {"rank_order": 3}),
    (put("rank", None, row=3), {"rank_order": 1}),
    (put("rank", 0, row=3), {"rank_order": 1}),
    (put("rank", 4, row=2), {"rank_order": 1}),
    (fourth_item, {"list_length": 1}),
    (put("score", None), {"score": 1}),
    (put("score", float("nan")), {"score": 1}),
    (put("score", float("inf")), {"score": 1}),
    (put("propensity", None), {"propensity": 1}),
    (put("propensity", float("nan")), {"propensity": 1}),
    (put("propensity", 0.0), {"propensity": 1}),
    (put("propensity", 1.5), {"propensity": 1}),
    (put("item_id", lambda part: part.id(10)), {"repeated_item": 1}),
    (put("item_id", lambda part: part.id(11)), {"not_in_catalogue": 1}),
    (put("item_id", None), {"not_in_catalogue": 1}),
    (put("user_id", lambda part: part.id(4), row=3), {"suppressed_user": 1, "seen_missing": 1}),
]
BOTH = [
    (drop_from_catalogue, {"not_in_catalogue": 1}),
    (see, {"seen_item": 2}),
    (forget_seen, {"seen_missing": 1}),
    (suppress, {"suppressed_item": 2}),
]
PLANTED = [
    *(("list", *one) for one in LIST_ONLY + BOTH),
    *(("long", *one) for one in LONG_ONLY + BOTH),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", ["list", "long"])
@pytest.mark.parametrize("sampled", [True, False])
def test_a_clean_part_has_no_violation(layout, kind, sampled):
    found = Part(layout, kind, sampled=sampled).check()
    assert list(found.items()) == [(name, 0) for name in CHECKS]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("layout", "change", "found"), PLANTED)
def test_a_planted_violation_is_found_by_its_check_alone(layout, kind, change, found):
    part = Part(layout, kind)
    change(part)
    assert part.check() == spoiled(**found)


@pytest.mark.parametrize("layout", ["list", "long"])
def test_no_check_without_a_planted_violation(layout):
    found = {name for where, _, names in PLANTED if where == layout for name in names}
    without = {"list": {"rank_order"}, "long": {"unequal_lengths", "status_word", "source_word", "status_source"}}
    assert found == set(CHECKS) - {"schema"} - without[layout]


def recast(name: str, dtype: pa.DataType):
    def change(table: pa.Table) -> pa.Table:
        place = table.column_names.index(name)
        return table.set_column(place, name, pa.nulls(len(table), dtype))

    return change


@pytest.mark.parametrize("layout", ["list", "long"])
@pytest.mark.parametrize(
    ("change", "count"),
    [
        (lambda table: table.select([*table.column_names[:-2], "place", "plan"]), 2),
        (lambda table: table.drop_columns("place"), 1),
        (lambda table: table.append_column("more", table["place"]), 1),
        (lambda table: table.rename_columns([*table.column_names[:-1], "plaice"]), 1),
        (recast("place", pa.int16()), 1),
    ],
)
def test_kept_columns_of_another_kind_do_not_stop_the_other_checks(layout, change, count):
    part = Part(layout, "int")
    suppress(part)
    assert part.check(change(part.table)) == spoiled(schema=count, suppressed_item=2)


@pytest.mark.parametrize("layout", ["list", "long"])
@pytest.mark.parametrize("change", [recast("user_id", pa.int32()), lambda table: table.drop_columns("user_id")])
def test_columns_that_cannot_be_read_leave_only_the_schema(layout, change):
    part = Part(layout, "int")
    suppress(part)
    found = part.check(change(part.table))
    assert found.pop("schema") > 0
    assert not any(found.values())


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("user_id", pa.float64()), ("item_ids", pa.int64()), ("scores", pa.list_(pa.string())), ("status", pa.int8())],
)
def test_a_manifest_cannot_make_another_contract(name, dtype):
    """The type is as expected, but no list of batchrec has it."""
    part = Part("list", "int")
    table = recast(name, dtype)(part.table)
    schema = tuple((field.name, str(field.type)) for field in table.schema)
    expected = Expectation(schema=schema, layout="list", top_k=TOP_K, sampled=True)
    assert check_part(table, expected, None, pa.array(part.catalogue), None, None) == spoiled(schema=1)


@pytest.mark.parametrize("layout", ["list", "long"])
def test_without_something_to_compare_with_nothing_is_found(layout):
    part = Part(layout, "int")
    see(part)
    suppress(part)
    found = check_part(part.table, part.expected, None, pa.array(part.catalogue), None, None)
    assert found == spoiled()


@pytest.mark.parametrize("layout", ["list", "long"])
def test_seen_items_without_a_type_and_ids_of_other_widths(layout):
    part = Part(layout, "int")
    nulls = pa.table({"user_id": pa.array(list(USERS), pa.uint32()), "seen": pa.nulls(len(USERS))})
    catalogue, suppressed = pa.array(part.catalogue, pa.int16()), pa.array([20], pa.uint64())
    found = check_part(part.table, part.expected, nulls, catalogue, suppressed, pa.nulls(0))
    assert found == spoiled(suppressed_item=2)


@pytest.mark.parametrize("layout", ["list", "long"])
@pytest.mark.parametrize("which", ["seen users", "seen items", "catalogue", "suppressed items", "suppressed users"])
def test_ids_of_another_kind_are_refused_and_not_converted(layout, which):
    part = Part(layout, "int")
    seen = {"user_id": part.seen_table["user_id"], "seen": part.seen_table["seen"]}
    ids = {name: pa.array([7]) for name in ("catalogue", "suppressed items", "suppressed users")}
    text = pa.array(["7"])
    if which == "seen users":
        seen["user_id"] = seen["user_id"].cast(pa.string())
    elif which == "seen items":
        seen["seen"] = seen["seen"].cast(pa.list_(pa.string()))
    else:
        ids[which] = text
    with pytest.raises(SchemaError, match=r"ids to verify with .* are (large_)?string, those of the run are int64"):
        check_part(part.table, part.expected, pa.table(seen), *ids.values())


def test_users_by_status():
    part = Part("list", "str")
    part.rows += [part.rows[0] | {"status": None}, part.rows[0] | {"status": "good"}, dict(part.rows[1])]
    counts = counts_by_status(part.table)
    assert list(counts.items()) == [
        ("ok", 1),
        ("short", 2),
        ("fallback", 1),
        ("unknown", 1),
        ("failed", 1),
        ("good", 1),
        ("null", 1),
    ]
    assert set(counts_by_status(part.table.slice(0, 0)).values()) == {0}


# Against loops

SMALL = st.integers(0, 6)
NUMBER = st.sampled_from([0.5, 1.0, 2.0, 0.0, -1.0, float("nan"), float("inf"), None])


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(values, values, values, values, st.none())


@st.composite
def list_rows(draw, make_id):
    items = draw(maybe(st.lists(maybe(SMALL.map(make_id)), max_size=4)))
    length = draw(st.sampled_from([len(items or []), len(items or []), 2]))
    numbers = maybe(st.lists(NUMBER, min_size=length, max_size=length))
    return {
        "user_id": draw(maybe(SMALL.map(make_id))),
        "item_ids": items,
        "scores": draw(numbers),
        "propensities": draw(numbers),
        "status": draw(maybe(st.sampled_from([*SOURCES, "odd"]))),
        "source": draw(maybe(st.sampled_from([*SOURCES.values(), "retrieval", "odd"]))),
    }


def long_rows(make_id):
    return st.fixed_dictionaries(
        {
            "user_id": maybe(SMALL.map(make_id)),
            "rank": maybe(st.integers(1, 4)),
            "item_id": maybe(SMALL.map(make_id)),
            "score": NUMBER,
            "propensity": NUMBER,
        }
    )


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    layout=st.sampled_from(["list", "long"]),
    kind=st.sampled_from(["int", "str"]),
    sampled=st.booleans(),
    tidy=st.booleans(),
)
def test_a_loop_over_rows_finds_the_same(data, layout, kind, sampled, tidy):
    part = Part(layout, kind, sampled=sampled)
    rows = data.draw(st.lists((list_rows if layout == "list" else long_rows)(part.id), max_size=8))
    if tidy:
        rows.sort(key=lambda row: (row["user_id"] is None, row["user_id"]))
    part.rows = rows
    ids = SMALL.map(part.id)
    part.catalogue, part.suppressed_items, part.suppressed_users = data.draw(
        st.tuples(*[st.lists(ids, max_size=5, unique=True)] * 3)
    )
    part.seen = data.draw(st.dictionaries(ids, maybe(st.lists(maybe(ids), max_size=4)), max_size=6))
    found = part.check()
    assert found == violations(part.rows, layout, TOP_K, sampled=sampled, beside=part)


def test_a_part_of_usual_size_takes_no_time():
    """It is measured at a tenth of a second; ten times that is a blow-up, such as a join over all pairs of rows."""
    users, k, items, seen = 10_000, 10, 50_000, 50
    rng = np.random.default_rng(0)

    def ragged(values, length):
        offsets = pa.array(np.arange(0, users * length + 1, length), pa.int32())
        return pa.ListArray.from_arrays(offsets, pa.array(values))

    first = rng.integers(0, items, (users, 1))
    chosen = (first + np.arange(k)) % items  # what is seen stands behind what is listed
    beside = pa.table(
        {
            "user_id": pa.array(range(users)),
            "seen": ragged(((first + k + np.arange(seen)) % items).reshape(-1), seen),
        }
    )
    table = pa.table(
        {
            "user_id": pa.array(range(users)),
            "item_ids": ragged(chosen.reshape(-1), k),
            "scores": ragged(rng.random(users * k, np.float32), k),
            "status": ["ok"] * users,
            "source": ["ranker"] * users,
        }
    )
    schema = tuple((field.name, str(field.type)) for field in table.schema)
    expected = Expectation(schema=schema, layout="list", top_k=k, sampled=False)
    start = time.process_time()
    found = check_part(table, expected, beside, pa.array(range(items)), None, None)
    assert time.process_time() - start < 2
    assert found == spoiled()
