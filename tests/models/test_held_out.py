from dataclasses import replace

import numpy as np
import pytest

from batchrec.models import held_out
from batchrec.models.held_out import HeldOut, best_items, hold_out
from tests.models.support import make_events

LOG = make_events([[0, 1, 2, 3], [4], [5, 6]])


def test_each_user_is_held_out_from_one_moment_on():
    target = HeldOut.of(LOG, np.array([False, False, True, True, False, False, True]))
    assert target.moments.tolist() == [2, 6]
    assert target.wanted.tolist() == [[0, 2], [0, 3], [1, 6]]
    assert target.seen.tolist() == [[0, 0], [0, 1], [1, 5]]


def test_a_user_without_a_history_is_left_out():
    held = np.array([True, True, True, True, True, False, True])
    assert HeldOut.of(LOG, held).moments.tolist() == [6]


@pytest.mark.parametrize(("most", "expected"), [(10, 10), (1000, 25)])
def test_half_the_users_at_most_are_held_out(monkeypatch, most, expected):
    monkeypatch.setattr(held_out, "MOST_USERS", most)
    log = make_events([[user, user + 1] for user in range(50)])
    held = hold_out(log, seed=3)
    assert held.sum() == expected
    assert not held[::2].any()
    assert np.array_equal(held, hold_out(log, seed=3))
    assert not np.array_equal(held, hold_out(log, seed=4))


def test_users_who_return_are_held_out_from_one_moment_on():
    n_users = 100
    log = make_events([range(10)] * n_users)
    log = replace(log, time=np.tile(np.arange(10), n_users) * n_users + log.user)
    held = hold_out(log, seed=0)
    assert held.sum() == n_users // 2
    assert log.time[held].min() > 9 * n_users - 1
    assert np.all(log.item[held] == 9)


def test_where_few_return_the_end_of_each_history_is_held_out():
    # Users come one after the other, ten events each; only every tenth comes back, at the very end.
    n_users = 100
    log = make_events([range(11) if user % 10 == 0 else range(10) for user in range(n_users)])
    rank, _ = log.ranks()
    time = np.where(rank < 10, 10 * log.user + rank, 10 * n_users + log.user)
    held = hold_out(replace(log, time=time), seed=0)
    assert len(np.unique(log.user[held])) == n_users // 2
    assert np.array_equal(log.user[held], np.sort(log.user[held]))
    for user in np.unique(log.user[held]):
        mine = held[log.user == user]
        assert mine.sum() <= 0.3 * len(mine) + 0.5
        assert mine[-1]
        assert np.all(np.diff(mine.astype(int)) >= 0)


def test_ndcg_by_hand():
    target = HeldOut(np.array([0, 5]), wanted=np.array([[0, 7], [0, 8], [1, 9]]), seen=np.zeros((0, 2), np.int64))
    lists = np.array([[1, 7, 2, 3, 8, 4, 5, 6, 10, 11], [9, *range(9)]])
    # User 0: hits at places 2 and 5 of the two best possible; user 1: the only one at place 1.
    first = (1 / np.log2(3) + 1 / np.log2(6)) / (1 + 1 / np.log2(3))
    assert target.ndcg(lists) == pytest.approx((first + 1) / 2)


def test_ndcg_stops_at_ten_places_and_counts_no_missing_item():
    target = HeldOut(np.array([0, 5]), wanted=np.array([[0, 7], [1, 0]]), seen=np.zeros((0, 2), np.int64))
    lists = np.array([[*range(10, 20), 7], [-1] * 11])
    assert target.ndcg(lists) == 0


def test_ndcg_of_many_wanted_items_is_one_where_all_ten_places_hit():
    wanted = np.stack([np.zeros(30, np.int64), np.arange(30)], axis=1)
    assert HeldOut(np.array([3]), wanted, wanted[:0]).ndcg(np.arange(10, 20)[None]) == pytest.approx(1)


@pytest.mark.parametrize("block", [1, 3, 1000])
def test_best_items_are_those_of_a_full_sort(monkeypatch, block):
    random = np.random.default_rng(0)
    queries, items = random.normal(size=(7, 4)).astype(np.float32), random.normal(size=(20, 4)).astype(np.float32)
    monkeypatch.setattr(held_out, "SCORES_AT_ONCE", block * len(items))
    rows, columns = np.nonzero(random.random((7, 20)) < 0.3)
    hidden = np.stack([rows, columns], axis=1)
    found = best_items(queries, items, hidden, 6)
    for row in range(7):
        allowed = [i for i in range(20) if (row, i) not in set(map(tuple, hidden.tolist()))]
        expected = sorted(allowed, key=lambda i: -float(queries[row] @ items[i]))[:6]
        assert found[row].tolist() == expected


def test_rows_with_fewer_items_left_are_padded():
    queries, items = np.ones((2, 1), np.float32), np.array([[3], [1], [2]], np.float32)
    assert best_items(queries, items, np.array([[1, 0], [1, 2]]), 9).tolist() == [[0, 2, 1], [1, -1, -1]]
