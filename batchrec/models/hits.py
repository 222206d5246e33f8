"""Hits of a search: scores computed one product at a time, and their order.

A score computed so has the same last bits wherever its query stands and however many threads compute.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from batchrec.models.compiled import compiled

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Integers = npt.NDArray[np.int64]

ROUNDING = 2.0**-24
"""Largest relative error of one float32 operation."""

NONE = np.iinfo(np.int64).max
"""The key of what is no hit; it stands last."""


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
    keys = np.empty(scores.shape, np.int64)
    _to_keys(scores, positions, keys)
    keys.sort(axis=1)
    ordered, places = np.empty((len(keys), depth), np.float32), np.empty((len(keys), depth), np.int64)
    _from_keys(keys, ordered, places)
    return ordered, places


@compiled
def _to_keys(scores: Floats, positions: Integers, keys: Integers) -> None:
    for r in range(keys.shape[0]):
        for c in range(keys.shape[1]):
            bits = np.int64(np.float32(scores[r, c] + np.float32(0)).view(np.int32))
            # Of negative numbers, a higher pattern is a lower number.
            rising = bits if bits >= 0 else bits ^ 0x7FFFFFFF
            is_none = positions[r, c] < 0 or scores[r, c] != scores[r, c]
            keys[r, c] = NONE if is_none else (~rising << 32) | positions[r, c]


@compiled
def _from_keys(keys: Integers, scores: Floats, positions: Integers) -> None:
    kept = min(keys.shape[1], scores.shape[1])
    for r in range(scores.shape[0]):
        for c in range(kept):
            rising = ~(keys[r, c] >> 32)
            score = np.int32(rising if rising >= 0 else rising ^ 0x7FFFFFFF).view(np.float32)
            scores[r, c] = -np.inf if keys[r, c] == NONE else score
            positions[r, c] = -1 if keys[r, c] == NONE else keys[r, c] & 0xFFFFFFFF
        scores[r, kept:] = -np.inf
        positions[r, kept:] = -1


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
