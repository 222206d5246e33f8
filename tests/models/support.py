"""Small worlds for the tests of models, and what they should find in them."""

import numpy as np

from batchrec.models.events import Events, ItemRows
from batchrec.models.towers import TowerShape


def make_events(histories, *, user_features=None, item_row=None):
    """Events of users numbered from 0, one item history each; times count up over all events."""
    user = np.repeat(np.arange(len(histories)), [len(items) for items in histories])
    item = np.concatenate([np.asarray(items, np.int64) for items in histories])
    time = np.arange(len(item), dtype=np.int64)
    return Events(user, time, item, item if item_row is None else item_row, user_features or {})


def make_items(n_items, **features):
    """One version of each item."""
    return ItemRows(np.arange(n_items), features)


def small_shape(n_items, *, user=None, item=None, history=8, **sizes):
    """Return the sizes of towers that train in a moment."""
    sizes = {"dimension": 16, "blocks": 1, "dropout": 0.0} | sizes
    return TowerShape(n_items, user or {}, item or {}, (), (), history=history, **sizes)


def cycles(n_users, n_items, length, seed):
    """Histories that walk around a circle of items: what comes next is certain, yet every item is equally popular."""
    random = np.random.default_rng(seed)
    start = random.integers(0, n_items, n_users)
    return [(begin + np.arange(length)) % n_items for begin in start]


def exact_top(queries, embeddings, depth):
    """Top positions of each query by plain multiplication in float64."""
    scores = queries.astype(np.float64) @ embeddings.astype(np.float64).T
    return np.argsort(-scores, axis=1, kind="stable")[:, :depth], scores
