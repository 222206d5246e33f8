"""Small, real Feast repositories with Parquet sources, and their histories as plain rows beside them."""

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import feast
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Array, Bool, Float32, Float64, Int32, Int64, String, UnixTimestamp

from batchrec.features.store import FeatureStore

START = datetime(2024, 3, 1, tzinfo=UTC)
TIME = pa.timestamp("us", tz="UTC")


def day(number):
    return START + timedelta(days=number)


@dataclass
class Repo:
    """A repository's folder, and the rows of its sources by view."""

    path: Path
    rows: dict

    @property
    def store(self):
        return FeatureStore.open(self.path)


def configure(path, registry="registry.db", offline="duckdb", **options):
    """Write feature_store.yaml."""
    path.mkdir(parents=True, exist_ok=True)
    further = "".join(f"  {name}: {value}\n" for name, value in options.items())
    (path / "feature_store.yaml").write_text(
        f"project: test\nprovider: local\nregistry: {registry}\noffline_store:\n  type: {offline}\n{further}"
        "online_store:\n  type: sqlite\n  path: online.db\nentity_key_serialization_version: 3\n"
    )


def apply(path, objects, registry="registry.db", offline="duckdb"):
    """Write feature_store.yaml and apply the objects, as `feast apply` does."""
    configure(path, registry, offline)
    feast.FeatureStore(repo_path=str(path)).apply(objects)


def source(folder, name, rows, schema, **options):
    """Write rows to a Parquet file and return it as a source."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema), file)
    return FileSource(name=f"{name}_source", path=str(file), timestamp_field="event_timestamp", **options)


def view(name, entities, fields, batch, ttl=timedelta(0)):
    schema = [Field(name=field, dtype=dtype) for field, dtype in fields.items()]
    return FeatureView(name=name, entities=entities, schema=schema, source=batch, ttl=ttl)


USER_FIELDS = {
    "age": Int32,
    "balance": Int64,
    "ratio": Float32,
    "mean": Float64,
    "active": Bool,
    "city": String,
    "tags": Array(String),
    "joined": UnixTimestamp,
}
USER_SCHEMA = pa.schema(
    [
        ("user_id", pa.int64()),
        ("age", pa.int32()),
        ("balance", pa.int64()),
        ("ratio", pa.float32()),
        ("mean", pa.float64()),
        ("active", pa.bool_()),
        ("city", pa.large_string()),
        ("tags", pa.large_list(pa.large_string())),
        ("joined", TIME),
        ("event_timestamp", TIME),
    ]
)
USERS = [-5, 0, 1, 2, 3, 7, 11, 12, 21, 111, 2**53, 2**53 + 1]
"""Ids that run together when they are put side by side as text, or rounded to doubles."""


def user_history(seed):
    """Return rows of every user but the first, each at some of ten days, each value null now and then."""
    draw = random.Random(seed)
    rows = []
    for user in USERS[1:]:
        for number in sorted(draw.sample(range(10), draw.randint(1, 6))):
            values = {
                "age": draw.randint(1, 99),
                "balance": 2**53 + draw.randint(0, 1000),
                "ratio": draw.randint(0, 64) / 64,
                "mean": draw.random(),
                "active": draw.random() < 0.5,
                "city": draw.choice(["Zürich", "Łódź", "", "a:b", "京都"]),
                "tags": draw.choice([[], ["a"], ["b", None, "c"]]),
                "joined": day(-draw.randint(1, 100)),
            }
            kept = {name: None if draw.random() < 0.25 else value for name, value in values.items()}
            rows.append({"user_id": user, **kept, "event_timestamp": day(number)})
    draw.shuffle(rows)
    return rows


@pytest.fixture(scope="session")
def repo(tmp_path_factory):
    """Users and items with integer join keys, the users' seen items, and two feature services."""
    folder = tmp_path_factory.mktemp("feast") / "repo"
    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
    item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.INT64)
    rows = {
        "user_features": user_history(seed=1),
        "item_features": [
            {"item_id": 10, "price": 1.5, "user_id": 77, "rn": 1, "batchrec_row": 5, "event_timestamp": day(0)},
            {"item_id": 10, "price": 2.5, "user_id": 78, "rn": 2, "batchrec_row": 6, "event_timestamp": day(3)},
            {"item_id": 20, "price": None, "user_id": 79, "rn": 3, "batchrec_row": 7, "event_timestamp": day(1)},
        ],
        "item_id_seen": [
            {"user_id": 1, "item_id_seen": [10], "event_timestamp": day(1)},
            {"user_id": 1, "item_id_seen": [10, 20, 10], "event_timestamp": day(4)},
            {"user_id": 2, "item_id_seen": [], "event_timestamp": day(2)},
        ],
    }
    columns = {name: pa.int64() for name in ("item_id", "user_id", "rn", "batchrec_row")}
    item_schema = pa.schema([*columns.items(), ("price", pa.float64()), ("event_timestamp", TIME)])
    seen_schema = pa.schema(
        [("user_id", pa.int64()), ("item_id_seen", pa.list_(pa.int64())), ("event_timestamp", TIME)]
    )
    users = view("user_features", [user], USER_FIELDS, source(folder, "u", rows["user_features"], USER_SCHEMA))
    items = view(
        "item_features",
        [item],
        {"price": Float64, "user_id": Int64, "rn": Int64, "batchrec_row": Int64},
        source(folder, "i", rows["item_features"], item_schema),
    )
    seen = view(
        "item_id_seen",
        [user],
        {"item_id_seen": Array(Int64)},
        source(folder, "s", rows["item_id_seen"], seen_schema),
    )
    services = [
        FeatureService(name="query_tower", features=[users[["city", "age"]], seen]),
        FeatureService(name="renamed", features=[users.with_name("people")]),
    ]
    apply(folder, [user, item, users, items, seen, *services])
    return Repo(folder, rows)


@pytest.fixture(scope="session")
def store(repo):
    return repo.store


@pytest.fixture(scope="session")
def string_repo(tmp_path_factory):
    """Users with string join keys, whose entity declares no type, and whose source has a relative path."""
    folder = tmp_path_factory.mktemp("feast") / "strings"
    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING)
    rows = [
        {"user_id": name, "age": number, "event_timestamp": day(number)}
        for name in ("a", "ab", "Ä", "0", "00", "", "日本")
        for number in range(3)
    ]
    schema = pa.schema([("user_id", pa.string()), ("age", pa.int64()), ("event_timestamp", TIME)])
    source(folder / "data", "u", rows, schema)
    relative = FileSource(name="relative", path="data/u.parquet", timestamp_field="event_timestamp")
    apply(folder, [user, view("user_features", [user], {"age": Int64}, relative)])
    return Repo(folder, {"user_features": rows})
