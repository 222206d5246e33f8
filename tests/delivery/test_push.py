"""Lists pushed into an online store, and what an application then gets from Feast."""

from __future__ import annotations

import json
import sqlite3

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast.types import Float64, Int64, String

from tests.delivery.runs import invented, publish
from tests.delivery.stores import SQLITE, feast_push, make_repo, online, redis_server
from tests.evaluate.support import seal

USERS = range(1000, 1120)


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    server = redis_server(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


@pytest.fixture(params=["sqlite", "redis"])
def repo(request, tmp_path):
    if request.param == "sqlite":
        return make_repo(tmp_path / "repo")
    server = request.getfixturevalue("redis")
    server.client.flushall()
    return make_repo(tmp_path / "repo", server.online)


@pytest.mark.parametrize("layout", ["list", "long"])
def test_an_application_gets_every_list(batchrec, tmp_path, repo, layout):
    lists = invented(USERS)
    run = publish(tmp_path / "out" / "night", lists, layout=layout, repo=repo)
    said = batchrec("push", run, "--workers", "1", "--batch", "7")
    assert said.code == 0, said.err
    with_rows = {user: one for user, one in lists.items() if one[0] or layout == "list"}
    assert online(repo, list(with_rows)) == with_rows
    assert said.summary["users"] == said.summary["pushed_users"] == len(with_rows)
    assert said.summary["read_back"] == len(with_rows)  # the sample is larger than the run
    assert (said.summary["run_id"], said.summary["pushed_parts"], said.summary["parts"]) == ("night", 3, 3)
    assert said.summary["lists_per_second"] > 0
    assert "lists/s" in said.err


def test_two_processes_push_the_same(batchrec, tmp_path, repo):
    lists = invented(USERS)
    run = publish(tmp_path / "out" / "night", lists, parts=5, repo=repo)
    said = batchrec("push", run, "--workers", "2")
    assert said.code == 0, said.err
    assert online(repo, list(lists)) == lists


def test_the_new_list_replaces_the_old_one_even_by_nothing(batchrec, tmp_path, repo):
    feast_push(repo, {user: ([1, 2], [0.5, 0.25]) for user in USERS})
    lists = invented(USERS)
    assert lists[USERS[0]] == ([], [])
    assert batchrec("push", publish(tmp_path / "out" / "night", lists, repo=repo), "--workers", "1").code == 0
    assert online(repo, list(lists)) == lists


def test_back_to_an_older_run_and_on_again(batchrec, tmp_path, repo):
    """What counts is what was pushed last, not what was made last; Redis keeps the later of two times."""
    nights = [invented(USERS, seed=seed) for seed in (1, 2)]
    runs = [publish(tmp_path / "out" / f"night-{n}", lists, repo=repo) for n, lists in enumerate(nights)]
    for which in (1, 0, 1, 0):
        said = batchrec("push", runs[which], "--workers", "1")
        assert (said.code, said.summary["pushed_parts"]) == (0, 3), said.err
        assert online(repo, list(USERS)) == nights[which]


@pytest.mark.parametrize("layout", ["list", "long"])
def test_who_has_no_row_any_more_gets_an_empty_list(batchrec, tmp_path, repo, layout):
    """Suppressed users, those who left, and in layout long all whose list is empty."""
    first, second = invented(range(300), seed=1), invented(range(100, 400, 2), seed=2)
    # In layout long, user 0 never had a row, and user 100 has none any more.
    for name, lists, emptied in (("first", first, 0), ("second", second, 200)):
        run = publish(tmp_path / "out" / name, lists, parts=7, layout=layout, repo=repo)
        said = batchrec("push", run, "--workers", "1", "--batch", "30")
        assert (said.code, said.summary["emptied_users"]) == (0, emptied), said.err
    expected = {user: second.get(user, ([], []) if user < 300 else (None, None)) for user in range(400)}
    expected |= {0: (None, None)} if layout == "long" else {}
    assert online(repo, range(400)) == expected
    assert batchrec("push", run, "--workers", "1").summary["emptied_users"] == 0


def test_a_push_cut_short_counts_among_those_before(batchrec, tmp_path):
    repo, out = make_repo(tmp_path / "repo"), tmp_path / "out"
    runs = [publish(out / name, invented(users), repo=repo) for name, users in (("a", [1, 2, 3]), ("b", [3, 4, 5]))]
    assert batchrec("push", runs[0]).code == 0
    damaged = runs[1] / "part-00002.parquet"
    content = damaged.read_bytes()
    damaged.write_bytes(b"")
    assert batchrec("push", runs[1], "--workers", "1").code == 2
    damaged.write_bytes(content)
    last = publish(out / "c", {3: ([9], [0.5])}, parts=1, repo=repo)
    said = batchrec("push", last)
    assert (said.code, said.summary["emptied_users"]) == (0, 4), said.err
    assert online(repo, range(1, 6)) == {1: ([], []), 2: ([], []), 3: ([9], [0.5]), 4: ([], []), 5: ([], [])}


def test_a_run_pushed_before_that_is_there_no_more_is_said(batchrec, tmp_path):
    repo, out = make_repo(tmp_path / "repo"), tmp_path / "out"
    runs = [publish(out / name, invented([1, 2, 3], seed=3), repo=repo) for name in ("a", "b")]
    assert batchrec("push", runs[0]).code == 0
    runs[0].rename(tmp_path / "gone")
    said = batchrec("push", runs[1])
    assert said.code == 0
    assert "run a, pushed before, is there no more" in said.err


def test_again_pushes_nothing_but_looks(batchrec, tmp_path, repo):
    lists = invented(USERS)
    run = publish(tmp_path / "out" / "night", lists, repo=repo)
    assert batchrec("push", run, "--workers", "1").code == 0
    said = batchrec("push", run, "--workers", "1")
    assert (said.code, said.summary["pushed_users"], said.summary["pushed_parts"]) == (0, 0, 0), said.err
    assert said.summary["users"] == len(lists)
    assert "3 of 3 parts are in the store already" in said.err


def test_only_what_is_missing_is_pushed(batchrec, tmp_path, repo):
    lists = invented(USERS)
    run = publish(tmp_path / "out" / "night", lists, repo=repo)
    assert batchrec("push", run, "--workers", "1").code == 0
    (entry,) = (tmp_path / "out").glob(".pushed/*/part-00001.json")
    for damage in (entry.unlink, lambda: entry.write_text("{"), lambda: entry.write_text('{"users": 40}')):
        damage()
        said = batchrec("push", run, "--workers", "1")
        assert (said.code, said.summary["pushed_users"], said.summary["pushed_parts"]) == (0, 40, 1), said.err


def test_a_store_that_lost_or_changed_something_is_filled_again(batchrec, tmp_path, repo):
    lists = invented(USERS)
    run = publish(tmp_path / "out" / "night", lists, repo=repo)
    assert batchrec("push", run, "--workers", "1").code == 0
    feast_push(repo, {USERS[50]: ([7], [0.5])})
    said = batchrec("push", run, "--workers", "1")
    assert (said.code, said.summary["pushed_parts"]) == (0, 3), said.err
    assert f"user {USERS[50]} of part-00001.parquet has item_ids [7]" in said.err
    assert online(repo, list(lists)) == lists


def test_a_run_that_changed_is_pushed_anew(batchrec, tmp_path, repo):
    run = publish(tmp_path / "out" / "night", invented(USERS, seed=1), repo=repo)
    assert batchrec("push", run, "--workers", "1").code == 0
    run.rename(tmp_path / "old")
    lists = invented(USERS, seed=2)
    publish(run, lists, repo=repo)
    assert batchrec("push", run, "--workers", "1").summary["pushed_parts"] == 3
    assert online(repo, list(lists)) == lists


def test_another_store_has_a_journal_of_its_own(batchrec, tmp_path):
    lists = invented(USERS)
    repos = [make_repo(tmp_path / name) for name in ("a", "b")]
    run = publish(tmp_path / "out" / "night", lists)
    for repo in repos:
        said = batchrec("push", run, "--workers", "1", "--feature-repo", repo)
        assert (said.code, said.summary["pushed_parts"]) == (0, 3), said.err
        assert online(repo, list(lists)) == lists


def test_ids_that_are_text_and_columns_beside_the_lists(batchrec, tmp_path):
    repo = make_repo(tmp_path / "repo", user=String, item=String, more=[("status", String)], view="mine")
    lists = {f"ü{n}": ([f"i{n}", "b"], [1.5, -0.25]) for n in range(30)} | {"none": ([], [])}
    run = publish(tmp_path / "out" / "night", lists, repo=repo, item_type=pa.string())
    said = batchrec("push", run, "--workers", "1", "--view", "mine")
    assert said.code == 0, said.err
    found = online(repo, list(lists), ("item_ids", "scores", "status"), "mine")
    assert found == {user: (*one, "ok") for user, one in lists.items()}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"item": String}, "item_ids of type list<string>, but in the run it is list<int64>"),
        ({"user": String}, "user_id (join key user_id_raw) of type string, but in the run it is int64"),
        ({"more": [("age", Int64)]}, "age of type int64, but the run has none; it has user_id (int64), item_ids"),
        ({"view": "other"}, "no feature view 'user_recommendations'; it has other"),
        ({"kept_online": False}, "is not kept online"),
    ],
)
def test_a_view_that_does_not_fit(batchrec, tmp_path, options, words):
    repo = make_repo(tmp_path / "repo", SQLITE, **options)
    said = batchrec("push", publish(tmp_path / "out" / "night", invented(USERS), repo=repo))
    assert (said.code, said.out) == (2, "")
    assert words in said.err
    assert not (tmp_path / "out" / ".pushed").exists()


def test_narrower_numbers_fit_wider_features(batchrec, tmp_path):
    repo = make_repo(tmp_path / "repo", item=Int64, more=[("more", Float64)], view="w")
    run = publish(tmp_path / "out" / "night", invented(USERS), parts=1, repo=repo)
    more = pa.array([0.5] * 119 + [None], pa.float32())
    table = pq.read_table(run / "part-00000.parquet").append_column("more", more)
    pq.write_table(table, run / "part-00000.parquet")
    seal(run)
    said = batchrec("push", run, "--view", "w")
    assert said.code == 0, said.err
    assert online(repo, [1118, 1119], ("more",), "w") == {1118: (0.5,), 1119: (None,)}


def test_what_is_not_published_or_damaged_is_refused(batchrec, tmp_path):
    repo = make_repo(tmp_path / "repo")
    run = publish(tmp_path / "out" / "night", invented(USERS), repo=repo)
    part = run / "part-00002.parquet"
    part.write_bytes(part.read_bytes()[:-1] + b"0")
    said = batchrec("push", run, "--workers", "1")
    assert (said.code, said.out) == (2, "")
    assert "part-00002.parquet is damaged" in said.err
    assert online(repo, [USERS[-1]]) == {USERS[-1]: (None, None)}
    (run / "_SUCCESS").unlink()
    said = batchrec("push", run)
    assert said.code == 2
    assert "is not a published run" in said.err


def test_a_store_that_gives_back_something_else_is_told(batchrec, tmp_path, monkeypatch):
    from batchrec.features import proto

    repo = make_repo(tmp_path / "repo")
    run = publish(tmp_path / "out" / "night", invented(USERS), repo=repo)
    right = proto.lists
    monkeypatch.setattr(proto, "lists", lambda array: (one[:-1] for one in right(array)))
    said = batchrec("push", run, "--workers", "1")
    assert (said.code, said.out) == (3, "")
    assert "gives back something else than was pushed: user 10" in said.err


def test_a_locked_store_is_temporary(batchrec, tmp_path, monkeypatch):
    from batchrec.features import online as module

    monkeypatch.setattr(module.OnlineView, "retry_waits", ())
    repo = make_repo(tmp_path / "repo")
    run = publish(tmp_path / "out" / "night", invented(USERS), repo=repo)
    with sqlite3.connect(repo / "online.db") as other:
        other.execute("BEGIN EXCLUSIVE")
        said = batchrec("push", run, "--workers", "1")
    assert said.code == 75, said.err
    assert "does not answer (OperationalError: database is locked)" in said.err
    assert batchrec("push", run, "--workers", "1").code == 0


def test_a_table_that_is_gone_is_no_temporary_failure(batchrec, tmp_path):
    repo = make_repo(tmp_path / "repo")
    (repo / "online.db").unlink()
    said = batchrec("push", publish(tmp_path / "out" / "night", invented(USERS), repo=repo), "--workers", "2")
    assert said.code == 1, said.err
    assert "no such table" in said.err
    assert "feast -c" in said.err


def test_two_pushes_into_one_view(batchrec, tmp_path):
    from batchrec.output.storage import open_storage

    repo = make_repo(tmp_path / "repo")
    run = publish(tmp_path / "out" / "night", invented(USERS), repo=repo)
    assert batchrec("push", run, "--workers", "1").code == 0
    (folder,) = (tmp_path / "out" / ".pushed").iterdir()
    with open_storage(folder).lock("lock", "it"):
        said = batchrec("push", run, "--workers", "1")
    assert said.code == 75
    assert "another process is writing into feature view 'user_recommendations'" in said.err


def test_the_journal_holds_no_secret(batchrec, tmp_path, redis):
    redis.client.flushall()
    redis.client.acl_setuser("nightly", enabled=True, passwords=["+hush-hush-hush"], keys="*", commands=["+@all"])
    where = f"{{type: redis, connection_string: '127.0.0.1:{redis.port},username=nightly,password=hush-hush-hush'}}"
    repo = make_repo(tmp_path / "repo", where)
    run = publish(tmp_path / "out" / "night", invented(USERS), repo=repo)
    said = batchrec("push", run, "--workers", "1")
    assert said.code == 0, said.err
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len([path for path in written if ".pushed" in str(path)]) == 4
    assert [path for path in written if b"hush-hush" in path.read_bytes()] == []
    redis.client.acl_setuser("nightly", enabled=True, reset_passwords=True, passwords=["+another-word"])
    said = batchrec("push", run, "--workers", "1")
    assert said.code == 1
    assert "hush-hush" not in said.err
    assert "AuthenticationError" in said.err or "invalid username-password" in said.err


def test_the_journal_is_json_that_names_the_run(batchrec, tmp_path):
    repo = make_repo(tmp_path / "repo")
    run = publish(tmp_path / "out" / "night", invented(USERS), repo=repo)
    assert batchrec("push", run, "--workers", "1").code == 0
    (begun,) = (tmp_path / "out").glob(".pushed/*/begun.json")
    assert json.loads(begun.read_text())["run_id"] == "night"
