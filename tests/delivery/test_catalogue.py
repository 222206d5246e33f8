"""Which runs there are, and the removal of old ones."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta

import pytest

from batchrec.delivery.catalogue import collect_garbage
from batchrec.errors import SinkError
from batchrec.output.journal import Begun, begin
from batchrec.output.storage import open_storage
from tests.delivery.runs import invented, publish
from tests.runs import tree
from tests.stores import BUCKET

FIRST = datetime(2026, 2, 1, 4, tzinfo=UTC)


def publish_night(output, night, **manifest):
    run = publish(output / f"night-{night}", invented(range(10), seed=night), parts=2)
    path = run / "_manifest.json"
    content = json.loads(path.read_text()) | {"created": (FIRST + timedelta(days=night)).isoformat()} | manifest
    path.write_text(json.dumps(content))
    return run


def point(output, name):
    (output / "current").unlink(missing_ok=True)
    (output / "current").symlink_to(name)


def begin_run(output, name, began):
    begin(open_storage(output).folder(name), Begun(name, began, FIRST, {}, {}))
    (output / name / "part-00000.parquet").write_bytes(b"a part")


@pytest.fixture
def output(tmp_path):
    """Five published nights, the newest current; one run that died before the last of them, and one after."""
    folder = tmp_path / "output"
    for night in range(5):
        publish_night(folder, night)
    point(folder, "night-4")
    begin_run(folder, "died-before", FIRST + timedelta(days=3, hours=1))
    begin_run(folder, "died-after", FIRST + timedelta(days=4, hours=1))
    return folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_runs_are_listed_with_their_outcome(batchrec, output):
    statuses = {"ok": 7, "short": 2, "failed": 1, "unknown": 0}
    (output / "night-2" / "_manifest.json").unlink()
    publish_again = json.loads((output / "night-3" / "_manifest.json").read_text())
    publish_again["accounting"]["by_status"] = statuses
    (output / "night-3" / "_manifest.json").write_text(json.dumps(publish_again))
    (output / "night-1" / "_manifest.json").write_text("{")
    (output / "notes").mkdir()
    said = batchrec("runs", "--output", output)
    assert said.code == 0, said.err
    found = {run["run_id"]: run for run in said.summary["runs"]}
    assert [run["run_id"] for run in said.summary["runs"]][:3] == ["died-after", "night-4", "died-before"]
    assert {name: run["outcome"] for name, run in found.items()} == {
        "night-0": "published", "night-1": "damaged", "night-3": "published", "night-4": "published",
        "died-before": "unfinished", "died-after": "unfinished",
    }  # fmt: skip
    assert [name for name, run in found.items() if run["current"]] == ["night-4"]
    assert found["night-3"]["by_status"] == statuses
    assert found["night-3"]["when"] == "2026-02-04T04:00:00Z"
    assert found["night-3"]["as_of"] == "2026-02-03T00:00:00Z"
    parts = (output / "night-3").glob("part-*")
    assert found["night-3"]["bytes"] == sum(path.stat().st_size for path in parts)
    assert "7 ok, 2 short" in said.out
    assert "night-4" in said.out


def test_no_runs(batchrec, tmp_path):
    said = batchrec("runs", "--output", tmp_path / "nowhere")
    assert (said.code, said.summary) == (0, {"runs": []})


def test_nothing_is_collected_where_there_is_no_folder(batchrec, tmp_path):
    said = batchrec("gc", "--output", tmp_path / "nowhere")
    assert said.code == 2
    assert "there is no folder" in said.err
    assert not (tmp_path / "nowhere").exists()


def test_old_runs_go(batchrec, output):
    left = {name: tree(output / name) for name in ("night-3", "night-4", "died-after")}
    said = batchrec("gc", "--output", output, "--keep=2", "--dry-run")
    assert (said.code, said.summary["removed"]) == (0, ["died-before", "night-2", "night-1", "night-0"])
    assert len(names(output)) == 8
    again = batchrec("gc", "--output", output, "--keep=2")
    assert again.summary == said.summary | {"dry_run": False}
    assert again.summary["kept"] == ["died-after", "night-4", "night-3"]
    assert again.summary["bytes"] > 0
    assert names(output) == ["current", "died-after", "night-3", "night-4"]
    assert {name: tree(output / name) for name in left} == left
    assert batchrec("gc", "--output", output, "--keep=2").summary["removed"] == []


def test_the_current_run_stays_however_old(batchrec, output):
    point(output, "night-0")
    assert batchrec("gc", "--output", output, "--keep=1").code == 0
    assert names(output) == ["current", "died-after", "night-0", "night-4"]


def test_what_is_not_ours_or_damaged_stays(batchrec, output):
    (output / "night-0" / "notes.txt").write_text("keep me")
    (output / "night-1" / "_manifest.json").write_text("{")
    (output / "notes").mkdir()
    before = tree(output)
    said = batchrec("gc", "--output", output, "--keep=1")
    assert said.code == 0
    assert "left alone: " in said.err
    assert "notes.txt" in said.err
    left = tree(output)
    assert {name.split("/")[0] for name in left} == {"current", "died-after", "night-0", "night-1", "night-4", "notes"}
    assert left.items() <= before.items()


def test_nothing_published_nothing_removed(batchrec, tmp_path):
    begin_run(tmp_path, "a", FIRST)
    begin_run(tmp_path, "b", FIRST + timedelta(days=1))
    assert batchrec("gc", "--output", tmp_path).summary["removed"] == []


def test_gc_waits_for_a_run(batchrec, output):
    before = tree(output)
    with open_storage(output).lock(".lock", "it"):
        said = batchrec("gc", "--output", output, "--keep=1")
    assert said.code == 75
    assert tree(output).items() >= before.items()


def test_cut_short_anywhere_it_never_leaves_half_a_published_run(output, tmp_path, monkeypatch):
    """The file system fails at the n-th removal, for every n; then the next call removes the rest."""
    from batchrec.output import local_storage

    real, whole = local_storage._remove, {path.name: tree(path) for path in output.glob("night-*")}
    removals = 4 * 4 + 2  # of four nights _SUCCESS, two parts and manifest; of the unfinished run its journal and part
    for allowed in range(removals):
        place = tmp_path / str(allowed)
        shutil.copytree(output, place, symlinks=True)
        left = [allowed]

        def failing(entry, left=left):
            if not left[0]:
                raise OSError(5, "Input/output error")
            left[0] -= 1
            real(entry)

        monkeypatch.setattr(local_storage, "_remove", failing)
        try:
            collect_garbage(str(place), 1, dry_run=False)
        except SinkError:
            assert not left[0]
        monkeypatch.setattr(local_storage, "_remove", real)
        for folder in place.glob("night-*"):
            assert not (folder / "_SUCCESS").exists() or tree(folder) == whole[folder.name]
        collect_garbage(str(place), 1, dry_run=False)
        assert names(place) == ["current", "died-after", "night-4"]


def test_on_an_object_store(batchrec, output, s3):
    place = f"s3://{BUCKET}/garbage"
    store = open_storage(place)
    for name, content in tree(output).items():
        if isinstance(content, bytes):
            store.write(name, content)
    store.write("current", b"night-4")
    listed = batchrec("runs", "--output", place).summary["runs"]
    assert listed == batchrec("runs", "--output", output).summary["runs"]
    said = batchrec("gc", "--output", place, "--keep=2")
    assert (said.code, said.summary["removed"]) == (0, ["died-before", "night-2", "night-1", "night-0"]), said.err
    assert store.folders() == ["died-after", "night-3", "night-4"]
