"""A loop over rows finds the same violations in any table, and SQL takes no time for it."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec.verify.checks import Expectation, check_part
from tests.verify.parts import SOURCES, TOP_K, Part, spoiled
from tests.verify.reference import violations

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
        "status": draw(maybe(st.sampled_from([*SOURCES, "degraded", "odd"]))),
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
