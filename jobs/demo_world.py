"""The planted world of the demo data: a catalogue, users whose interests drift, and their clicks.

An item stands on a shelf: one brand sold by one shop in one category. A session of clicks starts with a category, each
click with a shelf of that category and an item on that shelf:

- *category*: one of the user's interests; more rarely the category of the session before, the category that
  complements that one, or just a popular one. Interests drift from week to week. So the order of the history matters.
- *shelf*: softmax over the category's shelves of a utility: popularity, the user's taste (a latent vector) for the
  brand's style, a favourite brand and shop, gender by brand, and the distance between the price tier of the shop and
  the tier the user wants, which is spending level by being in work. A click tends to stay on the shelf of the click
  before, the less so the longer the session.
- *item*: Zipf's law on the shelf.

Cost depends neither on the size of the catalogue nor on the number of users drawn before: everything is drawn through
shelves, chunk by chunk, each chunk from its own counter-based random stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

DAY = 86_400
"""Times are whole seconds since the start of the click log."""
WEEK = 7 * DAY

WORLD_STREAM, USERS_STREAM = 0, 1

ITEMS_PER_CATEGORY = 50
MOST_CATEGORIES = 1000
SHELVES = 12
"""Shelves of a category; shelf ``c * SHELVES + j`` is shelf ``j`` of category ``c``."""
BRANDS_PER_CATEGORY = 6
STYLES = 6
TIERS = 4
LEAST_ITEMS = 4 * SHELVES

PROFILES = 64
PROFILE_INTERESTS = 6
INTEREST_WEIGHTS = (0.58, 0.25, 0.12)
INTERESTS = len(INTEREST_WEIGHTS)
EXPLORE = 1 - sum(INTEREST_WEIGHTS)
"""Chance that a fresh session follows no interest but the crowd."""
DRIFT = (0.10, 0.18, 0.25)
"""Chance a week that an interest is replaced."""
FRESH, SAME, COMPLEMENT = 0.60, 0.22, 0.18
"""Chances that a session's category is chosen afresh, is that of the session before, or complements that one."""

CLICKS_PER_USER, CLICKS_SPREAD = 50, 0.9
FEWEST_CLICKS, MOST_CLICKS = 3, 3000
CLICKS_PER_SESSION = 5


@dataclass(frozen=True)
class World:
    """What all users share; ``(N,)`` arrays of items, ``(C,)`` of categories, ``(C * SHELVES,)`` of shelves.

    Attributes
    ----------
    item_id_raw
        Raw ids, ascending.
    item_shelf
        The shelf an item stands on.
    category_cumulative
        Cumulative popularity of the categories.
    complement
        The category that complements a category.
    shelf_brand, shelf_shop, shelf_tier
        Brand and shop of a shelf, and the price tier of the shop.
    shelf_base
        Log popularity of a shelf within its category.
    shelf_style
        Style of the brand, ``(C * SHELVES, STYLES)``.
    shelf_lean
        Which gender the brand appeals to: -1, 0 or 1.
    shelf_items
        Item positions sorted by shelf, the most popular of a shelf first.
    shelf_cumulative
        ``s + P(this item or one before it | shelf s)``, one entry for each of ``shelf_items``, ascending.
    profile_style, profile_categories
        Typical taste ``(PROFILES, STYLES)`` and categories ``(PROFILES, PROFILE_INTERESTS)`` of a profile.
    """

    item_id_raw: np.ndarray
    item_shelf: np.ndarray
    category_cumulative: np.ndarray
    complement: np.ndarray
    shelf_brand: np.ndarray
    shelf_shop: np.ndarray
    shelf_tier: np.ndarray
    shelf_base: np.ndarray
    shelf_style: np.ndarray
    shelf_lean: np.ndarray
    shelf_items: np.ndarray
    shelf_cumulative: np.ndarray
    profile_style: np.ndarray
    profile_categories: np.ndarray

    @property
    def categories(self) -> int:
        """Number of categories."""
        return self.complement.size


class Users(NamedTuple):
    """Users, ``(n,)`` each, taste ``(n, STYLES)``. ``phase`` is when in a week a user's interests drift."""

    user_id: np.ndarray
    user_id_raw: np.ndarray
    profile: np.ndarray
    gender: np.ndarray
    age: np.ndarray
    consumption: np.ndarray
    occupied: np.ndarray
    geography: np.ndarray
    taste: np.ndarray
    joined: np.ndarray
    phase: np.ndarray

    @property
    def lean(self) -> np.ndarray:
        """Which way a gender leans, -1 or 1."""
        return (2 * self.gender - 3).astype(np.float32)

    @property
    def wanted_tier(self) -> np.ndarray:
        """The price tier a user wants; who is not in work shops two tiers lower."""
        return np.where(self.occupied == 1, self.consumption, np.maximum(self.consumption - 2, 0))

    def week(self, row: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Return the number of the user's own week a time falls in; week 1 begins at the user's phase."""
        return (time - self.phase[row] + WEEK) // WEEK


class Interests(NamedTuple):
    """What users are after, by week; the first interest is the strongest.

    ``category`` and ``favourite`` (a shelf of that category) are ``(n, weeks, INTERESTS)``; ``intention``, ``(n,
    weeks)``, is what an observer believes the category of the first interest to be.
    """

    category: np.ndarray
    favourite: np.ndarray
    intention: np.ndarray


class Clicks(NamedTuple):
    """Clicks sorted by user, time, item; ``(e,)`` each: row of the user in the chunk, item position, time."""

    row: np.ndarray
    item: np.ndarray
    time: np.ndarray

    def where(self, chosen: np.ndarray) -> Clicks:
        """Return the chosen clicks, in order."""
        return Clicks(*(column[chosen] for column in self))


class Population(NamedTuple):
    """A chunk of users with all that is drawn for them."""

    users: Users
    interests: Interests
    clicks: Clicks


def random_stream(seed: int, *key: int) -> np.random.Generator:
    """Return the counter-based random stream of a seed and a key."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, *key))))


def zipf(count: int, exponent: float) -> np.ndarray:
    """Return probabilities that fall with the rank by a power law."""
    weights = np.arange(1, count + 1) ** -exponent
    return weights / weights.sum()


def make_world(items: int, seed: int) -> World:
    """Draw a catalogue of ``items`` items, at least :data:`LEAST_ITEMS`."""
    draw = random_stream(seed, WORLD_STREAM)
    categories = int(np.clip(items // ITEMS_PER_CATEGORY, 4, MOST_CATEGORIES))
    brands, shops = max(BRANDS_PER_CATEGORY, items // 20), max(TIERS, items // 25)
    own_brands = np.stack([draw.choice(brands, BRANDS_PER_CATEGORY, replace=False) for _ in range(categories)])
    shelf_brand = np.repeat(own_brands, SHELVES // BRANDS_PER_CATEGORY, axis=1).ravel()
    shelf_shop = draw.integers(shops, size=categories * SHELVES)
    shelf_weight = np.concatenate([draw.permutation(zipf(SHELVES, 0.6)) for _ in range(categories)])
    further = draw.choice(shelf_weight.size, items - shelf_weight.size, p=shelf_weight / categories)
    item_shelf = draw.permutation(np.r_[np.arange(shelf_weight.size), further])
    shelf_items = np.argsort(item_shelf, kind="stable")
    category_cumulative = np.cumsum(draw.permutation(zipf(categories, 0.7)))
    return World(
        item_id_raw=10_000_000 + np.cumsum(draw.integers(1, 60, size=items)),
        item_shelf=item_shelf,
        category_cumulative=category_cumulative,
        complement=draw.permutation(categories),
        shelf_brand=shelf_brand,
        shelf_shop=shelf_shop,
        shelf_tier=draw.integers(TIERS, size=shops)[shelf_shop],
        shelf_base=np.log(shelf_weight).astype(np.float32),
        shelf_style=(draw.normal(size=(brands, STYLES)) / np.sqrt(STYLES)).astype(np.float32)[shelf_brand],
        shelf_lean=draw.integers(-1, 2, size=brands).astype(np.float32)[shelf_brand],
        shelf_items=shelf_items,
        shelf_cumulative=_cumulative_by_shelf(item_shelf[shelf_items]),
        profile_style=draw.normal(size=(PROFILES, STYLES)).astype(np.float32),
        profile_categories=_by_popularity(category_cumulative, draw.random((PROFILES, PROFILE_INTERESTS))),
    )


def _cumulative_by_shelf(shelf: np.ndarray) -> np.ndarray:
    """Return ``s + P(this item or one before it | shelf s)`` for items sorted by shelf."""
    begin = np.searchsorted(shelf, shelf)
    end = np.searchsorted(shelf, shelf, side="right")
    total = np.r_[0, np.cumsum((1 + np.arange(shelf.size) - begin) ** -0.8)]
    return shelf + (total[1:] - total[begin]) / (total[end] - total[begin])


def _by_popularity(cumulative: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    return np.searchsorted(cumulative[:-1], uniform, side="right")


def population(
    world: World, seed: int, chunk: int, count: int, days: int, users_per_chunk: int, clicks_per_user: float
) -> Population:
    """Draw one chunk of ``count`` users.

    A chunk is always drawn whole and then cut, so that the users of a smaller data set are the first of a larger one.
    """
    first = chunk * users_per_chunk
    draw = random_stream(seed, USERS_STREAM, chunk)
    users = _draw_users(world, draw, np.arange(first, first + users_per_chunk), days)
    interests = _draw_interests(world, draw, users, weeks=-(-days // 7) + 1)
    clicks = _draw_clicks(world, draw, users, interests, days, clicks_per_user)
    wanted = min(count - first, users_per_chunk)
    return Population(
        Users(*(column[:wanted] for column in users)),
        Interests(*(column[:wanted] for column in interests)),
        clicks.where(clicks.row < wanted),
    )


def _draw_users(world: World, draw: np.random.Generator, user_id: np.ndarray, days: int) -> Users:
    count = user_id.size
    profile = draw.integers(PROFILES, size=count)
    return Users(
        user_id=user_id,
        user_id_raw=100_000_000 + user_id * 97 + draw.integers(97, size=count),
        profile=profile,
        gender=draw.integers(1, 3, size=count),
        age=np.minimum(draw.poisson(2.5, size=count), 6),
        consumption=draw.integers(TIERS, size=count),
        occupied=(draw.random(count) < 0.6).astype(np.int64),
        geography=draw.integers(4, size=count),
        taste=world.profile_style[profile] + 0.5 * draw.normal(size=(count, STYLES)).astype(np.float32),
        # Six in ten are there from the start, the others join during the first six tenths of the time.
        joined=(1.5 * days * DAY * np.maximum(draw.random(count) - 0.6, 0)).astype(np.int64),
        phase=draw.integers(WEEK, size=count),
    )


def _draw_interests(world: World, draw: np.random.Generator, users: Users, weeks: int) -> Interests:
    """Draw interests; each is kept from the week before, favourite shelf and all, unless it drifts."""
    shape = (users.user_id.size, weeks, INTERESTS)
    drifts = draw.random(shape) < np.asarray(DRIFT)
    drifts[:, 0] = True
    row = np.nonzero(drifts)[0]
    typical = world.profile_categories[users.profile[row], draw.integers(PROFILE_INTERESTS, size=row.size)]
    popular = _by_popularity(world.category_cumulative, draw.random(row.size))
    renewed = np.where(draw.random(row.size) < 0.5, typical, popular)
    utility = shelf_utility(world, users, row, renewed)
    liked = (utility + draw.gumbel(size=utility.shape)).argmax(axis=1)
    favourite = np.zeros(shape, dtype=np.int64)
    favourite[drifts] = renewed * SHELVES + liked
    favourite = np.take_along_axis(favourite, last_true(drifts, axis=1), axis=1)
    category = favourite // SHELVES
    mistaken = draw.random(shape[:2]) < 0.15
    return Interests(category, favourite, np.where(mistaken, category[:, :, 1], category[:, :, 0]))


def shelf_utility(world: World, users: Users, row: np.ndarray, category: np.ndarray) -> np.ndarray:
    """Return what a category's shelves are worth to a user, favourites aside; two ``(m,)`` -> ``(m, SHELVES)``."""
    by_category = (world.categories, SHELVES)
    style = np.einsum("mjs,ms->mj", world.shelf_style.reshape(*by_category, STYLES)[category], users.taste[row])
    lean = users.lean[row][:, None] * world.shelf_lean.reshape(by_category)[category]
    off_tier = np.abs(users.wanted_tier[row][:, None] - world.shelf_tier.reshape(by_category)[category])
    base = world.shelf_base.reshape(by_category)[category]
    return base + np.float32(1.6) * style + np.float32(0.8) * lean - np.float32(0.9) * off_tier.astype(np.float32)


def favourite_bonus(world: World, favourite: np.ndarray, category: np.ndarray) -> np.ndarray:
    """Return what sharing a favourite shelf's brand or shop adds; two ``(m,)`` -> ``(m, SHELVES)``."""
    shelf = category[:, None] * SHELVES + np.arange(SHELVES)
    brand = world.shelf_brand[shelf] == world.shelf_brand[favourite][:, None]
    shop = world.shelf_shop[shelf] == world.shelf_shop[favourite][:, None]
    return np.float32(1.4) * brand + np.float32(1.6) * shop


def last_true(flag: np.ndarray, axis: int = 0) -> np.ndarray:
    """Return the index of the last true entry so far along an axis; 0 before the first."""
    index = np.arange(flag.shape[axis]).reshape([-1 if this == axis else 1 for this in range(flag.ndim)])
    return np.maximum.accumulate(np.where(flag, index, 0), axis=axis)


def _draw_clicks(
    world: World, draw: np.random.Generator, users: Users, interests: Interests, days: int, clicks_per_user: float
) -> Clicks:
    # The mean of a lognormal is exp(mu + sigma^2 / 2).
    mu = np.log(clicks_per_user) - CLICKS_SPREAD**2 / 2
    count = draw.lognormal(mu, CLICKS_SPREAD, size=users.user_id.size).astype(np.int64).clip(FEWEST_CLICKS, MOST_CLICKS)
    row = np.repeat(np.arange(count.size), count)
    starts = draw.random(row.size) < 1 / CLICKS_PER_SESSION
    starts[np.cumsum(count) - count] = True
    session = np.cumsum(starts) - 1
    owner = row[starts]
    begin = users.joined[owner] + (draw.random(owner.size) * (days * DAY - users.joined[owner])).astype(np.int64)
    begin = begin[np.lexsort((begin, owner))]
    shelf = _draw_shelves(draw, session, *_draw_sessions(world, draw, users, interests, owner, begin))
    item = world.shelf_items[np.searchsorted(world.shelf_cumulative, shelf + draw.random(row.size), side="right")]
    elapsed = np.cumsum(draw.integers(15, 180, size=row.size))
    time = begin[session] + elapsed - elapsed[starts][session]
    return _sorted_clicks(Clicks(row, item, time), world.item_shelf.size, days * DAY)


def _sorted_clicks(clicks: Clicks, items: int, end: int) -> Clicks:
    """Sort clicks, since sessions may overlap, and drop those from ``end`` on."""
    # One sort of whole numbers that hold all three keys is many times faster than a sort by three keys.
    within = clicks.time < end
    keys = np.sort(((clicks.row * end + clicks.time) * items + clicks.item)[within])
    moment, item = np.divmod(keys, items)
    row, time = np.divmod(moment, end)
    return Clicks(row, item, time)


def _draw_sessions(
    world: World, draw: np.random.Generator, users: Users, interests: Interests, owner: np.ndarray, begin: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the category of every session, ``(s,)``; return it and the utilities of its shelves, ``(s, SHELVES)``."""
    kind = draw.random(owner.size)
    fresh = (kind < FRESH) | np.r_[True, owner[1:] != owner[:-1]]
    slot = np.searchsorted(np.cumsum(INTEREST_WEIGHTS), draw.random(owner.size), side="right")
    explores = slot == INTERESTS
    chosen = (owner, users.week(owner, begin), np.minimum(slot, INTERESTS - 1))
    popular = _by_popularity(world.category_cumulative, draw.random(owner.size))
    category = np.where(explores, popular, interests.category[chosen])
    source = last_true(fresh)
    moves = np.cumsum(~fresh & (kind >= FRESH + SAME))
    moves -= moves[source]
    category = _follow(world.complement, category[source], moves)
    bonus = favourite_bonus(world, interests.favourite[chosen][source], category)
    bonus[explores[source] | (moves > 0)] = 0
    return category, shelf_utility(world, users, owner, category) + bonus


def _follow(successor: np.ndarray, value: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Replace each value by its successor as many times as it says."""
    for step in range(int(times.max(initial=0))):
        value = np.where(times > step, successor[value], value)
    return value


def _draw_shelves(
    draw: np.random.Generator, session: np.ndarray, category: np.ndarray, utility: np.ndarray
) -> np.ndarray:
    """Draw the shelf of every click: that of the click before, or anew by the session's utilities."""
    place = np.arange(session.size) - np.searchsorted(session, session)
    anew = (place == 0) | (draw.random(session.size) >= 0.6 * 0.85**place)
    weight = np.cumsum(np.exp(utility - utility.max(axis=1, keepdims=True)), axis=1)
    threshold = draw.random(session.size) * weight[session, -1]
    shelf = np.minimum((weight[session] <= threshold[:, None]).sum(axis=1), SHELVES - 1)
    return (category[session] * SHELVES + shelf)[last_true(anew)]
