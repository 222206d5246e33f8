import itertools
import math

import numpy as np
import pytest
from array_api_compat import numpy as numpy_namespace

from batchrec.errors import ConfigError
from batchrec.stages.order import order
from batchrec.stages.sample import sample
from tests.stages import reference
from tests.stages.support import integers, same

INF, NAN = math.inf, math.nan
LARGEST = float(np.finfo(np.float32).max)

pytestmark = pytest.mark.filterwarnings("error")


def hashes(count, stream):
    return np.array([reference.splitmix64(stream * 10**6 + index) for index in range(count)], dtype=np.uint64)


def drawn(xp, relevance, k, temperature, seed=0, positions=None, users=None, items=None):
    """Sample rows given as lists; positions count from 0 unless given."""
    relevance = np.asarray(relevance, dtype=np.float32)
    rows, width = relevance.shape
    positions = np.tile(np.arange(width), (rows, 1)) if positions is None else np.asarray(positions)
    users = hashes(rows, 1) if users is None else users
    items = hashes(max(int(positions.max(initial=0)) + 1, 1), 2) if items is None else items
    return sample(
        xp.asarray(relevance),
        integers(xp, positions),
        xp.asarray(users),
        xp.asarray(items),
        k,
        temperature,
        seed,
    )


@pytest.mark.parametrize("temperature", [0.5, 1.0, 20.0])
@pytest.mark.parametrize("seed", [0, 1, -1, 2**63, 2**64 - 1])
def test_agrees_with_drawing_one_item_at_a_time(xp, temperature, seed):
    random = np.random.default_rng(8)
    relevance = random.standard_normal((20, 12)).astype(np.float32)
    positions = np.argsort(random.random((20, 30)), axis=1)[:, :12]
    positions[random.random(positions.shape) < 0.3] = -1
    users, items = hashes(20, 1), hashes(30, 2)
    found = drawn(xp, relevance, 8, temperature, seed, positions, users, items)
    for row in range(20):
        expected = reference.sample_row(
            relevance[row].tolist(), positions[row].tolist(), int(users[row]), items.tolist(), 8, temperature, seed
        )
        same(found.positions[row, :], [entry[0] for entry in expected], np.int64)
        same(found.relevance[row, :], [entry[1] for entry in expected], np.float32)
        np.testing.assert_allclose(np.asarray(found.propensity[row, :]), [entry[2] for entry in expected], rtol=3e-7)
    assert found.propensity.dtype == xp.float32


def test_propensities_by_hand(xp):
    # Weights 1, 2, 5: whichever order comes, each place is its weight over the weights left.
    weights = {0: 1.0, 1: 2.0, 2: 5.0}
    found = drawn(xp, [[math.log(weight) for weight in weights.values()]] * 50, 3, 1.0)
    for positions, propensity in zip(np.asarray(found.positions).tolist(), np.asarray(found.propensity), strict=True):
        left = [sum(weights[position] for position in positions[place:]) for place in range(3)]
        by_hand = [weights[position] / total for position, total in zip(positions, left, strict=True)]
        np.testing.assert_allclose(propensity, by_hand, rtol=1e-6)


def test_infinite_temperature_sorts_and_is_certain(xp):
    relevance = [[0.5, -1.0, 0.5, NAN, 9.0, -INF, INF]]
    found = drawn(xp, relevance, 8, INF, positions=[[6, 5, 4, 3, -1, 1, 0]])
    same(found.positions, [[0, 4, 6, 5, 1, 3, -1, -1]], np.int64)
    same(found.relevance, [[INF, 0.5, 0.5, -1.0, -INF, -INF, -INF, -INF]], np.float32)
    same(found.propensity, [[1.0] * 6 + [0.0] * 2], np.float32)


def test_high_temperatures_approach_sorting(xp):
    random = np.random.default_rng(1)
    relevance = random.permuted(np.tile(np.arange(10, dtype=np.float32), (50, 1)), axis=1)
    positions, scores = order(xp.asarray(np.tile(np.arange(10), (50, 1))), xp.asarray(relevance))
    found = drawn(xp, relevance, 10, 1e9)
    same(found.positions, positions)
    same(found.relevance, scores)
    same(found.propensity, np.ones((50, 10)))


@pytest.mark.parametrize("temperature", [1.0, INF])
def test_full_ties_go_to_the_lowest_position(xp, temperature):
    # One hash for all items: noise and relevance are both equal.
    found = drawn(xp, [[1.0] * 5], 5, temperature, positions=[[3, 1, 4, 0, 2]], items=np.full(5, 7, dtype=np.uint64))
    same(found.positions, [[0, 1, 2, 3, 4]])


@pytest.mark.parametrize("level", [-INF, -LARGEST, -1e20, 0.0, 1e20, LARGEST, INF])
@pytest.mark.parametrize("temperature", [1.0, 20.0, 1e200])
def test_equal_candidates_have_equal_chances_at_every_size(xp, level, temperature):
    found = drawn(xp, [[level] * 4] * 4000, 4, temperature)
    same(found.propensity, np.tile(np.array([1 / 4, 1 / 3, 1 / 2, 1], dtype=np.float32), (4000, 1)))
    counts = np.bincount(np.asarray(found.positions)[:, 0], minlength=4)
    assert chi_square(counts, np.full(4, 1000.0)) < 16.27  # 3 degrees of freedom, p = .001


def test_the_undefined_and_the_impossible_come_after_all_else(xp):
    relevance = [[-INF, 1.0, NAN, -LARGEST, 5.0, INF]] * 200
    found = drawn(xp, relevance, 6, 20.0, positions=[[0, 1, 2, 3, -1, 4]] * 200)
    positions = np.asarray(found.positions)
    same(positions[:, :3], [[4, 1, 3]] * 200)
    same(np.sort(positions[:, 3:5], axis=1), [[0, 2]] * 200)
    same(positions[:, 5], [-1] * 200)
    same(found.relevance, [[INF, 1.0, -LARGEST, -INF, -INF, -INF]] * 200)
    same(found.propensity, [[1.0, 1.0, 1.0, 0.5, 1.0, 0.0]] * 200)


@pytest.mark.parametrize("scale", [1e6, 1e30, LARGEST])
def test_huge_logits_overflow_nowhere(xp, scale):
    relevance = np.random.default_rng(2).uniform(-1, 1, (50, 9)).astype(np.float32) * np.float32(scale)
    found = drawn(xp, relevance, 9, 20.0)
    same(found.relevance, -np.sort(-relevance, axis=1))
    same(found.propensity, np.ones((50, 9)))


@pytest.mark.parametrize(("lead", "winner"), [(40.0, 1), (41.0, 0)])
def test_noise_is_finite_at_both_ends_of_the_hash(xp, lead, winner):
    # Item 0 has the lowest noise there is, -log(53 log 2) = -3.6, and item 1 the highest, 53 log 2 = 36.7.
    user = 99
    user_key = reference.splitmix64(reference.splitmix64(0) ^ user)
    items = [user_key ^ reference.splitmix64_inverse(bits) for bits in (0, 2**64 - 1)]
    found = drawn(
        xp, [[lead, 0.0]], 1, 1.0, users=np.array([user], dtype=np.uint64), items=np.array(items, dtype=np.uint64)
    )
    same(found.positions, [[winner]])


def test_tiny_temperatures_draw_uniformly(xp):
    found = drawn(xp, [[1e6, 0.0, -1e6]] * 30, 3, 1e-300)
    np.testing.assert_allclose(np.asarray(found.propensity), [[1 / 3, 1 / 2, 1]] * 30, rtol=1e-6)


def test_the_order_of_the_candidates_does_not_matter(xp):
    random = np.random.default_rng(4)
    relevance = random.standard_normal((30, 15)).astype(np.float32)
    shuffle = np.argsort(random.random((30, 15)), axis=1)
    base = drawn(xp, relevance, 6, 3.0)
    moved = drawn(xp, np.take_along_axis(relevance, shuffle, 1), 6, 3.0, positions=shuffle)
    for one, other in zip(base, moved, strict=True):
        same(one, np.asarray(other))


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_bits_do_not_depend_on_the_other_users(xp, rows):
    # Wide rows: sums long enough for a library to add them up in blocks.
    relevance = np.random.default_rng(6).standard_normal((40, 301)).astype(np.float32)
    whole, part = drawn(xp, relevance, 10, 2.0), drawn(xp, relevance[:rows], 10, 2.0)
    for values, expected in zip(part, whole, strict=True):
        same(values, np.asarray(expected)[:rows])


def test_seed_and_user_each_change_the_draw(xp):
    relevance = [[0.0] * 20] * 2
    base = np.asarray(drawn(xp, relevance, 20, 1.0, seed=1).positions)
    again = np.asarray(drawn(xp, relevance, 20, 1.0, seed=1).positions)
    other = np.asarray(drawn(xp, relevance, 20, 1.0, seed=2).positions)
    same(base, again)
    assert (base[0] != base[1]).any()
    assert (base[0] != other[0]).any()


def test_the_same_user_twice_gets_the_same_list(xp):
    found = drawn(xp, [[0.0] * 20] * 2, 20, 1.0, users=np.array([5, 5], dtype=np.uint64))
    same(found.positions[0, :], np.asarray(found.positions)[1])


@pytest.mark.parametrize("temperature", [0.0, -1.0, -INF, NAN])
def test_temperatures_that_mean_nothing_are_refused(xp, temperature):
    with pytest.raises(ConfigError, match=f"temperature is {temperature}"):
        drawn(xp, [[1.0]], 1, temperature)


@pytest.mark.parametrize("temperature", [20.0, INF])
@pytest.mark.parametrize(("rows", "width", "k"), [(0, 3, 2), (2, 0, 2), (2, 3, 0), (0, 0, 0), (2, 3, 3), (2, 3, 9)])
def test_edge_shapes(xp, temperature, rows, width, k):
    found = drawn(xp, np.zeros((rows, width)), k, temperature)
    for values, dtype in zip(found, (xp.int64, xp.float32, xp.float32), strict=True):
        assert values.shape == (rows, k)
        assert values.dtype == dtype
    available = np.asarray(found.positions) >= 0
    same(available.sum(axis=1), [min(k, width)] * rows)
    assert (np.asarray(found.propensity) > 0)[available].all()


def chi_square(observed, expected):
    return float((((observed - expected) ** 2) / expected).sum())


# Frequencies. The seeds are fixed, so nothing here is left to chance; limits are the chi-square's at p = .001.

USERS = 40_000
RELEVANCE = np.array([0.3, -0.2, 0.0, 0.1, -0.4], dtype=np.float32)
WEIGHTS = np.exp(2.5 * RELEVANCE.astype(float))
SHARE = WEIGHTS / WEIGHTS.sum()


@pytest.fixture(scope="module")
def lists():
    """Lists of all five items for many users, with seed 0 and with seed 1."""
    rows, users = np.tile(RELEVANCE, (USERS, 1)), np.arange(USERS, dtype=np.uint64)
    return [drawn(numpy_namespace, rows, 5, 2.5, seed, users=users).positions for seed in (0, 1)]


def test_frequencies_of_the_first_item(lists):
    counts = np.bincount(lists[0][:, 0], minlength=5)
    assert chi_square(counts, USERS * SHARE) < 18.47  # 4 degrees of freedom


def test_frequencies_of_the_first_two_items(lists):
    pairs = list(itertools.permutations(range(5), 2))
    counts = [((lists[0][:, 0] == first) & (lists[0][:, 1] == second)).sum() for first, second in pairs]
    expected = [USERS * SHARE[first] * SHARE[second] / (1 - SHARE[first]) for first, second in pairs]
    assert chi_square(np.array(counts), np.array(expected)) < 43.82  # 19 degrees of freedom


def test_frequencies_at_the_end_of_the_list(lists):
    # Item 3 before item 4 where these two are left after three draws.
    left = (np.sort(lists[0][:, 3:], axis=1) == [3, 4]).all(axis=1)
    share = (lists[0][left, 3] == 3).mean()
    expected = WEIGHTS[3] / (WEIGHTS[3] + WEIGHTS[4])
    assert abs(share - expected) < 3.3 * math.sqrt(expected * (1 - expected) / left.sum())


def test_draws_of_two_seeds_are_independent(lists):
    joint = np.bincount(lists[0][:, 0] * 5 + lists[1][:, 0], minlength=25)
    assert chi_square(joint, USERS * np.outer(SHARE, SHARE).ravel()) < 51.18  # 24 degrees of freedom


def test_draws_of_neighbouring_users_are_independent(lists):
    joint = np.bincount(lists[0][0::2, 0] * 5 + lists[0][1::2, 0], minlength=25)
    assert chi_square(joint, USERS / 2 * np.outer(SHARE, SHARE).ravel()) < 51.18  # 24 degrees of freedom
