"""What a deadline cost: who was served with less than was asked for, and whether the run was published in time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchrec.levels import FULL
from batchrec.parts import users_by_level
from batchrec.progress import say
from batchrec.times import shown_duration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchrec.deadline import Deadline
    from batchrec.parts import FinalPart


def degraded(parts: Sequence[FinalPart], deadline: Deadline | None) -> dict[str, Any] | None:
    """Return what the manifest says of the deadline and of the parts made with less than was asked for.

    None where there is neither.
    """
    names = {part.record.name: part.level for part in parts if part.level != FULL}
    if deadline is None and not names:
        return None
    return {
        "at": None if deadline is None else deadline.utc(),
        "users_by_level": users_by_level(parts),
        "degraded_parts": names,
    }


def told(deadline: Deadline | None, published: Mapping[str, Any], ended: float) -> dict[str, Any]:
    """Say what a deadline cost and whether it was met, and return that for the summary.

    Parameters
    ----------
    deadline
        Of this attempt at the run; None where only an earlier one had any.
    published
        What :func:`degraded` returned for the manifest.
    ended
        When the run was published, by ``time.monotonic()``.
    """
    users = published["users_by_level"]
    less = {level: count for level, count in users.items() if level != FULL}
    steps = ", ".join(f"{level}: {count:,}" for level, count in less.items())
    how = f", {sum(less.values()):,} of {sum(users.values()):,} users with less than was asked for"
    how += f" ({steps})" if less else ""
    left = None if deadline is None else round(deadline.ends - ended, 1)
    if left is None:
        say(f"published without a deadline{how}, made when there was one")
    else:
        say(f"published {shown_duration(abs(left))} {'before' if left >= 0 else 'after'} the deadline{how}")
    return {"at": published["at"], "seconds_left": left, "users_by_level": users}
