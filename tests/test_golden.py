"""A published run against a slow, obvious reference that shares no code with the package."""

from datetime import timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.reference_run import ReferenceRun
from tests.runs import published

SCORES, PROPENSITIES = 1e-5, 1e-4
"""How far bits may lie apart: the reference calls the models with other batch shapes."""

STEP = 9
"""Every how manieth user is compared; the special ones always."""


def some_users(world):
    special = [world.seen_all, world.seen_all_but_three, *world.unknown, -1, 2**62]
    return sorted({*sorted(world.ids())[::STEP], *special})


def assert_same_list(expected, row, temperature):
    """Equal, except that items whose keys lie within the tolerance may stand in each other's place."""
    assert row["status"] == expected.status
    assert len(row["item_ids"]) == len(expected.items)
    if row["item_ids"] == expected.items:
        assert row["scores"] == pytest.approx(expected.scores, abs=SCORES)
        assert row["propensities"] == pytest.approx(expected.propensities, abs=PROPENSITIES)
        return 0
    key_tolerance = 2 * SCORES * temperature
    for published_item, expected_item in zip(row["item_ids"], expected.items, strict=True):
        if published_item == expected_item:
            continue
        assert published_item in expected.retrieved, "an item that the user must not get"
        near_tie = abs(expected.keys.get(published_item, -1e9) - expected.keys[expected_item]) < key_tolerance
        at_the_edge = abs(expected.retrieved[published_item] - expected.weakest) < SCORES
        assert near_tie or at_the_edge, (row, expected)
    return 1


@pytest.mark.parametrize("moment", ["cut-off", "just before the cut-off", "early", "a microsecond later"])
def test_run_is_what_the_reference_says(world, batchrec, tmp_path, moment):
    as_of = {
        "cut-off": world.cutoff,
        "just before the cut-off": world.cutoff - timedelta(microseconds=1),
        "early": world.early,
        "a microsecond later": world.early + timedelta(microseconds=1),
    }[moment]
    users = some_users(world)
    # Nulls and repetitions, in no order.
    column = pa.array([None, *users[::-1], users[0], None, users[3], users[0]], pa.int64())
    pq.write_table(pa.table({"user_id": column}), tmp_path / "users.parquet")

    said = batchrec(
        *world.args(tmp_path / "out"), f"--users={tmp_path / 'users.parquet'}", f"--as-of={as_of.isoformat()}",
        "--seed=11", "--users-per-partition=50", "--run-id=golden",
    )  # fmt: skip

    assert said.code == 0, said.err
    rows = published(tmp_path / "out" / "golden").to_pylist()
    assert [row["user_id"] for row in rows] == users
    assert (said.summary["null_rows"], said.summary["duplicate_rows"]) == (2, 3)
    reference = ReferenceRun(world.data, world.bundle, as_of)
    unlike = 0
    for row in rows:
        expected = reference.run(row["user_id"], candidates=30, top_k=10, temperature=2.0, seed=11)
        unlike += assert_same_list(expected, row, 2.0)
    assert unlike <= len(rows) / 100
    by_id = {row["user_id"]: row for row in rows}
    assert {by_id[user]["status"] for user in (*world.unknown, -1, 2**62)} == {"fallback"}
    if moment == "cut-off":
        assert (by_id[world.seen_all]["status"], by_id[world.seen_all]["item_ids"]) == ("short", [])
        assert len(by_id[world.seen_all_but_three]["item_ids"]) == 3


def test_the_moments_differ(world):
    """What the moments of the golden run are for: each changes who may get what."""
    eligible, seen = {}, {}
    for name, as_of in (
        ("early", world.early),
        ("later", world.early + timedelta(microseconds=1)),
        ("before", world.cutoff - timedelta(microseconds=1)),
        ("cut-off", world.cutoff),
    ):
        reference = ReferenceRun(world.data, world.bundle, as_of)
        eligible[name] = len(reference.eligible)
        rows = [row for row in reference.seen[world.seen_all_but_three] if row["event_timestamp"] <= as_of]
        seen[name] = len(rows[-1]["item_id_seen"]) if rows else 0
    assert eligible == {"early": 288, "later": 294, "before": 294, "cut-off": 294}
    assert seen["early"] <= seen["before"] < seen["cut-off"] == 297


@pytest.mark.parametrize("rank_by", ["ranker", "retrieval"])
def test_sorted_run_is_what_the_reference_says(world, batchrec, tmp_path, rank_by):
    said = batchrec(*world.args(tmp_path), "--temperature=inf", f"--rank-by={rank_by}", "--run-id=sorted")
    assert said.code == 0, said.err
    table = published(tmp_path / "sorted")
    assert "propensities" not in table.column_names
    rows = {row["user_id"]: row for row in table.to_pylist()}
    reference = ReferenceRun(world.data, world.bundle, world.cutoff)
    for user in some_users(world)[1:60]:
        row = rows.get(user)
        if row is None:
            continue
        expected = reference.run(user, candidates=30, top_k=10, temperature=float("inf"), seed=0)
        if rank_by == "ranker" or expected.status == "fallback":
            assert_same_list(expected, row | {"propensities": [1.0] * len(row["item_ids"])}, 1.0)
        else:
            best = sorted(expected.retrieved.values(), reverse=True)[:10]
            assert row["scores"] == pytest.approx(best, abs=SCORES)
            assert set(row["item_ids"]) <= set(expected.retrieved)
