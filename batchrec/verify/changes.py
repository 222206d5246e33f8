"""Whether the lists of changes are what turns the earlier run's rows into those of this run, checked in SQL."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batchrec.errors import ArtifactError, SinkError
from batchrec.output.changes import KINDS
from batchrec.output.manifest import MANIFEST, read_manifest
from batchrec.output.ranges import id_ranges
from batchrec.output.storage import open_storage
from batchrec.output.sums import is_whole, part_records
from batchrec.progress import say
from batchrec.schema import USER_ID

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchrec.output.changes import Increment
    from batchrec.output.ranges import Id, IdRange
    from batchrec.output.record import PartRecord
    from batchrec.output.storage import Storage

_BOTH_RUNS = """
    (now IS NOT NULL AND before IS NULL) != (inserted IS NOT NULL)
    OR (now IS NOT NULL AND before IS NOT NULL AND {differ}) != (changed IS NOT NULL)
    OR (now IS NULL AND before IS NOT NULL) != (removed IS NOT NULL)
"""
"""Who is not in exactly the list where he belongs."""

_THIS_RUN_ALONE = """
    (inserted IS NOT NULL)::INT + (changed IS NOT NULL)::INT + (removed IS NOT NULL)::INT > 1
    OR (removed IS NOT NULL AND now IS NOT NULL)
"""
"""The same, as far as one run tells."""

_OTHER_ROWS = """
    OR (inserted IS NOT NULL AND inserted IS DISTINCT FROM now)
    OR (changed IS NOT NULL AND changed IS DISTINCT FROM now)
"""
"""Whose rows in the lists are not those of this run."""


def check_changes(storage: Storage, parts: Sequence[PartRecord], increment: Increment) -> int:
    """Count the users whom the lists of changes get wrong.

    Each list must hold exactly the users who belong there, with the rows of this run. Where the earlier run is no
    longer there, this is said, and the lists are held against this run alone.

    Parameters
    ----------
    storage, parts
        The run folder, and the parts in it.
    increment
        What the manifest says of the changes; the files that it names are whole.

    Returns
    -------
    int
        Users; where the manifest counts the lists otherwise, one a list; and one where rows of the earlier run were not
        compared.
    """
    before = _earlier(increment)
    known = id_ranges(storage, parts)
    lists = {kind: id_ranges(storage, increment.files[kind]) for kind in KINDS}
    wrong, compared, users = 0, 0, dict.fromkeys(KINDS, 0)
    for part, lower, upper in _stretches(known, parts):
        rows = {kind: _rows(storage, ranges, lower, upper) for kind, ranges in lists.items()}
        for kind, table in rows.items():
            users[kind] += 0 if table is None else len(table[USER_ID].unique())
        earlier = None if before is None else _rows(*before, lower, upper)
        compared += 0 if earlier is None else len(earlier)
        wrong += _wrong(_read(storage, part), earlier, rows, is_known=before is not None)
    wrong += sum(users[kind] != increment.users[kind] for kind in KINDS)
    if before is not None:
        wrong += compared != sum(one.record.rows for one in before[1])
    return wrong


def _earlier(increment: Increment) -> tuple[Storage, tuple[IdRange, ...]] | None:
    """Return folder and parts of the earlier run; None where it is not there as it was."""
    folder = open_storage(increment.place)
    try:
        is_same = hashlib.sha256(folder.read(MANIFEST)).hexdigest() == increment.manifest
        records = part_records(folder, read_manifest(folder)) if is_same else []
    except (FileNotFoundError, ArtifactError, SinkError):
        is_same = False
    if is_same and all(is_whole(folder, record) for record in records):
        return folder, id_ranges(folder, records)
    say(f"run {increment.run_id} is not there any more as it was: changes are held against this run alone")
    return None


def _stretches(
    known: Sequence[IdRange], parts: Sequence[PartRecord]
) -> Iterator[tuple[PartRecord, Id | None, Id | None]]:
    """Yield each part with the ids from its first on to the next part's; what lies before and after them all too."""
    if not known:
        yield parts[0], None, None
        return
    bounds: list[Id | None] = [None, *(one.first for one in known[1:]), None]
    for one, (lower, upper) in zip(known, pairwise(bounds), strict=True):
        yield one.record, lower, upper


def _rows(folder: Storage, ranges: Sequence[IdRange], lower: Id | None, upper: Id | None) -> pa.Table | None:
    """Read the rows of a stretch of ids; None where there are none."""
    tables = [_read(folder, one.record) for one in ranges if one.reaches(lower, upper)]
    if not tables:
        return None
    table = pa.concat_tables(tables)
    ids = table[USER_ID]
    for bound, compare in ((lower, pc.greater_equal), (upper, pc.less)):
        if bound is not None:
            table = table.filter(compare(table[USER_ID], pa.scalar(bound, ids.type)))
    return table


def _read(folder: Storage, record: PartRecord) -> pa.Table:
    with folder.open(record.name) as file:
        return pq.read_table(file)


def _wrong(now: pa.Table, before: pa.Table | None, lists: dict[str, pa.Table | None], *, is_known: bool) -> int:
    """Count the users of one stretch whom the lists get wrong."""
    comparable = before is None or now.schema.equals(before.schema)
    sides = {"now": now, "before": before if comparable or before is None else before.select([USER_ID]), **lists}
    with duckdb.connect(":memory:") as connection:
        connection.execute("SET enable_progress_bar = false")
        for name, rows in sides.items():
            table = now.schema.empty_table() if rows is None else rows
            order = " ORDER BY rank" if "rank" in table.column_names else ""
            connection.register("side", table)
            connection.execute(
                f"CREATE TEMP TABLE of_{name} AS "  # noqa: S608 - our own names
                f"SELECT {USER_ID}, list(side{order}) AS {name} FROM side GROUP BY {USER_ID}"
            )
        joined = " ".join(f"FULL JOIN of_{name} USING ({USER_ID})" for name in ("before", *KINDS))
        # With other columns, every user whom both runs know counts as changed.
        differ = "now IS DISTINCT FROM before" if comparable else "TRUE"
        where = (_BOTH_RUNS.format(differ=differ) if is_known else _THIS_RUN_ALONE) + _OTHER_ROWS
        found = connection.execute(f"SELECT count(*) FROM of_now {joined} WHERE {where}").fetchone()  # noqa: S608
        return int(found[0])
