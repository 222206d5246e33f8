"""Parts of the project's own models, stored beside them: those that Keras' model is taken apart into, or none."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import fields, is_dataclass

import h5py
import keras
import numpy as np
import pyarrow.parquet as pq
import pytest

from batchrec.errors import ArtifactError
from batchrec.models.bundle import Bundle, read_format, sha256, write_format
from batchrec.models.dlrm import Dlrm, take_apart
from batchrec.models.keras_graph import inputs_of
from batchrec.models.opening import open_tower
from batchrec.models.stored_parts import store_parts, stored_parts
from batchrec.models.tower_parts import Tower, take_tower_apart
from tests.models import test_ranking_algebra, test_tower_algebra
from tests.runs import ROOT, published

RANKERS, TOWERS = test_ranking_algebra.SHAPES, test_tower_algebra.SHAPES


def same(found, expected):
    """Assert that nested parts are equal to the bit."""
    assert type(found) is type(expected)
    if is_dataclass(expected):
        for field in fields(expected):
            same(getattr(found, field.name), getattr(expected, field.name))
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for name in expected:
            same(found[name], expected[name])
    elif isinstance(expected, tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            same(one, other)
    elif isinstance(expected, np.ndarray):
        np.testing.assert_array_equal(found, expected, strict=True)
        assert found.flags.c_contiguous
    else:
        assert found == expected


@pytest.fixture
def stored(tmp_path):
    """Save a model with its parts; returns how they are asked for."""

    def store(model, kind, inputs=None, **sums):
        path = tmp_path / "inner" / "model.keras"
        path.parent.mkdir()
        model.save(path)
        store_parts(model, path)
        written = {f"inner/{file.name}": sha256(file) for file in path.parent.iterdir()}
        return stored_parts(tmp_path, "inner/model.keras", written | sums, kind, inputs or inputs_of(model))

    return store


@pytest.mark.parametrize("kind", RANKERS)
def test_a_ranker(stored, kind):
    model = test_ranking_algebra.trained_like(kind)
    same(stored(model, Dlrm), take_apart(model))


@pytest.mark.parametrize("kind", TOWERS)
def test_a_query_tower(stored, kind):
    model = test_tower_algebra.trained_like(kind)
    same(stored(model, Tower), take_tower_apart(model))


def test_weights_that_are_alike(stored):
    """As in a model that was never trained; each part reads weights of its own shape."""
    model = test_ranking_algebra.trained_like("all")
    model.set_weights([np.zeros_like(weights) for weights in model.get_weights()])
    same(stored(model, Dlrm), take_apart(model))


def test_of_another_model_nothing_is_stored(stored, tmp_path):
    inputs = keras.Input((3,), name="x")
    assert stored(keras.Model(inputs, keras.layers.Dense(1)(inputs)), Dlrm) is None
    assert [path.name for path in (tmp_path / "inner").iterdir()] == ["model.keras"]


@pytest.mark.parametrize(
    ("kind", "inputs", "sums"),
    [
        (Tower, None, {}),
        (Dlrm, {"another"}, {}),
        (Dlrm, None, {"inner/model.keras": "0" * 64}),
    ],
    ids=["another kind of model", "other inputs", "the model was replaced"],
)
def test_what_is_stored_does_not_fit(stored, kind, inputs, sums):
    assert stored(test_ranking_algebra.trained_like("all"), kind, inputs, **sums) is None


@pytest.mark.parametrize("change", ["not of the bundle", "another format"])
def test_a_file_that_is_not_read(stored, tmp_path, change):
    model = test_ranking_algebra.trained_like("all")
    assert stored(model, Dlrm) is not None
    path = tmp_path / "inner" / "model.parts.json"
    sums = {f"inner/{file.name}": sha256(file) for file in path.parent.iterdir()}
    if change == "not of the bundle":
        del sums["inner/model.parts.json"]
    else:
        path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    assert stored_parts(tmp_path, "inner/model.keras", sums, Dlrm, inputs_of(model)) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.pop("parts"),
        lambda content: content["parts"]["of"].pop("user"),
        lambda content: content["parts"]["of"]["top"][0].append({"weights": "layers/of_no_model"}),
        lambda content: content["parts"].update(part="Engine"),
        lambda content: content.update(inputs=3),
        lambda content: content["parts"]["of"]["user"]["of"].update(epsilon="x"),
        lambda content: content["parts"]["of"]["top"].append(json.loads("[" * 900 + "]" * 900)),
    ],
)
def test_a_file_that_nobody_wrote_so(stored, tmp_path, change):
    model = test_ranking_algebra.trained_like("all")
    assert stored(model, Dlrm) is not None
    path = tmp_path / "inner" / "model.parts.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    sums = {f"inner/{file.name}": sha256(file) for file in path.parent.iterdir()}
    with pytest.raises(ArtifactError, match=r"does not name the parts of model\.keras"):
        stored_parts(tmp_path, "inner/model.keras", sums, Dlrm, inputs_of(model))


@pytest.mark.parametrize("place", ["link", "soft link", "external", "virtual"])
def test_weights_that_lie_in_another_file(stored, tmp_path, place):
    """As a bundle of somebody else may have it: nobody has summed that file, and it may be a secret."""
    model = test_ranking_algebra.trained_like("all")
    assert stored(model, Dlrm) is not None
    path, weights, outside = tmp_path / "inner" / "model.keras", tmp_path / "weights.h5", tmp_path / "outside"
    described = path.with_name("model.parts.json")
    content = json.loads(described.read_text())
    name = content["parts"]["of"]["top"][0][0]["weights"]
    with zipfile.ZipFile(path) as source:
        members = {member: source.read(member) for member in source.namelist()}
    weights.write_bytes(members["model.weights.h5"])
    with h5py.File(weights, "a") as file:
        numbers = np.full(file[name].shape, 42, np.float32)
        del file[name]
        if place == "external":
            numbers.tofile(outside)
            file.create_dataset(name, numbers.shape, numbers.dtype, external=[(outside, 0, numbers.nbytes)])
        else:
            with h5py.File(outside, "w") as other:
                other["kernel"] = numbers
            if place == "virtual":
                layout = h5py.VirtualLayout(numbers.shape, numbers.dtype)
                layout[...] = h5py.VirtualSource(outside, "kernel", numbers.shape)
                file.create_virtual_dataset(name, layout)
            else:
                link = h5py.ExternalLink(outside, "kernel")
                file["elsewhere" if place == "soft link" else name] = link
                if place == "soft link":
                    file[name] = h5py.SoftLink("/elsewhere")
    with zipfile.ZipFile(path, "w") as target:
        for member, data in (members | {"model.weights.h5": weights.read_bytes()}).items():
            target.writestr(member, data)
    described.write_text(json.dumps(content | {"model": sha256(path)}))
    sums = {f"inner/{file.name}": sha256(file) for file in path.parent.iterdir()}
    with pytest.raises(ArtifactError, match="lies in another file"):
        stored_parts(tmp_path, "inner/model.keras", sums, Dlrm, inputs_of(model))


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A generated shop whose models are the project's own, untrained."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import workload
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    return workload.make(tmp_path_factory.mktemp("shop"), workload.Size(300, 200))


WATCHED = """
import sys
from batchrec.__main__ import main
try:
    main()
finally:
    heavy = {"keras", "keras_rs", "tensorflow", "jax"}
    print("imported:", *(heavy & sys.modules.keys()), file=sys.stderr)
"""


class TestOpened:
    """The files of a bundle, mended by hand so that all sums are right."""

    @pytest.fixture
    def bundle(self, shop, tmp_path):
        folder = tmp_path / "bundle"
        shutil.copytree(shop.bundle, folder)
        return folder

    @staticmethod
    def mend(folder):
        said = read_format(folder)
        for model in (said.ranker.path, said.query_tower.path):
            path = (folder / model).with_suffix(".parts.json")
            path.write_text(json.dumps(json.loads(path.read_text()) | {"model": sha256(folder / model)}))
        write_format(folder, said.model_dump(exclude={"files"}), list(said.files))
        return Bundle.open(folder)

    @pytest.mark.parametrize("by_parts", [True, False])
    def test_a_model_that_diverged(self, bundle, by_parts):
        path = bundle / read_format(bundle).query_tower.path
        model = keras.saving.load_model(path, compile=False)
        weights = model.get_weights()
        weights[-1][...] = np.nan
        model.set_weights(weights)
        model.save(path)
        if not by_parts:
            path.with_suffix(".parts.json").write_text('{"format": 0}')
        with pytest.raises(ArtifactError, match=r"query_tower\.keras has weights that are not finite numbers"):
            open_tower(self.mend(bundle))

    @pytest.mark.parametrize(
        "change", [{"weights": "layers/functional/layers/layer_normalization_4/vars/0"}, "text", None, 1.0]
    )
    def test_parts_that_do_not_fit_together(self, bundle, change):
        path = (bundle / read_format(bundle).query_tower.path).with_suffix(".parts.json")
        content = json.loads(path.read_text())
        content["parts"]["of"]["items"] = change
        path.write_text(json.dumps(content))
        with pytest.raises(ArtifactError, match="do not fit together"):
            open_tower(self.mend(bundle))


def run(shop, output, run_id):
    """Run, and return which of the heavy libraries were imported."""
    users, as_of = shop.data / "users.parquet", shop.as_of.isoformat()
    given = {"users": users, "bundle": shop.bundle, "feature-repo": shop.repo, "as-of": as_of, "run-id": run_id}
    arguments = [*(f"--{name}={value}" for name, value in given.items()), f"--output={output}", "--candidates=50"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = [sys.executable, "-c", WATCHED, "run", *arguments]
    done = subprocess.run(process, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    (last,) = (line for line in done.stderr.splitlines() if line.startswith("imported:"))
    return set(last.split()[1:])


def test_a_run_needs_neither_keras_nor_tensorflow_and_writes_the_same_bytes(shop, tmp_path):
    assert run(shop, tmp_path, "parts") == set()
    said = read_format(shop.bundle)
    files = [name for name in said.files if not name.endswith(".parts.json")]
    assert len(files) == len(said.files) - 2
    write_format(shop.bundle, said.model_dump(exclude={"files"}), files)
    assert run(shop, tmp_path, "models") == {"keras", "keras_rs", keras.backend.backend()}
    one, other = ((tmp_path / run_id / "part-00000.parquet").read_bytes() for run_id in ("parts", "models"))
    assert one == other
    assert published(tmp_path / "parts").num_rows == pq.read_metadata(shop.data / "users.parquet").num_rows
