"""Pairs scored in registers: the sums of the textbook, for sides and layers of any size, on any processor."""

import os
import subprocess
import sys

import numpy as np
import pytest

from batchrec.models.products import to_lanes
from batchrec.models.ranking_loops import PAIRS_A_CHUNK, columns_of, products_of, score


def expected(users, items, positions, layers, scale):
    """What a ranker of these parts says, in double precision, pair by pair."""
    scores = np.full(positions.shape, -np.inf)
    for i, row in enumerate(positions):
        for k, item in enumerate(row):
            if item < 0:
                continue
            vectors, share, embedding = (part[item].astype(np.float64) for part in items)
            hidden = (vectors @ users[0][i].T.astype(np.float64)).reshape(-1) @ layers[0][0] + share + users[1][i]
            for kernel, bias in layers[1:]:
                hidden = np.maximum(hidden, 0) @ kernel + bias
            scores[i, k] = hidden[0] + scale * (embedding @ users[2][i])
    return scores


def by_loop(users, items, positions, layers, scale):
    (vectors, share, embedding), (n_items, s, d) = users, items[0].shape
    n, v, _ = vectors.shape
    columns = np.zeros((n, d, columns_of(v)), np.float32)
    columns[:, :, :v] = vectors.transpose(0, 2, 1)
    rows = np.concatenate([items[0].reshape(n_items, -1), items[1], items[2]], axis=1)
    first = np.zeros((s, products_of(v), share.shape[1]), np.float32)
    first[:, :v] = layers[0][0].reshape(s, v, -1)
    numbers, places = [], []
    for kernel, bias in [(first.reshape(-1, first.shape[2]), np.zeros(first.shape[2])), *layers[1:]]:
        begin, width = sum(map(len, numbers)), to_lanes(len(bias))
        places.append((begin, begin + width, len(kernel), width))
        spare = width - len(bias)
        numbers += [np.pad(bias, (0, spare)), np.pad(kernel, ((0, 0), (0, spare))).reshape(-1)]
    found = np.empty(positions.shape, np.float32)
    kernels = np.concatenate(numbers).astype(np.float32)
    score(columns, share, embedding, positions, rows, kernels, np.array(places), np.float32(scale), found)
    return found


def case(s, v, d, widths, n=3, width=7, n_items=40):
    """Random sides and layers, scaled so that sums stay of order one."""
    random = np.random.default_rng(s * 1000 + v)

    def normal(*shape, size=1.0):
        return (size * random.normal(size=shape)).astype(np.float32)

    users = normal(n, v, d), normal(n, widths[0]), normal(n, d)
    items = normal(n_items, s, d), normal(n_items, widths[0]), normal(n_items, d)
    depths = [s * v, *widths[:-1]]
    layers = [(normal(a, b, size=a**-0.5), normal(b)) for a, b in zip(depths, widths, strict=True)]
    layers[0] = layers[0][0] / np.float32(d**0.5), layers[0][1]
    positions = random.integers(-1, n_items, (n, width))
    return users, items, positions, layers, d**-0.5


SIZES = {
    "as a workload's": (6, 13, 64, (128, 64, 32, 1)),
    "one of each": (1, 1, 1, (1,)),
    "sizes that fill no register": (2, 3, 5, (7, 3, 1)),
    "two registers of user vectors": (3, 17, 12, (48, 1)),
    "four registers of user vectors": (2, 40, 12, (65, 33, 1)),
    "more user vectors than are multiplied at once": (2, 70, 9, (20, 1)),
    "many items' vectors": (20, 2, 16, (16, 1)),
}


@pytest.mark.parametrize("width", [1, 5, PAIRS_A_CHUNK, PAIRS_A_CHUNK + 1])
@pytest.mark.parametrize("sizes", SIZES)
def test_scores_are_the_sums_they_should_be(sizes, width):
    given = case(*SIZES[sizes], width=width)
    np.testing.assert_allclose(by_loop(*given), expected(*given), rtol=2e-5, atol=2e-5)


def test_what_is_no_number_stays_with_its_pairs():
    users, items, positions, layers, scale = case(2, 3, 5, (7, 3, 1), width=20)
    items[2][positions[0, 0]] = np.nan
    found = by_loop(users, items, positions, layers, scale)
    assert np.isnan(found).tolist() == (positions == positions[0, 0]).tolist()


OTHER = """
import numpy as np
from tests.models.test_ranking_loops import SIZES, by_loop, case, expected
for sizes in SIZES.values():
    given = case(*sizes, width=11)
    np.testing.assert_allclose(by_loop(*given), expected(*given), rtol=2e-5, atol=2e-5)
"""


def test_scores_on_a_processor_with_small_registers(tmp_path):
    other = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", OTHER], check=True, env=os.environ | other)
