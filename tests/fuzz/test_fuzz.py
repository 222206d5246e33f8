"""A damaged file gives a sentence or a right answer: no other exception, no crash, no hang, no memory without bound."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from batchrec.config import load_config
from batchrec.errors import ArtifactError, BatchrecError, ConfigError
from batchrec.models.bundle import BUNDLE_FILE, Bundle
from batchrec.output.local_storage import LocalStorage
from batchrec.output.manifest import MANIFEST, read_manifest
from batchrec.output.sums import verified_parts
from tests.fuzz.mutate import mutation
from tests.fuzz.targets import TARGETS, manifest
from tests.models.bundles import edit, make_bundle

ROOT = Path(__file__).parents[2]


def fuzz(group: str, folder: Path, count: int, limit: float) -> dict[str, dict[str, int]]:
    """Run the driver over one group; return outcomes by target."""
    command = [sys.executable, "-m", "tests.fuzz.driver", group, str(folder), "0", str(count)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BATCHREC_")}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=limit,
        check=False,
    )
    assert done.returncode == 0, f"{done.returncode} after {done.stderr[-3000:]}"
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"target"')]
    return {line.pop("target"): line for line in lines}


def check(group: str, folder: Path, count: int, limit: float) -> None:
    found = fuzz(group, folder, count, limit)
    assert list(found) == [target.name for target in TARGETS[group]]
    for outcomes in found.values():
        assert sum(outcomes.values()) == count
        # Damage that no reader minds would be no test of them.
        assert sum(outcomes.values()) - outcomes.get("read", 0) > count / 2


@pytest.mark.parametrize("group", TARGETS)
def test_damage(group, tmp_path):
    check(group, tmp_path, count=50, limit=120)


@pytest.mark.slow
@pytest.mark.parametrize("group", TARGETS)
def test_much_damage(group, tmp_path):
    check(group, tmp_path, count=1000, limit=1200)


def test_the_same_seed_does_the_same_damage():
    data = bytes(range(256)) * 4
    mutations = [mutation(data, f"one {number}") for number in range(300)]
    assert mutations == [mutation(data, f"one {number}") for number in range(300)]
    assert data not in mutations
    assert len(set(mutations)) > 250
    assert {len(one) < len(data) for one in mutations} == {True, False}
    assert mutation(b"", "of nothing")


# The driver finds what it looks for

BREAK = """
import sys
from tests.fuzz import driver, targets
from tests.fuzz.targets import Target

def make(folder):
    path = folder / "file"
    path.write_bytes(b"valid")
    return path, lambda path: None if path.read_bytes() == b"valid" else broken()

def broken():
    {broken}

targets.TARGETS["broken"] = [Target("broken", make)]
driver.SECONDS = 8
driver.main("broken", __import__("pathlib").Path(sys.argv[1]), 0, 5)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("import ctypes; ctypes.string_at(0)", "Fatal Python error: Segmentation fault"),
        ("import time; time.sleep(60)", "Timeout (0:00:08)!"),
        ("bytearray(2**36)", "MemoryError"),
        ("b'x' * 700_000_000", " bytes of memory"),
        ("raise ValueError('another')", "ValueError: another"),
        ("raise SystemExit", "SystemExit"),
        ("from batchrec.errors import SchemaError; raise SchemaError('two\\nlines', 'so')", "not one sentence"),
    ],
)
def test_the_driver_ends_at_a_finding(broken, words, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", BREAK.format(broken=broken), str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert words in done.stderr
    assert "broken: mutation 0" in done.stderr
    assert "mutation 1" not in done.stderr


# Damage that chance seldom does

DEEP = "[" * 100_000


def test_a_bundle_json_too_deep(tmp_path):
    folder = make_bundle(tmp_path / "bundle")
    (folder / BUNDLE_FILE).write_text(DEEP)
    with pytest.raises(ArtifactError, match="cannot be read as JSON"):
        Bundle.open(folder)


@pytest.mark.parametrize("path", ["\ud800.keras", "a\n.keras", "\0.keras"])
def test_a_bundle_json_with_a_name_that_is_no_text(path, tmp_path):
    folder = make_bundle(tmp_path / "bundle")
    edit(folder, lambda content: content["query_tower"].update(path=path))
    edit(folder, lambda content: content["files"].update({path: "0" * 64}))
    with pytest.raises(ArtifactError, match=r"query_tower\.path: .* plain relative path") as caught:
        Bundle.open(folder)
    assert "\n" not in str(caught.value)


def test_a_job_file_too_deep(tmp_path):
    path = tmp_path / "job.toml"
    path.write_text(f"users = {DEEP}")
    with pytest.raises(ConfigError):
        load_config({}, path)


def test_a_manifest_too_deep(tmp_path):
    path, _ = manifest(tmp_path)
    path.write_text(DEEP)
    with pytest.raises(ArtifactError):
        read_manifest(LocalStorage(tmp_path))


@pytest.mark.parametrize(
    "name",
    [5, None, [], {}, "\0", "\ud800", "../part-00000.parquet", "", ".", "x" * 300],
)
def test_a_manifest_with_a_part_that_cannot_be(name, tmp_path):
    folder = tmp_path / "night"
    folder.mkdir()
    manifest(folder)
    content = json.loads((folder / MANIFEST).read_text())
    content["parts"][0]["name"] = name
    (tmp_path / "part-00000.parquet").write_bytes((folder / "part-00000.parquet").read_bytes())
    with pytest.raises(BatchrecError):
        verified_parts(LocalStorage(folder), content)
