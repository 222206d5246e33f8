import numpy as np

from batchrec.models import moments
from batchrec.models.moments import replay
from tests.models.support import make_events


class ScoresByItem:
    """A tower whose queries all find the items in ascending order."""

    item_embeddings = -np.arange(20, dtype=np.float32)[:, None]

    def embed_moments(self, events, ends):
        assert len(events.user) > ends.max(initial=0)
        return np.ones((len(ends), 1), np.float32)


def test_a_moment_offers_what_was_not_seen_and_marks_what_was_taken_soon(monkeypatch):
    monkeypatch.setattr(moments, "HORIZON", 2)
    monkeypatch.setattr(moments, "CANDIDATES", 5)
    log = make_events([[9, 3, 0, 2, 1], [19, 18], [4]], user_features={"age": np.arange(8, dtype=np.int32)})
    found = replay(ScoresByItem(), log, 100, seed=0)
    # Moments before events 1..4 of user 0; user 1 takes nothing of what is offered, user 2 has no history.
    assert found.time.tolist() == [1, 2, 3, 4]
    assert found.user_features["age"].tolist() == [1, 2, 3, 4]
    assert found.offered.tolist() == [
        [0, -1, -1, 3, 4],
        [0, -1, 2, 4, 5],
        [1, 2, 4, 5, 6],
        [1, 4, 5, 6, 7],
    ]
    taken = [set(row[mark].tolist()) for row, mark in zip(found.offered, found.taken, strict=True)]
    assert taken == [{3, 0}, {0, 2}, {2, 1}, {1}]


def test_no_more_moments_than_asked_for_and_the_same_by_seed():
    log = make_events([range(15)] * 4)
    one, again, other = (replay(ScoresByItem(), log, 9, seed) for seed in (1, 1, 2))
    assert len(one) == 9
    assert np.array_equal(one.time, again.time)
    assert not np.array_equal(one.time, other.time)


def test_a_log_of_single_events_has_no_moments():
    assert len(replay(ScoresByItem(), make_events([[1], [2]]), 9, 0)) == 0
