from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec.features.snapshots import seen_snapshots

events = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 30), st.integers(0, 6)), max_size=60).map(sorted)
"""(user, time, item), in order."""


def slow_snapshots(rows: list[tuple[int, int, int]], length: int) -> list[tuple[int, int, list[int]]]:
    """For every user and stretch with events: user, time of the last one, distinct items so far."""
    expected = []
    for user in sorted({user for user, _, _ in rows}):
        own = [(time, item) for who, time, item in rows if who == user]
        for stretch in sorted({time // length for time, _ in own}):
            so_far = [(time, item) for time, item in own if time // length <= stretch]
            expected.append((user, so_far[-1][0], list(dict.fromkeys(item for _, item in so_far))))
    return expected


@settings(deadline=None)
@given(rows=events, length=st.integers(1, 12))
def test_agrees_with_a_slow_reference(rows: list[tuple[int, int, int]], length: int) -> None:
    user, time, item = (np.array([row[i] for row in rows], dtype=np.int64) for i in range(3))
    found = seen_snapshots(user, item, time // length)
    lists = [found.values[begin:end].tolist() for begin, end in zip(found.offsets[:-1], found.offsets[1:], strict=True)]
    assert list(zip(user[found.event], time[found.event], lists, strict=True)) == slow_snapshots(rows, length)


def test_takes_ids_of_any_size() -> None:
    huge = 2**62
    found = seen_snapshots(np.array([-5, -5, huge]), np.array([huge, -huge, 7]), np.array([0, 0, 0]))
    assert found.event.tolist() == [1, 2]
    assert found.offsets.tolist() == [0, 2, 3]
    assert found.values.tolist() == [huge, -huge, 7]
