"""What sampling promises whatever the relevance, the temperature and the company in the batch."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec.stages.order import order
from batchrec.stages.sample import sample
from tests.properties.strategies import CALM_FLOAT32, users
from tests.stages import reference
from tests.stages.support import same

EXAMPLES = settings(max_examples=80, deadline=None)
LENGTHS = st.integers(0, 10)
TEMPERATURES = st.sampled_from([1e-30, 0.5, 1.0, 20.0, 1e9, math.inf])
SEEDS = st.integers()

pytestmark = pytest.mark.filterwarnings("error")


def sampled(xp, batch, k, temperature, seed=0):
    return sample(
        xp.asarray(batch.relevance),
        xp.asarray(batch.positions),
        xp.asarray(batch.user_hash),
        xp.asarray(batch.item_hash),
        k,
        temperature,
        seed,
    )


@EXAMPLES
@given(batch=users(), k=LENGTHS, temperature=TEMPERATURES, seed=SEEDS)
def test_a_list_holds_distinct_candidates_and_as_many_as_there_are(xp, batch, k, temperature, seed):
    found = sampled(xp, batch, k, temperature, seed)
    for row, positions in enumerate(np.asarray(found.positions).tolist()):
        candidates = {position for position in batch.positions[row].tolist() if position != -1}
        length = min(k, len(candidates))
        assert len(set(positions[:length])) == length
        assert set(positions[:length]) <= candidates
        assert positions[length:] == [-1] * (k - length)


@EXAMPLES
@given(batch=users(), k=LENGTHS, temperature=TEMPERATURES, seed=SEEDS)
def test_relevance_and_propensity_belong_to_the_item_beside_them(xp, batch, k, temperature, seed):
    found = sampled(xp, batch, k, temperature, seed)
    assert not np.isnan(np.asarray(found.propensity)).any()
    for row, positions in enumerate(np.asarray(found.positions).tolist()):
        given_relevance = dict(zip(batch.positions[row].tolist(), batch.relevance[row].tolist(), strict=True))
        for place, position in enumerate(positions):
            relevance, propensity = float(found.relevance[row, place]), float(found.propensity[row, place])
            if position == -1:
                assert (relevance, propensity) == (-math.inf, 0.0)
            else:
                expected = given_relevance[position]
                assert relevance == (-math.inf if math.isnan(expected) else expected)
                assert 0.0 < propensity <= 1.0


@EXAMPLES
@given(batch=users(relevance=CALM_FLOAT32), k=LENGTHS, temperature=st.floats(0.1, 20), seed=SEEDS)
def test_the_product_of_propensities_is_the_probability_of_the_list(xp, batch, k, temperature, seed):
    found = sampled(xp, batch, k, temperature, seed)
    for row, positions in enumerate(np.asarray(found.positions).tolist()):
        left = dict(zip(batch.positions[row].tolist(), batch.relevance[row].tolist(), strict=True))
        left.pop(-1, None)
        probability = Fraction(1)
        product = 1.0
        for place, position in enumerate(positions):
            if position != -1:
                probability *= Fraction(reference.softmax(left[position], list(left.values()), temperature))
                product *= float(found.propensity[row, place])
                del left[position]
        assert math.isclose(product, probability, rel_tol=1e-5, abs_tol=1e-40)


@EXAMPLES
@given(batch=users(min_rows=1), k=LENGTHS, temperature=TEMPERATURES, seed=SEEDS, data=st.data())
def test_a_user_draws_the_same_in_any_company(xp, batch, k, temperature, seed, data):
    rows = data.draw(st.lists(st.integers(0, len(batch.positions) - 1), max_size=8))
    whole, part = sampled(xp, batch, k, temperature, seed), sampled(xp, batch.rows(rows), k, temperature, seed)
    for values, expected in zip(part, whole, strict=True):
        same(values, np.asarray(expected)[rows])


@EXAMPLES
@given(batch=users(), k=LENGTHS, temperature=TEMPERATURES, seed=SEEDS, data=st.data())
def test_candidates_may_come_in_any_order(xp, batch, k, temperature, seed, data):
    columns = data.draw(st.permutations(range(batch.positions.shape[1])))
    moved = sampled(xp, batch.columns(columns), k, temperature, seed)
    for values, expected in zip(moved, sampled(xp, batch, k, temperature, seed), strict=True):
        np.testing.assert_allclose(np.asarray(values), np.asarray(expected), rtol=1e-6)


@EXAMPLES
@given(batch=users(), k=LENGTHS, temperature=TEMPERATURES, seed=SEEDS)
def test_a_shorter_list_is_the_beginning_of_a_longer_one(xp, batch, k, temperature, seed):
    short, long = sampled(xp, batch, k, temperature, seed), sampled(xp, batch, k + 3, temperature, seed)
    same(short.positions, np.asarray(long.positions)[:, :k])
    np.testing.assert_allclose(np.asarray(short.propensity), np.asarray(long.propensity)[:, :k], rtol=1e-6)


@EXAMPLES
@given(batch=users(), seed=SEEDS)
def test_infinite_temperature_is_the_order_stage(xp, batch, seed):
    width = batch.positions.shape[1]
    found = sampled(xp, batch, width, math.inf, seed)
    positions, scores = order(xp.asarray(batch.positions), xp.asarray(batch.relevance))
    same(found.positions, np.asarray(positions))
    same(found.relevance, np.asarray(scores))
    same(found.propensity, (np.asarray(positions) >= 0).astype(np.float32))


@EXAMPLES
@given(batch=users(relevance=st.sampled_from([-2.0, 0.0, 1.0, 7.0])), seed=SEEDS)
def test_high_temperatures_sort_up_to_ties(xp, batch, seed):
    found = sampled(xp, batch, batch.positions.shape[1], 1e9, seed)
    _, scores = order(xp.asarray(batch.positions), xp.asarray(batch.relevance))
    same(found.relevance, np.asarray(scores))
