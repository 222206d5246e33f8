"""Every violation is planted by hand and found by its check; a clean part has none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from batchrec.errors import SchemaError
from batchrec.verify.checks import CHECKS, Expectation, check_part, counts_by_status
from tests.verify.parts import KINDS, TOP_K, USERS, Part, spoiled


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
        ("degraded", 0),
        ("fallback", 1),
        ("unknown", 1),
        ("failed", 1),
        ("good", 1),
        ("null", 1),
    ]
    assert set(counts_by_status(part.table.slice(0, 0)).values()) == {0}


def degraded(*sources, **statuses):
    """Check a part that was made with less than was asked for: its personal lists are degraded, but for some."""
    part = Part("list", "int")
    for row in part.rows:
        if row["status"] in {"ok", "short"}:
            row["status"] = statuses.get(row["status"], "degraded")
    ids = [pa.array(ids) for ids in (part.catalogue, part.suppressed_items, part.suppressed_users)]
    return check_part(part.table, replace(part.expected, degraded=sources), part.seen_table, *ids)


def test_in_a_part_made_with_less_personal_lists_are_degraded():
    assert degraded("ranker") == spoiled()
    assert degraded("ranker", ok="ok") == spoiled(status_source=1)
    assert degraded("ranker", short="short") == spoiled(status_source=1)
    assert degraded("retrieval") == spoiled(status_source=2)


def test_elsewhere_no_list_is_degraded():
    assert degraded() == spoiled(status_source=2)


def test_a_degraded_list_has_at_most_as_many_items_as_asked_for_and_none_without_a_source():
    part = Part("list", "int")
    part.rows[0]["status"] = "degraded"
    list_of(3, TOP_K + 1)(part)
    assert part.check() == spoiled(status_source=1, list_length=1)
    part.rows[0] |= {"source": "none"}
    list_of(3, 1)(part)
    assert part.check() == spoiled(status_source=1, list_length=1)
