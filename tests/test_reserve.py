"""What is kept free before a deadline, and questions that are not waited for beyond it."""

import threading
import time
from datetime import UTC, datetime

import pytest

from batchrec.deadline import Deadline, InTime
from batchrec.errors import FeatureError
from batchrec.output.record import PartRecord
from batchrec.reserve import Reserve

RECORD = PartRecord("part-00000.parquet", 10, 1, "")


def measured(tries, readings=1):
    """A reserve for 1,000 users that was measured on a part of 10."""
    reserve = Reserve(Deadline(datetime.now(UTC), 1000.0, 50.0), 1000, tries, readings)
    reserve.measure(RECORD, 10)
    reserve._thread.join()
    return reserve


def test_the_proof_of_one_part_tells_that_of_all():
    reserve = measured([lambda record: time.sleep(0.05), lambda record: time.sleep(0.1)], readings=2)
    assert reserve.seconds() == pytest.approx(2 * 100 * 0.1, rel=0.5)
    assert reserve.ask_until() == pytest.approx(1000 - 50 - 100 * 0.05, abs=4)


def test_the_first_round_does_not_count():
    slow = iter([0.5, 0.01])
    assert measured([lambda record: time.sleep(next(slow))]).seconds() < 20


def test_a_store_that_fails_leaves_what_was_measured_without_it():
    def fails(record):
        raise FeatureError("the store is away", "wait")

    assert measured([lambda record: time.sleep(0.01), fails]).seconds() == pytest.approx(1, rel=1)


def test_nothing_is_kept_where_nothing_is_proven():
    reserve = measured([], readings=0)
    assert (reserve.seconds(), reserve.ask_until()) == (0, 950)


def test_answers_that_come_in_time_and_errors_too():
    later = time.monotonic() + 60
    assert InTime(lambda ids: ids, lambda: later)("ids") == "ids"

    def fails(ids):
        raise FeatureError("the store is away", "wait")

    with pytest.raises(FeatureError):
        InTime(fails, lambda: later)("ids")


def test_what_does_not_come_in_time_is_none_and_not_asked_for_again():
    asked, never = [], threading.Event()

    def hangs(ids):
        asked.append(ids)
        never.wait(30)

    start = time.monotonic()
    ask = InTime(hangs, lambda: start + 0.2)
    assert ask("first") is None
    assert 0.2 <= time.monotonic() - start < 5
    assert ask("second") is None
    assert asked == ["first"]
    never.set()
