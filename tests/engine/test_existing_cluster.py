"""A run on a Dask cluster whose scheduler and workers are processes of their own."""

import json
import os
import shutil
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchrec.models.bundle import write_format
from tests.clusters import dask_cluster
from tests.runs import tree
from tests.stores import BUCKET

SIZE = "--users-per-partition=130"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with dask_cluster(tmp_path_factory.mktemp("cluster"), workers=2) as cluster:
        yield cluster


def parts(run):
    return {name: content for name, content in tree(run).items() if name.startswith("part-")}


def test_parts_are_those_of_a_run_in_one_process(world, batchrec, cluster, tmp_path, monkeypatch):
    assert batchrec(*world.args(tmp_path / "a", SIZE, "--run-id=r")).code == 0
    monkeypatch.chdir(tmp_path)
    relative = f"--bundle={Path('..') / world.bundle.relative_to(world.bundle.parents[1])}"
    assert (tmp_path / relative.removeprefix("--bundle=")).exists()
    said = batchrec(*world.args(Path("b"), SIZE, "--run-id=r", relative, f"--cluster={cluster.address}"))
    assert said.code == 0, said.err
    assert "distributed" not in said.err
    assert len(said.err.splitlines()) < 8
    assert len(parts(tmp_path / "a" / "r")) == 8
    assert parts(tmp_path / "b" / "r") == parts(tmp_path / "a" / "r")
    assert not (tmp_path / "b" / "r" / "_work").exists()


def make_another(bundle):
    """Change what users without features get."""
    described = json.loads((bundle / "bundle.json").read_text())
    files = list(described.pop("files"))
    counts = pq.read_table(bundle / "popularity.parquet")
    doubled = pa.array(counts["interactions"].to_numpy() * 2)
    pq.write_table(counts.set_column(1, "interactions", doubled), bundle / "popularity.parquet")
    write_format(bundle, described, files)


@pytest.mark.slow
def test_a_changed_bundle_at_the_same_place_is_read_anew(world, batchrec, cluster, tmp_path):
    bundle = tmp_path / "bundle"
    shutil.copytree(world.bundle, bundle)
    args = [SIZE, f"--bundle={bundle}", f"--cluster={cluster.address}"]
    first = batchrec(*world.args(tmp_path / "a", *args))
    assert first.code == 0, first.err
    make_another(bundle)
    second = batchrec(*world.args(tmp_path / "b", *args))
    assert second.code == 0, second.err
    alone = batchrec(*world.args(tmp_path / "c", SIZE, f"--bundle={bundle}"))
    assert alone.code == 0, alone.err
    found = [parts((tmp_path / output / "current").resolve()) for output in "abc"]
    assert found[1] == found[2] != found[0]


@pytest.mark.slow
def test_users_are_lent_to_the_workers_by_an_object_store(world, batchrec, s3, cluster, tmp_path):
    """The workers know the store by what they were started with, as on any cluster."""
    url = f"s3://{BUCKET}/lent"
    with dask_cluster(tmp_path / "cluster") as with_credentials:
        said = batchrec(*world.args(url, SIZE, "--run-id=r", f"--cluster={with_credentials.address}"))
    assert said.code == 0, said.err
    assert batchrec(*world.args(tmp_path / "a", SIZE, "--run-id=r")).code == 0
    store = fsspec.filesystem("s3")
    there = {name.rsplit("/", 1)[-1]: store.cat_file(name) for name in store.find(f"{BUCKET}/lent/r")}
    assert {name: there.get(name) for name in parts(tmp_path / "a" / "r")} == parts(tmp_path / "a" / "r")
    assert "users.parquet" not in there


def test_worker_processes_of_its_own(world, batchrec, tmp_path):
    threads = os.environ.get("OMP_NUM_THREADS")
    args = (SIZE, "--run-id=r", "--memory-limit=4GB")
    said = batchrec(*world.args(tmp_path / "a", *args, "--cluster=processes:1"))
    assert said.code == 0, said.err
    assert len(said.err.splitlines()) < 8, said.err
    assert os.environ.get("OMP_NUM_THREADS") == threads, "what is set for workers is not set for this process"
    assert batchrec(*world.args(tmp_path / "b", *args)).code == 0
    assert parts(tmp_path / "a" / "r") == parts(tmp_path / "b" / "r")
