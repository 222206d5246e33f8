"""Time and memory of point-in-time joins, block by block of users: ``python benchmarks/feature_join.py``.

Users in ascending order of their ids are joined, block by block, with a generated feature file:

- ``raw``: an ASOF query of DuckDB for each block, over the range of its keys; rows in any order, no store around it;
- ``batchrec``: ``FeatureStore.point_in_time`` through ``SortedOfflineStore``;
- ``feast``: the same through Feast's own duckdb store.

Each measurement is a process of its own; of several, the fastest counts for time, the largest for memory. Times leave
out imports, opening the store and a first join of one user. All must give the same values.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchrec.features.layout import TableWriter, as_timestamps, write_table
from batchrec.features.sort import sort_source
from batchrec.features.store import FeatureStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DAY = 86_400
START = datetime(2026, 1, 1, tzinfo=UTC)
NUMBERS = [f"number_{i}" for i in range(6)]
SHARES = [f"share_{i}" for i in range(6)]
SEEN_LENGTH = 30
STORES = {"batchrec": "batchrec.features.offline_store.SortedOfflineStore", "feast": "duckdb"}
CHUNK = 100_000


def user_ids(begin: int, end: int) -> np.ndarray:
    """Return raw ids of users, ascending and with gaps; ``(end - begin,)``."""
    return 100_000_000 + np.arange(begin, end) * 97


def chunks(users: int, versions: int) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Yield features and seen items of users, chunk by chunk, sorted; a row a user and day."""
    for begin in range(0, users, CHUNK):
        draw = np.random.default_rng(begin)
        ids = np.repeat(user_ids(begin, min(begin + CHUNK, users)), versions)
        day = np.tile(np.arange(versions), len(ids) // versions)
        times = as_timestamps(int(START.timestamp()) + day * DAY)
        columns: dict[str, Any] = {name: draw.integers(0, 1000, len(ids)) for name in NUMBERS}
        columns |= {name: draw.random(len(ids)).astype(np.float32) for name in SHARES}
        lengths = draw.integers(0, 2 * SEEN_LENGTH + 1, len(ids))
        items = pa.array(draw.integers(0, 100_000, lengths.sum()))
        lists = pa.ListArray.from_arrays(pa.array(np.r_[0, np.cumsum(lengths)], pa.int32()), items)
        yield (
            pa.table({"user_id": ids, **columns, "event_timestamp": times}),
            pa.table({"user_id": ids, "seen": lists, "event_timestamp": times}),
        )


def write(folder: Path, users: int, versions: int) -> None:
    """Write the feature files, sorted, and a Feast repository for each store."""
    import feast
    from feast.types import Array, Float32, Int64

    folder.mkdir()
    tables = chunks(users, versions)
    first = next(tables)
    with (
        TableWriter(folder / "features.parquet", first[0].schema) as features,
        TableWriter(folder / "seen.parquet", first[1].schema) as seen,
    ):
        for pair in (first, *tables):
            features.write(pair[0])
            seen.write(pair[1])
    user = feast.Entity(name="user", join_keys=["user_id"], value_type=feast.ValueType.INT64)
    types = dict.fromkeys(NUMBERS, Int64) | dict.fromkeys(SHARES, Float32)
    views = [
        feast.FeatureView(
            name=name,
            entities=[user],
            ttl=timedelta(0),
            schema=[feast.Field(name=field, dtype=dtype) for field, dtype in fields.items()],
            source=feast.FileSource(
                name=f"{name}_file", path=str(folder / f"{name}.parquet"), timestamp_field="event_timestamp"
            ),
        )
        for name, fields in {"features": types, "seen": {"seen": Array(Int64)}}.items()
    ]
    for name, store in STORES.items():
        (folder / name).mkdir()
        (folder / name / "feature_store.yaml").write_text(
            f"project: benchmark\nprovider: local\nregistry: registry.db\noffline_store:\n  type: {store}\n"
            "online_store:\n  type: sqlite\n  path: online.db\nentity_key_serialization_version: 3\n"
        )
        feast.FeatureStore(repo_path=str(folder / name)).apply([user, *views])


def shuffle(path: Path) -> None:
    """Put the rows of a file in random order."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    write_table(path, table.take(np.random.default_rng(0).permutation(len(table))).combine_chunks())


def through_store(folder: Path, how: str, views: list[str]) -> Callable[[np.ndarray, datetime], pa.Table]:
    """Return the join by a store."""
    store = FeatureStore.open(folder / how)
    refs = [ref for view in views for ref in store.refs(view)]
    return lambda ids, as_of: store.point_in_time(pa.array(ids), as_of, refs)


def through_duckdb(folder: Path, views: list[str]) -> Callable[[np.ndarray, datetime], pa.Table]:
    """Return the join by a query."""
    connection = duckdb.connect(":memory:", config={"memory_limit": "1GB", "preserve_insertion_order": False})
    connection.execute("SET TimeZone = 'UTC'")

    def join(ids: np.ndarray, as_of: datetime) -> pa.Table:
        times = pa.repeat(pa.scalar(as_of, pa.timestamp("us", "UTC")), len(ids))
        connection.register("asked", pa.table({"row": np.arange(len(ids)), "id": ids, "time": times}))
        joins = [
            f"ASOF LEFT JOIN (SELECT * FROM '{folder / view}.parquet' "  # noqa: S608 - generated files
            f"WHERE user_id BETWEEN {ids[0]} AND {ids[-1]}) {view} "
            f"ON id = {view}.user_id AND time >= {view}.event_timestamp"
            for view in views
        ]
        columns = ", ".join(f"{view}.* EXCLUDE (user_id, event_timestamp)" for view in views)
        return connection.sql(f"SELECT row, {columns} FROM asked {' '.join(joins)}").to_arrow_table()  # noqa: S608

    return join


def measure(folder: Path, how: str, users: int, versions: int, block: int, views: list[str]) -> dict[str, float]:
    """Join all users block by block; return seconds, peak memory in MB, and a sum over all values."""
    join = through_duckdb(folder, views) if how == "raw" else through_store(folder, how, views)
    as_of = START + timedelta(days=versions - 1, hours=12)
    ids = user_ids(0, users)
    join(ids[:1], as_of)
    total = 0.0
    begin = time.perf_counter()
    for start in range(0, users, block):
        table = join(ids[start : start + block], as_of)
        total += pc.sum(table[NUMBERS[0]]).as_py() + pc.sum(table[SHARES[5]]).as_py()
        if "seen" in views:
            total += pc.sum(pc.list_flatten(table["seen"])).as_py()
    seconds = time.perf_counter() - begin
    # Not getrusage: that also counts what the parent had when it forked.
    status = Path("/proc/self/status").read_text()
    peak = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
    return {"seconds": seconds, "memory": peak / 1024, "total": total}


def measured(*arguments: object) -> dict[str, float]:
    """Measure in a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, "--measure", json.dumps(arguments, default=str)]
    found: dict[str, float] = json.loads(subprocess.check_output(command, stderr=subprocess.DEVNULL))  # noqa: S603
    return found


def row(title: str, repeats: int, folder: Path, users: int, versions: int, block: int, views: list[str]) -> str:
    """Measure one case every way, in turn so that other work on the machine meets all, and return its line."""
    hows = ("raw", *STORES)
    rounds = [{how: measured(folder, how, users, versions, block, views) for how in hows} for _ in range(repeats)]
    expected = rounds[0]["raw"]["total"]
    for how, one in rounds[0].items():
        if not np.isclose(one["total"], expected, rtol=1e-6):
            raise SystemExit(f"{title}: {how} gives other values than raw: {one['total']} and {expected}")
    seconds = {how: min(one[how]["seconds"] for one in rounds) for how in hows}
    memory = {how: max(one[how]["memory"] for one in rounds) for how in hows}
    cells = [f"{seconds[how]:.1f} s, {memory[how]:.0f} MB" for how in hows]
    factors = [f"{seconds[how] / seconds['raw']:.1f}" for how in STORES]
    return f"| {title} | {block:,} | {' | '.join(cells)} | {' | '.join(factors)} |"


def report(users: int, repeats: int) -> Iterator[str]:
    """Yield the lines of the report."""
    packages = ("duckdb", "feast", "ibis-framework", "pyarrow", "pandas", "numpy")
    yield f"# Point-in-time joins, {datetime.now(UTC):%Y-%m-%d}\n"
    yield (
        f"{', '.join(f'{name} {version(name)}' for name in packages)}, Python {platform.python_version()}; "
        f"{os.cpu_count()} cores, shared with other work. Best time and largest peak memory (whole process, libraries "
        f"included) of {repeats}.\n"
    )
    yield f"`python benchmarks/feature_join.py --users {users} --repeats {repeats}`\n"
    yield "| case | users a block | raw DuckDB | batchrec | feast duckdb | batchrec / raw | feast / raw |"
    yield "|---|---|---|---|---|---|---|"
    sixteenth, default = -(-users // 16), 10_000
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for count, versions, views, blocks, title in (
            (users, 1, ["features"], (sixteenth, default), "12 features, 1 row a user"),
            (users, 5, ["features"], (sixteenth,), "12 features, 5 rows a user"),
            (users, 1, ["features", "seen"], (sixteenth,), "12 features, 1 row a user, and a list"),
            (2 * users, 1, ["features"], (sixteenth,), "twice the users, 12 features, 1 row a user"),
        ):
            folder = work / f"{count}-{versions}"
            if not folder.exists():
                write(folder, count, versions)
            for block in blocks:
                yield row(title, repeats, folder, count, versions, block, views)
        folder = work / f"{users}-1"
        path = folder / "features.parquet"
        shuffle(path)
        yield row("12 features, 1 row a user, unsorted", 1, folder, users, 1, sixteenth, ["features"])
        begin = time.perf_counter()
        sort_source(path, "user_id", ["event_timestamp"])
        seconds = time.perf_counter() - begin
        yield f"\nSorting that file (`sort_source`): {seconds:.1f} s."


def main() -> None:
    """Parse the command line and print the report."""
    parser = argparse.ArgumentParser(description="Time and memory of point-in-time joins.")
    parser.add_argument("--users", type=int, default=1_000_000, help="users (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each case (default: %(default)s)")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        folder, *arguments = json.loads(options.measure)
        print(json.dumps(measure(Path(folder), *arguments)))
        return
    for line in report(options.users, options.repeats):
        print(line, flush=True)


if __name__ == "__main__":
    main()
