"""What a bundle cannot do: have something unpickled, run code of its own, or point out of its folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from batchrec.errors import ArtifactError
from batchrec.models.backend import import_keras
from batchrec.models.bundle import Bundle, sha256
from batchrec.models.serving import load_model
from tests.models.bundles import edit, make_bundle

ROOT = Path(__file__).parents[1]
KERNEL = "layers/dense/vars/0"
"""Where the weights of a model's only dense layer lie."""

# Loading libraries may unpickle; what is asked is whether loading a bundle does. So everything is loaded once before.
LOAD = """
import json, pickle, sys
from pathlib import Path

from batchrec.models.backend import import_keras
from batchrec.models.bundle import Bundle
from batchrec.models.index import ItemIndex
from batchrec.models.serving import load_model
from batchrec.users import prepare_users, read_partition

folder, users, work = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])

def load():
    bundle = Bundle.open(folder)
    described = bundle.format
    assert bundle.popularity is not None and len(bundle.query_sample) == 0
    ItemIndex.read(folder / described.index.path, described.index, described.catalogue_size,
                   described.embedding_dimension)
    tower, ranker = described.query_tower, described.ranker
    tower_names = {one.name for one in tower.inputs} | {"history"}
    names = {one.name for one in ranker.user_inputs + ranker.item_inputs}
    names |= {ranker.item_code, ranker.query_embedding, ranker.item_embedding}
    load_model(folder / tower.path, tower_names)
    load_model(folder / ranker.path, names)
    load_model(work / "saved_model", names)
    summary, path = prepare_users(users, "user_id", work, 100)
    read_partition(path, 0)

import_keras().saving.load_model(folder / Bundle.open(folder).format.ranker.path).export(
    work / "saved_model", verbose=False
)
load()
heard = []
sys.addaudithook(lambda event, args: heard.append(".".join(args)) if event == "pickle.find_class" else None)
load()
while_loading = list(heard)
pickle.loads(pickle.dumps(folder))
print(json.dumps({"while loading": while_loading, "while unpickling": heard}))
"""


def test_nothing_is_unpickled(world, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", LOAD, world.bundle, world.data / "users.parquet", tmp_path],
        cwd=ROOT,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    heard = json.loads(done.stdout.splitlines()[-1])
    assert heard == {"while loading": [], "while unpickling": ["pathlib.PosixPath"]}


# Code


@pytest.fixture
def model(tmp_path):
    """A model file whose parts a test may replace."""
    keras = import_keras()
    value = keras.Input((), name="value")
    path = tmp_path / "model.keras"
    keras.Model({"value": value}, keras.layers.Identity(name="last")(value)).save(path)
    return path


def rewrite(path: Path, change) -> None:
    """Change the description inside a model file."""
    with zipfile.ZipFile(path) as source:
        parts = {name: source.read(name) for name in source.namelist()}
    content = json.loads(parts["config.json"])
    change(next(layer for layer in content["config"]["layers"] if layer["name"] == "last"))
    with zipfile.ZipFile(path, "w") as target:
        for name, data in (parts | {"config.json": json.dumps(content).encode()}).items():
            target.writestr(name, data)


def test_the_model_is_fine_without_code(model):
    rewrite(model, lambda layer: None)
    load_model(model, {"value"})


def test_a_lambda_is_refused_and_not_run(tmp_path):
    keras = import_keras()
    ran = tmp_path / "ran"
    text = str(ran)

    def code(x):
        open(text, "w").close()  # noqa: PTH123 - needs nothing that is imported
        return x

    value = keras.Input((), name="value")
    path = tmp_path / "model.keras"
    keras.Model({"value": value}, keras.layers.Lambda(code)(value)).save(path)
    assert ran.exists()  # building a model runs its code: so would loading
    ran.unlink()
    with pytest.raises(ArtifactError, match="cannot be loaded by Keras in safe mode"):
        load_model(path, {"value"})
    assert not ran.exists()


@pytest.mark.parametrize("class_name", ["Layer", "run"])
def test_a_module_of_the_bundle_is_refused_and_not_imported(model, tmp_path, monkeypatch, class_name):
    ran = tmp_path / "ran"
    (tmp_path / "planted.py").write_text(
        f"import keras\nopen({str(ran)!r}, 'w').close()\nclass Layer(keras.layers.Identity): pass\ndef run(**_): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    rewrite(
        model,
        lambda layer: layer.update(module="planted", class_name=class_name, registered_name=f"planted>{class_name}"),
    )
    with pytest.raises(ArtifactError, match="cannot be loaded by Keras in safe mode"):
        load_model(model, {"value"})
    assert not ran.exists()
    assert "planted" not in sys.modules


@pytest.mark.parametrize(("module", "class_name"), [("os", "system"), ("builtins", "eval"), ("subprocess", "Popen")])
def test_functions_of_python_are_refused(model, module, class_name):
    rewrite(model, lambda layer: layer.update(module=module, class_name=class_name, registered_name=class_name))
    with pytest.raises(ArtifactError, match="cannot be loaded by Keras in safe mode"):
        load_model(model, {"value"})


# Places


@pytest.fixture
def bundle(tmp_path):
    """A bundle whose ranker is the folder of a SavedModel, with the same models beside it."""
    folder = make_bundle(tmp_path / "bundle")
    shutil.copytree(folder / "ranker", tmp_path / "outside")
    return folder


@pytest.mark.parametrize("path", ["../outside", "ranker/../../outside", "{outside}", "ranker/.."])
def test_a_model_path_that_leaves_the_bundle(bundle, tmp_path, path):
    path = path.format(outside=tmp_path / "outside")

    def point_outside(content):
        content["ranker"]["path"] = path
        for file in (tmp_path / "outside").rglob("*.*"):
            content["files"][f"{path}/{file.relative_to(tmp_path / 'outside')}"] = sha256(file)

    edit(bundle, point_outside)
    with pytest.raises(ArtifactError, match=r"ranker\.path: .* plain relative path inside the bundle"):
        Bundle.open(bundle)


@pytest.mark.parametrize("inner", ["ranker", "ranker/saved_model.pb", "query_tower", "query_tower/model.keras"])
def test_a_link_out_of_the_bundle(bundle, tmp_path, inner):
    (bundle / inner).rename(tmp_path / "elsewhere")
    (bundle / inner).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match=r"is a link to .* outside the bundle"):
        Bundle.open(bundle)


@pytest.mark.parametrize("target", ["../../outside", "variables", "."])
def test_a_linked_folder_inside_a_model_is_refused_since_nobody_would_sum_it(bundle, target):
    (bundle / "ranker/assets").symlink_to(target)
    with pytest.raises(ArtifactError, match=r"assets is a link to .*: put the folder itself into the bundle"):
        Bundle.open(bundle)


def test_a_folder_of_a_model_that_moved_out(bundle, tmp_path):
    (bundle / "ranker/variables").rename(tmp_path / "elsewhere")
    (bundle / "ranker/variables").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match="variables is a link to"):
        Bundle.open(bundle)


@pytest.mark.parametrize("place", ["own", "link", "external"])
def test_weights_that_lie_in_another_file(tmp_path, place):
    keras = import_keras()
    value = keras.Input((3,), name="value")
    path, weights, outside = (tmp_path / name for name in ("model.keras", "weights.h5", "outside"))
    keras.Model({"value": value}, keras.layers.Dense(1)(value)).save(path)
    with zipfile.ZipFile(path) as source:
        parts = {name: source.read(name) for name in source.namelist()}
    weights.write_bytes(parts["model.weights.h5"])
    numbers = np.full((3, 1), 42, np.float32)
    with h5py.File(weights, "a") as file:
        del file[KERNEL]
        if place == "link":
            with h5py.File(outside, "w") as other:
                other["kernel"] = numbers
            file[KERNEL] = h5py.ExternalLink(outside, "kernel")
        elif place == "external":
            numbers.tofile(outside)
            file.create_dataset(KERNEL, numbers.shape, numbers.dtype, external=[(outside, 0, numbers.nbytes)])
        else:
            file[KERNEL] = numbers
    with zipfile.ZipFile(path, "w") as target:
        for name, data in (parts | {"model.weights.h5": weights.read_bytes()}).items():
            target.writestr(name, data)
    if place == "own":
        assert load_model(path, {"value"})({"value": np.eye(3, dtype=np.float32)}).tolist() == [[42], [42], [42]]
        return
    with pytest.raises(ArtifactError, match="cannot be loaded by Keras in safe mode"):
        load_model(path, {"value"})


# What a run leaves and tells


def test_files_of_a_run_have_the_permissions_that_the_umask_leaves(world, tmp_path):
    from tests.runs import command

    process = command(*world.args(tmp_path / "out", "--run-id=r", "--users-per-partition=500"), umask=0o027)
    _, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    folder = tmp_path / "out" / "r"
    found = {path: path.stat().st_mode & 0o777 for path in (folder, *folder.rglob("*"))}
    assert found == {path: 0o750 if path.is_dir() else 0o640 for path in found}


def test_the_password_of_a_feature_store_is_not_told(world, batchrec, tmp_path):
    repo = shutil.copytree(world.repo, tmp_path / "repo")
    config = (repo / "feature_store.yaml").read_text()
    path = "postgresql+psycopg://nightly:hunter2hunter2@127.0.0.1:9/features"
    registry = f"registry:\n  registry_type: sql\n  path: {path}\n"
    (repo / "feature_store.yaml").write_text(re.sub(r"^registry:.*\n(?:  .*\n)*", registry, config, flags=re.MULTILINE))
    assert path in (repo / "feature_store.yaml").read_text()
    said = batchrec(*world.args(tmp_path / "out"), f"--feature-repo={repo}", "--debug")
    assert said.code == 2
    assert "Feast" in said.err
    assert "hunter2" not in said.err
