"""``batchrec verify``: a run is proven again, and every lie in it is found."""

from __future__ import annotations

import hashlib
import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    from tests.runs import command

    output = tmp_path_factory.mktemp("verified")
    process = command(*world.args(output, "--users-per-partition=300", "--run-id=r"))
    _, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    return output / "r"


@pytest.fixture
def copy(run, tmp_path):
    return shutil.copytree(run, tmp_path / "r")


def rewrite(run, name, change):
    """Change the rows of a part and sum it anew, as somebody who tampers would."""
    table = pq.read_table(run / name)
    rows = table.to_pylist()
    changed = change(rows)
    pq.write_table(pa.Table.from_pylist(rows if changed is None else changed, table.schema), run / name)
    manifest = json.loads((run / "_manifest.json").read_text())
    for part in manifest["parts"]:
        if part["name"] == name:
            data = (run / name).read_bytes()
            part |= {"rows": len(rows if changed is None else changed), "bytes": len(data)}
            part["sha256"] = hashlib.sha256(data).hexdigest()
    (run / "_manifest.json").write_text(json.dumps(manifest))


def test_a_run_that_holds_its_promises(run, batchrec):
    said = batchrec("verify", run)
    assert said.code == 0, said.err
    assert said.summary["run_id"] == "r"
    assert said.summary["parts"] == 4
    assert said.summary["rows"] == 1000
    assert set(said.summary["checks"].values()) == {0}
    manifest = json.loads((run / "_manifest.json").read_text())
    assert manifest["verification"] == {name: value for name, value in said.summary.items() if name != "run_id"}
    assert batchrec("verify", run.parent / "current").code == 0


def seen_item(world, rows):
    table = pq.read_table(world.data / "item_id_seen.parquet").to_pylist()
    past = {row["user_id_raw"]: row["item_id_seen"] for row in table if row["event_timestamp"] <= world.cutoff}
    row = next(row for row in rows if row["status"] == "ok" and past.get(row["user_id"]))
    row["item_ids"][2] = past[row["user_id"]][0]


@pytest.mark.parametrize(
    ("lie", "found"),
    [
        (seen_item, "seen_item 1"),
        (lambda _, rows: rows[5]["item_ids"].__setitem__(0, 1), "not_in_catalogue 1"),
        (lambda _, rows: rows[5]["item_ids"].__setitem__(0, rows[5]["item_ids"][1]), "repeated_item 1"),
        (lambda _, rows: rows[5]["scores"].clear(), "unequal_lengths 1"),
        (lambda _, rows: rows[5].update(status="short"), "status_counts 2, list_length 1"),
        (lambda _, rows: rows[5].update(user_id=rows[5]["user_id"] + 1), "user_ids 1, seen_missing"),
        (lambda _, rows: rows[5].update(user_id=rows[4]["user_id"]), "user_ids 1, user_order 1"),
        (lambda _, rows: rows[:-1], "user_ids 1, status_counts 1"),
    ],
)
def test_lies_are_found(world, copy, batchrec, lie, found):
    rewrite(copy, "part-00001.parquet", lambda rows: lie(world, rows))
    said = batchrec("verify", copy)
    assert said.code == 3
    assert "violations by check are " in said.err
    for words in found.split(", "):
        assert words in said.err or words == "seen_missing"


def test_parts_in_another_order(copy, batchrec):
    manifest = json.loads((copy / "_manifest.json").read_text())
    manifest["parts"].reverse()
    (copy / "_manifest.json").write_text(json.dumps(manifest))
    said = batchrec("verify", copy)
    assert said.code == 3
    assert "part_order 3, user_ids 1" in said.err


def test_a_flipped_bit(copy, batchrec):
    data = bytearray((copy / "part-00002.parquet").read_bytes())
    data[50] ^= 1
    (copy / "part-00002.parquet").write_bytes(bytes(data))
    said = batchrec("verify", copy)
    assert said.code == 3
    assert "sums 1" in said.err
    assert "part-00002.parquet is damaged" in said.err


def test_what_cannot_be_verified(world, copy, run, batchrec, tmp_path):
    said = batchrec("verify", tmp_path / "none")
    assert said.code == 2
    assert "is not a published run" in said.err
    manifest = json.loads((copy / "_manifest.json").read_text())
    (copy / "_manifest.json").write_text(json.dumps(manifest | {"fingerprints": {"bundle": "0" * 64}}))
    said = batchrec("verify", copy)
    assert said.code == 2
    assert "is not the bundle that run r was made with" in said.err
    del manifest["options"]
    (copy / "_manifest.json").write_text(json.dumps(manifest))
    said = batchrec("verify", copy)
    assert said.code == 2
    assert "does not say how the run was made" in said.err
    assert batchrec("verify", run, f"--bundle={world.bundle}", f"--feature-repo={world.repo}").code == 0


def test_a_run_may_leave_the_proof_out(world, batchrec, tmp_path):
    said = batchrec(*world.args(tmp_path, "--run-id=r", "--no-verify"))
    assert said.code == 0, said.err
    assert said.summary["verified"] is False
    assert json.loads((tmp_path / "r" / "_manifest.json").read_text())["verification"] is None
