"""Pushes that something stops in the middle: nothing is lost, nothing is pushed twice that is on record."""

from __future__ import annotations

import signal
import time

import pytest

from batchrec.output.storage import open_storage
from tests.delivery.runs import invented, publish
from tests.delivery.stores import make_repo, online, redis_server
from tests.faults.support import ended, wait_for
from tests.runs import command
from tests.stores import BUCKET

USERS = range(20_000)
PARTS = 20


@pytest.fixture
def redis(tmp_path):
    (tmp_path / "redis").mkdir()
    server = redis_server(tmp_path / "redis")
    yield server
    server.kill()


def entries(output):
    return sorted(path.name for path in output.glob(".pushed/*/part-*.json"))


@pytest.mark.slow
def test_redis_goes_away_and_comes_back(batchrec, tmp_path, redis):
    """Redis' client itself tries for some ten seconds each of our three times."""
    lists = invented(USERS)
    repo = make_repo(tmp_path / "repo", redis.online)
    run = publish(tmp_path / "out" / "night", lists, PARTS, repo=repo)
    process = command("push", run, "--workers=2", "--batch=10")
    wait_for(lambda: len(entries(tmp_path / "out")) >= 3, process)
    redis.kill()
    code, err = ended(process)
    assert code == 75, err
    assert "does not answer (ConnectionError" in err
    assert err.count("batchrec: error:") == 1
    assert "Traceback" not in err
    on_record = entries(tmp_path / "out")
    assert 3 <= len(on_record) < PARTS

    redis.start()
    said = batchrec("push", run, "--workers=1")
    assert said.code == 0, said.err
    assert said.summary["pushed_parts"] == PARTS - len(on_record)
    assert online(repo, list(USERS)) == lists
    # A key a user: nothing stands there twice.
    assert redis.client.dbsize() == len(lists)


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
def test_the_push_itself_is_stopped(batchrec, tmp_path, sign):
    lists = invented(USERS)
    repo = make_repo(tmp_path / "repo")
    run = publish(tmp_path / "out" / "night", lists, PARTS, repo=repo)
    process = command("push", run, "--workers=2", "--batch=20")
    wait_for(lambda: len(entries(tmp_path / "out")) >= 3, process)
    process.send_signal(sign)
    # Its processes hold the same standard error: this returns only when they have ended too.
    code, err = ended(process, seconds=30)
    assert code == {signal.SIGKILL: -9, signal.SIGTERM: 75}[sign], err
    if sign == signal.SIGTERM:
        assert err.splitlines()[-1] == (
            "batchrec: terminated, what was pushed is on record; the same command pushes what is missing"
        )
    on_record = entries(tmp_path / "out")
    said = batchrec("push", run, "--workers=1")
    assert said.code == 0, said.err
    assert said.summary["pushed_parts"] == PARTS - len(on_record) > 0
    assert online(repo, list(USERS)) == lists


@pytest.mark.slow
def test_a_process_that_dies_is_told(tmp_path):
    import psutil

    lists = invented(USERS)
    repo = make_repo(tmp_path / "repo")
    run = publish(tmp_path / "out" / "night", lists, PARTS, repo=repo)
    process = command("push", run, "--workers=2", "--batch=20")
    wait_for(lambda: len(entries(tmp_path / "out")) >= 2, process)
    (victim, *_) = [one for one in psutil.Process(process.pid).children() if "spawn_main" in " ".join(one.cmdline())]
    victim.kill()
    code, err = ended(process)
    assert code == 1, err
    assert "a process that pushes rows died" in err


@pytest.mark.slow
def test_a_run_on_an_object_store(batchrec, tmp_path, s3):
    lists = invented(range(300))
    repo = make_repo(tmp_path / "repo")
    local = publish(tmp_path / "night", lists, repo=repo)
    output = open_storage(f"s3://{BUCKET}/pushed")
    for path in local.iterdir():
        output.folder("night").write(path.name, path.read_bytes())
    output.write("current", b"night")
    for pushed in (3, 0):
        said = batchrec("push", f"s3://{BUCKET}/pushed/current", "--workers=2")
        assert (said.code, said.summary["pushed_parts"]) == (0, pushed), said.err
    assert online(repo, list(lists)) == lists
    assert len([name for name in output.names(".pushed") if "part-" in name]) == 3


def test_a_run_that_pushes_itself(world, batchrec, tmp_path):
    """The demo's own repository, from users to what an application gets."""
    import shutil

    import pyarrow.parquet as pq

    repo = tmp_path / "repo"
    shutil.copytree(world.repo, repo)
    said = batchrec(*world.args(tmp_path / "out", f"--feature-repo={repo}", "--push"))
    assert said.code == 0, said.err
    assert said.summary["push"]["pushed_users"] == said.summary["users"] == len(world.ids())
    rows = pq.read_table(tmp_path / "out" / "current" / "part-00000.parquet").to_pylist()
    assert online(repo, [row["user_id"] for row in rows]) == {
        row["user_id"]: (row["item_ids"], row["scores"]) for row in rows
    }


@pytest.mark.slow
def test_a_run_whose_push_fails_is_published(world, batchrec, tmp_path):
    import shutil

    repo = tmp_path / "repo"
    shutil.copytree(world.repo, repo)
    (repo / "data" / "online_store.db").unlink()
    begun = time.monotonic()
    said = batchrec(*world.args(tmp_path / "out", f"--feature-repo={repo}", "--push", "--run-id=night"))
    assert said.code == 1
    assert time.monotonic() - begun < 120
    assert (tmp_path / "out" / "current").readlink().name == "night"
    assert "push" not in said.summary
    (sentence,) = [line for line in said.err.splitlines() if "error" in line]
    assert sentence.startswith("batchrec: error: run night is published, but its push failed: ")
    assert f"`batchrec push {tmp_path / 'out' / 'night'}`" in sentence
