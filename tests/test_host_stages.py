import numpy as np
import pytest

from batchrec import host_stages
from batchrec.arrays import Ragged
from batchrec.errors import ConfigError
from batchrec.host_stages import anti_join, first_kept
from batchrec.stages import retrieve
from batchrec.stages import sample as stage
from batchrec.stages.anti_join import anti_join as array_anti_join
from tests.stages import reference

K, TEMPERATURE, SEED = 3, 2.0, 5


def ragged(lists):
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in lists])]).astype(np.int64)
    return Ragged(offsets, np.array([item for one in lists for item in one], np.int64))


def case(seed, rows, catalogue, depth):
    random = np.random.default_rng(seed)
    hits = np.full((rows, depth), -1, np.int64)
    for row, found in enumerate(random.integers(0, min(depth, catalogue) + 1, rows)):
        hits[row, :found] = random.choice(catalogue, found, replace=False)
    # Some outside the catalogue, some twice.
    seen = [random.integers(-2, catalogue + 2, random.integers(0, catalogue)).tolist() for _ in range(rows)]
    return hits, seen, random.random(catalogue) < 0.8


@pytest.mark.parametrize(("rows", "catalogue", "depth"), [(23, 30, 12), (40, 5, 5), (1, 1, 1), (9, 200, 150)])
def test_what_is_kept_is_real_eligible_and_unseen(rows, catalogue, depth):
    hits, seen, eligible = case(rows, rows, catalogue, depth)
    kept = anti_join(hits, ragged(seen), eligible)
    assert kept.dtype == np.bool_
    assert kept.tolist() == reference.anti_join(hits.tolist(), seen, eligible.tolist())


@pytest.mark.parametrize(("rows", "catalogue", "depth", "width"), [(30, 60, 20, 7), (3, 9, 9, 9)])
def test_the_same_bytes_as_the_stages(rows, catalogue, depth, width):
    hits, seen, eligible = case(rows, rows, catalogue, depth)
    kept = anti_join(hits, ragged(seen), eligible)
    assert kept.tobytes() == array_anti_join(hits, ragged(seen), eligible).tobytes()
    scores = -np.sort(np.random.default_rng(1).normal(size=hits.shape).astype(np.float32))
    for found, expected in zip(
        first_kept(scores, hits, kept, width), retrieve.first_kept(scores, hits, kept, width), strict=True
    ):
        assert found.dtype == expected.dtype
        assert found.tobytes() == expected.tobytes()


def test_marks_of_one_user_do_not_reach_the_next():
    kept = anti_join(np.array([[0, 1], [0, 1], [1, 0]]), ragged([[0], [], [1, 1]]), np.ones(2, bool))
    assert kept.tolist() == [[False, True], [True, True], [False, True]]


def test_nobody_and_nothing_found():
    assert anti_join(np.zeros((0, 4), np.int64), ragged([]), np.ones(3, bool)).shape == (0, 4)
    assert anti_join(np.zeros((2, 0), np.int64), ragged([[0], []]), np.ones(3, bool)).shape == (2, 0)
    assert anti_join(np.full((1, 2), -1), ragged([[-1]]), np.zeros(0, bool)).tolist() == [[False, False]]


@pytest.mark.parametrize("width", [1, 3, 8])
def test_the_first_kept_hits_come_in_their_order(width):
    random = np.random.default_rng(width)
    hits, is_kept = random.integers(0, 99, (17, 8)), random.random((17, 8)) < 0.5
    scores = random.random((17, 8)).astype(np.float32)
    found = first_kept(scores, hits, is_kept, width)
    assert (found.positions.dtype, found.scores.dtype) == (np.int64, np.float32)
    for row in range(17):
        columns = [column for column in range(8) if is_kept[row, column]][:width]
        short = width - len(columns)
        assert found.positions[row].tolist() == [*hits[row, columns], *[-1] * short]
        assert found.scores[row].tolist() == [*scores[row, columns], *[-np.inf] * short]


def candidates(rows, width=6, items=50):
    random = np.random.default_rng(rows)
    positions = np.array([random.choice(items, width, replace=False) for _ in range(rows)], np.int64).reshape(-1, width)
    positions[: rows // 3, width // 2 :] = -1
    relevance = random.normal(size=positions.shape).astype(np.float32)
    hashes = random.integers(0, 2**63, rows + items).astype(np.uint64)
    return relevance, positions, hashes[:rows], hashes[rows:]


@pytest.mark.parametrize("temperature", [TEMPERATURE, float("inf")])
@pytest.mark.parametrize("rows", [0, 1, 4, 5, 13])
def test_pieces_change_nothing(monkeypatch, rows, temperature):
    monkeypatch.setattr(host_stages, "USERS_A_PIECE", 4)
    given = (*candidates(rows), K, temperature, SEED)
    for found, expected in zip(host_stages.sample(*given), stage.sample(*given), strict=True):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("rows", [0, 2])
def test_a_temperature_of_zero_is_refused(rows):
    with pytest.raises(ConfigError, match="temperature"):
        host_stages.sample(*candidates(rows), K, 0.0, SEED)
