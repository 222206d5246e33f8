import math

import numpy as np
import pytest

from batchrec.stages import retrieve as module
from batchrec.stages.anti_join import anti_join
from batchrec.stages.retrieve import retrieve
from tests.stages import reference
from tests.stages.support import ragged, same


class ExactSearch:
    """Inner product over a small catalogue; of equal scores at the end of a row, the highest positions are found."""

    def __init__(self, xp, items, found_at_most=None):
        self.xp, self.items, self.calls = xp, items, []
        self.found_at_most = found_at_most

    def __call__(self, queries, depth):
        queries = np.asarray(queries)
        self.calls.append((queries.shape[0], depth))
        dense = queries @ self.items.T
        hits = np.argsort(-dense[:, ::-1], axis=1, kind="stable")
        hits = (self.items.shape[0] - 1 - hits)[:, : min(depth, self.found_at_most or depth)]
        scores = np.take_along_axis(dense, hits, axis=1)
        hits = np.take_along_axis(hits, np.lexsort((hits, -scores), axis=-1), axis=1)
        scores = np.take_along_axis(dense, hits, axis=1)
        room = ((0, 0), (0, depth - hits.shape[1]))
        return (
            self.xp.asarray(np.pad(scores, room, constant_values=-np.inf)),
            self.xp.asarray(np.pad(hits, room, constant_values=-1)),
        )


class Case:
    """Users with small integer embeddings, so that scores are exact and many tie; lists of seen items of any length."""

    def __init__(self, xp, rows, catalogue, seed, values=3):
        random = np.random.default_rng(seed)
        self.xp = xp
        self.queries = random.integers(-values, values + 1, (rows, 2)).astype(np.float32)
        self.items = random.integers(-values, values + 1, (catalogue, 2)).astype(np.float32)
        self.seen = [
            sorted(map(int, random.choice(catalogue, random.integers(0, catalogue + 1), replace=False)))
            for _ in range(rows)
        ]
        self.eligible = random.random(catalogue) < 0.9

    def keep_for(self, rows):
        seen = ragged(self.xp, [self.seen[row] for row in rows])

        def keep(positions, within):
            return anti_join(positions, seen.take(within), self.xp.asarray(self.eligible))

        return keep, seen

    def retrieve(self, width, rows=None, search=None, lengths=None):
        rows = list(range(len(self.seen))) if rows is None else rows
        search = search or ExactSearch(self.xp, self.items)
        keep, seen = self.keep_for(rows)
        n_excluded = seen.lengths if lengths is None else self.xp.asarray(lengths, dtype=self.xp.int64)
        queries = self.xp.asarray(self.queries[rows])
        return retrieve(queries, search, keep, n_excluded, width, self.items.shape[0])

    def expected(self, width):
        allowed = [
            [bool(ok) and position not in seen for position, ok in enumerate(self.eligible)] for seen in self.seen
        ]
        return reference.retrieve((self.queries @ self.items.T).tolist(), allowed, width)


def assert_expected(found, expected):
    same(found.positions, expected[0], np.int64)
    same(found.scores, expected[1], np.float32)


@pytest.mark.parametrize("width", [1, 2, 5, 16, 39, 40, 41, 100])
def test_first_eligible_unseen_items_of_an_exact_search(xp, width):
    case = Case(xp, rows=25, catalogue=40, seed=width)
    assert_expected(case.retrieve(width), case.expected(width))


@pytest.mark.parametrize("lengths", [[0] * 25, [40] * 25, [10**12] * 25])
def test_a_wrong_count_of_excluded_items_costs_only_time(xp, lengths):
    case = Case(xp, rows=25, catalogue=40, seed=1)
    assert_expected(case.retrieve(4, lengths=lengths), case.expected(4))


def test_ties_at_the_edge_of_a_search_go_to_the_lowest_position(xp):
    # Every item scores the same; the search finds the highest positions first.
    search = ExactSearch(xp, np.ones((9, 1), dtype=np.float32))
    found = retrieve(
        xp.asarray([[1.0]], dtype=xp.float32),
        search,
        lambda positions, rows: positions >= 0,
        xp.zeros((1,), dtype=xp.int64),
        2,
        9,
    )
    same(found.positions, [[0, 1]])
    # Of the depths 2, 3, 4, 6, 8, 12: the first that shows one item more than two, then twice as deep, and twice.
    assert search.calls == [(1, 3), (1, 6), (1, 12)]


def test_rows_of_one_depth_share_a_search_and_start_deep_enough(xp):
    items = np.arange(100, dtype=np.float32)[:, None]
    excluded = [0, 3, 4, 11, 12, 60]
    search = ExactSearch(xp, items)
    found = retrieve(
        xp.ones((6, 1), dtype=xp.float32),
        search,
        lambda positions, rows: positions < 100 - xp.take(xp.asarray(excluded), rows)[:, None],
        xp.asarray(excluded, dtype=xp.int64),
        4,
        100,
    )
    same(found.positions, [[99 - gone - place for place in range(4)] for gone in excluded])
    # Needed: 5, 8, 9, 16, 17 and 65; of the depths 4, 6, 8, 12, 16, 24 … the next. None has to go again.
    assert search.calls == [(1, 6), (1, 8), (1, 12), (1, 16), (1, 24), (1, 96)]


def test_rows_left_short_by_ineligible_items_go_again(xp):
    items = np.arange(32, dtype=np.float32)[:, None]
    search = ExactSearch(xp, items)
    found = retrieve(
        xp.ones((2, 1), dtype=xp.float32),
        search,
        lambda positions, rows: (rows[:, None] == 0) | (positions < 20),
        xp.zeros((2,), dtype=xp.int64),
        2,
        32,
    )
    same(found.positions, [[31, 30], [19, 18]])
    # The second user's best are the 13th and 14th: a depth of 12 shows none of them, the next double both.
    assert search.calls == [(2, 3), (1, 6), (1, 12), (1, 24)]


def test_a_search_that_runs_dry_is_not_asked_again(xp):
    items = np.arange(64, dtype=np.float32)[:, None]
    search = ExactSearch(xp, items, found_at_most=3)
    found = retrieve(
        xp.ones((1, 1), dtype=xp.float32),
        search,
        lambda positions, rows: positions != 62,
        xp.zeros((1,), dtype=xp.int64),
        4,
        64,
    )
    same(found.positions, [[63, 61, -1, -1]])
    same(found.scores, [[63.0, 61.0, -math.inf, -math.inf]])
    assert len(search.calls) == 1


def test_a_user_who_has_seen_everything_gets_nothing(xp):
    case = Case(xp, rows=3, catalogue=20, seed=2)
    case.seen[1] = list(range(20))
    found = case.retrieve(5)
    same(found.positions[1, :], [-1] * 5)
    same(found.scores[1, :], [-math.inf] * 5)


@pytest.mark.parametrize("rows", [[0], [24, 3], [7, 7, 8], list(reversed(range(25)))])
def test_a_row_does_not_depend_on_the_rows_around_it(xp, rows):
    case = Case(xp, rows=25, catalogue=40, seed=11)
    whole, part = case.retrieve(4), case.retrieve(4, rows=rows)
    same(part.positions, np.asarray(whole.positions)[rows])
    same(part.scores, np.asarray(whole.scores)[rows])


def test_searches_are_cut_to_a_bounded_size(xp, monkeypatch):
    monkeypatch.setattr(module, "HITS_PER_SEARCH", 100)
    case = Case(xp, rows=60, catalogue=40, seed=4)
    search = ExactSearch(xp, case.items)
    assert_expected(case.retrieve(3, search=search), case.expected(3))
    sizes = [(rows, 2 ** int(math.log2(100 / depth))) for rows, depth in search.calls]
    assert all(rows <= largest for rows, largest in sizes)
    assert any(rows == largest > 1 for rows, largest in sizes)


@pytest.mark.parametrize(("rows", "width"), [(0, 3), (2, 0), (0, 0)])
def test_empty_shapes_search_nothing(xp, rows, width):
    search = ExactSearch(xp, np.ones((4, 2), dtype=np.float32))
    case = Case(xp, rows=2, catalogue=4, seed=0)
    found = case.retrieve(width, rows=list(range(rows)), search=search)
    assert found.positions.shape == found.scores.shape == (rows, width)
    assert (found.positions.dtype, found.scores.dtype) == (xp.int64, xp.float32)
    assert not search.calls
