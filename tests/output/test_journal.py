"""The journal: what it says is finished is finished, and what is damaged counts as not written."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from batchrec.errors import ArtifactError
from batchrec.output.journal import Begun, JournalEntry, append, begin, read_begun, read_entries
from batchrec.output.local_storage import LocalStorage
from batchrec.output.record import PartRecord, part_name

BEGUN = Begun(
    "night-1",
    datetime(2026, 2, 3, 4, 5, 6, 7, tzinfo=UTC),
    datetime(2026, 2, 3, tzinfo=UTC),
    {"users": "abc", "bundle": "def"},
    {"top_k": 10, "keep_columns": ["plan"], "temperature": "inf"},
)


def entry(index: int, rows: int = 2) -> JournalEntry:
    digests = PartRecord(f"_digests/{part_name(index)}", rows, 30, "1" * 64)
    return JournalEntry(
        PartRecord(part_name(index), rows, 100, "0" * 64), {"ok": rows}, {"rank": 0.25}, digests=digests
    )


@pytest.fixture
def folder(tmp_path):
    storage = LocalStorage(tmp_path)
    begin(storage, BEGUN)
    for index in (0, 2, 1):
        append(storage, entry(index))
    return storage


def files(folder):
    return sorted((folder.root / "_journal").iterdir())


def test_what_was_written_is_read(folder):
    assert read_begun(folder) == BEGUN
    assert read_entries(folder) == {part_name(index): entry(index) for index in (0, 1, 2)}


def test_a_part_written_again_has_its_last_entry(folder):
    append(folder, entry(0, rows=9))
    assert read_entries(folder) == {part_name(0): entry(0, rows=9), **{part_name(n): entry(n) for n in (1, 2)}}


def test_a_run_that_never_began(tmp_path):
    assert read_begun(LocalStorage(tmp_path / "none")) is None
    assert read_entries(LocalStorage(tmp_path / "none")) == {}


def test_an_entry_cut_short_anywhere_counts_as_not_written(folder):
    path = folder.root / "_journal" / "part-00001.json"
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        assert list(read_entries(folder)) == [part_name(0), part_name(2)]


def test_no_flipped_bit_of_an_entry_changes_what_is_read(folder):
    path = folder.root / "_journal" / "part-00001.json"
    whole = path.read_bytes()
    for place in range(len(whole)):
        for bit in range(8):
            turned = bytearray(whole)
            turned[place] ^= 1 << bit
            path.write_bytes(bytes(turned))
            assert read_entries(folder).get(part_name(1)) in (None, entry(1))


def test_an_entry_under_the_name_of_another_part_counts_as_not_written(folder):
    (folder.root / "_journal" / "part-00001.json").rename(folder.root / "_journal" / "part-00007.json")
    assert list(read_entries(folder)) == [part_name(0), part_name(2)]


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xff", b'{"format_version": 2}'])
def test_damaged_beginning_is_told(folder, damage):
    (folder.root / "_journal" / "begun.json").write_bytes(damage)
    with pytest.raises(ArtifactError, match=r"begun\.json cannot be used \(.+\): remove .+ and start the run anew"):
        read_begun(folder)


def test_beginning_of_another_version(folder):
    path = folder.root / "_journal" / "begun.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 9}))
    with pytest.raises(ArtifactError, match="it has format version 9, this batchrec reads 2"):
        read_begun(folder)


def test_a_flipped_digit_of_the_beginning_is_found(folder):
    path = folder.root / "_journal" / "begun.json"
    path.write_text(path.read_text().replace("2026-02-03T00", "2026-02-04T00"))
    with pytest.raises(ArtifactError, match="its content is not the one that was summed"):
        read_begun(folder)
