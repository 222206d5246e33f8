"""An offline store that fails: tried again, then the partition has failed and not the run."""

from __future__ import annotations

import re
import shutil

import pyarrow.parquet as pq
import pytest

from tests.faults.support import SIZE, args, is_published, parts
from tests.features import flaky_store


@pytest.fixture
def flaky(world, tmp_path, monkeypatch):
    """Return a function that makes an applied repository whose offline store fails at every so many joins."""
    monkeypatch.setattr(flaky_store, "calls", [])
    monkeypatch.setattr("batchrec.features.retry.time.sleep", lambda seconds: None)

    def made(fails_every: int):
        repo = shutil.copytree(world.repo, tmp_path / f"repo-{fails_every}")
        config = (repo / "feature_store.yaml").read_text()
        flaky = f"offline_store:\n  type: tests.features.flaky_store.FlakyOfflineStore\n  fails_every: {fails_every}\n"
        config = re.sub(r"offline_store:\n(?:  .*\n)+", flaky, config)
        assert flaky in config
        (repo / "feature_store.yaml").write_text(config)
        return repo

    return made


def test_every_third_call_fails_and_no_user_is_the_worse_for_it(world, batchrec, tmp_path, flaky, undisturbed):
    said = batchrec(*args(world, tmp_path / "out", f"--feature-repo={flaky(3)}"))
    assert said.code == 0, said.err
    assert sum(flaky_store.calls) >= 20
    assert parts(tmp_path / "out" / "current") == undisturbed


@pytest.fixture
def away_in_the_middle(monkeypatch):
    """Let the store be away for two partitions, the 4th and the 9th, at every try."""
    from batchrec.features.store import FeatureStore

    def made(away: set[int]):
        join = FeatureStore.point_in_time
        asked = []

        def point_in_time(self, ids, as_of, refs):
            from batchrec.errors import FeatureError

            is_partition = len(ids) == SIZE and len(refs) > 1
            if is_partition:
                asked.append(ids[0].as_py())
            if is_partition and ids[0].as_py() in away:
                raise FeatureError("the offline store is away", "try again")
            return join(self, ids, as_of, refs)

        monkeypatch.setattr(FeatureStore, "point_in_time", point_in_time)
        return asked

    return made


def test_a_partition_fails_and_the_run_is_not_published(world, batchrec, tmp_path, away_in_the_middle, undisturbed):
    ids = sorted(world.ids())
    away = {ids[3 * SIZE], ids[8 * SIZE]}
    asked = away_in_the_middle(away)
    said = batchrec(*args(world, tmp_path))
    assert said.code == 3
    assert "80 of 1,000 users failed (8.0%), more than --max-failed-share 0; first part-00003.parquet: " in said.err
    assert not is_published(tmp_path)
    assert len(asked) == 25

    away.clear()
    asked.clear()
    said = batchrec(*world.args(tmp_path, f"--users-per-partition={SIZE}", "--resume"))
    assert said.code == 0, said.err
    assert sorted(asked) == [ids[3 * SIZE], ids[8 * SIZE]], "only the failed partitions are tried again"
    assert parts(tmp_path / "current") == undisturbed


@pytest.mark.parametrize("layout", ["list", "long"])
def test_failed_users_may_be_published_with_a_status(
    world, batchrec, tmp_path, away_in_the_middle, undisturbed, layout
):
    ids = sorted(world.ids())
    away_in_the_middle({ids[3 * SIZE], ids[8 * SIZE]})
    said = batchrec(*args(world, tmp_path, "--max-failed-share=0.08", f"--layout={layout}"))
    assert said.code == 0, said.err
    assert said.summary["by_status"]["failed"] == 2 * SIZE
    assert sum(said.summary["by_status"].values()) == 1000
    if layout == "list":
        found = parts(tmp_path / "current")
        failed = {"part-00003.parquet", "part-00008.parquet"}
        assert {name for name in found if found[name] != undisturbed[name]} == failed
        table = pq.read_table(tmp_path / "current" / "part-00003.parquet")
        assert table["user_id"].to_pylist() == ids[3 * SIZE : 4 * SIZE]
        assert set(table["status"].to_pylist()) == {"failed"}
        assert set(table["source"].to_pylist()) == {"none"}
        assert set(map(len, table["item_ids"].to_pylist())) == {0}
    assert batchrec("verify", tmp_path / "current").code == 0
