"""Lists a second into an online store: ``python benchmarks/push.py``.

The same lists go into SQLite and into a Redis server on the loopback interface, each way in turn and into an empty
store, so that other work on the machine meets all:

- ``feast``: Feast's own ``push`` of data frames of 10,000 lists, by one process and by two, each half of the lists;
- ``batchrec``: what ``batchrec push`` does, from part files to the store, by one process and by two;
- ``raw``: one process writes the finished bytes into the same tables and keys; making them is not counted.

Speed leaves out what happens once: imports, opening the repository, a first row (``feast``) or batch (``batchrec``).
Memory is the largest of the processes that write, libraries included. Processor time is theirs together, user and
system, in the same stretch; what the Redis server takes is not in it. Other work on the machine changes it less than
the speed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import platform
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from batchrec.delivery.push_workers import Work, push_parts
from batchrec.features.store import FeatureStore
from batchrec.output.record import PartRecord
from batchrec.schema import list_schema

if TYPE_CHECKING:
    from collections.abc import Iterator

Figures = tuple[float, float, float]
"""Lists a second, microseconds of processor time a list, megabytes."""

VIEW = "user_recommendations"
PART, FRAME, BATCH = 10_000, 10_000, 5_000
NOW = datetime(2026, 1, 1, tzinfo=UTC)
WAYS = {"feast, 1 process": 1, "feast, 2 processes": 2, "batchrec, 1 process": 1, "batchrec, 2 processes": 2, "raw": 1}


def write_run(folder: Path, lists: int, length: int) -> list[PartRecord]:
    """Write part files of lists; return what is on record of them."""
    folder.mkdir()
    records = []
    for begin in range(0, lists, PART):
        draw = np.random.default_rng(begin)
        count = min(PART, lists - begin)
        offsets = pa.array(np.arange(count + 1) * length, pa.int32())
        columns = {
            "user_id": pa.array(10**8 + 97 * np.arange(begin, begin + count)),
            "item_ids": pa.ListArray.from_arrays(offsets, pa.array(draw.integers(0, 10**8, count * length))),
            "scores": pa.ListArray.from_arrays(offsets, pa.array(draw.random(count * length).astype(np.float32))),
            "status": pa.array(["ok"] * count),
            "source": pa.array(["ranker"] * count),
        }
        path = folder / f"part-{begin // PART:05d}.parquet"
        schema = list_schema(pa.int64(), pa.int64(), sampled=False)
        pq.write_table(pa.table(columns).cast(schema), path)
        content = path.read_bytes()
        records.append(PartRecord(path.name, count, len(content), hashlib.sha256(content).hexdigest()))
    return records


def write_repo(folder: Path, online: str) -> Path:
    """Apply a repository with the push view."""
    import feast
    from feast.types import Array, Float32, Int64

    folder.mkdir()
    (folder / "feature_store.yaml").write_text(
        f"project: benchmark\nprovider: local\nregistry: registry.db\nonline_store: {online}\n"
        "entity_key_serialization_version: 3\n"
    )
    user = feast.Entity(name="user", join_keys=["user"], value_type=feast.ValueType.INT64)
    fields = {"user": Int64, "item_ids": Array(Int64), "scores": Array(Float32)}
    file = feast.FileSource(name="file", path=str(folder / "none.parquet"), timestamp_field="event_timestamp")
    view = feast.FeatureView(
        name=VIEW,
        entities=[user],
        ttl=timedelta(0),
        schema=[feast.Field(name=name, dtype=dtype) for name, dtype in fields.items()],
        source=feast.PushSource(name="pushed", batch_source=file),
        online=True,
    )
    feast.FeatureStore(repo_path=str(folder)).apply([user, view])
    return folder


def peak_megabytes(process: str = "self") -> float:
    """Return the peak memory of a process; not getrusage, which also counts what its parent had when it forked."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0.0)


def feast_process(run: Path, repo: Path, parts: list[str], barrier: Any, results: Any) -> None:
    """Push parts as data frames through Feast's own call."""
    import feast

    frames = []
    for part in parts:
        frame = pq.read_table(run / part, columns=["user_id", "item_ids", "scores"]).to_pandas()
        frames.append(frame.rename(columns={"user_id": "user"}).assign(event_timestamp=NOW))
    store = feast.FeatureStore(repo_path=str(repo))
    store.push("pushed", frames[0][:1])
    barrier.wait()
    begin, cpu = time.time(), time.process_time()
    for frame in frames:
        store.push("pushed", frame)
    results.put((begin, time.time(), time.process_time() - cpu, peak_megabytes()))


def by_feast(run: Path, repo: Path, records: list[PartRecord], processes: int) -> Figures:
    """Push as an application would."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(processes), context.SimpleQueue()
    names = [record.name for record in records]
    started = [
        context.Process(target=feast_process, args=(run, repo, names[one::processes], barrier, results))
        for one in range(processes)
    ]
    for process in started:
        process.start()
    found = [results.get() for _ in started]
    for process in started:
        process.join()
    begins, ends, cpu, memory = zip(*found, strict=True)
    lists = sum(record.rows for record in records)
    return lists / (max(ends) - min(begins)), 1e6 * sum(cpu) / lists, max(memory)


def by_batchrec(run: Path, repo: Path, records: list[PartRecord], processes: int) -> Figures:
    """Push as ``batchrec push`` does."""
    moments: list[tuple[float, float, float, int]] = []

    def advance(users: int) -> None:
        writing = [psutil.Process(one.pid) for one in multiprocessing.active_children()] or [psutil.Process()]
        cpu = sum(sum(one.cpu_times()[:2]) for one in writing)
        moments.append((time.time(), cpu, max(peak_megabytes(str(one.pid)) for one in writing), users))

    push_parts(Work(str(run), repo, VIEW, NOW, BATCH), records, processes, advance, lambda *_: None)
    begins, cpu, memory, users = zip(*moments, strict=True)
    lists = sum(users[1:])
    return lists / (begins[-1] - begins[0]), 1e6 * (cpu[-1] - cpu[0]) / lists, max(memory)


def by_raw(run: Path, repo: Path, records: list[PartRecord], _: int) -> Figures:
    """Write finished bytes."""
    from feast.infra.online_stores.helpers import _mmh3, _redis_key

    from batchrec.features.proto import online_rows

    view = FeatureStore(repo).online(VIEW)
    config = (repo / "feature_store.yaml").read_text()
    rows: list[Any] = []
    for record in records:
        table = pq.read_table(run / record.name).rename_columns({"user_id": "user"})
        for key, values, *_rest in online_rows(table, view.key, view.features, NOW):
            named = {name: value.SerializeToString() for name, value in values.items()}
            rows.append((_redis_key("" if "sqlite" in config else "benchmark", key), named))
    begin, cpu = time.time(), time.process_time()
    if "sqlite" in config:
        sqlite_rows(repo / "online.db", rows)
    else:
        fields = {name: _mmh3(f"{VIEW}:{name}") for name in view.features}
        redis_rows(int(config.split("127.0.0.1:")[1].split("'")[0]), rows, fields)
    return len(rows) / (time.time() - begin), 1e6 * (time.process_time() - cpu) / len(rows), peak_megabytes()


def sqlite_rows(path: Path, rows: list[Any]) -> None:
    """Insert finished rows, a transaction a batch."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for begin in range(0, len(rows), BATCH):
            with connection:
                connection.executemany(
                    f"INSERT INTO benchmark_{VIEW} (entity_key, feature_name, value, event_ts) VALUES (?, ?, ?, ?) "  # noqa: S608
                    "ON CONFLICT (entity_key, feature_name) DO UPDATE SET value = excluded.value",
                    (
                        (key, name, value, 0)
                        for key, named in rows[begin : begin + BATCH]
                        for name, value in named.items()
                    ),
                )


def redis_rows(port: int, rows: list[Any], fields: dict[str, bytes]) -> None:
    """Set finished hashes, a pipeline a batch."""
    import redis

    client = redis.Redis(port=port)
    for begin in range(0, len(rows), BATCH):
        with client.pipeline(transaction=False) as pipe:
            for key, named in rows[begin : begin + BATCH]:
                pipe.hset(key, mapping={fields[name]: value for name, value in named.items()})
            pipe.execute()


def measured(*arguments: object) -> Figures:
    """Measure in a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, "--measure", json.dumps(arguments, default=str)]
    rate, cpu, memory = json.loads(subprocess.check_output(command, stderr=subprocess.DEVNULL).splitlines()[-1])  # noqa: S603
    return float(rate), float(cpu), float(memory)


def measure(way: str, run: str, repo: str, records: list[list[Any]]) -> Figures:
    """Measure one way."""
    by = {"feast": by_feast, "batchrec": by_batchrec, "raw": by_raw}[way.split(",", maxsplit=1)[0]]
    return by(Path(run), Path(repo), [PartRecord(*record) for record in records], WAYS[way])


@contextlib.contextmanager
def redis_server(folder: Path) -> Iterator[int]:
    """Run Redis without persistence on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)  # noqa: S603, S607
    try:
        time.sleep(1)
        yield port
    finally:
        process.terminate()
        process.wait()


def report(lists: int, length: int, rounds: int) -> Iterator[str]:
    """Yield the lines of the report."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("feast", "protobuf", "pyarrow", "redis", "hiredis"))
    server = subprocess.check_output(["redis-server", "--version"], text=True).split()[2]  # noqa: S607
    yield f"# Lists into online stores, {datetime.now(UTC):%Y-%m-%d}\n"
    yield (
        f"{packages}, Redis server {server} without persistence on the same machine, SQLite {sqlite3.sqlite_version} "
        f"on its disk, Python {platform.python_version()}; {os.cpu_count()} cores, shared with other work. {lists:,} "
        f"lists of {length}; median (and range) of {rounds} rounds, in each of which every way had its turn.\n"
    )
    yield f"`python benchmarks/push.py --lists {lists} --length {length} --rounds {rounds}`\n"
    yield "| way | SQLite: lists/s | processor, µs a list | MB | Redis: lists/s | processor, µs a list | MB |"
    yield "|---|---|---|---|---|---|---|"
    with tempfile.TemporaryDirectory() as name, redis_server(Path(name)) as port:
        work = Path(name)
        records = write_run(work / "run", lists, length)
        plain = [[one.name, one.rows, one.bytes, one.sha256] for one in records]
        stores = {
            "sqlite": "{type: sqlite, path: online.db}",
            "redis": f"{{type: redis, connection_string: '127.0.0.1:{port}'}}",
        }
        found: dict[tuple[str, str], list[Figures]] = {}
        for _ in range(rounds):
            for store, online in stores.items():
                for way in WAYS:
                    repo = write_repo(work / "repo", online)
                    found.setdefault((way, store), []).append(measured(way, work / "run", repo, plain))
                    shutil.rmtree(repo)
                    subprocess.check_call(["redis-cli", "-p", str(port), "flushall"], stdout=subprocess.DEVNULL)  # noqa: S603, S607
    for way in WAYS:
        yield f"| {way} | {' | '.join(cells(found[way, store]) for store in stores)} |"


def cells(found: list[Figures]) -> str:
    """Return speed, processor time and memory as cells of the table."""
    rates, cpus, memory = zip(*found, strict=True)
    speed = f"{np.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})"
    return f"{speed} | {np.median(cpus):.0f} ({min(cpus):.0f} to {max(cpus):.0f}) | {max(memory):.0f}"


def main() -> None:
    """Parse the command line and print the report."""
    parser = argparse.ArgumentParser(description="Lists a second into an online store.")
    parser.add_argument("--lists", type=int, default=200_000, help="lists (default: %(default)s)")
    parser.add_argument("--length", type=int, default=10, help="items a list (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each way (default: %(default)s)")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*json.loads(options.measure))))
        return
    for line in report(options.lists, options.length, options.rounds):
        print(line, flush=True)


if __name__ == "__main__":
    main()
