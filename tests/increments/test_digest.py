"""Digests: another one for every other value, the same for the same, whoever stands beside."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from batchrec.arrays import Ragged
from batchrec.increments.digest import items_fingerprint, user_digests
from batchrec.pipeline import Users

ROW = st.tuples(st.booleans(), st.integers(0, 2), st.sampled_from([0.0, 1.5]), st.lists(st.integers(-1, 2), max_size=3))


def digests(rows):
    found, codes, numbers, seen = zip(*rows, strict=True)
    lengths = [len(items) for items in seen]
    users = Users(
        {"code": np.array(codes, np.int32)},
        {"number": np.array(numbers, np.float32)},
        Ragged(
            np.concatenate([[0], np.cumsum(lengths)]), np.array([item for items in seen for item in items], np.int64)
        ),
        np.zeros(len(rows), np.uint64),
    )
    return user_digests(users, np.array(found)).to_pylist()


@given(st.lists(ROW, min_size=1, max_size=30))
def test_rows_and_digests_are_equal_together(rows):
    made = digests(rows)
    assert all(len(one) == 16 for one in made)
    keys = [(found, code, number, tuple(seen)) for found, code, number, seen in rows]
    assert len(set(made)) == len(set(keys))
    assert dict(zip(keys, made, strict=True)) == {key: digests([row])[0] for key, row in zip(keys, rows, strict=True)}


def test_items():
    inputs = {"a": np.array([1, 2], np.int32), "b": np.array([0.5, 0.0], np.float32)}
    eligible = np.array([True, False])
    same = items_fingerprint(dict(reversed(inputs.items())), eligible.copy())
    assert items_fingerprint(inputs, eligible) == same
    others = [
        (inputs, ~eligible),
        (inputs | {"a": np.array([2, 1], np.int32)}, eligible),
        ({"a": inputs["a"], "c": inputs["b"]}, eligible),
        (inputs | {"a": inputs["a"].view(np.float32)}, eligible),
    ]
    assert same not in {items_fingerprint(*other) for other in others}
