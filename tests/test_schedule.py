"""The schedule, played through against a clock of the test's own, at speeds that the test decides."""

import math
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec.deadline import Deadline
from batchrec.levels import levels
from batchrec.output.record import PartRecord
from batchrec.pipeline import Options
from batchrec.schedule import Schedule
from batchrec.worker import Outcome

STEPS = levels(Options(100, 10, 20.0, 0, "ranker"))
NAMES = ["full", "candidates 50", "candidates 25", "candidates 12", "retrieval 12"]
PAIRS = {"full": 100, "candidates 50": 50, "candidates 25": 25, "candidates 12": 12, "retrieval 12": 0}
THREADS = 2
USERS = 1000


def played(seconds, partitions, a_user, a_pair, *, popular=0.0, after=0.0, margin=0.0):
    """Play a run; return the level of each partition that was done in time, and when all of them were.

    A partition takes `a_user(n)` seconds a user and `a_pair` a pair, for the n-th that is begun; the threads do not
    disturb each other.
    """
    now = [0.0]
    deadline = Deadline(datetime.now(UTC), seconds, margin)
    sizes = dict.fromkeys(range(partitions), USERS)
    schedule = Schedule(deadline, STEPS, sizes, popular, lambda: after, clock=lambda: now[0])
    tasks = schedule.tasks("night", THREADS)
    running, done, begun = [], {}, 0
    while True:
        while len(running) < THREADS and (task := next(tasks, None)) is not None:
            number, place = task
            user, pairs = USERS * a_user(begun), USERS * PAIRS[STEPS[place].name] * a_pair
            running.append((now[0] + user + pairs, number, {"read features": user, "rank": pairs}))
            begun += 1
        if not running:
            return done, schedule.left_over(), now[0]
        first = min(running)
        if first[0] > schedule.until():
            return done, schedule.left_over(), max(now[0], schedule.until())
        running.remove(first)
        now[0], number, took = first
        part = PartRecord(f"part-{number:05d}.parquet", USERS, 1, "")
        done[number] = schedule.done(Outcome(number, part, USERS, {}, took)).name


def test_the_steps():
    assert [step.name for step in STEPS] == NAMES
    assert [step.name for step in levels(Options(30, 10, 1.0, 0, "retrieval"))] == [
        "full", "candidates 15", "candidates 10"
    ]  # fmt: skip
    assert [step.name for step in levels(Options(10, 10, 1.0, 0, "ranker"))] == ["full", "retrieval 10"]


def test_with_time_enough_all_are_made_as_was_asked_for():
    # 40 partitions of 1,000 users take 3 s each on 2 threads: 60 s.
    done, left_over, ended = played(70, 40, lambda n: 0.001, 0.00002)
    assert set(done.values()) == {"full"}
    assert not left_over
    assert ended == pytest.approx(60)


def test_where_half_the_candidates_fit_half_are_taken():
    # Half the candidates take 2 s a partition: 40 s in all, and 44 with the headroom; all of them 60.
    done, left_over, ended = played(46, 40, lambda n: 0.001, 0.00002)
    levels_used = list(done.values())
    assert levels_used[:2] == ["full", "full"], "nothing is known when the first two begin"
    assert not left_over
    assert levels_used.count("candidates 50") > 25
    assert ended <= 46


def test_what_does_not_fit_at_all_is_left_over_and_differs_from_night_to_night():
    done, left_over, ended = played(10, 40, lambda n: 0.001, 0.00002)
    assert set(done.values()) == {"full", "retrieval 12"}
    assert len(done) + len(left_over) == 40
    assert len(done) > 10
    assert ended <= 10
    assert left_over != list(range(len(done), 40))


def test_it_goes_up_again_when_there_is_time_again():
    # The first four partitions take ten times as long: a store that wakes up.
    done, left_over, _ = played(100, 40, lambda n: 0.01 if n < 4 else 0.001, 0.00002)
    order = list(done.values())
    assert order[2:6] == ["retrieval 12"] * 4
    assert order.count("full") > 30
    assert not left_over


def test_nothing_is_begun_when_there_is_no_time():
    done, left_over, ended = played(3, 5, lambda n: 0.001, 0.0, after=3.5)
    assert (done, left_over, ended) == ({}, [0, 1, 2, 3, 4], 0)


def test_what_hangs_is_given_up_in_time_for_all_that_comes_after():
    done, left_over, ended = played(100, 10, lambda n: math.inf if n >= 4 else 0.001, 0.0, popular=0.001, after=20)
    assert len(done) == 4
    assert len(left_over) == 6
    # 20 s for what comes after, 6,000 users at a millisecond and a tenth.
    assert ended == pytest.approx(100 - 20 - 6.6)


@settings(max_examples=200, deadline=None)
@given(
    seconds=st.floats(0.5, 200), partitions=st.integers(1, 60), pair=st.floats(0, 1e-4), popular=st.floats(0, 1e-4),
    speeds=st.lists(st.floats(1e-5, 0.1), min_size=1, max_size=60), after=st.floats(0, 20), margin=st.floats(0, 5),
)  # fmt: skip
def test_it_is_never_late_whatever_the_store_does(seconds, partitions, pair, popular, speeds, after, margin):
    done, left_over, ended = played(
        seconds, partitions, lambda n: speeds[n % len(speeds)], pair, popular=popular, after=after, margin=margin
    )
    assert sorted([*done, *left_over]) == list(range(partitions)), "each partition is made once, or left over"
    if done:
        assert ended + popular * USERS * len(left_over) + after <= seconds - margin + 1e-6
