import numpy as np
import pytest

from batchrec.models.events import histories, tail
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


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9, 1.0])
def test_a_tail_is_the_last_share_of_every_user(share):
    marked = tail(LOG, share)
    for user in range(3):
        mine = marked[LOG.user == user]
        expected = min(round(len(mine) * share), len(mine) - 1)
        assert mine.tolist() == [False] * (len(mine) - expected) + [True] * expected


def test_taking_events_takes_their_features():
    log = make_events([[5, 3], [1]], user_features={"age": np.array([7, 8, 9], np.int32)})
    taken = log.take(np.array([True, False, True]))
    assert taken.item.tolist() == [5, 1]
    assert taken.user_features["age"].tolist() == [7, 9]
