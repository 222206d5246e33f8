"""A small invented data set in all the forms that MovieLens has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
from movielens_source import GENRES_100K

if TYPE_CHECKING:
    from pathlib import Path

DAY = 86_400
START = 890_000_000
GENRES = [["Drama"], ["Comedy", "Romance"], ["Action", "Drama", "War"], ["unknown"], ["Children's", "Comedy"]]


class Invented:
    """Seven users, forty movies, and ratings with many ties in time, in the public text forms and as Parquet."""

    def __init__(self) -> None:
        draw = np.random.default_rng(5)
        self.users = [
            (
                user,
                7 * user,
                "MF"[user % 2],
                "artist" if user % 3 else "retired",
                ["02139", "v5k", "98101-12"][user % 3],
            )
            for user in range(1, 8)
        ]
        self.movies = [
            (movie, f"Café {movie} ({1930 + movie})" if movie % 9 else "unknown", GENRES[movie % 5])
            for movie in range(1, 41)
        ]
        self.ratings = [
            (user, int(movie), int(draw.integers(1, 6)), START + int(draw.integers(30)) * DAY // 8)
            for user in range(1, 7)
            for movie in draw.permutation(np.arange(1, 39))[: 5 * user]
        ]

    def text_100k(self, folder: Path) -> Path:
        folder.mkdir()
        flags = ["|".join(str(int(name in genres)) for name in GENRES_100K) for _, _, genres in self.movies]
        movies = [
            f"{m}|{title}|01-Jan-1990||http://x|{flag}" for (m, title, _), flag in zip(self.movies, flags, strict=True)
        ]
        write_lines(folder / "u.item", movies)
        write_lines(folder / "u.user", ["|".join(map(str, user)) for user in self.users])
        write_lines(folder / "u.data", ["\t".join(map(str, rating)) for rating in self.ratings])
        return folder

    def text_1m(self, folder: Path, *, compressed: bool) -> Path:
        folder.mkdir()
        write_lines(
            folder / "movies.dat", [f"{movie}::{title}::{'|'.join(genres)}" for movie, title, genres in self.movies]
        )
        write_lines(
            folder / "users.dat", [f"{u}::{gender}::{age}::{work}::{code}" for u, age, gender, work, code in self.users]
        )
        lines = ["::".join(map(str, rating)) for rating in self.ratings]
        write_lines(folder / "ratings.dat", lines)
        if compressed:
            with pa.output_stream(folder / "ratings.dat.zst", compression="zstd") as stream:
                stream.write((folder / "ratings.dat").read_bytes())
            (folder / "ratings.dat").unlink()
        return folder

    def parquet(self, folder: Path, *, flags: bool) -> Path:
        folder.mkdir()
        movies = pd.DataFrame(self.movies, columns=["movie_id", "title", "genres"])
        if flags:
            for name in GENRES_100K:
                movies[name] = [int(name in genres) for genres in movies.genres]
            movies = movies.drop(columns="genres")
        else:
            movies["genres"] = movies.genres.str.join("|")
        movies.sample(frac=1, random_state=0).to_parquet(folder / "movies.parquet")
        users = pd.DataFrame(self.users, columns=["user_id", "age", "gender", "occupation", "zip"])
        users.sample(frac=1, random_state=0).to_parquet(folder / "users.parquet")
        ratings = pd.DataFrame(self.ratings, columns=["user_id", "movie_id", "rating", "timestamp"], dtype="int32")
        ratings.sample(frac=1, random_state=0).to_parquet(folder / "ratings.parquet")
        return folder


def write_lines(path: Path, lines: list[str]) -> None:
    path.write_bytes("".join(f"{line}\n" for line in lines).encode("latin-1"))
