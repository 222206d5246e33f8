"""What differs from the earlier run pushed alone, and what an application then gets from Feast."""

from __future__ import annotations

import sqlite3

import pytest

from tests.delivery.runs import invented, publish, publish_since
from tests.delivery.stores import make_repo, online

FIRST = invented(range(60), seed=1)
SECOND = {user: FIRST[user] for user in range(10, 60)} | invented(range(50, 70), seed=2)
"""Ten users gone, ten with other lists (the first of them an empty one), ten new."""


@pytest.fixture(scope="module")
def applied(tmp_path_factory):
    return make_repo(tmp_path_factory.mktemp("push") / "repo")


@pytest.fixture
def repo(applied):
    with sqlite3.connect(applied / "online.db") as store:
        store.execute("DELETE FROM shop_user_recommendations")
    return applied


@pytest.fixture(params=["list", "long"])
def layout(request):
    return request.param


@pytest.fixture
def runs(tmp_path, repo, layout):
    first = publish(tmp_path / "out" / "first", FIRST, layout=layout, repo=repo)
    return first, publish_since(tmp_path / "out" / "second", SECOND, first, FIRST, 4, layout, repo)


def expected(layout):
    """Of every user: the list of this run, or nothing where there was one before."""
    emptied = {user: ([], []) for user in range(10)}
    lists = emptied | SECOND
    never = {} if layout == "list" else {0: (None, None)}  # in layout long an empty list is no row
    return lists | never


def push(batchrec, run, *more):
    said = batchrec("push", run, "--workers=1", *more)
    assert said.code == 0, said.err
    return said


def test_changes_alone(batchrec, runs, repo, layout):
    push(batchrec, runs[0])
    said = push(batchrec, runs[1], "--changes")
    # In layout long user 0, who is gone, had no row; user 50 has none any more.
    with_rows = [user for user in range(50, 70) if SECOND[user][0] or layout == "list"]
    assert said.summary["changes"] is True
    assert (said.summary["pushed_users"], said.summary["emptied_users"]) == (len(with_rows), 10)
    assert said.summary["users"] == sum(bool(items) or layout == "list" for items, _ in SECOND.values())
    assert online(repo, range(70)) == expected(layout)
    for more in ((), ("--changes",)):
        again = push(batchrec, runs[1], *more)
        assert (again.summary["pushed_users"], again.summary["changes"]) == (0, False)


@pytest.mark.parametrize("layout", ["list"], indirect=True)
def test_all_where_the_store_does_not_hold_the_earlier_run(batchrec, runs, repo, layout):
    said = push(batchrec, runs[1], "--changes")
    assert (said.summary["pushed_users"], said.summary["changes"]) == (len(SECOND), False)
    assert "pushing every list and not the changes alone: it is not run first that was pushed last" in said.err

    push(batchrec, runs[0])
    with sqlite3.connect(repo / "online.db") as store:
        store.execute("DELETE FROM shop_user_recommendations")
    said = push(batchrec, runs[1], "--changes")
    assert (said.summary["pushed_users"], said.summary["changes"]) == (len(SECOND), False)
    assert "the store has changed since it was pushed to" in said.err
    assert online(repo, SECOND) == SECOND


@pytest.mark.parametrize("layout", ["list"], indirect=True)
def test_cut_short(batchrec, runs, repo, layout):
    """The same command writes the changes; after a push of the earlier run that was cut short, everything."""
    push(batchrec, runs[0])
    damaged = runs[1] / "_changes" / "changed" / "part-00000.parquet"
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-1])
    said = batchrec("push", runs[1], "--workers=1", "--changes")
    assert (said.code, "is damaged" in said.err) == (2, True)
    damaged.write_bytes(content)
    said = push(batchrec, runs[1], "--changes")
    assert (said.summary["changes"], said.summary["emptied_users"]) == (True, 10)
    assert online(repo, range(70)) == expected(layout)

    push(batchrec, runs[0])
    (entry,) = runs[0].parent.glob(".pushed/*/part-00001.json")
    entry.unlink()
    said = push(batchrec, runs[1], "--changes")
    assert (said.summary["changes"], said.summary["pushed_users"]) == (False, len(SECOND))
    assert "the push of run first was cut short" in said.err


@pytest.mark.parametrize("layout", ["list"], indirect=True)
def test_a_run_without_changes(batchrec, runs):
    said = batchrec("push", runs[0], "--changes")
    assert said.code == 2
    assert "run first was computed since no other run, so it has no changes: leave out --changes" in said.err
