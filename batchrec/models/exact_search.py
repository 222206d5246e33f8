"""Exact search of all vectors at the speed of BLAS, with bits that BLAS has no say in.

BLAS multiplies a block of queries with the vectors many times faster than one product at a time, but its last bits
change with the place of a query in the block, the shape of the block and the number of threads. So it only proposes: it
finds somewhat more vectors than are asked for, and their scores are computed anew, one product at a time. The best of
these are the best of all wherever what was not proposed lies further below them than rounding reaches; the few queries
where it does not are multiplied with all vectors one product at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from batchrec.models.hits import best_first, is_settled, multiply, unit_error
from batchrec.models.proposals import Proposals, propose

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Integers = npt.NDArray[np.int64]

SPARE = 16
"""Proposals beyond those asked for: enough to see a gap in the scores that is wider than rounding."""

CROWD = 2
"""Times as many proposals as were asked for after which a query's vectors count as nearly all alike."""

SCORES_A_BLOCK = 1 << 22
"""Scores held at a time in one thread, about: 16 MB."""

FEWEST_QUERIES = 128
"""Queries multiplied at a time even where that makes more scores: enough for BLAS to be fast."""

LARGE = 40_000
"""Vectors from which Faiss proposes, which keeps the best of each block of vectors alone: all scores of enough queries
no longer fit into the processor's cache."""


class ExactSearch:
    """Finds the vectors with the highest inner products.

    A row of the result depends on its query and the depth alone, to the last bit. Several threads may search at once;
    each search runs in the thread that calls it.

    Parameters
    ----------
    vectors
        (N, d) float32, C-contiguous, N at least 1; must not change.
    """

    def __init__(self, vectors: Floats) -> None:
        self._vectors = vectors
        self._error = unit_error(vectors)

    def __call__(self, queries: Floats, depth: int) -> tuple[Floats, Integers]:
        """Find the best vectors of each query.

        Parameters
        ----------
        queries
            (m, d) float32, C-contiguous.
        depth
            How many vectors a query, at least 1.

        Returns
        -------
        scores
            (m, depth) float32, best first, equal ones by place.
        places
            (m, depth) int64, -1 past the last vector and where the score is not a number.
        """
        step = max(FEWEST_QUERIES, SCORES_A_BLOCK // len(self._vectors))
        blocks = [self._search(queries[start : start + step], depth) for start in range(0, len(queries), step)]
        scores, places = zip(*blocks, strict=True)
        return np.concatenate(scores), np.concatenate(places)

    def _search(self, queries: Floats, depth: int) -> tuple[Floats, Integers]:
        asked = min(depth, len(self._vectors))
        floors, proposed = self._propose(queries, asked + SPARE)
        scores, places = best_first(multiply(queries, self._vectors, proposed), proposed, depth)
        for row in np.flatnonzero(~is_settled(scores[:, asked - 1], floors, queries, self._error)):
            every = np.arange(len(self._vectors), dtype=np.int64)[None, :]
            alone = multiply(queries[row : row + 1], self._vectors, every)
            scores[row], places[row] = (found[0] for found in best_first(alone, every, depth))
        return scores, places

    def _propose(self, queries: Floats, count: int) -> Proposals:
        if len(self._vectors) <= LARGE or count >= len(self._vectors):
            return propose(np.matmul(queries, self._vectors.T), count, CROWD * count)
        scores, places = _by_faiss(queries, self._vectors, count)
        return Proposals(scores[:, -1], places)


def _by_faiss(queries: Floats, vectors: Floats, count: int) -> tuple[Floats, Integers]:
    import faiss

    faiss.cvar.distance_compute_blas_threshold = 0
    found: tuple[Floats, Integers] = faiss.knn(queries, vectors, count, metric=faiss.METRIC_INNER_PRODUCT)
    return found
