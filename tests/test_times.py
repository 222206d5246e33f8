"""Times and durations as people type them."""

from datetime import UTC, datetime, time, timedelta, timezone

import pytest

from batchrec.times import duration_of, moment_of, shown_duration

NOW = datetime(2026, 3, 10, 22, 30, tzinfo=UTC)


@pytest.fixture(autouse=True)
def in_a_zone(monkeypatch):
    """Live two hours east of Greenwich, without summer time: here it is 00:30 of the next day."""
    import time as clock

    monkeypatch.setenv("TZ", "XXX-2")
    clock.tzset()
    yield
    monkeypatch.undo()
    clock.tzset()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90m", 5400), ("1h30m", 5400), ("5400s", 5400), ("5400", 5400), ("1.5h", 5400), ("1H 30M", 5400), ("2h5s", 7205)],
)
def test_durations(text, seconds):
    assert duration_of(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "m", "90 minutes", "30m1h", "-5m", "1:30", "nan"])
def test_what_is_no_duration(text):
    with pytest.raises(ValueError, match="such as 90m, 1h30m or 5400s"):
        duration_of(text)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("04:00", datetime(2026, 3, 11, 2, tzinfo=UTC)),
        ("00:31", datetime(2026, 3, 10, 22, 31, tzinfo=UTC)),
        ("00:30", datetime(2026, 3, 11, 22, 30, tzinfo=UTC)),
        ("23:00:30", datetime(2026, 3, 11, 21, 0, 30, tzinfo=UTC)),
        ("04:00+00:00", datetime(2026, 3, 11, 4, tzinfo=UTC)),
        (time(4), datetime(2026, 3, 11, 2, tzinfo=UTC)),
        ("2026-03-11T04:00", datetime(2026, 3, 11, 2, tzinfo=UTC)),
        ("2026-03-11 04:00Z", datetime(2026, 3, 11, 4, tzinfo=UTC)),
        ("2026-03-01T04:00", datetime(2026, 3, 1, 2, tzinfo=UTC)),
        (datetime(2026, 3, 11, 4, tzinfo=timezone(timedelta(hours=5))), datetime(2026, 3, 10, 23, tzinfo=UTC)),
    ],
)
def test_moments(given, expected):
    assert moment_of(given, NOW) == expected


@pytest.mark.parametrize("text", ["", "4", "4 o'clock", "25:00", "tomorrow"])
def test_what_is_no_moment(text):
    with pytest.raises(ValueError, match="such as 04:00"):
        moment_of(text, NOW)


@pytest.mark.parametrize(
    ("seconds", "shown"), [(8.24, "8.2 s"), (250, "4 min 10 s"), (5400, "1 h 30 min"), (86_399, "23 h 59 min")]
)
def test_shown_for_the_eye(seconds, shown):
    assert shown_duration(seconds) == shown
