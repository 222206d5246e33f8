"""Exact search of a flat index at the speed of BLAS, with bits that BLAS has no say in.

BLAS multiplies a block of queries with the catalogue many times faster than one product at a time, but its last bits
change with the place of a query in the block, the shape of the block and the number of threads. So it only proposes: it
finds somewhat more items than are asked for, and their scores are computed anew, one product at a time. The best of
these are the best of all wherever the proposals end further below than rounding reaches; the few queries where they do
not are multiplied with the whole catalogue one product at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Positions = npt.NDArray[np.int64]

SPARE = 16
"""Proposals beyond those asked for: enough to see a gap in the scores that is wider than rounding."""

ROUNDING = 2.0**-24
"""Largest relative error of one float32 operation."""


class ExactSearch:
    """Searches a flat Faiss index with inner product.

    A row of the result depends on its query and the depth alone, to the last bit.

    Parameters
    ----------
    index
        The index; must live as long as this.
    """

    def __init__(self, index: Any) -> None:
        import faiss

        self._index = index
        size, dimension = index.ntotal, index.d
        self._vectors: Floats = faiss.rev_swig_ptr(index.get_xb(), size * dimension).reshape(size, dimension)
        longest = np.sqrt(np.max(np.einsum("nd,nd->n", self._vectors, self._vectors, dtype=np.float64), initial=0.0))
        # By Higham, "Accuracy and Stability of Numerical Algorithms" (2002), section 3.1, in whatever order the terms
        # are added; twice, for the score proposed and the score computed anew.
        self._error_a_unit = 2 * 1.01 * dimension * ROUNDING * longest

    def __call__(self, queries: Floats, depth: int) -> tuple[Floats, Positions]:
        """Find the best items of each query.

        Parameters
        ----------
        queries
            (m, d) float32, C-contiguous.
        depth
            How many items a query, at least 1.

        Returns
        -------
        scores
            (m, depth) float32, best first, equal ones by position.
        positions
            (m, depth) int64, -1 past the end of the catalogue and where the score is not a number.
        """
        asked = min(depth, self._index.ntotal)
        proposed, positions = _by_blas(self._index, queries, min(asked + SPARE, self._index.ntotal))
        scores, positions = _best_first(self._multiply(queries, positions), positions)
        scores, last = scores[:, :asked], scores[:, asked - 1]
        positions = positions[:, :asked]
        if proposed.shape[1] < self._index.ntotal:
            norms = np.linalg.norm(queries.astype(np.float64), axis=1)
            unclear = np.flatnonzero(~(last.astype(np.float64) > proposed[:, -1] + self._error_a_unit * norms))
            for row in unclear:
                scores[row], positions[row] = self._one_by_one(queries[row], asked)
        positions[np.isnan(scores)] = -1
        rest = ((0, 0), (0, depth - asked))
        return np.pad(scores, rest, constant_values=-np.inf), np.pad(positions, rest, constant_values=-1)

    def _one_by_one(self, query: Floats, depth: int) -> tuple[Floats, Positions]:
        positions = np.arange(self._index.ntotal, dtype=np.int64)[None, :]
        scores, positions = _best_first(self._multiply(query[None, :], positions), positions)
        return scores[0, :depth], positions[0, :depth]

    def _multiply(self, queries: Floats, positions: Positions) -> Floats:
        """Multiply each query (m, d) with the items at its positions (m, k), one product at a time."""
        import faiss

        scores = np.empty(positions.shape, np.float32)
        pointers = (faiss.swig_ptr(array) for array in (scores, queries, self._vectors, positions))
        faiss.fvec_inner_products_by_idx(*pointers, self._index.d, *positions.shape)  # type: ignore[attr-defined]
        return scores


def _by_blas(index: Any, queries: Floats, depth: int) -> tuple[Floats, Positions]:
    import faiss

    faiss.cvar.distance_compute_blas_threshold = 0
    found: tuple[Floats, Positions] = index.search(queries, depth)
    return found


def _best_first(scores: Floats, positions: Positions) -> tuple[Floats, Positions]:
    """Sort rows by score, highest first, then by position; what is not a number comes last."""
    order = np.lexsort((positions, -scores), axis=-1)
    return np.take_along_axis(scores, order, axis=-1), np.take_along_axis(positions, order, axis=-1)
