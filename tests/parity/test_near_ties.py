"""The helper itself: what it lets pass, and what not."""

import numpy as np
import pytest

from tests.parity.near_ties import same_lists

ITEMS = np.array([[4, 7, 2], [5, 1, -1]])
KEYS = np.array([[3.0, 2.0, 1.0], [9.0, 8.0, -np.inf]])
EPSILON = 1e-6


def changed(array, *changes):
    array = array.copy()
    for place, value in changes:
        array[place] = value
    return array


def test_the_same():
    same_lists(ITEMS, ITEMS, KEYS, KEYS)


def test_a_near_tie_in_another_order():
    keys = changed(KEYS, ((0, 1), 3.0 - EPSILON))
    same_lists(changed(ITEMS, ((0, 0), 7), ((0, 1), 4)), ITEMS, keys, keys)


def test_another_item_as_good_as_the_last():
    same_lists(changed(ITEMS, ((0, 2), 8)), ITEMS, changed(KEYS, ((0, 2), 1.0 + EPSILON)), KEYS)


@pytest.mark.parametrize(
    ("items", "keys"),
    [
        (changed(ITEMS, ((0, 0), 7), ((0, 1), 4)), changed(KEYS, ((0, 0), 2.0), ((0, 1), 3.0))),
        (changed(ITEMS, ((0, 0), 8)), KEYS),
        (ITEMS, changed(KEYS, ((0, 1), 2.001))),
        (changed(ITEMS, ((1, 1), -1)), changed(KEYS, ((1, 1), -np.inf))),
        (changed(ITEMS, ((1, 2), 3)), changed(KEYS, ((1, 2), 7.0))),
    ],
    ids=["order", "another item above", "another score", "an item less", "an item more"],
)
def test_a_difference(items, keys):
    with pytest.raises(AssertionError):
        same_lists(items, ITEMS, keys, KEYS)
