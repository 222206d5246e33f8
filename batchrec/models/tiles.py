"""Lists of vectors cut into tiles, and the products of many queries with the tiles that each of them asks for.

Queries that ask for one tile are multiplied with it together, whatever lists they ask for besides
(docs/decisions/017-search-by-list.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from batchrec.models.proposals import Proposals, Running

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Integers = npt.NDArray[np.int64]

TILE = 64
"""Vectors of a tile, all of one list: few enough that the last tile of a list wastes little, a multiple of the numbers
in a vector register."""


class Tiles:
    """Vectors that can be multiplied by tile.

    Parameters
    ----------
    vectors
        (N, d) float32: those of the first list, then those of the second and so on.
    bounds
        (L + 1,) int64: list ``l`` holds vectors ``bounds[l]`` to ``bounds[l + 1]``.

    Attributes
    ----------
    starts
        (T,) int64: the first vector of each tile.
    """

    def __init__(self, vectors: Floats, bounds: Integers) -> None:
        self._first, self.starts, stops = tiles_of(bounds)
        self._columns = tile_columns(vectors, self.starts, stops, vectors.shape[1] + 1)
        # NumPy sorts 16-bit numbers by their digits, in a third of the time.
        self._number = np.uint16 if len(self.starts) < 1 << 16 else np.int32

    def count(self, lists: Integers) -> Integers:
        """Return how many tiles each list has; place -1, of a query that is not a number, stands for no list."""
        count: Integers = np.concatenate([np.diff(self._first), [0]])[lists]
        return count

    def propose(self, queries: Floats, lists: Integers, count: int) -> Proposals:
        """Multiply each query with all vectors of its lists, and propose those that can be among its best.

        Parameters
        ----------
        queries
            (m, d) float32.
        lists
            (m, p) int64: the different lists that each query asks for, -1 for none.
        count
            How many vectors are asked for, at least 1.

        Returns
        -------
        Proposals
            Numbers of vectors stand for columns.
        """
        counts = self.count(lists)
        row = np.repeat(np.arange(len(queries)), counts.sum(axis=1))
        counts = counts.reshape(-1)
        tile = np.repeat(self._first[lists].reshape(-1), counts) + counted_up(counts)
        row = row.take(np.argsort(tile.astype(self._number), kind="stable"))
        running = Running(len(queries), count, TILE)
        ends = np.cumsum(np.bincount(tile, minlength=len(self.starts)))
        running.multiply(queries, self._columns, row, ends, self.starts)
        return running.proposals()


def tiles_of(bounds: Integers) -> tuple[Integers, Integers, Integers]:
    """Cut lists into tiles.

    Parameters
    ----------
    bounds
        (L + 1,) int64: list ``l`` holds vectors ``bounds[l]`` to ``bounds[l + 1]``.

    Returns
    -------
    first
        (L + 1,) int64: list ``l`` has tiles ``first[l]`` to ``first[l + 1]``.
    starts, stops
        (T,) int64: tile ``t`` holds vectors ``starts[t]`` to ``stops[t]``.
    """
    of_list = -(-np.diff(bounds) // TILE)
    first = np.concatenate([[0], np.cumsum(of_list)])
    starts = np.repeat(bounds[:-1], of_list) + counted_up(of_list) * TILE
    return first, starts, np.minimum(starts + TILE, np.repeat(bounds[1:], of_list))


def tile_columns(vectors: Floats, starts: Integers, stops: Integers, rows: int) -> Floats:
    """Return the vectors of T tiles as columns: BLAS takes up to three times as long over the transpose.

    Parameters
    ----------
    vectors
        (N, d) float32.
    starts, stops
        (T,) int64: the vectors of each tile, at most :data:`TILE`.
    rows
        Rows of the columns, above d. Row d, which every query multiplies with 1, takes the columns without a vector
        out: -inf there, 0 elsewhere. Further rows are 0.

    Returns
    -------
    (T, rows, TILE) float32
    """
    dimension = vectors.shape[1]
    tiles = np.zeros((len(starts), rows, TILE), np.float32)
    for columns, start, stop in zip(tiles, starts, stops, strict=True):
        columns[:dimension, : stop - start] = vectors[start:stop].T
        columns[dimension, stop - start :] = -np.inf
    return tiles


def counted_up(counts: Integers) -> Integers:
    """Return 0, 1, … up to each count, one after the other: ``[2, 0, 3]`` gives ``[0, 1, 0, 1, 2]``."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
