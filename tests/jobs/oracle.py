"""What can be had on the demo data at most, by an oracle that knows everything planted, and what popularity gets.

``PYTHONPATH=jobs:. python -m tests.jobs.oracle --users 6000`` prints both.
"""

from __future__ import annotations

import argparse

import numpy as np
from demo_data import USERS_PER_CHUNK, first_clicks_after
from demo_world import (
    CLICKS_PER_USER,
    COMPLEMENT,
    DAY,
    EXPLORE,
    FRESH,
    INTEREST_WEIGHTS,
    SAME,
    SHELVES,
    Clicks,
    Population,
    World,
    favourite_bonus,
    make_world,
    population,
    shelf_utility,
)

SESSIONS_AHEAD = 3


def recall(scores: np.ndarray, seen: np.ndarray, held: np.ndarray, k: int = 10) -> np.ndarray:
    """Recall@k of every user with something held out; all ``(n, N)``, scores also ``(N,)``."""
    ranked = np.argsort(-np.where(seen, -np.inf, scores), axis=1, kind="stable")[:, :k]
    hits = np.take_along_axis(held, ranked, axis=1).sum(axis=1)
    some = held.any(axis=1)
    return hits[some] / held[some].sum(axis=1)


def oracle_scores(world: World, population: Population, past: Clicks, cutoff: int) -> np.ndarray:
    """Return P(click on an item) averaged over the next sessions by the interests at the cut-off, ``(n, N)``."""
    users, interests, _ = population
    n, everyone = users.user_id.size, np.arange(users.user_id.size)
    week = np.minimum(users.week(everyone, np.full(n, cutoff)), interests.category.shape[1] - 1)
    row, category = np.repeat(everyone, world.categories), np.tile(np.arange(world.categories), n)
    plain = softmax(shelf_utility(world, users, row, category)).reshape(n, world.categories, SHELVES)
    afresh = EXPLORE * np.diff(world.category_cumulative, prepend=0)[:, None] * plain
    for slot, weight in enumerate(INTEREST_WEIGHTS):
        of_slot, favourite = interests.category[everyone, week, slot], interests.favourite[everyone, week, slot]
        utility = shelf_utility(world, users, everyone, of_slot) + favourite_bonus(world, favourite, of_slot)
        afresh[everyone, of_slot] += weight * softmax(utility)
    now = np.zeros((n, world.categories))
    final = np.r_[past.row[1:] != past.row[:-1], np.ones(min(1, past.row.size), dtype=bool)]
    now[past.row[final], world.item_shelf[past.item[final]] // SHELVES] = 1
    by_category = afresh.sum(axis=2)
    by_shelf = np.zeros_like(afresh)
    for _ in range(SESSIONS_AHEAD):
        complement = np.zeros_like(now)
        complement[:, world.complement] = now
        by_shelf += FRESH * afresh + COMPLEMENT * complement[:, :, None] * plain
        by_shelf += SAME * now[:, :, None] * afresh / by_category[:, :, None]
        now = FRESH * by_category + SAME * now + COMPLEMENT * complement
    return by_shelf.reshape(n, -1)[:, world.item_shelf] * popularity_on_shelf(world)


def popularity_on_shelf(world: World) -> np.ndarray:
    """Return P(item | its shelf), ``(N,)``."""
    shelf = world.item_shelf[world.shelf_items]
    up_to = world.shelf_cumulative - shelf
    before = np.where(np.r_[True, shelf[1:] != shelf[:-1]], 0, np.r_[0, up_to[:-1]])
    on_shelf = np.empty(shelf.size)
    on_shelf[world.shelf_items] = up_to - before
    return on_shelf


def softmax(utility: np.ndarray) -> np.ndarray:
    """Softmax over the last axis."""
    weight = np.exp(utility - utility.max(axis=-1, keepdims=True))
    return weight / weight.sum(axis=-1, keepdims=True)


def figures(users: int, items: int, seed: int, days: int = 56, holdout_days: int = 7) -> dict[str, float]:
    """Return recall@10 of the oracle and of popularity, and how many users they are means over."""
    world, cutoff = make_world(items, seed), (days - holdout_days) * DAY
    chunks = [
        population(world, seed, chunk, users, days, USERS_PER_CHUNK, CLICKS_PER_USER)
        for chunk in range(-(-users // USERS_PER_CHUNK))
    ]
    count = sum(np.bincount(clicks.item[clicks.time <= cutoff], minlength=items) for _, _, clicks in chunks)
    oracle, popularity = [], []
    for drawn in chunks:
        past = drawn.clicks.where(drawn.clicks.time <= cutoff)
        future = first_clicks_after(drawn.clicks, cutoff)
        seen, held = np.zeros((2, drawn.users.user_id.size, items), dtype=bool)
        seen[past.row, past.item] = True
        held[future.row, future.item] = True
        oracle.append(recall(oracle_scores(world, drawn, past, cutoff), seen, held))
        popularity.append(recall(count, seen, held))
    means = {"oracle": np.concatenate(oracle), "popularity": np.concatenate(popularity)}
    return {name: float(values.mean()) for name, values in means.items()} | {"users": len(means["oracle"])}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--users", type=int, default=6000)
    parser.add_argument("--items", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=7)
    print(figures(**vars(parser.parse_args())))
