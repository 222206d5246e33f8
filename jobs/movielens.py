"""Turn a MovieLens download into a prepared data folder: ``python jobs/movielens.py SOURCE --output OUT``.

Every rating of at least ``--min-rating`` counts as an interaction. Four splits:

- ``user-chronological``: of a user's n interactions in order of time, then movie id, the first
  floor(n * (1 - test-share)) are learnt from, the others held out;
- ``leave-one-out``: every user's last interaction is held out, the one before it is for validation;
- ``random``: of a user's n interactions, drawn by seed, floor(n * test-share / 2) are for validation and as many held
  out;
- ``time``: everything after the moment by which all but ``--test-share`` of the interactions had happened is held out.

Features that count something count the training part only and are stamped with the last event they include, so that a
point-in-time join sees no future. Seen items include the validation part: it comes before the holdout.
"""

from __future__ import annotations

import argparse
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from movielens_features import Events, item_features, seen_items, user_features
from movielens_source import read

from batchrec.errors import BatchrecError, ConfigError
from batchrec.features import layout
from batchrec.schema import ITEM_ID, USER_ID

SPLITS = ("user-chronological", "leave-one-out", "random", "time")
REPOSITORY = Path(__file__).parent / "movielens_repo"


class Split(NamedTuple):
    """Which events are for what; ``(e,)`` bool each, disjoint, together all."""

    train: np.ndarray
    validation: np.ndarray
    holdout: np.ndarray


def split_events(events: Events, how: str, test_share: float, seed: int) -> Split:
    """Split events as the module says."""
    start = np.searchsorted(events.user, events.user)
    count = np.searchsorted(events.user, events.user, side="right") - start
    place = np.arange(events.user.size) - start
    none = np.zeros(events.user.size, dtype=bool)
    if how == "user-chronological":
        train, validation = place < _share(count, 1 - test_share), none
    elif how == "leave-one-out":
        train, validation = (place < count - 2) | (count < 3), (place == count - 2) & (count >= 3)
    elif how == "random":
        drawn = np.lexsort((np.random.default_rng(seed).random(count.size), events.user))
        place[drawn] = place.copy()
        part = _share(count, test_share / 2)
        train, validation = place < count - 2 * part, (place >= count - 2 * part) & (place < count - part)
    else:
        last = np.sort(events.time)[max(_share(np.array(events.time.size), 1 - test_share) - 1, 0)]
        train, validation = events.time <= last, none
    return Split(train, validation, ~(train | validation))


def _share(count: np.ndarray, share: float) -> np.ndarray:
    """Return floor(count * share), safe from a product like 0.29999999999999998."""
    return np.floor(np.round(count * share, 9)).astype(np.int64)


def interactions(events: Events) -> pa.Table:
    """Return events as interactions."""
    return layout.interactions_table(events.user, events.item, events.time)


def prepare(
    source: Path, output: Path, *, split: str = "user-chronological", test_share: float = 0.2, min_rating: int = 0,
    seed: int = 2020,
) -> layout.Prepared:  # fmt: skip
    """Write a prepared data folder and a Feast repository for it.

    Parameters
    ----------
    source
        Folder of ml-100k or ml-1m, as downloaded or as Parquet.
    output
        Folder to write; made if need be. Files of an earlier call are replaced.
    split
        One of :data:`SPLITS`.
    test_share
        Share held out, above 0 and below 1; half of it is for validation where the split is random. Not used by
        ``leave-one-out``.
    min_rating
        Lower ratings are dropped before the split.
    seed
        Of the random split.

    Raises
    ------
    ConfigError
        An option is out of range.
    SchemaError
        The source is not MovieLens.
    """
    if split not in SPLITS:
        raise ConfigError(f"--split is {split!r}", f"choose one of {', '.join(SPLITS)}")
    if not 0 < test_share < 1:
        raise ConfigError(f"--test-share is {test_share}", "give a share above 0 and below 1")
    data = read(source)
    everything = Events(*(data.ratings[name].to_numpy() for name in ("user_id", "movie_id", "rating", "timestamp")))
    events = everything.where(everything.rating >= min_rating)
    if not events.user.size:
        raise ConfigError(f"no rating is at least {min_rating}", "lower --min-rating")
    parts = split_events(events, split, test_share, seed)
    if not parts.train.any():
        raise ConfigError(f"--test-share {test_share} leaves nothing to learn from", "lower --test-share")
    train = events.where(parts.train)
    tables = {
        layout.INTERACTIONS_FILE: interactions(train),
        layout.HOLDOUT_FILE: interactions(events.where(parts.holdout)),
        layout.USERS_FILE: data.users.select([USER_ID]),
        layout.ITEMS_FILE: data.movies.rename_columns([ITEM_ID, "title", "genres"]),
        layout.USER_FEATURES_FILE: user_features(data, train),
        layout.ITEM_FEATURES_FILE: item_features(data, train),
        layout.SEEN_FILE: seen_items(events.where(parts.train | parts.validation)),
    }
    if parts.validation.any():
        tables[layout.VALIDATION_FILE] = interactions(events.where(parts.validation))
    layout.clear(output)
    rows = {name: layout.write_table(output / name, table) for name, table in tables.items()}
    rows |= layout.write_no_recommendations(output, USER_ID, pa.int64(), pa.int64())
    shutil.copytree(
        REPOSITORY, output / "feature_repo", dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
    )
    cutoff = datetime.fromtimestamp(int(events.time[~parts.holdout].max()), UTC)
    prepared = layout.Prepared(f"{data.name}, {split}", cutoff, seed if split == "random" else None, rows)
    layout.write_prepared(output, prepared)
    return prepared


def main() -> None:
    """Parse the command line and write the data."""
    parser = argparse.ArgumentParser(description="Turn a MovieLens download into a prepared data folder.")
    parser.add_argument("source", type=Path, help="folder of ml-100k or ml-1m, as downloaded or as Parquet")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--split", choices=SPLITS, default=SPLITS[0], help="what is held out (default: %(default)s)")
    parser.add_argument("--test-share", type=float, default=0.2, help="share held out (default: %(default)s)")
    parser.add_argument("--min-rating", type=int, default=0, help="lower ratings are dropped (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=2020, help="seed of the random split (default: %(default)s)")
    options = parser.parse_args()
    try:
        prepared = prepare(**vars(options))
    except BatchrecError as error:
        parser.exit(error.exit_code, f"{error}\n")
    print(layout.describe(options.output, prepared))


if __name__ == "__main__":
    main()
