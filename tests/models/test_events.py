from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from batchrec.models.events import after_pause, histories
from tests.models.support import make_events

LOG = make_events([[5, 3, 4], [1], [2, 0, 1, 3]])


def test_starts_and_ranks():
    assert LOG.starts().tolist() == [0, 3, 4]
    rank, length = LOG.ranks()
    assert rank.tolist() == [0, 1, 2, 0, 0, 1, 2, 3]
    assert length.tolist() == [3, 3, 3, 1, 4, 4, 4, 4]


def test_a_history_is_what_one_user_did_before_newest_last():
    assert histories(LOG, np.array([0, 2, 3, 7]), 2).tolist() == [[-1, -1], [0, 1], [-1, -1], [5, 6]]


def test_a_history_longer_than_asked_for_is_cut_at_its_old_end():
    assert histories(LOG, np.array([7]), 1).tolist() == [[6]]


def timed(*times):
    """Return one user's events at these times."""
    log = make_events([range(len(times))])
    return replace(log, time=np.array(times, np.int64))


def test_the_end_of_a_history_begins_after_its_longest_late_pause():
    log = timed(0, 100, 101, 102, 103, 120, 121, 125, 126, 127)
    assert np.flatnonzero(after_pause(log, 0.3)).tolist() == [7, 8, 9]
    assert np.flatnonzero(after_pause(log, 0.5)).tolist() == [5, 6, 7, 8, 9]
    assert np.flatnonzero(after_pause(log, 1.0)).tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9]


def test_of_equal_pauses_the_last_counts():
    assert np.flatnonzero(after_pause(timed(*range(10)), 0.3)).tolist() == [9]


def test_a_user_with_one_event_has_no_end_and_one_with_two_has_one():
    log = make_events([[3], [1, 2], [4]])
    assert after_pause(log, 0.3).tolist() == [False, False, True, False]


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=12), min_size=1, max_size=6), st.floats(0.05, 1))
def test_every_end_is_a_tail_of_at_most_the_share_of_a_user(pauses, share):
    times = [np.cumsum(gaps) for gaps in pauses]
    log = replace(make_events([range(len(one)) for one in times]), time=np.concatenate(times))
    marked = after_pause(log, share)
    for user, one in enumerate(times):
        mine = marked[log.user == user].tolist()
        held = sum(mine)
        assert mine == [False] * (len(mine) - held) + [True] * held
        assert held == (0 if len(one) == 1 else held)
        assert held < len(one)
        assert held <= max(1, round(len(one) * share))


def test_taking_events_takes_their_features():
    log = make_events([[5, 3], [1]], user_features={"age": np.array([7, 8, 9], np.int32)})
    taken = log.take(np.array([True, False, True]))
    assert taken.item.tolist() == [5, 1]
    assert taken.user_features["age"].tolist() == [7, 9]
