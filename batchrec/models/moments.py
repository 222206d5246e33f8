"""Moments of the log as the nightly run would have met them: what retrieval offers, and what the user then takes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from batchrec.models.held_out import best_items
from batchrec.models.ranker_training import Impressions

if TYPE_CHECKING:
    import numpy.typing as npt

    from batchrec.models.events import Events, IntArray
    from batchrec.models.serving_tower import ServingTower

CANDIDATES = 100
"""Items of retrieval among which the ranker learns to choose, as in a run."""

HORIZON = 10
"""Next events of a user that count as taken: lists are made for days ahead, not for the next click alone."""


def replay(serving: ServingTower, events: Events, most: int, seed: int) -> Impressions:
    """Go back to moments drawn at random from the log, and tell what was taken of what retrieval would have offered.

    What a user takes later than the horizon is neither positive nor negative, and a moment at which nothing offered
    was taken teaches nothing about the order of what is offered.

    Parameters
    ----------
    serving
        Trained towers.
    events
        The log.
    most
        Most moments.
    seed
        Fixes which.
    """
    rank, _ = events.ranks()
    moments = np.flatnonzero(rank > 0)
    if len(moments) > most:
        moments = np.sort(np.random.default_rng(seed).choice(moments, most, replace=False))
    impressions = impressions_at(serving, events, moments, _seen_before(events, moments))
    ahead = _rank_of(events, events.user[moments], impressions.offered) - rank[moments, None]
    taken = np.asarray((ahead >= 0) & (ahead < HORIZON))
    offered = np.where(ahead >= HORIZON, -1, impressions.offered)
    return replace(impressions, offered=offered, taken=taken).take(np.flatnonzero(taken.any(axis=1)))


def impressions_at(serving: ServingTower, events: Events, moments: IntArray, seen: IntArray) -> Impressions:
    """Retrieve for users as they stood just before some of their events; nothing is marked as taken.

    Parameters
    ----------
    serving
        Trained towers.
    events, moments
        The log, and (n,) indices into it.
    seen
        (pairs, 2) int64: row in ``moments`` and item position that must not be offered, sorted by row.
    """
    queries = serving.embed_moments(events, moments)
    offered = best_items(queries, serving.item_embeddings, seen, CANDIDATES)
    return Impressions(
        offered=offered,
        taken=np.zeros(offered.shape, bool),
        queries=queries,
        user_features={name: column[moments] for name, column in events.user_features.items()},
        time=events.time[moments],
    )


def _seen_before(events: Events, moments: IntArray) -> IntArray:
    """Pairs (row, item) of what each moment's user had taken before it."""
    rank, _ = events.ranks()
    lengths = rank[moments]
    row = np.repeat(np.arange(len(moments)), lengths)
    event = np.arange(lengths.sum()) + np.repeat(moments - np.cumsum(lengths), lengths)
    return np.stack([row, events.item[event]], axis=1)


def _rank_of(events: Events, user: IntArray, items: IntArray) -> npt.NDArray[np.int64]:
    """Place of each item (n, K) in its row's user's history; far below 0 for what the user never took."""
    never = -(1 << 40)
    scale = int(max(events.item.max(initial=0), items.max(initial=0))) + 1
    key = events.user * scale + events.item
    order = np.argsort(key, kind="stable")
    wanted = user[:, None] * scale + items
    found = order[np.minimum(np.searchsorted(key[order], wanted), len(key) - 1)]
    rank, _ = events.ranks()
    return np.where((items >= 0) & (key[found] == wanted), rank[found], never)
