"""Search of an inverted file, list by list instead of query by query.

Faiss takes one query after another through the lists that it probes, one product at a time. Here all queries of a block
that probe a list are multiplied with it at once, by BLAS, which only proposes: the scores of the hits are computed
anew, as in :mod:`batchrec.models.exact_search`. What is found is what Faiss finds by itself, and equal scores stand in
the order of their positions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from batchrec.models.exact_search import CROWD, SPARE, ExactSearch
from batchrec.models.hits import best_first, is_settled, multiply, unit_error
from batchrec.models.proposals import propose

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Integers = npt.NDArray[np.int64]

TILE = 64
"""Vectors multiplied at a time, all of one list: few enough that the last tile of a list wastes little, a multiple of
the numbers in a vector register."""

SCORES_A_BLOCK = 1 << 24
"""Scores held at a time in one thread: 64 MB. The more queries a block has, the more of them share a list."""


class ListSearch:
    """Searches an uncompressed inverted file with inner product.

    A row of the result depends on its query, the depth and the number of lists probed alone, to the last bit. Several
    threads may search at once; each search runs in the thread that calls it.

    Parameters
    ----------
    centroids
        (L, d) float32.
    vectors
        (N, d) float32: those of the first list, then those of the second and so on.
    positions
        (N,) int64: their item positions.
    bounds
        (L + 1,) int64: list ``l`` holds vectors ``bounds[l]`` to ``bounds[l + 1]``.
    """

    def __init__(self, centroids: Floats, vectors: Floats, positions: Integers, bounds: Integers) -> None:
        self.lists = len(centroids)
        self._nearest = ExactSearch(centroids)
        self._vectors, self._positions, self._bounds = vectors, positions, bounds
        self._error = unit_error(vectors)
        tiles = -(-np.diff(bounds) // TILE)
        self._first_tile = np.concatenate([[0], np.cumsum(tiles)])
        self._starts = np.repeat(bounds[:-1], tiles) + _counted_up(tiles) * TILE
        self._stops = np.minimum(self._starts + TILE, np.repeat(bounds[1:], tiles))
        # NumPy sorts 16-bit numbers by their digits, in a third of the time.
        self._tile_number = np.uint16 if len(self._starts) < 1 << 16 else np.int32

    @staticmethod
    def can_search(ivf: Any) -> bool:
        """Tell whether an IVF of Faiss is searched here: uncompressed, its lists chosen among all by inner product."""
        import faiss

        quantizer = faiss.downcast_index(ivf.quantizer)
        by_inner_product = isinstance(quantizer, faiss.IndexFlat) and quantizer.metric_type == ivf.metric_type
        return type(ivf) is faiss.IndexIVFFlat and by_inner_product

    @classmethod
    def of(cls, ivf: Any) -> ListSearch:
        """Copy the lists of an IVF that :meth:`can_search` accepts, from memory."""
        lists = [list_of(ivf.invlists, number, ivf.d) for number in range(ivf.nlist)]
        bounds = np.cumsum([0, *(len(positions) for _, positions in lists)])
        vectors, positions = (np.concatenate(parts) for parts in zip(*lists, strict=True))
        return cls(ivf.quantizer.reconstruct_n(0, ivf.nlist), vectors, positions, bounds)

    def __call__(self, queries: Floats, depth: int, nprobe: int) -> tuple[Floats, Integers]:
        """Find the best items in the lists nearest to each query.

        Parameters
        ----------
        queries
            (m, d) float32, C-contiguous.
        depth
            How many items a query, at least 1.
        nprobe
            Lists to look through, at least 1.

        Returns
        -------
        scores
            (m, depth) float32, best first, equal ones by position, -inf where there is no further item.
        positions
            (m, depth) int64, -1 where there is no further item.
        """
        _, lists = self._nearest(queries, nprobe)
        # Place -1, of a query that is not a number, reads the last entry: no tiles.
        tiles = np.concatenate([np.diff(self._first_tile), [0]])[lists]
        step = max(1, SCORES_A_BLOCK // max(TILE * int(tiles.sum(axis=1).max()), 1))
        found = [
            self._search(queries[rows], depth, lists[rows], tiles[rows])
            for rows in (slice(start, start + step) for start in range(0, len(queries), step))
        ]
        scores, positions = zip(*found, strict=True)
        return np.concatenate(scores), np.concatenate(positions)

    def _search(self, queries: Floats, depth: int, lists: Integers, tiles: Integers) -> tuple[Floats, Integers]:
        tile_of, scores = self._multiply_by_tile(queries, lists, tiles)
        asked = depth + SPARE
        floors, columns = propose(scores, asked, CROWD * asked)
        slots, within = np.divmod(columns, TILE)
        tile = np.take_along_axis(tile_of, np.maximum(slots, 0), axis=1)
        places = np.where(columns < 0, -1, self._starts[tile] + within)
        exact = multiply(queries, self._vectors, places)
        scores, positions = best_first(exact, np.where(places < 0, -1, self._positions[places]), depth)
        for row in np.flatnonzero(~is_settled(scores[:, -1], floors, queries, self._error)):
            scores[row], positions[row] = self._one_by_one(queries[row], depth, lists[row])
        return scores, positions

    def _multiply_by_tile(self, queries: Floats, lists: Integers, tiles: Integers) -> tuple[Integers, Floats]:
        """Multiply each query with the tiles of its lists.

        Returns the tile in each of a query's slots, (m, W), and the scores, (m, W · TILE), -inf where there is none.
        """
        per_query = tiles.sum(axis=1)
        m, width = len(queries), int(per_query.max(initial=0))
        row = np.repeat(np.arange(m), per_query)
        slot = row * width + _counted_up(per_query)
        tile = np.repeat(self._first_tile[lists].reshape(-1), tiles.reshape(-1)) + _counted_up(tiles.reshape(-1))
        tile_of = np.zeros((m, width), np.int64)
        tile_of.reshape(-1)[slot] = tile
        scores = np.full((m * width, TILE), -np.inf, np.float32)
        order = np.argsort(tile.astype(self._tile_number), kind="stable")
        row, slot = row[order], slot[order]
        ends = np.cumsum(np.bincount(tile, minlength=len(self._starts)))
        begin = 0
        for end, start, stop in zip(ends.tolist(), self._starts.tolist(), self._stops.tolist(), strict=True):
            if begin < end:
                of_tile = queries.take(row[begin:end], axis=0) @ self._vectors[start:stop].T
                scores[slot[begin:end], : stop - start] = of_tile
            begin = end
        return tile_of, scores.reshape(m, width * TILE)

    def _one_by_one(self, query: Floats, depth: int, lists: Integers) -> tuple[Floats, Integers]:
        ranges = [np.arange(self._bounds[one], self._bounds[one + 1]) for one in lists[lists >= 0]]
        places = np.concatenate([np.zeros(0, np.int64), *ranges])[None, :]
        scores = multiply(query[None, :], self._vectors, places)
        scores, positions = best_first(scores, self._positions[places], depth)
        return scores[0], positions[0]


def list_of(lists: Any, number: int, dimension: int) -> tuple[Floats, Integers]:
    """Return a copy of a list's vectors, (s, d), and their positions, (s,)."""
    import faiss

    size = lists.list_size(number)
    if size == 0:
        return np.zeros((0, dimension), np.float32), np.zeros(0, np.int64)
    codes = faiss.rev_swig_ptr(lists.get_codes(number), size * dimension * 4)
    vectors = codes.view(np.float32).reshape(size, dimension).copy()
    return vectors, faiss.rev_swig_ptr(lists.get_ids(number), size).copy()


def _counted_up(counts: Integers) -> Integers:
    """Return 0, 1, … up to each count, one after the other: ``[2, 0, 3]`` gives ``[0, 1, 0, 1, 2]``."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
