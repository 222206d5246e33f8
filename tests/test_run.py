"""Whole runs: the manifest, the layouts, what is unknown, and the line from training to evaluation."""

import hashlib
import json
import shutil
from datetime import UTC, datetime

import pyarrow.parquet as pq

from batchrec.config import load_config
from batchrec.output.local_storage import LocalStorage
from tests.runs import command, published


def test_a_run_that_another_process_writes_is_busy(world, batchrec, tmp_path):
    output = tmp_path / "output"
    with LocalStorage(output).lock(".lock", "there"):
        said = batchrec(*world.args(output, "--run-id=r"))
        assert said.code == 75
        assert "another process is writing" in said.err
    assert not output.exists()


def test_training_replaces_no_bundle(world, batchrec, tmp_path):
    before = {path: path.read_bytes() for path in world.bundle.rglob("*") if path.is_file()}
    said = batchrec("train", "--interactions", tmp_path / "none.parquet", "--output", world.bundle)
    assert said.code == 2
    assert f"{world.bundle} holds a bundle already" in said.err
    assert before == {path: path.read_bytes() for path in world.bundle.rglob("*") if path.is_file()}


def test_manifest_tells_what_was_done(world, batchrec, tmp_path):
    said = batchrec(*world.args(tmp_path, "--users-per-partition=400", "--run-id=r", "--top-k=7"))
    assert said.code == 0, said.err
    folder = tmp_path / "r"
    manifest = json.loads((folder / "_manifest.json").read_text())
    assert manifest["rows"] == 1000
    assert [part["rows"] for part in manifest["parts"]] == [400, 400, 200]
    for part in manifest["parts"]:
        assert hashlib.sha256((folder / part["name"]).read_bytes()).hexdigest() == part["sha256"]
    assert manifest["accounting"] == {
        "input_rows": 1000, "null_rows": 0, "duplicate_rows": 0, "distinct_users": 1000,
        "by_status": {"ok": 993, "short": 2, "degraded": 0, "fallback": 5, "unknown": 0, "failed": 0},
        "suppressed_users": 0,
    }  # fmt: skip
    assert datetime.fromisoformat(manifest["as_of"]) == world.cutoff
    assert manifest["options"]["top_k"] == 7
    assert manifest["options"]["as_of"] == world.cutoff.isoformat()
    assert set(manifest["fingerprints"]) == {"users", "user_ids", "bundle", "features", "config", "code"}
    assert manifest["fingerprints"]["bundle"] == hashlib.sha256((world.bundle / "bundle.json").read_bytes()).hexdigest()
    stages = {"read features", "encode", "query tower", "retrieve and filter", "rank", "sample", "write"}
    assert stages < set(manifest["seconds"])
    assert {"keras", "faiss-cpu", "feast", "dask", "python", "batchrec"} <= set(manifest["versions"])
    assert manifest["schema"] == {field.name: str(field.type) for field in published(folder).schema}
    assert set(manifest["verification"]["checks"].values()) == {0}
    assert manifest["verification"]["rows"] == 1000
    assert manifest["suppression"] is None
    assert (tmp_path / "current").resolve() == folder
    assert sorted(path.name for path in folder.iterdir()) == [
        "_SUCCESS", "_digests", "_manifest.json", "part-00000.parquet", "part-00001.parquet", "part-00002.parquet"
    ]  # fmt: skip


def test_layout_long_holds_the_same_lists(world, batchrec, tmp_path):
    for layout in ("list", "long"):
        said = batchrec(*world.args(tmp_path, f"--layout={layout}", f"--run-id={layout}"))
        assert said.code == 0, said.err
    lists = [
        (row["user_id"], rank, item, score, propensity)
        for row in published(tmp_path / "list").to_pylist()
        for rank, (item, score, propensity) in enumerate(
            zip(row["item_ids"], row["scores"], row["propensities"], strict=True), 1
        )
    ]
    long = published(tmp_path / "long")
    assert [tuple(row.values()) for row in long.to_pylist()] == lists
    assert said.summary["users"] == 1000
    assert said.summary["rows"] == len(long) == len(lists)


def test_without_fallback_unknown_users_get_empty_lists(world, batchrec, tmp_path):
    said = batchrec(*world.args(tmp_path, "--fallback=none", "--run-id=r"))
    assert said.summary["by_status"] == {"ok": 993, "short": 2, "unknown": 5}
    rows = {row["user_id"]: row for row in published(tmp_path / "r").to_pylist()}
    for user in world.unknown:
        assert rows[user] == {
            "user_id": user, "item_ids": [], "scores": [], "propensities": [], "status": "unknown", "source": "none",
        }  # fmt: skip


def test_bundle_that_knows_no_popularity(world, batchrec, tmp_path):
    from batchrec.models.bundle import write_format

    bundle = shutil.copytree(world.bundle, tmp_path / "bundle")
    content = json.loads((bundle / "bundle.json").read_text())
    files = [name for name in content.pop("files") if name != "popularity.parquet"]
    write_format(bundle, content, files)
    said = batchrec(*world.args(tmp_path / "out", f"--bundle={bundle}", "--run-id=r"))
    assert said.code == 0, said.err
    assert said.summary["by_status"] == {"ok": 993, "short": 2, "unknown": 5}
    assert "no popularity.parquet" in said.err


def test_sources_are_told(world, batchrec, tmp_path):
    for rank_by in ("ranker", "retrieval"):
        assert batchrec(*world.args(tmp_path, f"--rank-by={rank_by}", f"--run-id={rank_by}")).code == 0
        table = published(tmp_path / rank_by)
        found = set(zip(table["status"].to_pylist(), table["source"].to_pylist(), strict=True))
        assert found == {("ok", rank_by), ("short", rank_by), ("fallback", "popularity")}


def test_the_run_is_named_after_its_as_of_time_in_utc(world, batchrec, tmp_path):
    said = batchrec(*world.args(tmp_path, "--as-of=2026-02-23T01:30:00+03:00"))
    assert said.code == 0, said.err
    assert said.summary["run_id"] == "20260222T223000Z"
    manifest = json.loads((tmp_path / "current" / "_manifest.json").read_text())
    assert manifest["options"]["run_id"] == "20260222T223000Z"
    assert datetime.fromisoformat(manifest["as_of"]) == datetime(2026, 2, 22, 22, 30, tzinfo=UTC)


def test_two_runs_in_one_process_see_what_changed_between_them(world, tmp_path):
    """The Python API keeps no bundle and no item features from one run to the next."""
    from batchrec.run import run

    bundle = shutil.copytree(world.bundle, tmp_path / "bundle")
    flags = {
        "users": str(world.data / "users.parquet"), "bundle": bundle, "feature_repo": world.repo,
        "as_of": world.cutoff.isoformat(), "output": str(tmp_path / "out"), "candidates": 30, "temperature": "inf",
    }  # fmt: skip
    first = run(load_config(flags | {"run_id": "first"}, None))
    assert first.path == str(tmp_path / "out" / "first")
    _negate_embeddings(bundle)
    run(load_config(flags | {"run_id": "second"}, None))
    one, other = (published(tmp_path / "out" / name) for name in ("first", "second"))
    assert one["item_ids"] != other["item_ids"]


def _negate_embeddings(bundle):
    from batchrec.models.bundle import Bundle, write_embeddings, write_format
    from batchrec.models.index import build_index, write_index

    opened = Bundle.open(bundle)
    embeddings = -opened.item_embeddings
    write_embeddings(bundle / "item_embeddings.parquet", {"item_id": opened.item_ids}, embeddings)
    write_index(build_index(embeddings, embeddings[:9], 10, 0.99, 20_000).index, bundle / "index.faiss")
    content = json.loads((bundle / "bundle.json").read_text())
    write_format(bundle, content, list(content.pop("files")))


def test_from_training_to_evaluation(world, tmp_path):
    """The commands a user types, one process each: nothing but files goes from one to the next."""

    def do(*args):
        process = command(*args, cwd=tmp_path)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        assert "Traceback" not in err
        return json.loads(out.splitlines()[-1])

    data = world.data
    common = ["--interactions", data / "interactions.parquet", "--items", data / "items.parquet"]
    small = ["--dimension", 8, "--history", 5, "--epochs", 1]
    trained = do("train", *common, "--feature-repo", world.repo, "--output", "bundle", *small)
    assert trained["items"] == 300
    indexed = do("index", "bundle")
    assert indexed["index"]["recall"] >= 0.99
    ran = do(*world.args("output"), "--bundle=bundle", "--run-id=r")
    assert (ran["users"], ran["rows"]) == (1000, 1000)
    figures = do("evaluate", "output/current", "--holdout", data / "holdout.parquet", *common)
    assert "recall" in json.dumps(figures)
    seen = {}
    for row in pq.read_table(data / "item_id_seen.parquet").to_pylist():
        seen.setdefault(row["user_id_raw"], set()).update(row["item_id_seen"])
    for row in published(tmp_path / "output" / "r").to_pylist():
        if row["status"] != "fallback":
            assert not seen.get(row["user_id"], set()) & set(row["item_ids"])
