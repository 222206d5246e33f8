"""Hits of a search: scores computed one product at a time, and their order.

A score computed so has the same last bits wherever its query stands and however many threads compute.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Integers = npt.NDArray[np.int64]

ROUNDING = 2.0**-24
"""Largest relative error of one float32 operation."""


def multiply(queries: Floats, vectors: Floats, places: Integers) -> Floats:
    """Multiply each query (m, d) with the vectors (N, d) at its places (m, k); -inf where the place is -1.

    Both C-contiguous.
    """
    import faiss

    scores = np.empty(places.shape, np.float32)
    pointers = (faiss.swig_ptr(array) for array in (scores, queries, vectors, places))
    faiss.fvec_inner_products_by_idx(*pointers, vectors.shape[1], *places.shape)  # type: ignore[attr-defined]
    return scores


def best_first(scores: Floats, positions: Integers, depth: int) -> tuple[Floats, Integers]:
    """Sort rows by score, highest first, then by position, and keep `depth` of each.

    Score and position become one integer each, which NumPy sorts several times as fast as two keys.

    Parameters
    ----------
    scores
        (m, k) float32.
    positions
        (m, k) int64 below 2**32, -1 where there is none.
    depth
        Columns of the result; rows that are shorter are padded.

    Returns
    -------
    scores
        (m, depth) float32, -inf where the position is -1; zeros are positive.
    positions
        (m, depth) int64, -1 where there is no further one and where the score is not a number.
    """
    bits = (scores + np.float32(0)).view(np.int32)
    # Of negative numbers, a higher pattern is a lower number.
    falling = ~np.where(bits < 0, bits ^ np.int32(0x7FFFFFFF), bits)
    keys = (falling.astype(np.int64) << 32) | positions
    keys = np.where((positions < 0) | np.isnan(scores), np.iinfo(np.int64).max, keys)
    keys = np.sort(keys, axis=1)[:, :depth]
    keys = np.pad(keys, ((0, 0), (0, depth - keys.shape[1])), constant_values=np.iinfo(np.int64).max)
    rising = ~(keys >> 32).astype(np.int32)
    ordered = np.where(rising < 0, rising ^ np.int32(0x7FFFFFFF), rising).view(np.float32)
    is_none = keys == np.iinfo(np.int64).max
    return np.where(is_none, np.float32(-np.inf), ordered), np.where(is_none, -1, keys & 0xFFFFFFFF)


def unit_error(vectors: Floats) -> float:
    """Return how far a product by BLAS and one computed alone may lie apart, for a query of length 1.

    By Higham, "Accuracy and Stability of Numerical Algorithms" (2002), section 3.1, in whatever order the terms are
    added; twice, for the one and for the other.
    """
    squares = np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64)
    return float(2 * 1.01 * vectors.shape[1] * ROUNDING * np.sqrt(np.max(squares, initial=0.0)))


def is_settled(worst: Floats, floors: Floats, queries: Floats, error: float) -> npt.NDArray[np.bool_]:
    """Tell for which queries (m, d) nothing below the floor can belong to the best.

    Parameters
    ----------
    worst
        (m,) float32: the lowest score of those kept, computed one product at a time.
    floors
        (m,) float32: what was left out is below it by BLAS; -inf where nothing was, NaN where nothing is known.
    queries
        (m, d) float32.
    error
        Of :func:`unit_error`.
    """
    norms = np.linalg.norm(queries.astype(np.float64), axis=1)
    settled: npt.NDArray[np.bool_] = (worst.astype(np.float64) > floors + error * norms) | np.isneginf(floors)
    return settled
