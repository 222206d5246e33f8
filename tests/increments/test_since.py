"""A run since another one is a full run, to the byte, whatever changed in between; and says what changed."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from batchrec.models.bundle import write_format
from tests.increments.shop import expected_changes, found_changes, kept_files, make_shop
from tests.runs import published


@pytest.fixture(scope="module")
def copied(world, tmp_path_factory):
    return make_shop(world, tmp_path_factory.mktemp("shop"))


@pytest.fixture
def shop(copied):
    copied.restore()
    return copied


@pytest.fixture
def run(shop, batchrec, tmp_path):
    """Make one run of the shop; the summary and what was said."""

    def make(run_id, *more, users=None):
        if users is not None:
            pq.write_table(pa.table({"user_id": pa.array(users)}), tmp_path / "users.parquet")
            more = (f"--users={tmp_path / 'users.parquet'}", *more)
        size = () if any("users-per-partition" in one for one in more) else ("--users-per-partition=300",)
        said = batchrec(*shop.world.args(tmp_path / "out", *size, *more, f"--run-id={run_id}"))
        assert said.code == 0, said.err
        return said

    return make


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def check(run, out, *args, computed, users=None, before="before"):
    """Run since the run before and in full; both must be the same, and the changes those that a dictionary finds."""
    said = run("since", f"--since={before}", *args, users=users)
    run("full", *args, users=users)
    assert kept_files(out / "since") == kept_files(out / "full")
    assert len(kept_files(out / "full")) > 0
    since = said.summary["since"]
    assert (since["computed_users"], since["carried_users"]) == (computed, said.summary["users"] - computed)
    expected = expected_changes(out / "before", out / "since")
    assert found_changes(out / "since") == expected
    assert {kind: since[kind] for kind in expected} == {kind: len(users) for kind, users in expected.items()}
    assert since["run_id"] == "before"
    return said, expected


def other_age(row):
    return row | {"user_age": row["user_age"] % 5 + 1}


@pytest.mark.parametrize("layout", ["list", "long"])
def test_features_history_and_users_changed(shop, run, out, layout):
    ids = sorted(shop.world.ids())[:400]
    cutoff = shop.world.cutoff
    run("before", "--layout=list", users=ids[:350])

    aged, clicked = set(ids[100:120]), set(ids[300:310])

    def features(rows):
        latest = {row["user_id_raw"]: row for row in rows if row["event_timestamp"] <= cutoff}
        at = {"event_timestamp": cutoff}
        new = [other_age(latest[user]) | at for user in aged]
        # A newer row with the same values, where the older one has not expired: nothing to compute.
        same = [user for user in ids[200:230] if latest[user]["event_timestamp"] > cutoff - timedelta(days=40)]
        assert len(same) > 10
        return (
            rows
            + new
            + [latest[user] | at for user in same]
            + [latest[ids[340]] | {"event_timestamp": cutoff + timedelta(1)}]
        )

    def seen(rows):
        latest = {row["user_id_raw"]: row for row in rows if row["event_timestamp"] <= cutoff}
        lists = published(out / "before")
        first = dict(zip(lists["user_id"].to_pylist(), lists["item_ids"].to_pylist(), strict=True))
        return rows + [
            latest[user] | {"item_id_seen": latest[user]["item_id_seen"] + first[user][:1], "event_timestamp": cutoff}
            for user in clicked
        ]

    shop.rewrite("user_features", features)
    shop.rewrite("item_id_seen", seen)
    now = ids[30:60] + ids[70:]  # forty have gone, fifty are new
    args = ("--users-per-partition=170", f"--layout={layout}")
    said, changes = check(run, out, *args, users=now, computed=len(aged) + len(clicked) + 50)
    assert set(changes["inserted"]) == set(ids[350:])
    assert set(changes["removed"]) == {*ids[:30], *ids[60:70]}
    if layout == "list":
        assert clicked <= set(changes["changed"]) <= aged | clicked
        assert f"since run before: {len(now) - 80:,} lists carried over, 80 computed" in said.err
        # Who reads the folder sees the run and nothing beside it.
        assert ds.dataset(out / "since", format="parquet").count_rows() == len(now)


def test_long_since_long_with_kept_columns(shop, run, out, tmp_path):
    ids = sorted(shop.world.ids())[:500]
    for name, plan in (("a", 3), ("b", 4)):
        plans = [f"plan {place % 50 == plan}" for place in range(len(ids))]
        pq.write_table(pa.table({"user_id": ids, "plan": plans}), tmp_path / f"{name}.parquet")
    run("before", "--layout=long", f"--users={tmp_path / 'a.parquet'}", "--keep-columns=plan")
    args = ("--layout=long", f"--users={tmp_path / 'b.parquet'}", "--keep-columns=plan", "--users-per-partition=170")
    _, changes = check(run, out, *args, computed=0)
    # Who has another plan, but for one with an empty list and so without rows; all lists are carried over.
    assert len(changes["changed"]) == 19


def test_suppression_of_either_run(shop, run, out, tmp_path):
    ids = sorted(shop.world.ids())[:300]
    run("plain", users=ids)
    counts = published(out / "plain")["item_ids"].combine_chunks().flatten().value_counts().to_pylist()
    popular = sorted(counts, key=lambda one: -one["counts"])
    lists = {}
    for name, column, values in (
        ("old-items", "item_id", [popular[0]["values"]]),
        ("new-items", "item_id", [popular[1]["values"]]),
        ("old-users", "user_id", ids[5:8]),
        ("new-users", "user_id", ids[7:9]),
    ):
        lists[name] = f"--suppress={tmp_path / name}.parquet"
        pq.write_table(pa.table({column: values}), tmp_path / f"{name}.parquet")
    run("before", lists["old-items"], lists["old-users"], users=ids)
    digests = ds.dataset(out / "before" / "_digests", format="parquet").to_table()["user_id"].to_pylist()
    assert not set(ids[5:8]) & set(digests)  # ids of suppressed users are written nowhere
    touched = (
        popular[0]["counts"]
        + 3
        - sum(popular[0]["values"] in items for items in published(out / "plain")["item_ids"].to_pylist()[5:8])
    )
    _, changes = check(run, out, lists["new-items"], lists["new-users"], computed=touched, users=ids)
    assert (set(changes["inserted"]), set(changes["removed"])) == (set(ids[5:7]), {ids[8]})


def test_another_time(shop, run, out):
    """Features that expire count as changed; time that passes does not."""
    ids = sorted(shop.world.ids())[:400]
    run("before", users=ids)
    minute = (shop.world.cutoff + timedelta(minutes=1)).isoformat()
    said = run("minute", "--since=current", f"--as-of={minute}", users=ids)
    assert (said.summary["since"]["computed_users"], said.summary["since"]["changed"]) == (0, 0)
    later = shop.world.cutoff + timedelta(days=1)
    latest = {}
    for row in pq.read_table(shop.world.data / "user_features.parquet").to_pylist():
        if row["user_id_raw"] in ids:
            latest[row["user_id_raw"]] = row["event_timestamp"]
    lifetime = timedelta(days=40)
    expired = [user for user, time in latest.items() if shop.world.cutoff <= time + lifetime < later]
    assert 2 < len(expired) < 100
    check(run, out, f"--as-of={later.isoformat()}", computed=len(expired), users=ids)


def test_what_all_lists_share(shop, run, out, tmp_path):
    """Every user is computed, and the program says what is another."""
    ids = sorted(shop.world.ids())[:100]
    run("before", users=ids)
    said, _ = check(run, out, "--top-k=9", "--seed=3", computed=100, users=ids)
    assert (
        "every user is computed: run before was made with others of these: seed (0 then, 3 now), top_k (10" in said.err
    )

    said = run("sorted", "--since=before", "--temperature=inf", users=ids)
    assert "others of these: temperature (2.0 then, 'inf' now)" in said.err
    assert (said.summary["since"]["computed_users"], said.summary["since"]["changed"]) == (100, 100)  # other columns

    other = tmp_path / "bundle"
    shutil.copytree(shop.world.bundle, other)
    described = json.loads((other / "bundle.json").read_text())
    files = list(described.pop("files"))
    write_format(other, described | {"created_by": "somebody else"}, files)
    said = run("bundle", "--since=before", f"--bundle={other}", users=ids)
    assert "others of these: the bundle" in said.err
    # The same models, as it happens: computed anew, and equal.
    assert (said.summary["since"]["computed_users"], said.summary["since"]["changed"]) == (100, 0)

    gone = pq.read_table(shop.world.data / "item_features.parquet")["item_id_raw"][7].as_py()
    shop.rewrite("item_features", lambda rows: [row for row in rows if row["item_id_raw"] != gone])
    said = run("items", "--since=before", users=ids)
    assert "others of these: the features of items" in said.err
    assert said.summary["since"]["computed_users"] == 100


def test_a_run_without_digests_is_compared_with(shop, run, out):
    """As one that an earlier version made."""
    ids = sorted(shop.world.ids())[:100]
    run("before", users=ids[:80])
    manifest = out / "before" / "_manifest.json"
    content = json.loads(manifest.read_text())
    del content["digests"], content["increment"]
    manifest.write_text(json.dumps(content))
    shutil.rmtree(out / "before" / "_digests")
    said, changes = check(run, out, computed=100, users=ids)
    assert "every user is computed: run before keeps no digests" in said.err
    assert (len(changes["inserted"]), len(changes["changed"])) == (20, 0)


def test_the_first_night(shop, run, out):
    said = run("first", "--since=current", users=sorted(shop.world.ids())[:50])
    assert said.summary["since"] is None
    assert "--since current: nothing is published yet, every user is computed" in said.err
    assert not (out / "first" / "_changes").exists()


def test_runs_that_nothing_can_be_computed_since(shop, run, batchrec, out, tmp_path):
    run("before", users=sorted(shop.world.ids())[:50])

    def refused(since):
        said = batchrec(*shop.world.args(out, f"--since={since}", "--run-id=now"))
        assert (said.code, (out / "now").exists()) == (2, False), said.err
        return said.err

    assert "is not a published run: name another run, or leave out --since" in refused("yesterday")
    assert "is not a published run" in refused(tmp_path / "nowhere" / "current")
    for name in ("part-00000.parquet", "_digests/part-00000.parquet"):
        damaged = out / "before" / name
        content = damaged.read_bytes()
        damaged.write_bytes(content[:-1] + b"?")
        assert "is damaged: SHA-256" in refused("before")
        damaged.unlink()
        assert "is missing" in refused(out / "before")
        damaged.write_bytes(content)
    (out / "before" / "_SUCCESS").unlink()
    assert "is not a published run" in refused("current")


def test_a_run_pushes_what_it_changed(shop, run, out):
    ids = sorted(shop.world.ids())[:60]
    said = run("first", "--since=current", "--push", users=ids[:50])
    assert (said.summary["push"]["pushed_users"], said.summary["push"]["changes"]) == (50, False)
    said = run("second", "--since=current", "--push", users=ids[5:])
    pushed = {name: said.summary["push"][name] for name in ("changes", "pushed_users", "emptied_users", "users")}
    assert pushed == {"changes": True, "pushed_users": 10, "emptied_users": 5, "users": 55}
