"""The journal: what it says is on disk is on disk, and a torn last line is as if it had not been written."""

from __future__ import annotations

import json
import os

import pytest

from batchrec.errors import ArtifactError, SinkError
from batchrec.output.journal import JOURNAL, Journal, JournalEntry, JournalHeader, read_journal
from batchrec.output.part import PartRecord, part_name

HEADER = JournalHeader("night-1", {"users": "abc", "bundle": "def"})


def entry(index: int, rows: int = 2) -> JournalEntry:
    return JournalEntry(PartRecord(part_name(index), rows, 100, "0" * 64), {"ok": rows}, {"rank": 0.25})


@pytest.fixture
def folder(tmp_path):
    with Journal(tmp_path, HEADER) as journal:
        for index in (0, 2, 1):
            journal.append(entry(index))
    return tmp_path


def test_what_was_appended_is_read(folder):
    header, entries = read_journal(folder)
    assert header == HEADER
    assert list(entries.items()) == [(part_name(index), entry(index)) for index in (0, 2, 1)]


def test_every_line_is_json_and_can_be_read_while_the_run_goes_on(tmp_path):
    with Journal(tmp_path, HEADER) as journal:
        assert read_journal(tmp_path) == (HEADER, {})
        journal.append(entry(0))
        assert list(read_journal(tmp_path)[1]) == [part_name(0)]
    first, second = (json.loads(line) for line in (tmp_path / JOURNAL).read_text().splitlines())
    assert first == {"format_version": 1, "run_id": "night-1", "fingerprints": {"users": "abc", "bundle": "def"}}
    assert second["name"] == "part-00000.parquet"
    assert second["by_status"] == {"ok": 2}
    assert second["seconds"] == {"rank": 0.25}


def test_a_line_torn_anywhere_is_passed_over(folder):
    path = folder / JOURNAL
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for end in range(last, len(whole)):
        path.write_bytes(whole[:end])
        assert list(read_journal(folder)[1]) == [part_name(0), part_name(2)]


def test_a_part_written_again_has_its_last_entry(tmp_path):
    with Journal(tmp_path, HEADER) as journal:
        for each in (entry(0, rows=2), entry(1), entry(0, rows=9)):
            journal.append(each)
    assert read_journal(tmp_path)[1] == {part_name(0): entry(0, rows=9), part_name(1): entry(1)}


def test_failed_append_leaves_the_journal_as_it_was(tmp_path, monkeypatch):
    write = os.write

    def half(descriptor: int, data: memoryview) -> int:
        write(descriptor, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    with Journal(tmp_path, HEADER) as journal:
        journal.append(entry(0))
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", half)
            with pytest.raises(SinkError, match=r"_journal\.jsonl \(No space left on device\): free space"):
                journal.append(entry(1))
        journal.append(entry(2))
    assert list(read_journal(tmp_path)[1]) == [part_name(0), part_name(2)]


def test_short_writes_are_completed(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
    with Journal(tmp_path, HEADER) as journal:
        journal.append(entry(0))
    assert read_journal(tmp_path) == (HEADER, {part_name(0): entry(0)})


def test_second_journal_in_one_folder(folder):
    with pytest.raises(SinkError, match="File exists"):
        Journal(folder, HEADER)


@pytest.mark.parametrize("line", [b"{half\n", b"7\n", b'{"name": "part-00000.parquet"}\n'])
def test_damage_before_the_last_line_is_not_passed_over(folder, line):
    first, *rest = (folder / JOURNAL).read_bytes().splitlines(keepends=True)
    (folder / JOURNAL).write_bytes(b"".join([first, line, *rest]))
    with pytest.raises(ArtifactError, match=r"_journal\.jsonl is damaged \(.+\): remove the run folder"):
        read_journal(folder)


def test_torn_header(tmp_path):
    (tmp_path / JOURNAL).write_bytes(b'{"format_ver')
    with pytest.raises(ArtifactError, match="has no header line"):
        read_journal(tmp_path)


def test_no_journal(tmp_path):
    with pytest.raises(ArtifactError, match="No such file"):
        read_journal(tmp_path)


def test_journal_of_another_version(tmp_path):
    (tmp_path / JOURNAL).write_bytes(b'{"format_version": 9}\n')
    with pytest.raises(ArtifactError, match="has format version 9, this batchrec reads 1"):
        read_journal(tmp_path)
