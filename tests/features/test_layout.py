from __future__ import annotations

import json
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec.errors import SchemaError, SinkError
from batchrec.features import layout

if TYPE_CHECKING:
    from pathlib import Path

PREPARED = layout.Prepared("somewhere", datetime(2026, 2, 23, tzinfo=UTC), 7, {"b.parquet": 2, "a.parquet": 1})
ROWS = pa.table({"user": np.arange(23), "seen": pa.array([[i] * (i % 3) for i in range(23)])})


@settings(deadline=None)
@given(cuts=st.lists(st.integers(0, 23), max_size=6).map(sorted))
def test_bytes_do_not_depend_on_how_rows_were_cut(cuts: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("writer")
    for name, bounds in (("whole", [0, 23]), ("cut", [0, *cuts, 23])):
        with layout.TableWriter(folder / name, ROWS.schema, rows_per_group=5) as writer:
            for begin, end in pairwise(bounds):
                writer.write(ROWS.slice(begin, end - begin))
        assert writer.rows == 23
    assert (folder / "whole").read_bytes() == (folder / "cut").read_bytes()


def test_rows_come_back_in_row_groups_of_the_length_asked_for(tmp_path: Path) -> None:
    with layout.TableWriter(tmp_path / "rows", ROWS.schema, rows_per_group=10) as writer:
        writer.write(ROWS)
    file = pq.ParquetFile(tmp_path / "rows")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [10, 10, 3]
    assert file.read().equals(ROWS)


def test_a_table_without_rows_is_a_file(tmp_path: Path) -> None:
    assert layout.write_table(tmp_path / "none", ROWS.slice(0, 0)) == 0
    assert pq.read_table(tmp_path / "none").schema.equals(ROWS.schema)


def test_prepared_comes_back(tmp_path: Path) -> None:
    layout.write_prepared(tmp_path, PREPARED)
    assert layout.read_prepared(tmp_path) == PREPARED
    assert json.loads((tmp_path / "prepared.json").read_text())["cutoff"] == "2026-02-23T00:00:00+00:00"


def test_a_folder_that_is_not_prepared_is_named(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"holds no prepared\.json: prepare the data"):
        layout.read_prepared(tmp_path)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"cutoff": "yesterday", "source": "", "seed": 1, "rows": {}}', '{"cutoff": 3}']
)
def test_a_damaged_description_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "prepared.json").write_text(content)
    with pytest.raises(SchemaError, match=r"prepared\.json cannot be read .*: prepare the data again\."):
        layout.read_prepared(tmp_path)


def test_clear_removes_what_is_prepared_and_nothing_else(tmp_path: Path) -> None:
    layout.write_prepared(tmp_path, PREPARED)
    (tmp_path / layout.VALIDATION_FILE).touch()
    (tmp_path / "registry.db").touch()
    layout.clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["registry.db"]
    layout.clear(tmp_path / "new" / "folder")
    assert (tmp_path / "new" / "folder").is_dir()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SinkError, match=r"cannot be written .*: name another folder"):
        layout.clear(tmp_path / "file" / "below")
