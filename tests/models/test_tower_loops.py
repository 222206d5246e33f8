"""Loops of the query tower against the same in double precision."""

import math

import numpy as np
import pytest

from batchrec.models.tower_loops import add_gelu, add_rows, causal_exponentials, divide_heads, normalise


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def gelu(values, bias=(0.0,)):
    rows = np.array(values, np.float32).reshape(1, -1, len(bias))
    add_gelu(rows, np.array(bias, np.float32))
    return rows.reshape(-1)


def test_gelu_is_x_times_the_normal_distribution():
    x = np.concatenate([np.linspace(-12, 12, 40_001), [-1e30, -40.0, 40.0, 1e30, 0.0]]).astype(np.float32)
    expected = [v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in x.astype(float)]
    np.testing.assert_allclose(gelu(x), expected, rtol=2e-7, atol=4e-7)


def test_gelu_adds_the_bias_and_passes_on_what_is_no_number():
    np.testing.assert_allclose(gelu([1.0, 2.0, 3.0, 4.0], (0.5, -0.5)), gelu([1.5, 1.5, 3.5, 3.5]), rtol=0)
    assert np.isnan(gelu([np.nan])).all()


def test_rows_and_bias_are_added():
    state, rows, bias = numbers(3, 4, 5), numbers(3, 4, 5, seed=1), numbers(5, seed=2)
    expected = state.astype(float) + rows + bias
    add_rows(state, rows, bias)
    np.testing.assert_allclose(state, expected, atol=1e-6)


@pytest.mark.parametrize("shift", [0.0, 1000.0])
def test_normalised_rows_have_mean_zero_and_variance_one(shift):
    state = 3 * numbers(2, 5, 64) + np.float32(shift)
    normal = np.empty_like(state)
    normalise(state, np.float32(1e-3), normal)
    wide = state.astype(float)
    expected = (wide - wide.mean(axis=2, keepdims=True)) / np.sqrt(wide.var(axis=2, keepdims=True) + 1e-3)
    np.testing.assert_allclose(normal, expected, atol=1e-6 if not shift else 1e-4)


@pytest.mark.parametrize("length", [1, 2, 7, 50])
def test_attention_looks_back_only(length):
    scores, values = 30 * numbers(2, 3, length, length), numbers(2, 3, length, 4, seed=1)
    wide = np.where(np.tri(length, dtype=bool).T, scores.astype(float), -np.inf)  # keys down, queries across
    shares = np.exp(wide - wide.max(axis=2, keepdims=True))
    shares /= shares.sum(axis=2, keepdims=True)
    expected = np.einsum("bhkq,bhkw->bqhw", shares, values)
    sums, found = np.empty((2, 3, length), np.float32), np.empty((2, length, 3, 4), np.float32)
    causal_exponentials(scores, sums)
    assert (scores[:, :, np.tri(length, k=-1, dtype=bool)] == 0).all()
    divide_heads(np.matmul(scores.swapaxes(2, 3), values), sums, found)
    np.testing.assert_allclose(found, expected, atol=2e-6)
