"""Online stores to push into: a small repository over SQLite or over a real Redis, and Redis itself."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from datetime import UTC, datetime, timedelta

import feast
import pytest
from feast import Entity, FeatureView, Field, FileSource, PushSource
from feast.types import Array, Float32, Int64

VIEW = "user_recommendations"
SQLITE = "{type: sqlite, path: online.db}"


def make_repo(folder, online=SQLITE, *, user=Int64, item=Int64, more=(), view=VIEW, kept_online=True):
    """Apply a repository with one push view; return its folder."""
    folder.mkdir()
    (folder / "feature_store.yaml").write_text(
        f"project: shop\nprovider: local\nregistry: registry.db\nonline_store: {online}\n"
        "entity_key_serialization_version: 3\n"
    )
    store = feast.FeatureStore(repo_path=str(folder))
    entity = Entity(name="user", join_keys=["user_id_raw"], value_type=user.to_value_type())
    fields = [("user_id_raw", user), ("item_ids", Array(item)), ("scores", Array(Float32)), *more]
    source = FileSource(name="file", path=str(folder / "none.parquet"), timestamp_field="event_timestamp")
    made = FeatureView(
        name=view,
        entities=[entity],
        ttl=timedelta(0),
        schema=[Field(name=name, dtype=dtype) for name, dtype in fields],
        source=PushSource(name=f"{view}_push", batch_source=source),
        online=kept_online,
    )
    store.apply([entity, made])
    return folder


def online(repo, users, features=("item_ids", "scores"), view=VIEW):
    """What Feast itself, opened anew, gives an application for these users."""
    store = feast.FeatureStore(repo_path=str(repo))
    answer = store.get_online_features(
        features=[f"{view}:{name}" for name in features], entity_rows=[{"user_id_raw": user} for user in users]
    ).to_dict()
    return {user: tuple(answer[name][row] for name in features) for row, user in enumerate(users)}


class Redis:
    """A Redis server of our own on the loopback interface, with an append-only file."""

    def __init__(self, folder):
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process = None

    @property
    def online(self):
        return f"{{type: redis, connection_string: '127.0.0.1:{self.port}'}}"

    def start(self):
        import redis

        options = ["--save", "", "--appendonly", "yes", "--bind", "127.0.0.1", "--dir", str(self.folder)]
        self.process = subprocess.Popen(
            ["redis-server", "--port", str(self.port), *options], stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL
        )
        self.client = redis.Redis(port=self.port)
        deadline = time.monotonic() + 30
        while True:
            try:
                self.client.ping()
            except redis.exceptions.ConnectionError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            else:
                return self

    def kill(self):
        self.process.kill()
        self.process.wait()


def redis_server(folder):
    """Start Redis, or skip the test with a word."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    return Redis(folder).start()


def feast_push(repo, rows, view=VIEW):
    """Push with Feast's own call, as somebody else would; rows are user id → (item ids, scores)."""
    import pandas as pd

    frame = pd.DataFrame(
        {
            "user_id_raw": list(rows),
            "item_ids": [items for items, _ in rows.values()],
            "scores": [scores for _, scores in rows.values()],
            "event_timestamp": datetime.now(UTC),
        }
    )
    feast.FeatureStore(repo_path=str(repo)).push(f"{view}_push", frame)
