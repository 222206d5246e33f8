"""Features of MovieLens users and movies, with history, and seen items.

What is counted is counted in the training part only, and stamped with the last event it includes, so that a
point-in-time join sees no future.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from movielens_source import age_bracket, release_year, zip_region

from batchrec.features import layout
from batchrec.schema import EVENT_TIMESTAMP, ITEM_ID, TIMESTAMP_TYPE, USER_ID

if TYPE_CHECKING:
    from movielens_source import MovieLens

DAY = 86_400
POPULARITY_CLASSES = 10

USER_FEATURES = pa.schema(
    [
        pa.field(USER_ID, pa.int64(), nullable=False),
        pa.field("user_gender", pa.string()),
        pa.field("user_age", pa.int64()),
        pa.field("user_occupation", pa.string()),
        pa.field("user_region", pa.string()),
        pa.field("user_activity", pa.int64()),
        pa.field("user_genre", pa.string()),
        pa.field("user_mean_rating", pa.float32()),
        pa.field("user_mean_year", pa.float32()),
        pa.field(EVENT_TIMESTAMP, TIMESTAMP_TYPE, nullable=False),
    ]
)
ITEM_FEATURES = pa.schema(
    [
        pa.field(ITEM_ID, pa.int64(), nullable=False),
        pa.field("item_year", pa.int64()),
        pa.field("item_decade", pa.int64()),
        pa.field("item_genre", pa.string()),
        pa.field("item_genres", pa.string()),
        pa.field("item_popularity", pa.int64()),
        pa.field(EVENT_TIMESTAMP, TIMESTAMP_TYPE, nullable=False),
    ]
)


class Events(NamedTuple):
    """Ratings sorted by user, time, movie; ``(e,)`` int64 each."""

    user: np.ndarray
    item: np.ndarray
    rating: np.ndarray
    time: np.ndarray

    def where(self, chosen: np.ndarray) -> Events:
        """Return the chosen events, in order."""
        return Events(*(column[chosen] for column in self))


def user_features(data: MovieLens, train: Events) -> pa.Table:
    """Return who users are, from just before their first event, and what they have done so far, whenever it has grown.

    What users have done so far is recorded at the end of each active day (UTC) and whenever the number of their ratings
    has reached another power of two, so that the values a model learns from are spread like those that it meets later.
    """
    users = data.users[USER_ID].to_numpy()
    first = np.searchsorted(train.user, users)
    known = first < np.searchsorted(train.user, users, side="right")
    joined = np.full(users.size, train.time.min())
    joined[known] = train.time[first[known]]
    history = _histories(data, train)
    row = np.r_[np.arange(users.size), np.searchsorted(users, train.user[history.event])]
    time = np.r_[joined - 1, train.time[history.event]]
    before = users.size
    mean_rating = np.r_[np.full(before, np.nan), history.mean_rating]
    mean_year = np.r_[np.full(before, np.nan), history.mean_year]
    table = pa.Table.from_arrays(
        [
            pa.array(users[row]),
            data.users["gender"].take(row),
            age_bracket(data.users["age"]).take(pa.array(row)),
            data.users["occupation"].take(row),
            zip_region(data.users["zip"]).take(row),
            pa.array(np.r_[np.zeros(before, np.int64), history.activity]),
            pa.chunked_array([pa.nulls(before, pa.string()), pa.array(history.genre, pa.string())]),
            pa.array(mean_rating, pa.float32(), from_pandas=True),
            pa.array(mean_year, pa.float32(), from_pandas=True),
            layout.as_timestamps(time),
        ],
        schema=USER_FEATURES,
    )
    return table.take(np.lexsort((time, row)))


class Histories(NamedTuple):
    """What users had done up to and including an event; ``(h,)`` each."""

    event: np.ndarray
    activity: np.ndarray
    genre: np.ndarray
    mean_rating: np.ndarray
    mean_year: np.ndarray


def _histories(data: MovieLens, train: Events) -> Histories:
    start = np.searchsorted(train.user, train.user)
    number = np.arange(train.user.size) - start + 1
    same_user = np.r_[train.user[1:] == train.user[:-1], False]
    last_of_moment = ~(same_user & np.r_[train.time[1:] == train.time[:-1], False])
    last_of_day = ~(same_user & np.r_[train.time[1:] // DAY == train.time[:-1] // DAY, False])
    moments = np.flatnonzero(last_of_moment)
    before = np.r_[0, moments[:-1] + 1] - start[moments]
    event = moments[(_activity(number[moments]) > _activity(before)) | last_of_day[moments]]
    movie = np.searchsorted(data.movies["movie_id"].to_numpy(), train.item)
    years = release_year(data.movies["title"]).to_numpy(zero_copy_only=False).astype(float)[movie]
    has_year = _running_sum(~np.isnan(years), start)[event]
    year_sum = _running_sum(np.nan_to_num(years), start)[event]
    return Histories(
        event,
        _activity(number[event]),
        _top_genres(data, movie, start, event),
        _running_sum(train.rating, start)[event] / number[event],
        np.divide(year_sum, has_year, out=np.full(event.size, np.nan), where=has_year > 0),
    )


def _activity(count: np.ndarray) -> np.ndarray:
    """Return 0 for 0, else 1 + floor(log2(count))."""
    return np.frexp(count)[1].astype(np.int64)


def _running_sum(values: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Return the sum of values from ``start[i]`` to ``i``, both included, along axis 0."""
    total = np.cumsum(values, axis=0, dtype=float)
    return total - total[start] + values[start]


def _top_genres(data: MovieLens, movie: np.ndarray, start: np.ndarray, event: np.ndarray) -> np.ndarray:
    """Return the genre a user has rated most often so far; the first by name where several are."""
    genres = [names.split("|") for names in data.movies["genres"].to_pylist()]
    names = np.array(sorted({name for of_movie in genres for name in of_movie}))
    flags = np.array([np.isin(names, of_movie) for of_movie in genres])
    return names[_running_sum(flags[movie], start)[event].argmax(axis=1)]


def item_features(data: MovieLens, train: Events) -> pa.Table:
    """Return what movies are, known since 1970, and how popular they were whenever that has changed."""
    year = release_year(data.movies["title"])
    row, popularity, time = _popularity_history(data, train)
    table = pa.Table.from_arrays(
        [
            data.movies["movie_id"].take(row),
            year.take(pa.array(row)),
            pa.array([None if y is None else y // 10 * 10 for y in year.to_pylist()], pa.int64()).take(pa.array(row)),
            pa.array([names.split("|")[0] for names in data.movies["genres"].to_pylist()]).take(pa.array(row)),
            data.movies["genres"].take(row),
            pa.array(popularity),
            layout.as_timestamps(time),
        ],
        schema=ITEM_FEATURES,
    )
    return table.take(np.lexsort((time, row)))


def _popularity_history(data: MovieLens, train: Events) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return movie row, popularity class and time, one entry a change.

    Classes are taken at the last event of each month: 0 for movies never rated, else 1 to 10 by the movie's rank among
    those rated. Ranks, unlike counts, mean the same early and late.
    """
    movies = data.movies["movie_id"].to_numpy()
    month = train.time.astype("datetime64[s]").astype("datetime64[M]").astype(np.int64)
    movie = np.searchsorted(movies, train.item)
    count, current = np.zeros(movies.size, np.int64), np.zeros(movies.size, np.int64)
    parts = [(np.arange(movies.size), current, np.zeros(movies.size, np.int64))]
    for this in np.unique(month):
        count += np.bincount(movie[month == this], minlength=movies.size)
        now = _popularity_class(count)
        changed = np.flatnonzero(now != current)
        parts.append((changed, now[changed], np.full(changed.size, train.time[month == this].max())))
        current = now
    row, popularity, time = (np.concatenate(column) for column in zip(*parts, strict=True))
    return row, popularity, time


def _popularity_class(count: np.ndarray) -> np.ndarray:
    rated = np.sort(count[count > 0])
    rank = np.searchsorted(rated, count, side="right") / max(rated.size, 1)
    return np.where(count > 0, np.ceil(rank * POPULARITY_CLASSES), 0).astype(np.int64)


def seen_items(events: Events) -> pa.Table:
    """Return the seen items at the end of each active day."""
    return layout.seen_table(USER_ID, events.user, events.item, events.time, events.time // DAY)
