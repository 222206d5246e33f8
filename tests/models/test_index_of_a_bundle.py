"""`batchrec index`: the index in a bundle, whole or as it was, whatever happens meanwhile."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from batchrec import index as index_command
from batchrec.errors import ArtifactError, BatchrecError, ConfigError, SinkError
from batchrec.models.bundle import Bundle, sha256
from batchrec.models.index import ItemIndex
from tests.models.bundles import make_bundle, read_json
from tests.models.support import exact_top


@pytest.fixture(scope="module")
def bundle_with_index(tmp_path_factory):
    folder = make_bundle(tmp_path_factory.mktemp("index") / "bundle")
    index_command.build(folder, recall_at=3)
    return folder


@pytest.fixture
def bundle(bundle_with_index, tmp_path):
    return shutil.copytree(bundle_with_index, tmp_path / "bundle")


def index_files(folder):
    return sorted(path.name for path in folder.iterdir() if "index" in path.name)


def open_index(folder):
    bundle = Bundle.open(folder)
    index = bundle.format.index
    size, dimension = bundle.item_embeddings.shape
    return bundle, ItemIndex.read(folder / index.path, index, size, dimension)


def test_build_puts_an_index_into_the_bundle(tmp_path):
    folder = make_bundle(tmp_path / "bundle")
    before = read_json(folder)
    summary = index_command.build(folder, recall_at=3)
    after = read_json(folder)
    (name,) = index_files(folder)
    assert after["index"] == {
        "path": name, "kind": "Flat", "nprobe": 1, "recall": 1.0, "recall_at": 3, "queries": 5, "deeper": {}
    }  # fmt: skip
    assert summary == {"bundle": str(folder), "items": 6, "index": after["index"]}
    json.dumps(summary)
    assert after["files"].pop(name) == sha256(folder / name)
    assert before["files"] == after["files"]
    assert {key: value for key, value in before.items() if key not in {"index", "files"}} == {
        key: value for key, value in after.items() if key not in {"index", "files"}
    }
    bundle, search = open_index(folder)
    exact, _ = exact_top(bundle.query_sample, bundle.item_embeddings, 6)
    np.testing.assert_array_equal(search(bundle.query_sample, 6)[1], exact)


def test_the_kind_can_be_chosen(bundle):
    index_command.build(bundle, kind="ivf")
    _, search = open_index(bundle)
    assert read_json(bundle)["index"]["kind"] == "IVF1,Flat"
    assert (search(np.ones((2, 4), np.float32), 6)[1] >= 0).all()
    assert index_files(bundle) == [read_json(bundle)["index"]["path"]]
    index_command.build(bundle, kind="flat")
    assert read_json(bundle)["index"]["kind"] == "Flat"
    assert len(index_files(bundle)) == 1
    Bundle.open(bundle)


def test_building_twice_changes_nothing(bundle):
    before = {path.name: path.read_bytes() for path in bundle.iterdir() if path.is_file()}
    index_command.build(bundle, recall_at=3)
    assert before == {path.name: path.read_bytes() for path in bundle.iterdir() if path.is_file()}


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_a_damaged_index_is_built_again(bundle, damage):
    (name,) = index_files(bundle)
    (bundle / name).unlink()
    if damage == "changed":
        (bundle / name).write_bytes(b"nothing")
    with pytest.raises(ArtifactError):
        Bundle.open(bundle)
    index_command.build(bundle)
    open_index(bundle)


def test_other_damage_is_refused(bundle):
    (bundle / "query_tower/model.keras").write_bytes(b"other")
    before = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    with pytest.raises(ArtifactError, match="is damaged"):
        index_command.build(bundle, kind="ivf")
    assert before == {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}


@pytest.mark.parametrize("options", [{"recall_at": 0}, {"target": -0.1}, {"target": 1.1}, {"target": float("nan")}])
def test_numbers_out_of_range(bundle, options):
    with pytest.raises(ConfigError):
        index_command.build(bundle, **options)


@pytest.mark.parametrize("step", ["write_index", "sha256", "save_format"])
@pytest.mark.parametrize("with_index", [True, False])
def test_a_crash_at_any_step_leaves_a_bundle_that_opens(tmp_path, bundle, monkeypatch, step, with_index):
    folder = bundle if with_index else make_bundle(tmp_path / "without")
    before = read_json(folder)

    class CrashError(BaseException):
        pass

    def crash(*args):
        raise CrashError

    monkeypatch.setattr(index_command, step, crash)
    with pytest.raises(CrashError):
        index_command.build(folder, kind="ivf")
    assert read_json(folder) == before
    assert (Bundle.open(folder).format.index is None) is not with_index
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_a_stop_between_the_renames_leaves_a_bundle_that_opens(bundle, monkeypatch):
    """Every rename is tried as the last thing that happened."""
    steps = 0
    while True:
        steps += 1
        done = []
        real = os.replace
        folder = shutil.copytree(bundle, bundle.with_name(f"stopped{steps}"))

        def stop(path, target, done=done, steps=steps, real=real):
            if len(done) + 1 == steps:
                raise KeyboardInterrupt
            done.append(target)
            real(path, target)

        monkeypatch.setattr("pathlib.Path.replace", stop)
        try:
            index_command.build(folder, kind="ivf")
        except KeyboardInterrupt:
            open_index(folder)
            continue
        break
    assert steps == 3


def test_keras_is_not_needed(bundle):
    script = (
        "import sys, pathlib; from batchrec.index import build; build(pathlib.Path(sys.argv[1]), kind='ivf');"
        "assert not {'keras', 'tensorflow', 'feast', 'dask'} & set(sys.modules), 'imported too much'"
    )
    done = subprocess.run([sys.executable, "-c", script, str(bundle)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    "error", [OSError(30, "Read-only file system"), RuntimeError("in f\nError: Permission denied")]
)
def test_a_folder_that_cannot_be_written(bundle, monkeypatch, error):
    def write(*_):
        raise error

    before = index_files(bundle)
    monkeypatch.setattr(index_command, "write_index", write)
    with pytest.raises(SinkError, match=r"the index cannot be written into .*(Read-only|Permission denied)"):
        index_command.build(bundle, recall_at=3)
    assert index_files(bundle) == before
    open_index(bundle)


def test_a_bundle_by_a_url_of_this_machine(bundle):
    assert index_command.build(f"file://{bundle}", recall_at=3)["items"] == len(Bundle.open(bundle).item_ids)


def test_no_bundle(tmp_path):
    with pytest.raises(BatchrecError, match="is not a bundle"):
        index_command.build(tmp_path)
