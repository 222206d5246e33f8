"""Whole runs on a real S3 API: publish, prove, be killed and go on, two writers at once; and no secret is told."""

from __future__ import annotations

import json
import secrets
import signal
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchrec.output.storage import open_storage
from tests.faults.support import args, ended, start, wait_for
from tests.stores import BUCKET


@pytest.fixture
def output(s3):
    return f"s3://{BUCKET}/{secrets.token_hex(4)}"


def objects(output):
    """Every object below a prefix, by name."""
    storage = open_storage(output)
    return {name: storage.read(name) for name in storage.names()}


def parts_of(found):
    return {name.rpartition("/")[2]: data for name, data in found.items() if "/part-" in name and "/_" not in name}


def test_a_run_is_published_proven_and_read(world, batchrec, output, undisturbed, tmp_path):
    said = batchrec(*args(world, output))
    assert said.code == 0, said.err
    assert said.summary["path"] == f"{output}/night"
    found = objects(output)
    assert parts_of(found) == undisturbed
    assert found["current"] == b"night"
    assert set(found) == {
        "current",
        "night/_SUCCESS",
        "night/_manifest.json",
        *(f"night/{name}" for name in undisturbed),
        *(f"night/_digests/{name}" for name in undisturbed),
    }
    assert set(json.loads(found["night/_manifest.json"])["verification"]["checks"].values()) == {0}

    said = batchrec("verify", f"{output}/current")
    assert said.code == 0, said.err
    assert batchrec("show", f"{output}/current", "--users=1").code == 0
    holdout = pa.table(
        {"user_id": world.ids()[:9], "item_id": pq.read_table(world.data / "items.parquet")["item_id"][:9]}
    )
    pq.write_table(holdout, tmp_path / "holdout.parquet")
    files = (f"--holdout={tmp_path / 'holdout.parquet'}", f"--interactions={world.data / 'interactions.parquet'}")
    assert batchrec("evaluate", f"{output}/night", *files, f"--items={world.data / 'items.parquet'}").code == 0

    said = batchrec(*args(world, output))
    assert said.code == 2
    assert f"{output}/night already holds a published run" in said.err


def test_users_on_s3(world, batchrec, s3, tmp_path, undisturbed):
    place = f"{BUCKET}/{secrets.token_hex(4)}"
    open_storage(f"s3://{place}").write("users.parquet", (world.data / "users.parquet").read_bytes())
    said = batchrec(*args(world, tmp_path), f"--users=s3://{place}/users.parquet")
    assert said.code == 0, said.err
    found = {path.name: path.read_bytes() for path in (tmp_path / "current").glob("*.parquet")}
    assert found == undisturbed


@pytest.mark.slow
def test_killed_and_gone_on_with(world, batchrec, output, undisturbed, monkeypatch):
    process = start(world, output)
    storage = open_storage(f"{output}/night")
    wait_for(lambda: sum(name.endswith(".json") for name in storage.names("_journal")) >= 4, process)
    process.send_signal(signal.SIGKILL)
    ended(process)
    found = objects(output)
    assert "current" not in found
    assert 3 <= len(parts_of(found)) < 25

    # The dead owner's lease has not expired yet; its age is told by the store.
    said = batchrec(*args(world, output))
    assert said.code == 75
    assert f"another process is writing to {output} (process {process.pid} on " in said.err
    lock = open_storage(f"{output}/.lock")
    (held,) = lock.names()
    content = json.loads(lock.read(held))
    lock.write(held, json.dumps(content | {"seconds": 1}).encode())
    time.sleep(2.5)

    said = batchrec(*world.args(output, "--users-per-partition=40", "--resume"))
    assert said.code == 0, said.err
    assert "going on: " in said.err
    found = objects(output)
    assert parts_of(found) == undisturbed
    assert found["current"] == b"night"
    assert [name for name in found if "lock" in name or "_journal" in name or name.endswith(".tmp")] == []


@pytest.mark.slow
def test_terminated_writers_let_go_of_the_lease(world, batchrec, output, undisturbed):
    process = start(world, output)
    storage = open_storage(f"{output}/night")
    wait_for(lambda: sum(name.endswith(".json") for name in storage.names("_journal")) >= 3, process)
    process.terminate()
    assert ended(process)[0] == 75
    said = batchrec(*args(world, output))
    assert said.code == 0, said.err
    assert parts_of(objects(output)) == undisturbed


def test_two_writers_at_once(world, output, undisturbed):
    both = [start(world, output) for _ in range(2)]
    codes = sorted(ended(process)[0] for process in both)
    assert codes == [0, 75]
    assert parts_of(objects(output)) == undisturbed


def test_a_store_that_is_not_there(world, batchrec, s3):
    said = batchrec(*args(world, "s3://no-such-bucket/out"))
    assert said.code == 1
    assert "no-such-bucket" in said.err
    assert said.err.count("\n") == 1


@pytest.mark.slow
def test_no_secret_is_told(world, s3, output, undisturbed):
    """Neither in what a run says, nor in what it writes; also not where the URL itself carries the keys."""
    key, secret = s3["AWS_ACCESS_KEY_ID"], s3["AWS_SECRET_ACCESS_KEY"]
    users = open_storage(output)
    users.write("in/users.parquet", (world.data / "users.parquet").read_bytes())
    process = start(world, f"{output}/out", f"--users={output}/in/users.parquet", "--debug")
    code, err = ended(process)
    assert code == 0, err
    with_keys = output.replace("s3://", f"s3://{key}:{secret}@")
    process = start(world, f"{with_keys}/again", "--debug")
    code, second = ended(process)
    told = (err + second).encode() + b"".join(
        data for name, data in objects(output).items() if not name.endswith(".parquet")
    )
    assert secret.encode() not in told
