"""Make demo data with planted preferences: ``python jobs/demo_data.py --users 6000 --output feature_repo/data``.

The columns are those of the Ali-CCP example; what is planted in them is told in ``demo_world.py``. Nothing but the
holdout file knows what happened after the cut-off. Users are drawn and written chunk by chunk, many of them on all
cores, so that memory does not grow with their number.
"""

from __future__ import annotations

import argparse
import ctypes
import signal
from collections import deque
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from demo_world import (
    CLICKS_PER_USER,
    DAY,
    LEAST_ITEMS,
    SHELVES,
    WEEK,
    Clicks,
    Population,
    World,
    make_world,
    population,
)

from batchrec.errors import BatchrecError, ConfigError
from batchrec.features import layout
from batchrec.models.threads import cores
from batchrec.schema import EVENT_TIMESTAMP, ITEM_ID, TIMESTAMP_TYPE, USER_ID, interactions_schema

if TYPE_CHECKING:
    from collections.abc import Iterator

START = datetime(2026, 1, 5, tzinfo=UTC)
USERS_PER_CHUNK = 4096
FEWEST_CHUNKS_SHARED = 8
"""Chunks from which on they are drawn in processes, which take a second to start."""
USER_KEY, ITEM_KEY = "user_id_raw", "item_id_raw"

CATEGORY_NAMES = (
    "shoes", "dresses", "coats", "jeans", "shirts", "bags", "watches", "jewellery", "phones", "tablets", "laptops",
    "cameras", "headphones", "speakers", "consoles", "games", "books", "comics", "toys", "puzzles", "prams", "cots",
    "bicycles", "tents", "skis", "rackets", "weights", "yoga", "lamps", "sofas", "beds", "desks", "rugs", "pans",
    "knives", "kettles", "ovens", "plants", "tools", "paint", "perfume", "shampoo", "make-up", "vitamins", "coffee",
    "tea", "chocolate", "snacks", "pet-food", "aquaria",
)  # fmt: skip


def features_schema(*columns: str) -> pa.Schema:
    """Return the schema of a feature file of whole numbers."""
    fields = [pa.field(name, pa.int64(), nullable=False) for name in columns]
    return pa.schema([*fields, pa.field(EVENT_TIMESTAMP, TIMESTAMP_TYPE, nullable=False)])


USER_FEATURES = features_schema(
    USER_KEY, "user_id", "user_shops", "user_profile", "user_group", "user_gender", "user_age", "user_consumption_2",
    "user_is_occupied", "user_geography", "user_intentions", "user_brands", "user_categories",
)  # fmt: skip
ITEM_FEATURES = features_schema(ITEM_KEY, "item_id", "item_category", "item_shop", "item_brand")
CLICKS = interactions_schema(pa.int64(), pa.int64())
SCHEMAS = {
    layout.INTERACTIONS_FILE: CLICKS,
    layout.HOLDOUT_FILE: CLICKS,
    layout.USERS_FILE: pa.schema([pa.field(USER_ID, pa.int64(), nullable=False)]),
    layout.USER_FEATURES_FILE: USER_FEATURES,
    layout.SEEN_FILE: layout.seen_schema(USER_KEY, pa.int64(), pa.int64()),
}


def since_1970(time: np.ndarray) -> np.ndarray:
    """Turn seconds since the start of the log into seconds since 1970."""
    return int(START.timestamp()) + time


def item_tables(world: World) -> dict[str, pa.Table]:
    """Return the item features and the readable items by file name."""
    category = world.item_shelf // SHELVES
    brand, shop = world.shelf_brand[world.item_shelf], world.shelf_shop[world.item_shelf]
    values = (world.item_id_raw, np.arange(category.size), category, shop, brand)
    listed = layout.as_timestamps(since_1970(np.full(category.size, -DAY)))
    names = [category_name(number) for number in range(world.categories)]
    readable = {
        ITEM_ID: world.item_id_raw,
        "title": [f"brand {b} · {names[c]} {i:04d}" for i, (b, c) in enumerate(zip(brand, category, strict=True))],
        "category": [names[c] for c in category],
        "brand": brand,
        "shop": shop,
    }
    return {
        layout.ITEM_FEATURES_FILE: pa.Table.from_arrays([*map(pa.array, values), listed], schema=ITEM_FEATURES),
        layout.ITEMS_FILE: pa.table(readable),
    }


def category_name(number: int) -> str:
    """Return a category's name; numbers are added when the words run out."""
    again, word = divmod(number, len(CATEGORY_NAMES))
    return CATEGORY_NAMES[word] + (f" {again + 1}" if again else "")


class Asked(NamedTuple):
    """What data are asked for; see :func:`generate`."""

    users: int
    items: int
    seed: int
    days: int
    cutoff: int
    snapshot_days: int
    clicks_per_user: int
    users_per_chunk: int


@cache
def world_of(items: int, seed: int) -> World:
    """Draw the world once a process."""
    return make_world(items, seed)


def chunk_tables(asked: Asked, chunk: int) -> dict[str, pa.Table]:
    """Draw a chunk of users and return their tables by file name."""
    world = world_of(asked.items, asked.seed)
    drawn = population(world, asked.seed, chunk, asked.users, asked.days, asked.users_per_chunk, asked.clicks_per_user)
    return user_tables(world, drawn, asked.cutoff, asked.snapshot_days)


def all_chunks(asked: Asked) -> Iterator[dict[str, pa.Table]]:
    """Yield the tables of every chunk, in order; of many chunks, those that come next are drawn in other processes."""
    chunks, processes = range(-(-asked.users // asked.users_per_chunk)), cores()
    if processes == 1 or len(chunks) < FEWEST_CHUNKS_SHARED:
        yield from (chunk_tables(asked, chunk) for chunk in chunks)
        return
    # Started anew and not forked: threads of Arrow's are about.
    with ProcessPoolExecutor(processes, get_context("spawn"), _end_with_parent) as pool:
        ahead = deque(pool.submit(chunk_tables, asked, chunk) for chunk in chunks[: 2 * processes])
        for chunk in chunks:
            tables = ahead.popleft().result()
            if chunk + 2 * processes < len(chunks):
                ahead.append(pool.submit(chunk_tables, asked, chunk + 2 * processes))
            yield tables


def _end_with_parent() -> None:
    """Let this process be killed when its parent is gone: it would wait for work for ever."""
    parent_death_signal = 1  # Linux's PR_SET_PDEATHSIG
    with suppress(AttributeError):
        ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGKILL)


def user_tables(world: World, population: Population, cutoff: int, snapshot_days: int) -> dict[str, pa.Table]:
    """Return the tables of a chunk of users by file name."""
    past = population.clicks.where(population.clicks.time <= cutoff)
    raw = population.users.user_id_raw
    return {
        layout.INTERACTIONS_FILE: clicks_table(world, raw, past),
        layout.HOLDOUT_FILE: clicks_table(world, raw, first_clicks_after(population.clicks, cutoff)),
        layout.USERS_FILE: pa.Table.from_arrays([pa.array(raw)], schema=SCHEMAS[layout.USERS_FILE]),
        layout.USER_FEATURES_FILE: user_features(world, population, cutoff),
        layout.SEEN_FILE: seen_items(world, raw, past, cutoff, snapshot_days),
    }


def clicks_table(world: World, raw: np.ndarray, clicks: Clicks) -> pa.Table:
    """Return clicks with raw ids."""
    return layout.interactions_table(raw[clicks.row], world.item_id_raw[clicks.item], since_1970(clicks.time))


def first_clicks_after(clicks: Clicks, cutoff: int) -> Clicks:
    """Return the clicks after the cut-off on what the user had never clicked before: what can be predicted."""
    pair = clicks.row * (clicks.item.max(initial=0) + 1) + clicks.item
    first = np.sort(np.unique(pair, return_index=True)[1])
    return clicks.where(first[clicks.time[first] > cutoff])


def user_features(world: World, population: Population, cutoff: int) -> pa.Table:
    """Return a row a user from just before joining, and one whenever a feature has changed since, up to the cut-off."""
    users, interests, _ = population
    values = np.stack([interests.category[:, :, 0], interests.favourite[:, :, 0], interests.intention], axis=2)
    changed = np.ones(values.shape[:2], dtype=bool)
    changed[:, 1:] = (values[:, 1:] != values[:, :-1]).any(axis=2)
    begin = users.phase[:, None] + (np.arange(values.shape[1]) - 1) * WEEK
    joined = users.joined[:, None]
    joins = (begin <= joined) & (joined < begin + WEEK)
    time = np.where(joins, joined - 1, begin)
    row, week = np.nonzero((joins | (changed & (begin > joined))) & (time <= cutoff))
    category, favourite, intention = values[row, week].T
    columns = (
        users.user_id_raw[row], users.user_id[row], world.shelf_shop[favourite], users.profile[row],
        (users.gender * 7 + users.age)[row], users.gender[row], users.age[row], users.consumption[row],
        users.occupied[row], users.geography[row], intention, world.shelf_brand[favourite], category,
    )  # fmt: skip
    times = layout.as_timestamps(since_1970(time[row, week]))
    return pa.Table.from_arrays([*map(pa.array, columns), times], schema=USER_FEATURES)


def seen_items(world: World, raw: np.ndarray, past: Clicks, cutoff: int, snapshot_days: int) -> pa.Table:
    """Return the seen items at the end of each stretch of ``snapshot_days``; the last stretch ends at the cut-off."""
    stretch = -((cutoff - past.time) // (snapshot_days * DAY))
    return layout.seen_table(USER_KEY, raw[past.row], world.item_id_raw[past.item], since_1970(past.time), stretch)


def generate(
    output: Path, *, users: int, items: int, seed: int, days: int = 56, holdout_days: int = 7, snapshot_days: int = 7,
    clicks_per_user: int = CLICKS_PER_USER, users_per_chunk: int = USERS_PER_CHUNK,
) -> layout.Prepared:  # fmt: skip
    """Write a demo data folder.

    Parameters
    ----------
    output
        Folder to write; made if need be. Prepared data already in it are replaced.
    users, items
        How many; at least 1 and :data:`demo_world.LEAST_ITEMS`.
    seed
        The same seed and sizes give the same bytes.
    days, holdout_days
        Length of the click log, and of its end that is held out.
    snapshot_days
        Length of the stretches of time at whose ends seen items are recorded.
    clicks_per_user
        Clicks of a user, on average; about half as many items.
    users_per_chunk
        Users drawn together. Memory grows with it; another number draws other users.

    Raises
    ------
    ConfigError
        A number is too small.
    """
    least = {"users": (users, 1), "items": (items, LEAST_ITEMS), "seed": (seed, 0), "snapshot-days": (snapshot_days, 1)}
    least |= {"clicks-per-user": (clicks_per_user, 1)}
    least |= {"holdout-days": (holdout_days, 1), "days": (days, holdout_days + 1)}
    for name, (value, bound) in least.items():
        if value < bound:
            raise ConfigError(f"--{name} is {value} and must be at least {bound}", f"give a larger --{name}")
    layout.clear(output)
    cutoff = (days - holdout_days) * DAY
    asked = Asked(users, items, seed, days, cutoff, snapshot_days, clicks_per_user, users_per_chunk)
    tables = item_tables(world_of(items, seed))
    try:
        rows = _write(output, asked, tables)
    except BaseException:
        layout.clear(output)  # files that end early could be taken for whole ones
        raise
    prepared = layout.Prepared("planted demo data", START + timedelta(seconds=cutoff), seed, rows)
    layout.write_prepared(output, prepared)
    return prepared


def _write(output: Path, asked: Asked, items: dict[str, pa.Table]) -> dict[str, int]:
    """Write all files but the description; return their rows."""
    rows = {name: layout.write_table(output / name, table) for name, table in items.items()}
    with ExitStack() as stack:
        writers = {n: stack.enter_context(layout.TableWriter(output / n, schema)) for n, schema in SCHEMAS.items()}
        threads = stack.enter_context(ThreadPoolExecutor(len(writers)))
        for by_name in all_chunks(asked):
            written = [threads.submit(writers[name].write, table) for name, table in by_name.items()]
            for one in written:
                one.result()
    rows |= {name: writer.rows for name, writer in writers.items()}
    return rows | layout.write_no_recommendations(output, USER_KEY, pa.int64(), pa.int64())


def main() -> None:
    """Parse the command line and write the data."""
    parser = argparse.ArgumentParser(description="Make demo data with planted preferences.")
    parser.add_argument("--users", type=int, default=6000, help="number of users (default: %(default)s)")
    parser.add_argument("--items", type=int, default=2000, help="number of items (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=7, help="the same seed gives the same bytes (default: %(default)s)")
    parser.add_argument("--days", type=int, default=56, help="days of clicks (default: %(default)s)")
    parser.add_argument("--holdout-days", type=int, default=7, help="last days, held out (default: %(default)s)")
    parser.add_argument("--snapshot-days", type=int, default=7, help="days between snapshots (default: %(default)s)")
    parser.add_argument(
        "--clicks-per-user",
        type=int,
        default=CLICKS_PER_USER,
        help="on average (default: %(default)s)",
    )
    parser.add_argument("--output", type=Path, default=Path("feature_repo/data"), help="folder (default: %(default)s)")
    options = vars(parser.parse_args())
    try:
        prepared = generate(**options)
    except BatchrecError as error:
        parser.exit(error.exit_code, f"{error}\n")
    except BrokenExecutor:
        parser.exit(1, "a process that drew users was killed: see that there is memory for one on each core\n")
    except OSError as error:
        parser.exit(1, f"{options['output']} cannot be written ({error.strerror}): see that there is room\n")
    except KeyboardInterrupt:
        parser.exit(130, "interrupted: nothing is left\n")
    print(layout.describe(options["output"], prepared))


if __name__ == "__main__":
    main()
