"""Search of an inverted file, list by list instead of query by query.

Faiss takes one query after another through the lists that it probes, one product at a time. Here all queries of a block
that probe a list are multiplied with it at once, by BLAS, which only proposes: the scores of the hits are computed
anew, as in :mod:`batchrec.models.exact_search`. What is found is what Faiss finds by itself, and equal scores stand in
the order of their positions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from batchrec.models.exact_search import SPARE, ExactSearch
from batchrec.models.hits import best_first, is_settled, multiply, unit_error
from batchrec.models.tiles import Tiles

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Integers = npt.NDArray[np.int64]

TILES_A_BLOCK = 1 << 20
"""Tiles that all queries of a block ask for, at most: 25 MB. The more queries there are, the more of them share one."""

PROPOSALS_A_BLOCK = 1 << 21
"""Hits asked for by all queries of a block, at most: 50 MB of proposals."""


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
        self._tiles = Tiles(vectors, bounds)

    @staticmethod
    def can_search(index: Any) -> bool:
        """Tell whether a Faiss index is searched here: an uncompressed IVF, its lists chosen by inner product."""
        import faiss

        if type(index) is not faiss.IndexIVFFlat:
            return False
        quantizer = faiss.downcast_index(index.quantizer)
        return isinstance(quantizer, faiss.IndexFlat) and quantizer.metric_type == index.metric_type

    @classmethod
    def of(cls, ivf: Any) -> ListSearch:
        """Copy the lists of an IVF that :meth:`can_search` accepts, from memory."""
        return cls(ivf.quantizer.reconstruct_n(0, ivf.nlist), *lists_of(ivf))

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
            (m, depth) float32, best first, equal ones by position, -inf where there is no further item. Items whose
            score is no number, or -inf because it overflows, are not found.
        positions
            (m, depth) int64, -1 where there is no further item.
        """
        _, lists = self._nearest(queries, nprobe)
        widest = int(self._tiles.count(lists).sum(axis=1).max())
        step = max(1, min(TILES_A_BLOCK // max(widest, 1), PROPOSALS_A_BLOCK // depth))
        found = [
            self._search(queries[rows], depth, lists[rows])
            for rows in (slice(start, start + step) for start in range(0, len(queries), step))
        ]
        scores, positions = zip(*found, strict=True)
        return np.concatenate(scores), np.concatenate(positions)

    def _search(self, queries: Floats, depth: int, lists: Integers) -> tuple[Floats, Integers]:
        floors, places = self._tiles.propose(queries, lists, depth + SPARE)
        exact = multiply(queries, self._vectors, places)
        scores, positions = best_first(exact, np.where(places < 0, -1, self._positions[places]), depth)
        for row in np.flatnonzero(~is_settled(scores[:, -1], floors, queries, self._error)):
            scores[row], positions[row] = self._one_by_one(queries[row], depth, lists[row])
        return scores, positions

    def _one_by_one(self, query: Floats, depth: int, lists: Integers) -> tuple[Floats, Integers]:
        ranges = [np.arange(self._bounds[one], self._bounds[one + 1]) for one in lists[lists >= 0]]
        places = np.concatenate([np.zeros(0, np.int64), *ranges])[None, :]
        scores = multiply(query[None, :], self._vectors, places)
        scores, positions = best_first(scores, self._positions[places], depth)
        return scores[0], positions[0]


def lists_of(ivf: Any) -> tuple[Floats, Integers, Integers]:
    """Return copies of the vectors of an uncompressed IVF in memory, list by list.

    Returns
    -------
    vectors, positions
        (N, d) float32 and (N,) int64.
    bounds
        (L + 1,) int64: list ``l`` holds vectors ``bounds[l]`` to ``bounds[l + 1]``.
    """
    lists = [list_of(ivf.invlists, number, ivf.d) for number in range(ivf.nlist)]
    bounds = np.cumsum([0, *(len(positions) for _, positions in lists)])
    vectors, positions = (np.concatenate(parts) for parts in zip(*lists, strict=True))
    return vectors, positions, bounds


def list_of(lists: Any, number: int, dimension: int) -> tuple[Floats, Integers]:
    """Return a copy of a list's vectors, (s, d), and their positions, (s,)."""
    import faiss

    size = lists.list_size(number)
    if size == 0:
        return np.zeros((0, dimension), np.float32), np.zeros(0, np.int64)
    codes = faiss.rev_swig_ptr(lists.get_codes(number), size * dimension * 4)
    vectors = codes.view(np.float32).reshape(size, dimension).copy()
    return vectors, faiss.rev_swig_ptr(lists.get_ids(number), size).copy()
