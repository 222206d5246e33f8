"""Users, bundle, features, suppression list and output, all on a real S3 API: the rows are those of the run on disk."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import tempfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from batchrec.output.storage import open_storage
from batchrec.remote_bundle import put
from tests.delivery.stores import online
from tests.faults.support import args, ended, start
from tests.stores import BUCKET
from tests.world import FEAST, ROOT

FEW_PARTS = "--users-per-partition=250"
REPOSITORY_ON_S3 = "path=f\"{os.environ['FEATURES']}/{name}.parquet\""


@pytest.fixture(scope="module")
def everything(world, s3, tmp_path_factory):
    """Options that name everything by URL, but for the output; the repository's sources are URLs as Feast has them."""
    place = f"s3://{BUCKET}/{secrets.token_hex(4)}"
    store = open_storage(place)
    for path in world.data.glob("*.parquet"):
        store.put(path, f"data/{path.name}")
    put(world.bundle, store.folder("bundle"))
    recalled = pa.table({"item_id": sorted(pq.read_table(world.data / "items.parquet")["item_id"].to_pylist())[:40]})
    local = tmp_path_factory.mktemp("suppress") / "recalled.parquet"
    pq.write_table(recalled, local)
    store.put(local, "recalled.parquet")

    repo = tmp_path_factory.mktemp("repo") / "feature_repo"
    shutil.copytree(ROOT / "feature_repo", repo, ignore=shutil.ignore_patterns("data", "__pycache__"))
    (repo / "data").mkdir()
    definitions = (repo / "definitions.py").read_text()
    stated = 'path=str(DATA / f"{name}.parquet")'
    assert definitions.count(stated) == 1
    (repo / "definitions.py").write_text(definitions.replace(stated, REPOSITORY_ON_S3))
    subprocess.run(
        [FEAST, "-c", repo, "apply"], check=True, env=os.environ | {"FEATURES": f"{place}/data"}, timeout=120
    )
    options = {
        "users": f"{place}/data/users.parquet",
        "bundle": f"{place}/bundle",
        "feature-repo": repo,
        "suppress": f"{place}/recalled.parquet",
    }
    return place, local, [f"--{name}={value}" for name, value in options.items()]


@pytest.fixture
def local_parts(world, batchrec, everything, tmp_path):
    """The parts of the run that finds all of it on disk."""
    said = batchrec(*args(world, tmp_path / "local", FEW_PARTS, f"--suppress={everything[1]}"))
    assert said.code == 0, said.err
    return {path.name: path.read_bytes() for path in (tmp_path / "local" / "current").glob("*.parquet")}


def parts(output):
    storage = open_storage(f"{output}/night")
    return {name: storage.read(name) for name in storage.names() if name.startswith("part-")}


@pytest.fixture
def copies(tmp_path, monkeypatch):
    """Return a function that lists the copies of bundles that are left."""
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr(tempfile, "tempdir", None)
    root = place / f"batchrec-bundles-{os.getuid()}"
    return lambda: list(root.iterdir())


def test_a_night_without_a_disk(world, batchrec, s3, everything, local_parts, copies):
    place, _, options = everything
    output, table = f"{place}/output", f"{place}/table"
    said = batchrec(*args(world, output, FEW_PARTS, *options, f"--delta={table}", "--push"))
    assert said.code == 0, said.err
    assert parts(output) == local_parts
    assert copies() == []
    assert said.summary["delta"] | {"seconds": 0} == {
        "run_id": "night", "table": table, "version": 0, "rows": 1000, "written": True, "seconds": 0,
    }  # fmt: skip
    manifest = json.loads(open_storage(output).read("night/_manifest.json"))
    assert manifest["options"]["bundle"] == f"{place}/bundle"
    assert set(manifest["verification"]["checks"].values()) == {0}

    rows = [row for data in local_parts.values() for row in pq.read_table(pa.BufferReader(data)).to_pylist()]
    storage_options = {"endpoint_url": s3["AWS_ENDPOINT_URL"], "allow_http": "true"}
    found = DeltaTable(table, storage_options=storage_options).to_pyarrow_table().sort_by("user_id").to_pylist()
    assert found == sorted(rows, key=lambda row: row["user_id"])
    repo = options[2].partition("=")[2]
    some = {row["user_id"]: (row["item_ids"], row["scores"]) for row in rows[:5]}
    assert online(repo, list(some)) == some

    said = batchrec("verify", f"{output}/current")
    assert said.code == 0, said.err
    assert copies() == []
    said = batchrec("verify", f"{output}/current", f"--bundle={place}/none")
    assert said.code == 2
    assert f"{place}/none is not a bundle" in said.err
    for command in (("show", f"{output}/current"), ("runs", f"--output={output}"), ("gc", f"--output={output}")):
        assert batchrec(*command).code == 0
    said = batchrec("delta", f"{output}/current", table)
    assert (said.code, said.summary["written"]) == (0, False), said.err
    assert batchrec("sort-features", "user_features", "item_id_seen", f"--feature-repo={repo}").code == 0


def test_a_bundle_that_changes_under_a_run_is_told(world, batchrec, everything, tmp_path, copies):
    """A run that was begun with one bundle is not gone on with by another one at the same URL."""
    place, _, options = everything
    store = open_storage(f"{place}/bundle")
    whole = store.read("bundle.json")
    try:
        data = store.read("item_embeddings.parquet")
        store.write("item_embeddings.parquet", data[:-1] + b"x")
        said = batchrec(*args(world, tmp_path, *options))
        assert said.code == 2
        assert f"{place}/bundle/item_embeddings.parquet is damaged" in said.err
        store.write("item_embeddings.parquet", data)
        store.write("bundle.json", whole[: len(whole) // 2])
        said = batchrec(*args(world, tmp_path, *options))
        assert said.code == 2
        assert f"{place}/bundle/bundle.json cannot be read as JSON" in said.err
    finally:
        store.write("bundle.json", whole)
    assert not (tmp_path / "night").exists()
    assert copies() == []


@pytest.mark.slow
def test_processes_fetch_what_they_need_themselves(world, everything, local_parts, copies):
    place, _, options = everything
    output = f"{place}/by-processes"
    code, err = ended(start(world, output, FEW_PARTS, *options, "--cluster=processes:2", "--debug"), seconds=400)
    assert code == 0, err
    assert parts(output) == local_parts
    assert copies() == []
