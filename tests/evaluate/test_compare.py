import json
import shutil

import numpy as np
import pyarrow as pa
import pytest

from batchrec.errors import ArtifactError, BatchrecError, ConfigError, SchemaError
from batchrec.evaluate import evaluate_runs
from batchrec.evaluate.bootstrap import interval
from batchrec.evaluate.compare import resample, score
from batchrec.evaluate.holdout import Holdout
from tests.evaluate.support import publish, write_items, write_pairs

SMALL_OPTIONS = {"k": 2, "resamples": 200, "seed": 0}


@pytest.fixture
def small(tmp_path):
    """Four items by popularity: 1 (three times), 2 and 3 (twice), 4 (never). User 30 has no held-out item."""
    return {
        "interactions": write_pairs(
            tmp_path / "train.parquet", [(10, 1), (20, 1), (30, 1), (10, 2), (30, 2), (20, 3), (30, 3)]
        ),
        "holdout": write_pairs(tmp_path / "holdout.parquet", [(10, 3), (10, 4), (20, 4), (20, 4), (40, 1), (40, 3)]),
        "catalogue": write_items(tmp_path / "items.parquet", [3, 1, 4, 2]),
    }


def estimates(system):
    return {name: figure.estimate for name, figure in system.figures.items()}


@pytest.mark.parametrize("layout", ["list", "long"])
def test_a_case_by_hand(tmp_path, small, layout):
    run = publish(tmp_path / "mine", {10: [4, 3], 20: [2, 4], 30: [4]}, layout)
    report = evaluate_runs([run], **small, **SMALL_OPTIONS)
    popularity, mine = report.systems
    second = 1 / np.log2(3)
    # Popularity: 10 gets 3, 4 (both held out); 20 gets 2, 4 (4 is); 40, unknown to train, gets 1, 2 (1 of 1, 3 is).
    assert estimates(popularity) == pytest.approx(
        {
            "recall": (1 + 1 + 1 / 2) / 3,
            "ndcg": (1 + second + 1 / (1 + second)) / 3,
            "hit_rate": 1.0,
            "mrr": (1 + 1 / 2 + 1) / 3,
            "coverage": 4 / 4,
        }
    )
    # The run has no list for 40, which counts as zeros.
    assert estimates(mine) == pytest.approx(
        {"recall": 2 / 3, "ndcg": (1 + second) / 3, "hit_rate": 2 / 3, "mrr": (1 + 1 / 2) / 3, "coverage": 3 / 4}
    )
    assert (mine.users_without_list, mine.users_left_out) == (1, 1)
    assert (popularity.users_without_list, popularity.users_left_out) == (0, 0)
    assert report.holdout.users == 3
    assert report.holdout.pairs == 5
    assert report.holdout.duplicate_rows == 1
    [against_popularity] = report.comparisons
    assert (against_popularity.name, against_popularity.against) == ("mine", "popularity")
    assert against_popularity.differences["recall"].estimate == pytest.approx(2 / 3 - 5 / 6)


def test_a_short_list_is_a_list(tmp_path, small):
    report = evaluate_runs([publish(tmp_path / "mine", {10: [4, 3], 20: [4], 40: []})], **small, **SMALL_OPTIONS)
    assert report.systems[1].users_without_list == 1


def test_a_run_of_other_users_is_refused(tmp_path, small):
    with pytest.raises(ConfigError, match=r"none of the .* users of .* has an item in run"):
        evaluate_runs([publish(tmp_path / "mine", {77: [4, 3], 78: [4]})], **small, **SMALL_OPTIONS)


def test_no_figure_passes_1(tmp_path, small):
    # Each list brings an item that no other has, so that drawing a user twice would carry coverage beyond 1.
    report = evaluate_runs([publish(tmp_path / "mine", {10: [4, 3], 20: [2, 4], 40: [1, 3]})], **small, **SMALL_OPTIONS)
    coverage = report.systems[1].figures["coverage"]
    assert coverage.low < coverage.estimate == coverage.high == 1.0


def test_held_out_items_that_train_holds_too_count_as_any_other(tmp_path, small):
    small["holdout"] = write_pairs(tmp_path / "holdout.parquet", [(10, 1), (10, 3)])
    run = publish(tmp_path / "mine", {10: [3, 1]})
    report = evaluate_runs([run], **small, **SMALL_OPTIONS)
    assert report.holdout.pairs_seen_in_train == 1
    assert [system.figures["recall"].estimate for system in report.systems] == [0.5, 1.0]


def test_without_a_catalogue_the_items_are_those_of_train(small):
    report = evaluate_runs([], small["holdout"], small["interactions"], **SMALL_OPTIONS)
    assert report.catalogue_items == 3
    assert report.holdout.pairs_outside_catalogue == 2


def random_world(tmp_path, users=120, items=30, as_id=int):
    """Train, holdout, catalogue, and two runs: one has many of the held-out items, the other draws at random."""
    draw = np.random.default_rng(0)
    train, held_out, sharp, blunt = [], [], {}, {}
    for user in range(users):
        order = draw.permutation(items)
        train += [(as_id(user), as_id(int(item))) for item in order[:8]]
        held_out += [(as_id(user), as_id(int(item))) for item in order[8:12]]
        sharp[as_id(user)] = [as_id(int(item)) for item in draw.permutation(order[8:14])[:4]]
        blunt[as_id(user)] = [as_id(int(item)) for item in draw.permutation(order[8:])[:4]]
    tmp_path.mkdir(exist_ok=True)
    tables = {
        "interactions": write_pairs(tmp_path / "train.parquet", [train[at] for at in draw.permutation(len(train))]),
        "holdout": write_pairs(tmp_path / "test.parquet", [held_out[at] for at in draw.permutation(len(held_out))]),
        "catalogue": write_items(tmp_path / "items.parquet", [as_id(item) for item in range(items)]),
    }
    return tables, sharp, blunt


def test_the_better_run_is_better_for_certain(tmp_path):
    tables, sharp, blunt = random_world(tmp_path)
    runs = [publish(tmp_path / "blunt", blunt), publish(tmp_path / "sharp", sharp)]
    report = evaluate_runs(runs, **tables, k=4, resamples=300, seed=0)
    assert [(one.name, one.against) for one in report.comparisons] == [
        ("blunt", "popularity"),
        ("sharp", "popularity"),
        ("sharp", "blunt"),
    ]
    gain = report.comparisons[2].differences["recall"]
    assert 0 < gain.low < gain.estimate < gain.high
    for system in report.systems:
        for figure in system.figures.values():
            assert 0 <= figure.low <= figure.estimate <= figure.high <= 1


def test_differences_are_paired(tmp_path):
    tables, sharp, _ = random_world(tmp_path)
    runs = [publish(tmp_path / "one", sharp), publish(tmp_path / "two", sharp, "long", parts=3)]
    report = evaluate_runs(runs, **tables, k=4, resamples=100, seed=0)
    for figure in report.comparisons[2].differences.values():
        assert (figure.estimate, figure.low, figure.high) == pytest.approx((0, 0, 0), abs=1e-12)
    assert report.systems[1].figures["mrr"] == report.systems[2].figures["mrr"]


def test_the_order_of_rows_and_the_type_of_ids_change_nothing(tmp_path):
    reports = []
    for name, as_id in (("numbers", int), ("words", "{:04}".format)):
        tables, sharp, _ = random_world(tmp_path / name, as_id=as_id)
        reports.append(evaluate_runs([publish(tmp_path / name / "run", sharp)], **tables, k=4, resamples=50, seed=0))
    numbers, words = reports
    assert numbers.to_json() == words.to_json()
    shuffled = pa.parquet.read_table(tables["holdout"])
    pa.parquet.write_table(shuffled.take(np.random.default_rng(1).permutation(len(shuffled))), tables["holdout"])
    again = evaluate_runs([tmp_path / "words" / "run"], **tables, k=4, resamples=50, seed=0)
    assert again.to_json() == words.to_json()


def test_the_seed_moves_intervals_but_not_estimates(tmp_path):
    tables, sharp, _ = random_world(tmp_path)
    run = publish(tmp_path / "run", sharp)
    first, second = (evaluate_runs([run], **tables, k=4, resamples=50, seed=seed).systems[1] for seed in (0, 1))
    assert estimates(first) == estimates(second)
    assert first.figures["ndcg"].low != second.figures["ndcg"].low


def synthetic_lists(draw, users, items, k):
    """Draw lists without replacement from a long-tailed catalogue."""
    logits = -1.2 * np.log(np.arange(1, items + 1))
    keys = logits + draw.gumbel(size=(users, items))
    return np.argsort(-keys, axis=1)[:, :k]


def test_coverage_intervals_hold_the_expected_coverage():
    users, items, rounds = 100, 250, 150
    draw = np.random.default_rng(0)
    nothing = np.empty(0, dtype=np.int64)
    truth = Holdout(pa.array(range(users)), np.ones(users, np.int64), nothing, 0, 0)
    unions = [np.unique(synthetic_lists(draw, users, items, 5)).size for _ in range(300)]
    expected = np.mean(unions) / items
    held = plain_held = 0
    for seed in range(rounds):
        lists = synthetic_lists(draw, users, items, 5)
        low, high = interval(resample([score(lists, truth, items)], 200, seed)[:, 0, -1])
        held += low <= expected <= high
        plain = [np.unique(lists[draw.integers(users, size=users)]).size / items for _ in range(100)]
        plain_held += plain_low_high(plain, expected)
    assert held / rounds >= 0.93
    assert plain_held == 0  # why coverage is not resampled as a union of lists


def plain_low_high(resampled, expected):
    low, high = np.quantile(resampled, (0.025, 0.975))
    return low <= expected <= high


def test_runs_are_named_after_their_folders(tmp_path, small):
    run = publish(tmp_path / "output" / "2024-05-01", {10: [4, 3]})
    (tmp_path / "output" / "current").symlink_to("2024-05-01")
    report = evaluate_runs([tmp_path / "output" / "current"], **small, **SMALL_OPTIONS)
    assert report.systems[1].name == "2024-05-01"
    other = tmp_path / "other" / "2024-05-01"
    shutil.copytree(run, other)
    report = evaluate_runs([run, other], **small, **SMALL_OPTIONS)
    assert [system.name for system in report.systems[1:]] == [str(run), str(other)]
    with pytest.raises(ConfigError, match="2024-05-01 is given twice"):
        evaluate_runs([run, tmp_path / "output" / "current"], **small, **SMALL_OPTIONS)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"k": 0}, "k is 0, expected at least 1"),
        ({"resamples": 0}, "resamples is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**64}, "seed is 18446744073709551616"),
    ],
)
def test_options_that_cannot_be_used(small, options, problem):
    with pytest.raises(ConfigError, match=problem):
        evaluate_runs([], **small, **(SMALL_OPTIONS | options))


def test_errors_are_one_sentence_with_a_remedy(tmp_path, small):
    with pytest.raises(ArtifactError) as caught:
        evaluate_runs([tmp_path / "nowhere"], **small, **SMALL_OPTIONS)
    assert str(caught.value).endswith(
        "nowhere is not a published run (it has no _SUCCESS): give the folder of a run that was published."
    )
    assert isinstance(caught.value, BatchrecError)


def test_train_of_another_id_type(tmp_path, small):
    small["interactions"] = write_pairs(tmp_path / "train.parquet", [("10", 1)])
    with pytest.raises(SchemaError, match=r"column user_id of .*train\.parquet has type string"):
        evaluate_runs([], **small, **SMALL_OPTIONS)


def test_the_report_is_json(small):
    content = json.loads(evaluate_runs([], **small, **SMALL_OPTIONS).to_json())
    assert list(content) == [
        "confidence",
        "k",
        "resamples",
        "seed",
        "catalogue_items",
        "holdout",
        "systems",
        "comparisons",
    ]
    assert content["systems"][0]["figures"]["recall"]["estimate"] == round(5 / 6, 6)
