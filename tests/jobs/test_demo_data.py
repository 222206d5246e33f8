from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from typing import TYPE_CHECKING

import demo_data
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from demo_world import make_world

from batchrec.errors import ConfigError
from batchrec.features import layout
from batchrec.schema import TIMESTAMP_TYPE
from tests.jobs import oracle
from tests.jobs.conftest import JOBS

if TYPE_CHECKING:
    from pathlib import Path

SIZE = {"users": 1500, "items": 1000, "seed": 3, "users_per_chunk": 1024}
USER_COLUMNS = [
    "user_id_raw", "user_id", "user_shops", "user_profile", "user_group", "user_gender", "user_age",
    "user_consumption_2", "user_is_occupied", "user_geography", "user_intentions", "user_brands", "user_categories",
    "event_timestamp",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo")
    demo_data.generate(path, **SIZE)
    return path


def read(folder: Path, name: str) -> pd.DataFrame:
    return pq.read_table(folder / name).to_pandas()


def test_columns_and_types(folder: Path) -> None:
    assert pq.read_schema(folder / layout.USER_FEATURES_FILE).names == USER_COLUMNS
    assert pq.read_schema(folder / layout.ITEM_FEATURES_FILE).names == [
        "item_id_raw", "item_id", "item_category", "item_shop", "item_brand", "event_timestamp",
    ]  # fmt: skip
    for name in (layout.USER_FEATURES_FILE, layout.ITEM_FEATURES_FILE):
        *values, time = pq.read_schema(folder / name).types
        assert set(values) == {pa.int64()}
        assert time == TIMESTAMP_TYPE
    for name in (layout.INTERACTIONS_FILE, layout.HOLDOUT_FILE):
        assert pq.read_schema(folder / name).names == ["user_id", "item_id", "event_timestamp"]
    assert pq.read_schema(folder / layout.SEEN_FILE).field("item_id_seen").type == pa.list_(pa.int64())


def test_description_fits_the_files(folder: Path) -> None:
    prepared = layout.read_prepared(folder)
    assert prepared.cutoff == demo_data.START + pd.Timedelta(days=49)
    assert prepared.seed == 3
    assert prepared.rows == {path.name: pq.read_metadata(path).num_rows for path in folder.glob("*.parquet")}
    assert prepared.rows["users.parquet"] == 1500
    assert prepared.rows["items.parquet"] == prepared.rows["item_features.parquet"] == 1000


def test_files_are_sorted_and_keys_unique(folder: Path) -> None:
    keys = {
        layout.INTERACTIONS_FILE: ["user_id", "event_timestamp", "item_id"],
        layout.HOLDOUT_FILE: ["user_id", "event_timestamp", "item_id"],
        layout.USER_FEATURES_FILE: ["user_id_raw", "event_timestamp"],
        layout.ITEM_FEATURES_FILE: ["item_id_raw", "event_timestamp"],
        layout.SEEN_FILE: ["user_id_raw", "event_timestamp"],
        layout.USERS_FILE: ["user_id"],
        layout.ITEMS_FILE: ["item_id"],
    }
    for name, by in keys.items():
        table = read(folder, name)[by]
        assert table.equals(table.sort_values(by, kind="stable")), name
        assert name == layout.INTERACTIONS_FILE or not table.duplicated().any(), name


def test_ids_are_raw_and_known_everywhere(folder: Path) -> None:
    users, items = read(folder, layout.USERS_FILE).user_id, read(folder, layout.ITEMS_FILE).item_id
    assert users.diff().max() > 100
    features = read(folder, layout.USER_FEATURES_FILE)
    assert set(features.user_id_raw) == set(users)
    assert features.groupby("user_id_raw").user_id.nunique().max() == 1
    assert features.user_id.drop_duplicates().tolist() == list(range(1500))
    assert read(folder, layout.ITEM_FEATURES_FILE).item_id_raw.tolist() == items.tolist()
    for name in (layout.INTERACTIONS_FILE, layout.HOLDOUT_FILE):
        clicks = read(folder, name)
        assert set(clicks.user_id) <= set(users)
        assert set(clicks.item_id) <= set(items)


def test_titles_tell_brand_category_and_number(folder: Path) -> None:
    items, features = read(folder, layout.ITEMS_FILE), read(folder, layout.ITEM_FEATURES_FILE)
    assert items.title.str.fullmatch(r"brand \d+ · [a-z][a-z0-9 -]* \d{4}").all()
    assert items.title.is_unique
    assert items.brand.tolist() == features.item_brand.tolist()
    assert items.groupby("category").ngroups == features.item_category.nunique()


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(folder: Path, tmp_path: Path) -> None:
    demo_data.generate(tmp_path / "same", **SIZE)
    demo_data.generate(tmp_path / "other", **(SIZE | {"seed": 4}))
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "same" / path.name).read_bytes(), path.name
    assert (folder / "interactions.parquet").read_bytes() != (tmp_path / "other" / "interactions.parquet").read_bytes()


def test_chunks_drawn_in_several_processes_are_those_drawn_in_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = SIZE | {"users": 20 * 64 - 10, "users_per_chunk": 64}
    for name, processes in (("one", 1), ("several", 3)):
        monkeypatch.setattr(demo_data, "cores", lambda processes=processes: processes)
        demo_data.generate(tmp_path / name, **size)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "several" / path.name).read_bytes(), path.name


def test_what_fails_half_way_leaves_no_files_that_look_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = demo_data.chunk_tables

    def failing(asked: demo_data.Asked, chunk: int) -> dict[str, pa.Table]:
        if chunk == 1:
            raise OSError(28, "No space left on device")
        return tables(asked, chunk)

    monkeypatch.setattr(demo_data, "chunk_tables", failing)
    with pytest.raises(OSError, match="No space left"):
        demo_data.generate(tmp_path, **SIZE)
    assert not list(tmp_path.iterdir())


def test_a_smaller_data_set_is_the_start_of_a_larger_one(folder: Path, tmp_path: Path) -> None:
    demo_data.generate(tmp_path, **(SIZE | {"users": 1100}))
    last = read(tmp_path, layout.USERS_FILE).user_id.max()
    keys = {layout.USER_FEATURES_FILE: "user_id_raw", layout.SEEN_FILE: "user_id_raw"}
    for name in (layout.USERS_FILE, layout.INTERACTIONS_FILE, layout.HOLDOUT_FILE, *keys):
        larger, smaller = pq.read_table(folder / name), pq.read_table(tmp_path / name)
        key = larger[keys.get(name, "user_id")].to_numpy()
        assert larger.filter(pa.array(key <= last)).equals(smaller), name


def test_chunks_differ(folder: Path) -> None:
    clicks = read(folder, layout.INTERACTIONS_FILE)
    by_user = clicks.groupby("user_id").item_id.apply(tuple)
    assert by_user.is_unique


def test_nothing_but_the_holdout_is_later_than_the_cutoff(folder: Path) -> None:
    cutoff = layout.read_prepared(folder).cutoff
    for name in (layout.INTERACTIONS_FILE, layout.USER_FEATURES_FILE, layout.ITEM_FEATURES_FILE, layout.SEEN_FILE):
        assert read(folder, name).event_timestamp.max() <= cutoff, name
    assert read(folder, layout.HOLDOUT_FILE).event_timestamp.min() > cutoff


def test_holdout_holds_first_clicks_only(folder: Path) -> None:
    past, future = read(folder, layout.INTERACTIONS_FILE), read(folder, layout.HOLDOUT_FILE)
    pairs = list(zip(future.user_id, future.item_id, strict=True))
    assert len(set(pairs)) == len(pairs)
    assert not set(pairs) & set(zip(past.user_id, past.item_id, strict=True))


def test_a_snapshot_holds_what_was_clicked_by_its_time_and_nothing_else(folder: Path) -> None:
    clicks, snapshots = read(folder, layout.INTERACTIONS_FILE), read(folder, layout.SEEN_FILE)
    history = defaultdict(list)
    for user, item, time in clicks.itertuples(index=False):
        history[user].append((time, item))
    for user, seen, time in snapshots.itertuples(index=False):
        assert seen.tolist() == list(dict.fromkeys(item for when, item in history[user] if when <= time))
    last = snapshots.groupby("user_id_raw").event_timestamp.max()
    pd.testing.assert_series_equal(last, clicks.groupby("user_id").event_timestamp.max(), check_names=False)
    weeks = (demo_data.START + pd.Timedelta(days=49) - snapshots.event_timestamp) // pd.Timedelta(days=7)
    assert not pd.DataFrame({"user": snapshots.user_id_raw, "week": weeks}).duplicated().any()
    assert snapshots.groupby("user_id_raw").size().mean() > 2


def test_features_are_known_before_the_first_click_and_change_later(folder: Path) -> None:
    features, clicks = read(folder, layout.USER_FEATURES_FILE), read(folder, layout.INTERACTIONS_FILE)
    known = features.groupby("user_id_raw").event_timestamp.min()
    first = clicks.groupby("user_id").event_timestamp.min()
    assert (known.reindex(first.index) < first).all()
    changing = ["user_shops", "user_intentions", "user_brands", "user_categories"]
    counts = features.groupby("user_id_raw").nunique()
    assert (counts[changing] > 1).any(axis=1).mean() > 0.5
    assert (counts.drop(columns=[*changing, "event_timestamp"]) == 1).all(axis=None)
    successive = features.user_id_raw.eq(features.user_id_raw.shift())
    assert (features[changing] != features[changing].shift()).any(axis=1)[successive].all()


def test_activity_and_popularity_have_long_tails(folder: Path) -> None:
    clicks = read(folder, layout.INTERACTIONS_FILE)
    by_user, by_item = clicks.groupby("user_id").size(), clicks.groupby("item_id").size()
    assert 35 < by_user.mean() < 55
    assert by_user.median() < 0.8 * by_user.mean()
    assert by_item.nlargest(100).sum() > 0.25 * len(clicks)


def test_sessions_follow_one_another(folder: Path) -> None:
    world = make_world(1000, SIZE["seed"])
    clicks, items = read(folder, layout.INTERACTIONS_FILE), read(folder, layout.ITEM_FEATURES_FILE)
    clicks["category"] = items.set_index("item_id_raw").item_category.reindex(clicks.item_id).to_numpy()
    same_user = clicks.user_id.eq(clicks.user_id.shift())
    pause = clicks.event_timestamp.diff() > pd.Timedelta(hours=2)
    before, after = clicks.category.shift()[same_user & pause].astype(int), clicks.category[same_user & pause]
    complemented = (world.complement[before] == after).mean()
    by_chance = (np.random.default_rng(0).permutation(world.complement)[before] == after).mean()
    assert complemented > by_chance + 0.1


def test_learning_pays_and_popularity_is_no_straw_man() -> None:
    found = oracle.figures(users=2000, items=2000, seed=7)
    assert 0.02 < found["popularity"] < 0.05
    assert found["oracle"] > 8 * found["popularity"]


def test_a_model_that_learns_from_the_files_beats_popularity(folder: Path) -> None:
    """A linear item-to-item model (EASE) from the interactions alone, against counts and against itself, shuffled."""
    past, future = read(folder, layout.INTERACTIONS_FILE), read(folder, layout.HOLDOUT_FILE)
    users, items = read(folder, layout.USERS_FILE).user_id, read(folder, layout.ITEMS_FILE).item_id
    seen, held = np.zeros((2, len(users), len(items)))
    for matrix, clicks in ((seen, past), (held, future)):
        matrix[np.searchsorted(users, clicks.user_id), np.searchsorted(items, clicks.item_id)] = 1
    inverse = np.linalg.inv(seen.T @ seen + 100 * np.eye(len(items)))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    learnt, popular = seen @ weights, np.broadcast_to(seen.sum(axis=0), seen.shape)
    shuffled = learnt[np.random.default_rng(0).permutation(len(users))]
    figures = [oracle.recall(s, seen > 0, held > 0).mean() for s in (learnt, popular, shuffled)]
    assert figures[0] > 3 * figures[1]
    assert figures[2] < 1.2 * figures[1]


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"users": 0}, "--users is 0 and must be at least 1: give a larger --users."),
        ({"items": 47}, "--items is 47 and must be at least 48: give a larger --items."),
        ({"days": 7}, "--days is 7 and must be at least 8: give a larger --days."),
        ({"snapshot_days": 0}, "--snapshot-days is 0 and must be at least 1: give a larger --snapshot-days."),
    ],
)
def test_numbers_that_are_too_small_are_named(tmp_path: Path, wrong: dict[str, int], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        demo_data.generate(tmp_path, **(SIZE | wrong))
    assert str(caught.value) == sentence
    assert not list(tmp_path.iterdir())


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(JOBS / "demo_data.py"), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(JOBS.parent), "PATH": ""}
    )


def test_command_line(tmp_path: Path) -> None:
    done = run("--users", "50", "--items", "200", "--output", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(f"cut-off 2026-02-23T00:00:00+00:00, in {tmp_path}\n")
    assert layout.read_prepared(tmp_path).rows["users.parquet"] == 50


def test_command_line_names_what_is_wrong(tmp_path: Path) -> None:
    done = run("--items", "3", "--output", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr == "--items is 3 and must be at least 48: give a larger --items.\n"
