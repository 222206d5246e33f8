"""The two Feast repositories: their views fit the files, `feast apply` works as it stands, point-in-time holds."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import demo_data
import movielens
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchrec.features import layout
from tests.jobs.conftest import JOBS
from tests.jobs.invented import Invented

if TYPE_CHECKING:
    from types import ModuleType

DEMO = JOBS.parent / "feature_repo"
MOVIELENS = JOBS / "movielens_repo"
FEAST = Path(sys.executable).parent / "feast"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    demo_data.generate(folder / "demo", users=200, items=200, seed=1)
    source = Invented().text_100k(folder / "source")
    movielens.prepare(source, folder / "movielens")
    return folder


def definitions(repository: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("BATCHREC_FEATURE_DATA", str(data))
    spec = importlib.util.spec_from_file_location(f"definitions_{data.name}", repository / "definitions.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("repository", "name", "user_key"), [(DEMO, "demo", "user_id_raw"), (MOVIELENS, "movielens", "user_id")]
)
def test_views_fit_the_files(
    repository: Path, name: str, user_key: str, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from feast.types import Array, Float32, Int64, String

    arrow = {
        Int64: pa.int64(), String: pa.string(), Float32: pa.float32(),
        Array(Int64): pa.list_(pa.int64()), Array(Float32): pa.list_(pa.float32()),
    }  # fmt: skip
    module = definitions(repository, data / name, monkeypatch)
    for view in (module.user_features, module.item_features, module.item_id_seen, module.user_recommendations):
        path = Path(view.batch_source.path)
        assert path == data / name / f"{view.name}.parquet"
        declared = {field.name: arrow[field.dtype] for field in view.schema}
        in_file = {field.name: field.type for field in pq.read_schema(path)}
        assert declared | {"event_timestamp": in_file["event_timestamp"]} == in_file
    assert module.user.join_key == user_key


@pytest.mark.parametrize("repository", [DEMO, MOVIELENS])
def test_services_hold_the_features_and_not_the_key(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = definitions(repository, tmp_path, monkeypatch)
    views = {
        service.name: {projection.name for projection in service.feature_view_projections}
        for service in (module.query_tower, module.ranker)
    }
    assert views == {
        "query_tower": {"user_features", "item_features", "item_id_seen"},
        "ranker": {"user_features", "item_features"},
    }


def apply(repository: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "BATCHREC_FEATURE_DATA"}
    done = subprocess.run(
        [FEAST, "apply"], cwd=repository, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def applied(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The demo's repository, applied before there are data, and what that printed."""
    repository = tmp_path_factory.mktemp("repo") / "feature_repo"
    shutil.copytree(DEMO, repository, ignore=shutil.ignore_patterns("data", "__pycache__"))
    return repository, apply(repository)


@pytest.fixture(scope="module")
def store(applied: tuple[Path, str], data: Path):
    from feast import FeatureStore

    shutil.copytree(data / "demo", applied[0] / "data", dirs_exist_ok=True)
    return FeatureStore(str(applied[0]))


def test_apply_works_before_there_are_data(applied: tuple[Path, str]) -> None:
    repository, printed = applied
    for name in ("user_features", "item_features", "item_id_seen", "user_recommendations"):
        assert f"Created feature view {name}" in printed
    assert (repository / "data" / "registry.db").is_file()


def test_apply_prints_no_warning_where_there_are_data(data: Path) -> None:
    printed = apply(data / "movielens" / "feature_repo")
    assert "Created feature service ranker" in printed
    assert "WARNING" not in printed


def test_history_is_as_of_the_time_asked_for(store, data: Path) -> None:
    """Asked just before, at and long after each snapshot of a user, Feast gives the snapshot before or that one."""
    snapshots = pq.read_table(data / "demo" / layout.SEEN_FILE).to_pandas()
    busy = snapshots.user_id_raw.mode()[0]
    own = snapshots[snapshots.user_id_raw == busy].reset_index(drop=True)
    assert len(own) >= 3
    moments = [(time - pd.Timedelta(microseconds=1), i - 1) for i, time in enumerate(own.event_timestamp)]
    moments += list(zip(own.event_timestamp, range(len(own)), strict=True))
    moments.append((pd.Timestamp("2036-01-01", tz="UTC"), len(own) - 1))
    asked = pd.DataFrame({"user_id_raw": busy, "event_timestamp": [time for time, _ in moments]})
    found = store.get_historical_features(asked, ["item_id_seen:item_id_seen"]).to_df()
    by_time = found.set_index("event_timestamp").item_id_seen
    for time, index in moments:
        seen = by_time[time]
        assert (seen is None) if index < 0 else (list(seen) == own.item_id_seen[index].tolist())


def test_a_service_gives_every_feature_of_a_user_at_the_cutoff(store, data: Path) -> None:
    users = pq.read_table(data / "demo" / layout.USERS_FILE)["user_id"].to_pylist()[:5]
    items = pq.read_table(data / "demo" / layout.ITEMS_FILE)["item_id"].to_pylist()[:5]
    cutoff = layout.read_prepared(data / "demo").cutoff
    asked = pd.DataFrame({"user_id_raw": users, "item_id_raw": items, "event_timestamp": pd.Timestamp(cutoff)})
    found = store.get_historical_features(asked, store.get_feature_service("ranker")).to_df()
    latest = pq.read_table(data / "demo" / layout.USER_FEATURES_FILE).to_pandas().groupby("user_id_raw").last()
    for row in found.to_dict("records"):
        for name in latest.columns.drop("event_timestamp"):
            assert row[name] == latest[name][row["user_id_raw"]]
    assert not found.isna().any(axis=None)


def test_pushed_recommendations_are_online(store, data: Path) -> None:
    users = pq.read_table(data / "demo" / layout.USERS_FILE)["user_id"].to_pylist()[:2]
    pushed = pd.DataFrame(
        {
            "user_id_raw": users,
            "item_ids": [[3, 1, 2], []],
            "scores": [[0.5, 0.25, 0.125], []],
            "event_timestamp": pd.Timestamp("2026-02-23", tz="UTC"),
        }
    )
    store.push("user_recommendations_push", pushed)
    found = store.get_online_features(
        ["user_recommendations:item_ids", "user_recommendations:scores"],
        [{"user_id_raw": user} for user in [*users, -1]],
    ).to_dict()
    assert found["item_ids"] == [[3, 1, 2], [], None]
    assert found["scores"] == [[0.5, 0.25, 0.125], [], None]
