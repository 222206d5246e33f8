"""What docs/reading.md shows: each reader gets the rows that pyarrow gets, of both layouts and both kinds of ids."""

from __future__ import annotations

import contextlib
import datetime as dt
import decimal
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import bigquery_schema
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from batchrec.output.manifest import Accounting, Manifest
from batchrec.output.part import build_table, count_by_status, write_part
from batchrec.output.publish import RunFolder
from batchrec.output.storage import open_storage
from tests.runs import ROOT
from tests.test_docs import blocks

PAGE = ROOT / "docs" / "reading.md"
RUNS = [(layout, ids) for layout in ("list", "long") for ids in ("int", "string")]
USERS, ITEMS, LONGEST = 60, 9, 4
SPARK = os.environ.get("SPARK_PYTHON", str(ROOT / ".venv-spark" / "bin" / "python"))

KEPT = pa.schema(
    [
        ("age", pa.int16()),
        ("weight", pa.float64()),
        ("active", pa.bool_()),
        ("joined", pa.date32()),
        ("seen", pa.timestamp("us", tz="UTC")),
        ("local", pa.timestamp("ms")),
        ("spent", pa.decimal128(12, 2)),
        ("big", pa.decimal128(38, 20)),
    ]
)


def published_by_hand(place: str, layout: str, ids: str, *, kept: bool) -> None:
    """Publish a small run with every kind of list there is, by the code that publishes runs; parts of 25 users."""
    draw = np.random.default_rng(7)
    folder = RunFolder.open(open_storage(place), "night")
    item_ids, records, status = _ids(ids, ITEMS), [], []
    for number, rows in enumerate(np.array_split(np.arange(USERS), 3)):
        table, words = _table(draw, rows, item_ids, layout, ids, kept=kept)
        records.append(write_part(table, folder.storage, f"part-{number:05d}.parquet"))
        status += words
    moment = dt.datetime(2026, 2, 3, tzinfo=dt.UTC)
    folder.publish(
        Manifest(
            run_id="night", created=moment, as_of=moment, parts=records, schema=table.schema,
            accounting=Accounting(USERS, 0, 0, USERS, count_by_status(status)),
            fingerprints={}, seconds={}, options={"layout": layout}, versions={},
        )
    )  # fmt: skip


def _ids(kind: str, many: int) -> pa.Array:
    numbers = range(2**53 + 1, 2**53 + 1 + many)  # what a float does not hold shows
    return pa.array(numbers) if kind == "int" else pa.array([f"é{number:03d}'\"," for number in range(many)])


def _table(
    draw: Any, rows: Any, item_ids: pa.Array, layout: str, ids: str, *, kept: bool
) -> tuple[pa.Table, list[str]]:
    lengths = draw.integers(0, LONGEST + 1, len(rows))
    lengths[0], lengths[-1] = 0, LONGEST
    places = np.array([draw.permutation(ITEMS)[:LONGEST] for _ in rows])
    absent = np.arange(LONGEST) >= lengths[:, None]
    words = ["ok" if length == LONGEST else "short" if length else "unknown" for length in lengths]
    table = build_table(
        user_ids=_ids(ids, USERS).take(pa.array(rows)),
        item_ids=item_ids,
        positions=np.where(absent, -1, places),
        scores=draw.normal(size=places.shape).astype(np.float32),
        propensities=draw.random(places.shape, np.float32),
        status=words,
        source=["none" if word == "unknown" else "ranker" for word in words],
        layout=layout,
        kept=_kept(len(rows)) if kept else None,
    )
    return table, words


def _kept(rows: int) -> pa.Table:
    one = {
        "age": 41, "weight": 0.1, "active": True, "joined": dt.date(2020, 2, 29),
        "seen": dt.datetime(2026, 1, 2, 3, 4, 5, 678901, dt.UTC),
        "local": dt.datetime.fromisoformat("2026-07-01T12:00:00.005"),
        "spent": decimal.Decimal("1234567890.12"), "big": decimal.Decimal("1.00000000000000000001"),
    }  # fmt: skip
    none: dict[str, Any] = dict.fromkeys(one)
    return pa.Table.from_pylist([one if row % 3 else none for row in range(rows)], KEPT)


@pytest.fixture(scope="module", params=RUNS, ids="-".join)
def workshop(request, tmp_path_factory) -> Path:
    """A folder with output/current, and with what a run can have beside its parts: Parquet files that are no lists."""
    layout, ids = request.param
    folder = tmp_path_factory.mktemp(f"{layout}-{ids}")
    published_by_hand(str(folder / "output"), layout, ids, kept=False)
    run = (folder / "output" / "current").resolve()
    for hidden in ("_changes", "_journal"):
        (run / hidden).mkdir()
        shutil.copy(run / "part-00000.parquet", run / hidden)
    return folder


def by_pyarrow(run: Path) -> list[dict[str, Any]]:
    """Every row of the parts that the manifest names."""
    parts = json.loads((run / "_manifest.json").read_text())["parts"]
    return in_order(pa.concat_tables([pq.read_table(run / part["name"]) for part in parts]).to_pylist())


def in_order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: (row["user_id"], row.get("rank", 0)))


def example(heading: str) -> str:
    """Return the Python block under a heading of the page."""
    text = PAGE.read_text("utf-8")
    line = text[: text.index(f"\n## {heading}\n")].count("\n")
    return next(block.text for block in blocks(PAGE) if block.language == "python" and block.line > line)


def executed(heading: str, folder: Path) -> Any:
    names: dict[str, Any] = {}
    with contextlib.chdir(folder):
        exec(example(heading), names)
        return names["lists"]


def rows_of(lists: Any) -> list[dict[str, Any]]:
    if isinstance(lists, pl.DataFrame):
        return lists.to_dicts()
    if isinstance(lists, pd.DataFrame):
        return pa.Table.from_pandas(lists, preserve_index=False).to_pylist()
    if isinstance(lists, pa.Table):
        return lists.to_pylist()
    return [dict(zip(lists.columns, row, strict=True)) for row in lists.fetchall()]


@pytest.mark.parametrize("reader", ["DuckDB", "pandas", "Polars"])
def test_each_reader_gets_the_rows_of_pyarrow(workshop, reader):
    expected = by_pyarrow(workshop / "output" / "current")
    assert len({row["user_id"] for row in expected}) >= USERS / 2
    assert in_order(rows_of(executed(reader, workshop))) == expected


@pytest.mark.parametrize(("layout", "ids"), RUNS)
def test_from_an_object_store(s3, tmp_path, layout, ids, monkeypatch):
    published_by_hand(str(tmp_path), layout, ids, kept=False)
    place = f"s3://nightly/reading-{layout}-{ids}"
    published_by_hand(place, layout, ids, kept=False)
    names: dict[str, Any] = {}
    exec(example("pyarrow, from an object store").replace("s3://nightly/output", place), names)
    assert in_order(rows_of(names["lists"])) == by_pyarrow(tmp_path / "current")


def test_a_real_run(world, batchrec, tmp_path):
    for layout in ("list", "long"):
        said = batchrec(*world.args(tmp_path / "output", f"--layout={layout}", f"--run-id={layout}", "--no-verify"))
        assert said.code == 0, said.err
        expected = by_pyarrow(tmp_path / "output" / layout)
        for reader in ("DuckDB", "pandas", "Polars"):
            assert in_order(rows_of(executed(reader, tmp_path))) == expected


SPARK_ROWS = """
import json, sys
lists = lists.collect()
json.dump([row.asDict() for row in lists], open(sys.argv[1], "w"))
spark.stop()
"""


@pytest.mark.slow
def test_spark_gets_the_rows_of_pyarrow(workshop, tmp_path):
    if not Path(SPARK).exists() or shutil.which("java") is None:
        pytest.skip(f"needs Java and pyspark at {SPARK}: run `make test-spark`, or name a Python by SPARK_PYTHON")
    script, found = tmp_path / "read.py", tmp_path / "rows.json"
    script.write_text(example("Spark") + SPARK_ROWS)
    done = subprocess.run(
        [SPARK, script, found], cwd=workshop, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    # JSON carries a float's shortest decimal form, which is the same number again.
    assert in_order(json.loads(found.read_text())) == by_pyarrow(workshop / "output" / "current")


ARROW = {
    "INTEGER": pa.int64(), "FLOAT": pa.float64(), "STRING": pa.string(), "BOOLEAN": pa.bool_(), "DATE": pa.date32(),
    "TIMESTAMP": pa.timestamp("us", tz="UTC"), "DATETIME": pa.timestamp("us"),
    "NUMERIC": pa.decimal128(38, 9), "BIGNUMERIC": pa.decimal256(76, 38),
}  # fmt: skip
"""What values of each BigQuery type are, as its documentation of types has it."""


@pytest.fixture(scope="module", params=RUNS, ids="-".join)
def run(request, tmp_path_factory) -> Path:
    """A run with columns of every kind that can be kept and that BigQuery has a type for."""
    output = tmp_path_factory.mktemp("bigquery")
    published_by_hand(str(output), *request.param, kept=True)
    return (output / "current").resolve()


class TestBigQuery:
    def test_a_reader_of_the_schema_gets_the_rows_of_pyarrow(self, run):
        fields = []
        for field in bigquery_schema.bigquery_schema(str(run)):
            dtype = ARROW[field["type"]]
            fields.append(pa.field(field["name"], pa.list_(dtype) if field["mode"] == "REPEATED" else dtype))
        table = ds.dataset(sorted(run.glob("part-*.parquet")), schema=pa.schema(fields), format="parquet").to_table()
        assert in_order(table.to_pylist()) == by_pyarrow(run)

    def test_modes_are_those_of_the_files(self, run):
        """By Parquet's own levels: list inference wants ``list.element`` of one repetition, required is level 0."""
        stored = pq.ParquetFile(run / "part-00000.parquet").schema
        columns = {stored.column(place).path.split(".")[0]: stored.column(place) for place in range(len(stored))}
        found = bigquery_schema.bigquery_schema(str(run))
        assert [field["name"] for field in found] == list(columns)
        for field in found:
            column = columns[field["name"]]
            if field["mode"] == "REPEATED":
                assert column.path == f"{field['name']}.list.element"
                assert column.max_repetition_level == 1
            else:
                assert (column.max_repetition_level, column.path) == (0, field["name"])
                assert field["mode"] == ("NULLABLE" if column.max_definition_level else "REQUIRED")

    def test_types(self, run):
        found = {field["name"]: field["type"] for field in bigquery_schema.bigquery_schema(str(run))}
        kept = ["INTEGER", "FLOAT", "BOOLEAN", "DATE", "TIMESTAMP", "DATETIME", "NUMERIC", "BIGNUMERIC"]
        assert [found[name] for name in KEPT.names] == kept
        assert found.keys() - set(KEPT.names) in (
            {"user_id", "item_ids", "scores", "propensities", "status", "source"},
            {"user_id", "rank", "item_id", "score", "propensity"},
        )

    @pytest.mark.parametrize(
        "dtype", [pa.uint64(), pa.float16(), pa.timestamp("ns"), pa.decimal128(38, 0), pa.null()], ids=str
    )
    def test_what_bigquery_cannot_hold_is_refused(self, tmp_path, dtype):
        pq.write_table(pa.table({"user_id": [1], "odd": pa.array([None], dtype)}), tmp_path / "part-00000.parquet")
        manifest = {"format_version": 2, "parts": [{"name": "part-00000.parquet"}]}
        (tmp_path / "_manifest.json").write_text(json.dumps(manifest))
        if dtype == pa.decimal128(38, 0):
            assert bigquery_schema.bigquery_schema(str(tmp_path))[1]["type"] == "BIGNUMERIC"
            return
        with pytest.raises(ValueError, match="column odd is"):
            bigquery_schema.bigquery_schema(str(tmp_path))

    def test_the_command(self, run):
        script = [sys.executable, ROOT / "jobs" / "bigquery_schema.py", run.parent / "current"]
        done = subprocess.run(script, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, check=True)
        assert json.loads(done.stdout) == bigquery_schema.bigquery_schema(str(run))
