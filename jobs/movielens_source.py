"""Read MovieLens-100K and MovieLens-1M, as downloaded or as Parquet, into one form."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from batchrec.errors import SchemaError

if TYPE_CHECKING:
    from pathlib import Path

GENRES_100K = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
"""Genre flags of u.item, in the order of its columns."""

RATINGS_COLUMNS = ("user_id", "movie_id", "rating", "timestamp")
USERS_COLUMNS_100K = ("user_id", "age", "gender", "occupation", "zip")
USERS_COLUMNS_1M = ("user_id", "gender", "age", "occupation", "zip")
MOVIES_COLUMNS_100K = ("movie_id", "title", "release_date", "video_release_date", "imdb_url", *GENRES_100K)
MOVIES_COLUMNS_1M = ("movie_id", "title", "genres")
WHOLE_NUMBERS = {*RATINGS_COLUMNS, "age"}


class MovieLens(NamedTuple):
    """One of the data sets.

    Attributes
    ----------
    name
        ``ml-100k`` or ``ml-1m``.
    ratings
        user_id, movie_id, rating, timestamp (seconds since 1970), all int64; sorted by user, time, movie.
    users
        user_id, age (int64), gender, occupation, zip (string); sorted by user_id.
    movies
        movie_id (int64), title, genres (string, joined by ``|``); sorted by movie_id.
    """

    name: str
    ratings: pa.Table
    users: pa.Table
    movies: pa.Table


def read(source: Path) -> MovieLens:
    """Read the data set in a folder, whichever of the four forms it has.

    Raises
    ------
    SchemaError
        The folder does not hold a data set in a known form, or a file of it is damaged.
    """
    readers = {"u.data": _text_100k, "movies.dat": _text_1m, "movies.parquet": _parquet}
    found = [reader for name, reader in readers.items() if (source / name).is_file()]
    if not found:
        raise SchemaError(
            f"{source} holds none of {', '.join(readers)}",
            "name the folder of ml-100k (u.data, u.user, u.item) or ml-1m (ratings.dat, users.dat, movies.dat)",
        )
    try:
        return _in_order(found[0](source))
    except (OSError, KeyError, IndexError, ValueError) as error:
        raise SchemaError(f"{source} is not a whole MovieLens data set ({error})", "download it again") from error


def _text_100k(folder: Path) -> MovieLens:
    ratings = _table(_fields(folder / "u.data", "\t"), RATINGS_COLUMNS)
    users = _table(_fields(folder / "u.user", "|"), USERS_COLUMNS_100K)
    return MovieLens(
        "ml-100k", ratings, users, _join_flags(_table(_fields(folder / "u.item", "|"), MOVIES_COLUMNS_100K))
    )


def _text_1m(folder: Path) -> MovieLens:
    compressed = folder / "ratings.dat.zst"
    ratings = _table(_fields(compressed if compressed.is_file() else folder / "ratings.dat", "::"), RATINGS_COLUMNS)
    users = _table(_fields(folder / "users.dat", "::"), USERS_COLUMNS_1M)
    return MovieLens("ml-1m", ratings, users, _table(_fields(folder / "movies.dat", "::"), MOVIES_COLUMNS_1M))


def _parquet(folder: Path) -> MovieLens:
    ratings, users, movies = (pq.read_table(folder / f"{name}.parquet") for name in ("ratings", "users", "movies"))
    if "genres" in movies.column_names:
        return MovieLens("ml-1m", ratings, users, movies)
    return MovieLens("ml-100k", ratings, users, _join_flags(movies))


def _fields(path: Path, separator: str) -> pa.Table:
    """Read a Latin-1 text file without header or quoting; columns are strings named f0, f1, ..."""
    compression = "zstd" if path.suffix == ".zst" else None
    with pa.input_stream(path, compression=compression) as stream:
        text = stream.read().decode("latin-1")
    # A tab occurs in no field, and Arrow's reader wants a separator of one character.
    data = text.replace(separator, "\t").encode()
    return pa_csv.read_csv(
        pa.BufferReader(data),
        read_options=pa_csv.ReadOptions(autogenerate_column_names=True),
        parse_options=pa_csv.ParseOptions(delimiter="\t", quote_char=False),
        convert_options=pa_csv.ConvertOptions(column_types={f"f{i}": pa.string() for i in range(30)}),
    )


def _table(fields: pa.Table, columns: tuple[str, ...]) -> pa.Table:
    if fields.num_columns != len(columns):
        raise ValueError(f"{fields.num_columns} columns instead of {len(columns)}")
    return fields.rename_columns(list(columns))


def _join_flags(movies: pa.Table) -> pa.Table:
    """Replace the genre flags by one column of genre names."""
    flags = np.stack([movies[name].cast(pa.int64()).to_numpy() for name in GENRES_100K], axis=1)
    genres = ["|".join(np.asarray(GENRES_100K)[row == 1]) for row in flags]
    return movies.select(["movie_id", "title"]).append_column("genres", pa.array(genres, pa.string()))


def _in_order(data: MovieLens) -> MovieLens:
    """Select the columns, give each its type, and sort."""
    ratings = _typed(data.ratings, RATINGS_COLUMNS)
    users = _typed(data.users, USERS_COLUMNS_100K).sort_by("user_id")
    movies = _typed(data.movies, MOVIES_COLUMNS_1M).sort_by("movie_id")
    for key, table in (("user_id", users), ("movie_id", movies)):
        known = pc.sum(pc.is_in(ratings[key], table[key])).as_py()
        if known != ratings.num_rows:
            raise ValueError(f"{ratings.num_rows - known} ratings have a {key} that is not described")
    by_time = [("user_id", "ascending"), ("timestamp", "ascending"), ("movie_id", "ascending")]
    return MovieLens(data.name, ratings.sort_by(by_time), users, movies)


def _typed(table: pa.Table, columns: tuple[str, ...]) -> pa.Table:
    return table.select(list(columns)).cast(
        pa.schema([pa.field(name, pa.int64() if name in WHOLE_NUMBERS else pa.string()) for name in columns])
    )


def release_year(titles: pa.ChunkedArray) -> pa.Array:
    """Return the year in brackets at the end of each title as int64; null where there is none."""
    found = (re.search(r"\((\d{4})\)\s*$", title) for title in titles.to_pylist())
    return pa.array([int(match[1]) if match else None for match in found], pa.int64())


def age_bracket(age: pa.ChunkedArray) -> pa.Array:
    """Return the lower end of the age bracket as ml-1m draws them: 1, 18, 25, 35, 45, 50, 56."""
    lower = np.array([1, 18, 25, 35, 45, 50, 56])
    return pa.array(lower[np.searchsorted(lower, age.to_numpy(), side="right") - 1])


def zip_region(code: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the first character of a postal code: a digit for one of ten regions of the USA, else a letter."""
    return pc.utf8_upper(pc.utf8_slice_codeunits(code, 0, 1))
