"""What two runs of the same users have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from pathlib import Path

ROWS_AT_A_TIME = 50_000


class Change(NamedTuple):
    """How far the lists of one run are from those of another.

    Attributes
    ----------
    users
        How many lists were held against each other.
    equal
        Share of them that hold the same items in the same order.
    overlap
        Share of the other's items that stand in the list, on average over users who have any.
    first_equal
        Share of users whose first item is the same.
    score
        Largest difference between the scores of an item that stands in both lists.
    """

    users: int
    equal: float
    overlap: float
    first_equal: float
    score: float


def change(run: Path, other: Path, k: int) -> Change:
    """Hold the lists of a published run of layout ``list`` and whole-number items against those of another."""
    tables = [_rows(folder) for folder in (run, other)]
    if not tables[0]["user_id"].equals(tables[1]["user_id"]):
        raise SystemExit(f"{run} and {other} are of other users")
    users, sums, largest = len(tables[0]), np.zeros(4), 0.0
    for start in range(0, users, ROWS_AT_A_TIME):
        (items, scores), (other_items, other_scores) = (_dense(t.slice(start, ROWS_AT_A_TIME), k) for t in tables)
        same = (items[:, :, None] == other_items[:, None, :]) & (items >= 0)[:, :, None]
        real = (other_items >= 0).sum(axis=1)
        sums += [
            (items == other_items).all(axis=1).sum(),
            (same.sum(axis=(1, 2)) / np.maximum(real, 1)).sum(),
            (items[:, 0] == other_items[:, 0]).sum(),
            (real > 0).sum(),
        ]
        apart = np.abs(scores[:, :, None] - other_scores[:, None, :])
        largest = max(largest, float(apart[same].max(initial=0.0)))
    equal, overlap, first, with_items = sums
    shares = equal / users, overlap / max(with_items, 1), first / users
    return Change(users, *map(float, shares), largest)


def _rows(folder: Path) -> pa.Table:
    parts = sorted(folder.glob("part-*.parquet"))
    return pa.concat_tables(pq.read_table(part, columns=["user_id", "item_ids", "scores"]) for part in parts)


def _dense(rows: pa.Table, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return items (n, k) int64, -1 past the end of a list, and scores (n, k) float32."""
    items = np.full((len(rows), k), -1)
    scores = np.zeros((len(rows), k), np.float32)
    lists, values = rows["item_ids"].combine_chunks(), rows["scores"].combine_chunks()
    lengths = lists.value_lengths().to_numpy()
    owner = np.repeat(np.arange(len(rows)), lengths)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    items[owner, place] = lists.flatten().to_numpy()
    scores[owner, place] = values.flatten().to_numpy()
    return items, scores
