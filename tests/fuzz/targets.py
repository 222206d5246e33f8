"""What is fuzzed: valid files of every kind, and how the program reads each."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batchrec.errors import BatchrecError

if TYPE_CHECKING:
    from batchrec.models.bundle import Bundle
    from batchrec.models.bundle_format import FeatureInput

Read = Callable[[Path], object]


@dataclass(frozen=True)
class Target:
    """A kind of file.

    Parameters
    ----------
    name
        Of the kind.
    make
        Writes a valid file, and what belongs to it, into an empty folder; returns the file to be damaged and the way
        to read it as the program does. Reading raises a ``BatchrecError``, or sees for itself that what it read is
        right, and asserts it.
    """

    name: str
    make: Callable[[Path], tuple[Path, Read]]


def users_of_integers(folder: Path) -> tuple[Path, Read]:
    rng = np.random.default_rng(1)
    ids = [None if number % 50 == 0 else int(number) for number in rng.integers(-(2**40), 2**40, 1500)]
    table = pa.table({"other": rng.random(3000), "user_id": pa.array(ids * 2, pa.int64())})
    path = folder / "users.parquet"
    pq.write_table(table, path, row_group_size=1000, data_page_size=1024, use_dictionary=False, compression="snappy")
    return path, _read_users([])


def users_of_strings(folder: Path) -> tuple[Path, Read]:
    rng = np.random.default_rng(2)
    ids = [f"ü{number}" for number in rng.integers(0, 400, 2000)]
    kept = {"plan": pa.array(rng.choice(["a", "b", "c"], 2000)), "since": pa.array(rng.integers(0, 9, 2000))}
    table = pa.table({"user_id": pa.array(ids)} | kept)
    path = folder / "users.parquet"
    pq.write_table(table, path, row_group_size=700, compression="zstd", write_page_checksum=True)
    return path, _read_users(["plan", "since"])


def users_with_columns(folder: Path) -> tuple[Path, Read]:
    """Write version 2 pages, delta encodings, a dictionary of ids, and a column of nearly every type that is kept."""
    rng = np.random.default_rng(3)
    numbers = pa.array(rng.integers(0, 10**6, 1000))
    columns = {
        "flag": pa.array(rng.random(1000) < 0.5),
        "since": numbers.cast(pa.timestamp("us")).cast(pa.timestamp("us", "UTC")),
        "price": numbers.cast(pa.decimal128(22, 2)),
        "weight": pa.array(rng.random(1000, np.float32)),
        "note": numbers.cast(pa.string()),
        "count": numbers,
    }
    ids = pa.array([f"user {number}" for number in rng.integers(0, 300, 1000)]).dictionary_encode()
    path = folder / "users.parquet"
    encodings = {"note": "DELTA_BYTE_ARRAY", "count": "DELTA_BINARY_PACKED", "weight": "BYTE_STREAM_SPLIT"}
    pq.write_table(
        pa.table({"user_id": ids} | columns),
        path,
        data_page_version="2.0",
        compression="gzip",
        use_dictionary=["user_id"],
        column_encoding=encodings,
        data_page_size=512,
    )
    return path, _read_users(list(columns))


def _read_users(keep: list[str]) -> Read:
    from batchrec.users import prepare_users

    def read(path: Path) -> None:
        with tempfile.TemporaryDirectory(dir=path.parent) as work:
            summary, prepared = prepare_users(str(path), "user_id", Path(work), 1000, keep)
            table = pq.read_table(prepared)
        ids = table["user_id"].to_pylist()
        found = (summary.input_rows, summary.null_rows, ids)
        expected = _read_by_duckdb(path)
        assert expected in (None, found), f"DuckDB reads {str(expected)[:300]}, batchrec {str(found)[:300]}"

    return read


def _read_by_duckdb(path: Path) -> tuple[int, int, list[object]] | None:
    """Count rows and nulls, and list the distinct ids in order; None where DuckDB cannot read the file."""
    with duckdb.connect(":memory:", config={"threads": 1}) as connection:
        try:
            connection.execute("CREATE TABLE users AS SELECT user_id FROM read_parquet(?)", [str(path)])
            rows, ids = connection.execute("SELECT count(*), count(user_id) FROM users").fetchall()[0]
            distinct = connection.execute(
                "SELECT DISTINCT user_id FROM users WHERE user_id IS NOT NULL ORDER BY 1"
            ).fetchall()
        except duckdb.Error:
            return None
    return rows, rows - ids, [row[0] for row in distinct]


def job_file(folder: Path) -> tuple[Path, Read]:
    from batchrec.config import JobConfig, load_config

    path = folder / "job.toml"
    path.write_text(
        '# every night\nusers = "s3://bucket/users/*.parquet"\nbundle = "bundles/demo"\ntop_k = 10\ncandidates = 100\n'
        'temperature = 2.5\nas_of = 2026-02-23T06:00:00+01:00\nkeep_columns = ["plan", "since"]\nlayout = "long"\n'
        "seed = 7\n"
    )

    def read(path: Path) -> None:
        job = load_config({}, path)
        assert isinstance(job, JobConfig)
        assert 1 <= job.top_k <= job.candidates <= 100_000
        assert job.temperature > 0
        assert 0 <= job.seed < 2**63
        assert job.as_of is None or job.as_of.utcoffset() == timedelta(0)

    return path, read


def manifest(folder: Path) -> tuple[Path, Read]:
    from batchrec.output.local_storage import LocalStorage
    from batchrec.output.manifest import MANIFEST, Accounting, Manifest, read_manifest, write_manifest
    from batchrec.output.part import write_part
    from batchrec.output.record import part_name
    from batchrec.output.sums import verified_parts

    storage = LocalStorage(folder)
    table = pa.table({"user_id": [1, 2, 3], "item_ids": [[4], [5, 6], []]})
    parts = [write_part(table, storage, part_name(number)) for number in range(3)]
    counts = Accounting(12, 1, 2, 9, {"ok": 9, "short": 0, "fallback": 0, "unknown": 0, "failed": 0})
    moment = datetime(2026, 2, 3, tzinfo=UTC)
    write_manifest(
        storage,
        Manifest(
            run_id="night",
            created=moment,
            as_of=moment,
            parts=parts,
            schema=table.schema,
            accounting=counts,
            fingerprints={"users": "a" * 64},
            seconds={"rank": 1.5},
            options={"top_k": 3},
            versions={"batchrec": "1"},
        ),
    )

    def read(path: Path) -> None:
        found = verified_parts(storage, read_manifest(storage))
        assert set(found) <= {part.name for part in parts}, found

    return folder / MANIFEST, read


def journal_entry(folder: Path) -> tuple[Path, Read]:
    from batchrec.output.journal import JournalEntry, append, read_entries
    from batchrec.output.local_storage import LocalStorage
    from batchrec.output.record import PartRecord, part_name

    storage = LocalStorage(folder)
    part, digests = (PartRecord(name, 100, 4711, "0" * 64) for name in (part_name(3), f"_digests/{part_name(3)}"))
    entry = JournalEntry(part, {"ok": 98, "short": 2}, {"rank": 1.25}, digests=digests)
    append(storage, entry)

    def read(path: Path) -> None:
        found = read_entries(storage)
        assert found in ({}, {part_name(3): entry}), found
        if not found:
            raise LostEntryError("a damaged entry is no entry", "make the part again")

    return folder / "_journal" / "part-00003.json", read


class LostEntryError(BatchrecError):
    """What reading a damaged journal entry comes to: its part is made again."""


def journal_beginning(folder: Path) -> tuple[Path, Read]:
    from batchrec.output.journal import BEGUN, Begun, begin, read_begun
    from batchrec.output.local_storage import LocalStorage

    storage, moment = LocalStorage(folder), datetime(2026, 2, 3, tzinfo=UTC)
    begun = Begun("night", moment, moment, {"users": "a" * 64, "code": "b" * 64}, {"top_k": 10, "layout": "list"})
    begin(storage, begun)

    def read(path: Path) -> None:
        assert read_begun(storage) == begun

    return folder / BEGUN, read


def in_bundle(name: str) -> Callable[[Path], tuple[Path, Read]]:
    """Make a whole bundle of real models, one file of which will be damaged."""

    def make(folder: Path) -> tuple[Path, Read]:
        bundle = shutil.copytree(_whole_bundle(), folder / "bundle")
        return bundle / name, lambda _: _read_bundle(bundle)

    return make


@cache
def _whole_bundle() -> Path:
    import demo_data

    from batchrec.models.bundle import QUERY_SAMPLE, write_embeddings
    from tests.models.bundles import replace_file
    from tests.world import DIMENSION, make_bundle

    folder = Path(tempfile.mkdtemp(prefix="bundle-"))
    demo_data.generate(folder / "data", users=80, items=60, seed=3)
    bundle = folder / "bundle"
    make_bundle(bundle, folder / "data")
    queries = np.random.default_rng(6).normal(size=(20, DIMENSION)).astype(np.float32)
    replace_file(bundle, QUERY_SAMPLE, lambda path: write_embeddings(path, {}, queries))
    return bundle


def _read_bundle(folder: Path) -> None:
    """Open a bundle as a worker does, and see that it is the one before the damage."""
    from batchrec.models.bundle import Bundle
    from batchrec.models.index import ItemIndex

    bundle, whole = Bundle.open(folder), _expected_bundle()
    described, index = bundle.format, bundle.format.index
    assert bundle.item_ids == whole.item_ids
    np.testing.assert_array_equal(bundle.item_embeddings, whole.item_embeddings)
    np.testing.assert_array_equal(bundle.query_sample, whole.query_sample)
    np.testing.assert_array_equal(bundle.popularity, whole.popularity)
    if index is not None:
        search = ItemIndex.read(folder / index.path, index, described.catalogue_size, described.embedding_dimension)
        _, positions = search(whole.query_sample, 5)
        products = whole.query_sample @ whole.item_embeddings.T
        np.testing.assert_array_equal(positions, np.argsort(-products, axis=1)[:, :5])
    tower, ranker = described.query_tower, described.ranker
    _load(folder / tower.path, described.files.get(tower.path), _names(tower.inputs, ["history"]))
    others = [ranker.item_code, ranker.query_embedding, ranker.item_embedding]
    _load(
        folder / ranker.path, described.files.get(ranker.path), _names(ranker.user_inputs + ranker.item_inputs, others)
    )


@cache
def _expected_bundle() -> Bundle:
    from batchrec.models.bundle import Bundle

    return Bundle.open(_whole_bundle())


def _names(inputs: Iterable[FeatureInput], others: Iterable[str | None]) -> frozenset[str]:
    return frozenset([one.name for one in inputs] + [name for name in others if name is not None])


_loaded: dict[object, BatchrecError | None] = {}


def _load(path: Path, sha256: str | None, inputs: frozenset[str]) -> None:
    """Load a model whose sum was right; bytes and inputs that were met before end as they did then."""
    from batchrec.models.serving import load_model

    key = (sha256, inputs)
    if key not in _loaded:
        try:
            load_model(path, set(inputs))
            _loaded[key] = None
        except BatchrecError as error:
            _loaded[key] = error
    if (error := _loaded[key]) is not None:
        raise error


_BUNDLE_FILES = (
    "bundle.json",
    "index.faiss",
    "item_embeddings.parquet",
    "popularity.parquet",
    "query_sample.parquet",
    "query_tower.keras",
    "ranker.keras",
    "vocabularies/user_gender.parquet",
)

TARGETS = {
    "users": [
        Target("integers", users_of_integers),
        Target("strings", users_of_strings),
        Target("columns", users_with_columns),
    ],
    "options": [Target("job file", job_file)],
    "run": [
        Target("manifest", manifest),
        Target("journal entry", journal_entry),
        Target("journal beginning", journal_beginning),
    ],
    "bundle": [Target(name, in_bundle(name)) for name in _BUNDLE_FILES],
}
"""By the process they are fuzzed in: what takes long to import is imported once."""
