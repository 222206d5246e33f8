"""``batchrec delta``: the rows of a published run as one version of a Delta Lake table.

A version is one atomic commit that replaces all rows. It carries the run as an application transaction (``txn`` in the
Delta protocol, kept in checkpoints), so that a run that is in the table already is not written again.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import textwrap
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import filterfalse
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchrec.errors import ArtifactError, BatchrecError, BusyError, ConfigError, SinkError
from batchrec.output.manifest import MANIFEST, read_manifest
from batchrec.output.publish import open_published
from batchrec.output.storage import is_url, local_path, open_storage
from batchrec.output.sums import check_part_file, part_records
from batchrec.progress import Progress, say
from batchrec.redact import redact

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from deltalake import DeltaTable

    from batchrec.output.record import PartRecord
    from batchrec.output.storage import Storage

ROWS_A_GROUP = 65_536
"""Rows that the writer holds at a time; with deltalake's own 1,048,576 it held 690 MB of lists of 10."""

_RUN, _MANIFEST, _AS_OF = "batchrec.run_id", "batchrec.manifest_sha256", "batchrec.as_of"
_SIGNED = {pa.uint8(): pa.int16(), pa.uint16(): pa.int32(), pa.uint32(): pa.int64(), pa.uint64(): pa.int64()}
_DATA_FILE = re.compile(r"part-\d{5}-[0-9a-f-]{36}-c\d{3}\.zstd\.parquet")
"""What deltalake writes before its first commit: of a writer at work, or of one that was killed."""
_MARKS = re.compile(r"\x1b\[[0-9;]*m|↳")
"""Colours and arrows in what deltalake says."""
_LONGEST = 400
_RESTORE = "restore it from a copy, or publish the run anew"


@dataclass(frozen=True)
class DeltaSummary:
    """What ``batchrec delta`` prints last: the version that it left the table at, and whether it wrote that."""

    run_id: str
    table: str
    version: int
    rows: int
    written: bool
    seconds: float


def check_delta(place: str) -> None:
    """See, before any work, that a run can be written to a table later.

    Parameters
    ----------
    place
        Path or URL of the table; nothing need be there.

    Raises
    ------
    ConfigError
        deltalake is not installed, or something else than a Delta table lies there.
    SinkError
        The object store does not answer.
    """
    if importlib.util.find_spec("deltalake") is None:
        raise ConfigError(
            "a Delta table was asked for, and the package deltalake is not installed",
            "install it with `pip install 'batchrec[delta]'`",
        )
    if _opened(place) is None and (found := list(filterfalse(_DATA_FILE.fullmatch, open_storage(place).names()))):
        raise ConfigError(
            f"{redact(place)} is not a Delta table and holds other files ({', '.join(found[:3])})",
            "name a Delta table, or a folder that is empty or not there",
        )


def write_delta(run: str, place: str) -> DeltaSummary:
    """Write all rows of a published run as the next version of a Delta table, unless it holds the run already.

    Parts are read one after another, each held against its sum first, so memory does not grow with the run. Types that
    Delta Lake does not have become the nearest that holds their values: unsigned integers signed ones, half precision
    single, times microseconds (with a zone: in UTC).

    Parameters
    ----------
    run
        Path or URL of its folder, or of the pointer ``current``.
    place
        Path or URL of the table; it is made if it is not there.

    Raises
    ------
    ConfigError
        As :func:`check_delta`.
    ArtifactError
        The run is not published, a part is not the one that was, or a kept value fits no type of Delta Lake.
    BusyError
        Another process has committed to the table meanwhile.
    SinkError
        The table cannot be written.
    """
    check_delta(place)
    folder = open_published(run)
    manifest = read_manifest(folder)
    records = part_records(folder, manifest)
    rows = sum(record.rows for record in records)
    app, number = _transaction(manifest)
    table = _opened(place)
    version = -1 if table is None else table.version()
    known = None if table is None else table.transaction_version(app)
    is_there = known is not None and known >= number
    with Progress("writing the Delta table", rows, "rows", quiet=is_there) as progress:
        if is_there:
            say(f"the Delta table {redact(place)} has got run {manifest['run_id']} already")
        else:
            _write(folder, records, table, place, _commit(folder, manifest, app, number), progress)
            version += 1  # a commit that does not follow on what was opened is refused
    return DeltaSummary(str(manifest["run_id"]), redact(place), version, rows, not is_there, round(progress.seconds, 2))


def _write(
    folder: Storage,
    records: Sequence[PartRecord],
    table: DeltaTable | None,
    place: str,
    commit: Any,
    progress: Progress,
) -> None:
    from deltalake import WriterProperties, write_deltalake

    schema = delta_schema(_read_schema(folder, records[0]))
    rows = _Rows(folder, records, schema, progress)
    with _told(table, place, rows):
        write_deltalake(
            table or _uri(place),
            pa.RecordBatchReader.from_batches(schema, rows.batches()),
            mode="error" if table is None else "overwrite",
            schema_mode=None if table is None else "overwrite",
            storage_options=_storage_options(place),
            writer_properties=WriterProperties(compression="ZSTD", max_row_group_size=ROWS_A_GROUP),
            commit_properties=commit,
        )


class _Rows:
    """The rows of a run, part by part, and the error that ended them: deltalake would tell of it in its own words."""

    def __init__(self, folder: Storage, records: Sequence[PartRecord], schema: pa.Schema, progress: Progress) -> None:
        self._folder, self._records, self._progress = folder, records, progress
        self._schema = schema
        self.error: BatchrecError | None = None

    def batches(self) -> Iterator[pa.RecordBatch]:
        try:
            for record in self._records:
                check_part_file(self._folder, record)
                yield from self._part(record)
                self._progress.advance(record.rows)
        except BatchrecError as error:
            self.error = error
            raise

    def _part(self, record: PartRecord) -> Iterator[pa.RecordBatch]:
        try:
            with self._folder.open(record.name) as file:
                for batch in pq.ParquetFile(file).iter_batches(ROWS_A_GROUP):
                    columns = [self._fitting(*pair) for pair in zip(batch.columns, self._schema, strict=True)]
                    yield pa.RecordBatch.from_arrays(columns, schema=self._schema)
        except (OSError, pa.ArrowException) as error:
            raise ArtifactError(f"{self._folder.shown(record.name)} cannot be read ({error})", _RESTORE) from error

    @staticmethod
    def _fitting(column: pa.Array, field: pa.Field) -> pa.Array:
        try:
            return column.cast(field.type)
        except pa.ArrowInvalid as error:
            raise ArtifactError(
                f"column {field.name!r} holds {column.type} values that Delta Lake's {field.type} does not ({error})",
                "keep that column in another type, or leave it out of --keep-columns",
            ) from error


def delta_schema(schema: pa.Schema) -> pa.Schema:
    """Return the schema that the rows of parts of this one have in a Delta table."""
    return pa.schema([field.with_type(_delta_type(field.type)).remove_metadata() for field in schema])


def _delta_type(dtype: pa.DataType) -> pa.DataType:
    if pa.types.is_timestamp(dtype):
        return pa.timestamp("us", None if dtype.tz is None else "UTC")
    if pa.types.is_date64(dtype):
        return pa.date32()
    if pa.types.is_float16(dtype):
        return pa.float32()
    return _SIGNED.get(dtype, dtype)


@contextmanager
def _told(table: DeltaTable | None, place: str, rows: _Rows) -> Iterator[None]:
    """Turn whatever deltalake raises into one sentence; a table is then what it was."""
    from deltalake.exceptions import CommitFailedError

    try:
        yield
    except Exception as error:
        if rows.error is not None:
            raise rows.error from error
        if isinstance(error, CommitFailedError) or (table is None and _opened(place) is not None):
            raise BusyError(
                f"another process has committed to the Delta table {redact(place)} meanwhile ({_brief(error)})",
                "see what it wrote, then run this again",
            ) from error
        raise SinkError(
            f"the Delta table {redact(place)} could not be written ({_brief(error)})",
            "see that it can be reached and written to, and that it has room",
        ) from error


def _opened(place: str) -> DeltaTable | None:
    """Open the table as it is now; None where there is none."""
    from deltalake import DeltaTable
    from deltalake.exceptions import TableNotFoundError

    try:
        return DeltaTable(_uri(place), storage_options=_storage_options(place))
    except TableNotFoundError:
        return None
    except Exception as error:
        raise SinkError(
            f"the Delta table {redact(place)} cannot be opened ({_brief(error)})",
            "see that it can be reached and that its log is whole",
        ) from error


def _transaction(manifest: Mapping[str, Any]) -> tuple[str, int]:
    """Return what names a run in a table: its id, and a number that grows when a run of the same name is made anew."""
    created = datetime.fromisoformat(manifest["created"])
    return f"batchrec/{manifest['run_id']}", round(created.timestamp() * 1_000_000)


def _commit(folder: Storage, manifest: Mapping[str, Any], app: str, number: int) -> Any:
    from deltalake import CommitProperties, Transaction

    sum_ = hashlib.sha256(folder.read(MANIFEST)).hexdigest()
    told = {_RUN: str(manifest["run_id"]), _MANIFEST: sum_, _AS_OF: str(manifest["as_of"])}
    # Without retries: what is replaced is what was looked at, not what somebody else has written since.
    return CommitProperties(told, max_commit_retries=0, app_transactions=[Transaction(app, number)])


def _read_schema(folder: Storage, record: PartRecord) -> pa.Schema:
    check_part_file(folder, record)
    with folder.open(record.name) as file:
        return pq.read_schema(file)


def _uri(place: str) -> str:
    return place if is_url(place) else str(local_path(place).absolute())


def _storage_options(place: str) -> dict[str, str] | None:
    """Return what deltalake does not take from the environment as s3fs does: the endpoint, and that it may be http."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if not place.startswith(("s3://", "s3a://")) or not endpoint:
        return None
    return {"endpoint_url": endpoint, "allow_http": str(endpoint.startswith("http://")).lower()}


def _brief(error: Exception) -> str:
    words = _MARKS.sub("", f"{type(error).__name__}: {error}").split()
    return redact(textwrap.shorten(" ".join(words), _LONGEST, placeholder=" …"))
