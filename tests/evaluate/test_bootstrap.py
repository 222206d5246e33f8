import numpy as np
import pytest

from batchrec.evaluate import bootstrap
from batchrec.evaluate.bootstrap import interval, resampled_means


def test_interval_of_a_mean_is_near_the_normal_one():
    values = np.random.default_rng(0).exponential(size=(2000, 1))
    low, high = interval(resampled_means(values, resamples=4000, seed=1))
    half = 1.96 * values.std() / np.sqrt(2000)
    assert low[0] == pytest.approx(values.mean() - half, abs=0.08 * half)
    assert high[0] == pytest.approx(values.mean() + half, abs=0.08 * half)


def test_intervals_hold_the_true_mean_95_times_in_100():
    draw = np.random.default_rng(2)
    rounds = 200
    held = 0
    for seed in range(rounds):
        low, high = interval(resampled_means(draw.binomial(1, 0.3, size=(150, 1)), resamples=200, seed=seed))
        held += low[0] <= 0.3 <= high[0]
    assert held / rounds == pytest.approx(0.95, abs=0.035)


def test_every_resample_draws_as_many_users_as_there_are():
    np.testing.assert_allclose(resampled_means(np.ones((37, 1)), resamples=20, seed=0), 1.0)


def test_columns_see_the_same_users():
    values = np.random.default_rng(0).normal(size=(50, 1))
    means = resampled_means(np.hstack([values, values + 1.0]), resamples=100, seed=0)
    np.testing.assert_allclose(means[:, 1] - means[:, 0], 1.0)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others():
    values = np.random.default_rng(0).normal(size=(50, 3))
    np.testing.assert_array_equal(resampled_means(values, 64, seed=5), resampled_means(values, 64, seed=5))
    assert (resampled_means(values, 64, seed=5) != resampled_means(values, 64, seed=6)).all()


def test_resamples_of_one_seed_differ():
    means = resampled_means(np.arange(50.0)[:, None], 64, seed=0)
    assert np.unique(means).size > 32


def test_neither_blocks_nor_the_number_of_resamples_change_a_resample(monkeypatch):
    values = np.random.default_rng(0).normal(size=(50, 3))
    whole = resampled_means(values, 64, seed=5)
    monkeypatch.setattr(bootstrap, "DRAWS_PER_BLOCK", 120)
    np.testing.assert_allclose(resampled_means(values, 64, seed=5), whole, rtol=1e-12)
    np.testing.assert_allclose(resampled_means(values, 7, seed=5), whole[:7], rtol=1e-12)


def test_a_single_user():
    np.testing.assert_array_equal(resampled_means(np.array([[0.25]]), 3, seed=0), np.full((3, 1), 0.25))
