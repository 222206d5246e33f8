"""The published popularity bar on MovieLens-100K, chronological 80/20 a user, ties by movie id."""

import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from batchrec.evaluate import evaluate_runs
from tests.evaluate.support import publish, write_items

DATA = Path(os.environ.get("BATCHREC_DATA", Path(__file__).parents[3] / "shared" / "data"))
RATINGS = DATA / "ml-100k" / "ratings.parquet"

pytestmark = pytest.mark.skipif(not RATINGS.is_file(), reason=f"MovieLens-100K is not at {RATINGS}")


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """The first ⌊0.8 n⌋ ratings of each user are train, the rest held out; every rating is a positive."""
    folder = tmp_path_factory.mktemp("ml-100k")
    ratings = pq.read_table(RATINGS).to_pandas().sort_values(["user_id", "timestamp", "movie_id"])
    ratings = ratings.rename(columns={"movie_id": "item_id"})
    by_user = ratings.groupby("user_id")["item_id"]
    is_train = by_user.cumcount() < np.floor(0.8 * by_user.transform("size"))
    ratings[is_train].to_parquet(folder / "train.parquet")
    ratings[~is_train].to_parquet(folder / "holdout.parquet")
    return folder, ratings[is_train], ratings[~is_train]


def test_popularity_reaches_the_published_figures(split):
    folder, _, _ = split
    report = evaluate_runs([], folder / "holdout.parquet", folder / "train.parquet", k=10, resamples=200, seed=0)
    [popularity] = report.systems
    assert round(popularity.figures["recall"].estimate, 3) == 0.060
    assert round(popularity.figures["ndcg"].estimate, 3) == 0.116
    assert report.holdout.users == 943


def test_a_run_that_knows_the_future_is_perfect(split, tmp_path):
    folder, train, held_out = split
    lists = {int(user): items.tolist() for user, items in held_out.groupby("user_id")["item_id"]}
    report = evaluate_runs(
        [publish(tmp_path / "oracle", lists)],
        folder / "holdout.parquet",
        folder / "train.parquet",
        k=10,
        resamples=50,
        seed=0,
        catalogue=write_items(tmp_path / "items.parquet", sorted({*train["item_id"], *held_out["item_id"]})),
    )
    figures = report.systems[1].figures
    assert [figures[name].low for name in ("ndcg", "hit_rate", "mrr")] == pytest.approx([1.0, 1.0, 1.0])
    assert report.catalogue_items == 1682
    assert report.holdout.pairs_outside_catalogue == 0
