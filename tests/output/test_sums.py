"""A published run whose parts are not those of its manifest."""

import json

import pyarrow.parquet as pq
import pytest

from batchrec.errors import ArtifactError
from batchrec.output.local_storage import LocalStorage
from batchrec.output.manifest import read_manifest
from batchrec.output.sums import verified_parts
from tests.evaluate.support import publish, seal


@pytest.fixture
def run(tmp_path):
    return publish(tmp_path / "run", {user: [1, 2] for user in range(6)}, parts=3)


def verify(run):
    storage = LocalStorage(run)
    return [run / name for name in verified_parts(storage, read_manifest(storage))]


def test_parts_in_the_order_of_the_manifest(run):
    manifest = read_manifest(LocalStorage(run))
    manifest["parts"].reverse()
    assert verified_parts(LocalStorage(run), manifest) == [f"part-0000{part}.parquet" for part in (2, 1, 0)]


def test_files_beside_the_parts_are_left_alone(run):
    parts = verify(run)
    (run / "part-00003.parquet").write_bytes(parts[0].read_bytes())
    assert verify(run) == parts


def test_a_missing_part(run):
    (run / "part-00001.parquet").unlink()
    with pytest.raises(ArtifactError, match=r"run/part-00001\.parquet is missing, expected a part of 2 rows: restore "):
        verify(run)


def test_a_part_cut_short(run):
    part = run / "part-00002.parquet"
    whole = part.read_bytes()
    part.write_bytes(whole[:-1])
    expected = rf"part-00002\.parquet is damaged: bytes {len(whole) - 1}, expected {len(whole)} by _manifest\.json"
    with pytest.raises(ArtifactError, match=expected):
        verify(run)


@pytest.mark.parametrize("place", [0, 100, -1])
def test_a_part_with_one_bit_turned(run, place):
    part = run / "part-00000.parquet"
    content = bytearray(part.read_bytes())
    content[place] ^= 1
    part.write_bytes(content)
    expected = r"part-00000\.parquet is damaged: SHA-256 [0-9a-f]{64}, expected [0-9a-f]{64} by _manifest\.json"
    with pytest.raises(ArtifactError, match=expected):
        verify(run)


def test_a_part_of_other_rows_than_the_manifest_says(run):
    seal(run, rows=3)
    with pytest.raises(ArtifactError, match=r"part-00000\.parquet is damaged: rows 2, expected 3 by _manifest\.json"):
        verify(run)


def test_a_part_that_is_no_file(run):
    part = run / "part-00001.parquet"
    part.unlink()
    part.mkdir()
    with pytest.raises(ArtifactError, match=r"part-00001\.parquet cannot be read"):
        verify(run)


@pytest.mark.parametrize("parts", [None, 3, [3], [{"name": "part-00000.parquet"}]])
def test_a_manifest_that_does_not_say_the_sums(run, parts):
    manifest = read_manifest(LocalStorage(run)) | {"parts": parts}
    (run / "_manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(
        ArtifactError, match=r"_manifest\.json does not name its parts, each with rows, bytes and sha256"
    ):
        verify(run)


def test_a_manifest_without_parts(run):
    manifest = read_manifest(LocalStorage(run))
    del manifest["parts"]
    with pytest.raises(ArtifactError, match="does not name its parts"):
        verified_parts(LocalStorage(run), manifest)


def test_what_a_run_wrote_is_whole(world, batchrec, tmp_path):
    assert batchrec(*world.args(tmp_path, "--users-per-partition=300", "--run-id=r")).code == 0
    assert sum(pq.read_metadata(part).num_rows for part in verify(tmp_path / "r")) == 1000
