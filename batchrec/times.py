"""Times and durations as people write them on a command line: ``04:00``, ``90m``, ``1h30m``."""

from __future__ import annotations

import re
from datetime import datetime, time, timedelta

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", re.IGNORECASE)
_UNITS = (3600.0, 60.0, 1.0)


def duration_of(text: str) -> float:
    """Return the seconds that a text such as ``90m``, ``1h30m`` or ``5400s`` names; a bare number is seconds.

    Raises
    ------
    ValueError
        It names none.
    """
    bare = "".join(text.split())
    if bare and re.fullmatch(r"\d+(?:\.\d+)?", bare):
        return float(bare)
    found = _DURATION.fullmatch(bare)
    if not bare or found is None:
        raise ValueError("expected a duration such as 90m, 1h30m or 5400s")
    return sum(float(number or 0) * unit for number, unit in zip(found.groups(), _UNITS, strict=True))


def moment_of(value: str | time | datetime, now: datetime) -> datetime:
    """Return the moment that a time of day, or a date and time, names.

    Parameters
    ----------
    value
        A time of day such as ``04:00``, or a date and time in ISO 8601. Without a zone both are this machine's local
        time, as cron's are. A time of day is the next one after `now`.
    now
        The present, with a zone.

    Raises
    ------
    ValueError
        It is neither.
    """
    if isinstance(value, str):
        value = _parsed(value.strip())
    if isinstance(value, datetime):
        return value.astimezone()
    here = now.astimezone(value.tzinfo)
    for day in (here.date(), here.date() + timedelta(days=1)):
        moment = datetime.combine(day, value).astimezone()
        if moment > now:
            return moment
    raise ValueError(f"{value} does not come within a day")


def _parsed(text: str) -> time | datetime:
    for kind in (time, datetime):
        try:
            return kind.fromisoformat(text)
        except ValueError:
            continue
    raise ValueError("expected a time such as 04:00, or a date and time in ISO 8601 such as 2026-01-31T04:00+01:00")


def shown_duration(seconds: float) -> str:
    """Write a duration for the eye: ``1 h 30 min``, ``4 min 10 s``, ``8.2 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left} min" if hours else f"{minutes} min {rest} s"
