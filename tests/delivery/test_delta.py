"""A run as one version of a Delta Lake table: the same rows to every reader, once, whole, and on S3 too."""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from batchrec.config import JobConfig
from batchrec.delivery.after_run import after_run, check_before
from batchrec.delivery.delta import ROWS_A_GROUP, write_delta
from batchrec.errors import ArtifactError, BusyError, ConfigError, SinkError
from batchrec.schema import long_schema
from tests.delivery.runs import invented, publish
from tests.evaluate.support import seal
from tests.stores import BUCKET


def rows_of(run):
    return pq.read_table(sorted(run.glob("part-*.parquet"))).to_pylist()


def rows_in(table, version=None, options=None):
    """The rows of a table in the order of users and ranks."""
    found = DeltaTable(str(table), version=version, storage_options=options).to_pyarrow_table().to_pylist()
    return sorted(found, key=lambda row: (row["user_id"], row.get("rank", 0)))


@pytest.mark.parametrize("layout", ["list", "long"])
@pytest.mark.parametrize("users", [range(-20, 30), [f"user-{number:02d}" for number in range(50)]])
def test_readers_get_the_rows_of_the_run(tmp_path, layout, users):
    run = publish(tmp_path / "night", invented(list(users)), layout=layout)
    summary = write_delta(str(run), str(tmp_path / "table"))
    assert (summary.run_id, summary.version, summary.written) == ("night", 0, True)
    expected = rows_of(run)
    assert summary.rows == len(expected)
    assert rows_in(tmp_path / "table") == expected
    by = ["user_id", "rank"] if layout == "long" else ["user_id"]
    assert pl.read_delta(str(tmp_path / "table")).sort(by).to_dicts() == expected


def test_each_run_is_a_version_and_the_log_says_which(tmp_path):
    table = tmp_path / "tables" / "lists"
    for number, night in enumerate(["monday", "tuesday"]):
        run = publish(tmp_path / night, invented(range(10 + number), seed=number))
        assert write_delta(str(run), str(table)).version == number
    for number, night in enumerate(["monday", "tuesday"]):
        assert rows_in(table, number) == rows_of(tmp_path / night)
        actions = [json.loads(line) for line in (table / "_delta_log" / f"{number:020}.json").read_text().splitlines()]
        (told,) = (action["commitInfo"] for action in actions if "commitInfo" in action)
        assert told["batchrec.run_id"] == night
        (transaction,) = (action["txn"] for action in actions if "txn" in action)
        moment = datetime.fromisoformat("2026-02-03T04:05:06+00:00").timestamp()
        assert (transaction["appId"], transaction["version"]) == (f"batchrec/{night}", moment * 1_000_000)


def test_a_run_is_written_once_unless_it_was_made_anew(tmp_path, capfd):
    table = str(tmp_path / "table")
    monday = publish(tmp_path / "monday", invented(range(10)))
    tuesday = publish(tmp_path / "tuesday", invented(range(10), seed=1))
    for run in (monday, tuesday, monday, tuesday):
        last = write_delta(str(run), table)
    assert (last.version, last.written) == (1, False)
    assert "has got run tuesday already" in capfd.readouterr().err
    assert rows_in(table) == rows_of(tuesday)

    manifest = json.loads((monday / "_manifest.json").read_text())
    (monday / "_manifest.json").write_text(json.dumps(manifest | {"created": "2026-02-03T05:00:00Z"}))
    again = write_delta(str(monday), table)
    assert (again.version, again.written) == (2, True)
    assert rows_in(table) == rows_of(monday)


def with_column(run, name, values):
    """Add a kept column to the one part of a run."""
    part = run / "part-00000.parquet"
    table = pq.read_table(part)
    pq.write_table(table.append_column(name, values), part)
    return seal(run)


def at(microseconds):
    return datetime.fromtimestamp(0, UTC).replace(tzinfo=None) + timedelta(microseconds=microseconds)


KEPT = {
    "u8": (pa.array([255, 0, None], pa.uint8()), pa.int16(), 255),
    "u16": (pa.array([65535, 0, None], pa.uint16()), pa.int32(), 65535),
    "u32": (pa.array([2**32 - 1, 0, None], pa.uint32()), pa.int64(), 2**32 - 1),
    "u64": (pa.array([2**63 - 1, 0, None], pa.uint64()), pa.int64(), 2**63 - 1),
    "i8": (pa.array([-128, 0, None], pa.int8()), pa.int8(), -128),
    "half": (pa.array([0.5, 1, None], pa.float16()), pa.float32(), 0.5),
    "flag": (pa.array([True, False, None]), pa.bool_(), True),
    "day": (pa.array([1, 0, None], pa.date32()), pa.date32(), date(1970, 1, 2)),
    "day64": (pa.array([date(1970, 1, 2), date(1970, 1, 1), None], pa.date64()), pa.date32(), date(1970, 1, 2)),
    "price": (pa.array([Decimal("1.50"), 0, None], pa.decimal128(38, 2)), pa.decimal128(38, 2), Decimal("1.50")),
    "naive": (pa.array([1_500, 0, None], pa.timestamp("ms")), pa.timestamp("us"), at(1_500_000)),
    "nano": (pa.array([2_000, 0, None], pa.timestamp("ns")), pa.timestamp("us"), at(2)),
}
"""Columns whose third value is null, the type they get, and their first value."""


@pytest.mark.parametrize("name", KEPT)
def test_kept_columns_keep_their_values(tmp_path, name):
    column, expected_type, first = KEPT[name]
    run = with_column(publish(tmp_path / "night", invented(range(3)), parts=1), name, column)
    write_delta(str(run), str(tmp_path / "table"))
    found = DeltaTable(tmp_path / "table").to_pyarrow_table().sort_by("user_id")[name]
    assert found.type == expected_type
    assert found[0].as_py() == first
    assert found[2].as_py() is None


def test_a_time_with_a_zone_is_the_same_moment(tmp_path):
    column = pa.array([10**15 + 7] * 3, pa.int64()).view(pa.timestamp("us", "Asia/Tokyo"))
    run = with_column(publish(tmp_path / "night", invented(range(3)), parts=1), "at", column)
    write_delta(str(run), str(tmp_path / "table"))
    found = DeltaTable(tmp_path / "table").to_pyarrow_table()["at"]
    assert found.type == pa.timestamp("us", "UTC")
    assert set(found.cast(pa.int64()).to_pylist()) == {10**15 + 7}


@pytest.mark.parametrize(
    ("column", "what"),
    [
        (pa.array([2**63] * 3, pa.uint64()), "uint64 values that Delta Lake's int64 does not"),
        (pa.array([1] * 3, pa.timestamp("ns")), r"timestamp\[ns\] values that Delta Lake's timestamp\[us\] does not"),
    ],
)
def test_a_value_that_would_change_is_an_error_and_the_table_stays(tmp_path, column, what):
    before = publish(tmp_path / "monday", invented(range(3)))
    write_delta(str(before), str(tmp_path / "table"))
    run = with_column(publish(tmp_path / "night", invented(range(3)), parts=1), "odd", column)
    with pytest.raises(ArtifactError, match=f"column 'odd' holds {what}"):
        write_delta(str(run), str(tmp_path / "table"))
    assert rows_in(tmp_path / "table") == rows_of(before)


def test_a_damaged_part_is_an_error_and_the_table_stays(tmp_path):
    before = publish(tmp_path / "monday", invented(range(9)))
    write_delta(str(before), str(tmp_path / "table"))
    run = publish(tmp_path / "night", invented(range(9), seed=1))
    (run / "part-00002.parquet").write_bytes((run / "part-00001.parquet").read_bytes())
    with pytest.raises(ArtifactError, match=r"part-00002\.parquet is damaged"):
        write_delta(str(run), str(tmp_path / "table"))
    assert DeltaTable(tmp_path / "table").version() == 0
    assert rows_in(tmp_path / "table") == rows_of(before)
    (run / "_SUCCESS").unlink()
    with pytest.raises(ArtifactError, match="is not a published run"):
        write_delta(str(run), str(tmp_path / "table"))


KILLED = """
import os, signal, sys
from batchrec.delivery import delta
check = delta.check_part_file
def killed(folder, record):
    if record.name == "part-00002.parquet":
        os.kill(os.getpid(), signal.SIGKILL)
    check(folder, record)
delta.check_part_file = killed
delta.write_delta(*sys.argv[1:])
"""


def test_a_writer_that_is_killed_leaves_the_table_as_it_was(tmp_path):
    table = tmp_path / "table"
    before = publish(tmp_path / "monday", invented(range(9)))
    write_delta(str(before), str(table))
    run = publish(tmp_path / "night", invented(range(9), seed=1))
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    killed = subprocess.run([sys.executable, "-c", KILLED, str(run), str(table)], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert rows_in(table) == rows_of(before)
    assert write_delta(str(run), str(table)).written
    assert rows_in(table) == rows_of(run)


@pytest.mark.parametrize("place", ["disk", "s3"])
def test_of_writers_at_once_each_commits_whole_or_is_told_to_come_again(tmp_path, request, place):
    options = None
    table = str(tmp_path / "table")
    if place == "s3":
        environment = request.getfixturevalue("s3")
        table = f"s3://{BUCKET}/{secrets.token_hex(4)}/table"
        options = {"endpoint_url": environment["AWS_ENDPOINT_URL"], "allow_http": "true"}
    runs = [publish(tmp_path / f"night-{number}", invented(range(9), seed=number)) for number in range(4)]

    def write(run):
        try:
            return write_delta(str(run), table).version
        except BusyError:
            return None

    with ThreadPoolExecutor(4) as threads:
        versions = list(threads.map(write, runs))
    written = sorted(version for version in versions if version is not None)
    assert written == list(range(len(written)))
    assert len(written) >= 1
    last = runs[versions.index(written[-1])]
    assert rows_in(table, options=options) == rows_of(last)
    for run, version in zip(runs, versions, strict=True):
        if version is None:
            assert write_delta(str(run), table).written
            assert rows_in(table, options=options) == rows_of(run)


def test_rows_are_written_some_at_a_time(tmp_path):
    run = publish(tmp_path / "night", invented(range(3)), parts=1)
    columns = [pa.array(range(200_000)), *(pa.array([value] * 200_000) for value in (1, 7, 0.5))]
    schema = long_schema(pa.int64(), pa.int64(), sampled=False)
    table = pa.Table.from_arrays(
        [column.cast(kind) for column, kind in zip(columns, schema.types, strict=True)], schema=schema
    )
    pq.write_table(table, run / "part-00000.parquet")
    seal(run)
    write_delta(str(run), str(tmp_path / "table"))
    table = DeltaTable(tmp_path / "table")
    assert table.to_pyarrow_table().num_rows == 200_000
    for file in table.file_uris():
        footer = pq.read_metadata(file)
        assert max(footer.row_group(number).num_rows for number in range(footer.num_row_groups)) <= ROWS_A_GROUP


# --- before a run, and after it


@pytest.fixture
def job(tmp_path):
    return JobConfig(users="u", bundle="b", output=str(tmp_path), delta=str(tmp_path / "table"))


def test_a_missing_package_is_told_before_the_run(job, monkeypatch, batchrec, tmp_path):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "deltalake" else find(name))
    with pytest.raises(ConfigError, match=r"pip install 'batchrec\[delta\]'"):
        check_before(job)
    said = batchrec("run", "--users=none", "--bundle=none", f"--delta={tmp_path}/t", f"--output={tmp_path}/out")
    assert said.code == 2
    assert "pip install 'batchrec[delta]'" in said.err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_is_refused(job, tmp_path):
    check_before(job)
    (tmp_path / "table").mkdir()
    check_before(job)
    (tmp_path / "table" / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match=r"is not a Delta table and holds other files \(thesis.txt\)"):
        check_before(job)


def test_a_run_that_is_published_stays_so_whatever_becomes_of_the_table(job, tmp_path, s3, batchrec):
    publish(tmp_path / "night", invented(range(3)))
    assert after_run(job, "night", 1.0)["delta"]["written"]
    lost = job.model_copy(update={"delta": "s3://no-such-bucket/table"})
    with pytest.raises(SinkError) as failed:
        after_run(lost, "night", 1.0)
    assert failed.value.problem.startswith("run night is published, but its Delta table failed: ")
    assert "NoSuchBucket" in failed.value.problem
    assert f"the command is `batchrec delta {tmp_path}/night s3://no-such-bucket/table`" in failed.value.remedy
    said = batchrec("delta", tmp_path / "night", "s3://no-such-bucket/table")
    assert said.code == 1
    assert said.err.count("\n") == 1
    said = batchrec("delta", tmp_path / "night", tmp_path / "table")
    assert said.code == 0
    assert said.summary["written"] is False
    assert said.summary["version"] == 0


def test_a_first_write_that_was_cut_short_is_not_in_the_way(tmp_path):
    run = publish(tmp_path / "night", invented(range(9), seed=1))
    table = tmp_path / "table"
    table.mkdir()
    (table / "part-00000-24770b8c-43b1-48f1-b61d-960207bc7f4b-c000.zstd.parquet").write_bytes(b"half")
    assert write_delta(str(run), str(table)).written
    assert DeltaTable(table).to_pyarrow_table().num_rows == 9
