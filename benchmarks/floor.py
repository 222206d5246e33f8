"""What this machine can do at best, measured in the same run: float32 multiplications and bytes moved."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from workload import CANDIDATES, DIMENSION

from batchrec.models.threads import cores, one_thread_a_call, share_out

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

MATRIX, BYTES, REPETITIONS = 1024, 1 << 27, 5
TOP, HEADS = (128, 64, 32), 2


def measure() -> dict[str, float]:
    """Return the rate of matrix products (flop/s) and of copying (bytes/s, read and written), on all cores."""
    one_thread_a_call()
    random = np.random.default_rng(0)
    factors = [random.random((2, MATRIX, MATRIX), np.float32) for _ in range(cores())]
    memory = [(np.ones(BYTES, np.uint8), np.empty(BYTES, np.uint8)) for _ in range(cores())]
    return {
        "flop/s": 2 * MATRIX**3 * 4 * cores() / _best(lambda: share_out(_multiply, factors)),
        "bytes/s": 2 * BYTES * cores() / _best(lambda: share_out(lambda pair: np.copyto(pair[1], pair[0]), memory)),
    }


def necessary(
    lengths: npt.NDArray[np.int64], items_read: float, user_vectors: int, item_vectors: int
) -> dict[str, dict[str, float]]:
    """Count the arithmetic that the stages cannot do without, and the bytes they cannot but read, for all users.

    Parameters
    ----------
    lengths
        (n,): of every user's history, the places with an item. Others are seen by none and need not be computed.
    items_read
        Items that a query is multiplied with.
    user_vectors, item_vectors
        Vectors of each side in the ranker's interaction.
    """
    users, places = len(lengths), float(lengths.sum())
    pairs, widths = users * CANDIDATES, (user_vectors * item_vectors, *TOP, 1)
    layers = sum(a * b for a, b in pairwise(widths))
    # Two blocks of attention. In the first every place reads those up to itself; in the second only the last one asks,
    # by a vector a head, of places that are not projected (docs/decisions/015-tower-algebra.md).
    one_place = 4 * DIMENSION**2 + 4 * DIMENSION**2
    first = places * one_place + DIMENSION * float((lengths**2).sum())
    second = users * one_place + 2 * HEADS * DIMENSION * places
    return {
        "query tower": {"flop": 2 * (first + second), "bytes": 4 * places * DIMENSION},
        "retrieve and filter": {"flop": 2 * users * items_read * DIMENSION, "bytes": 0},
        "rank": {
            "flop": 2 * pairs * (user_vectors * item_vectors * DIMENSION + layers + DIMENSION),
            "bytes": 4 * pairs * (DIMENSION * (item_vectors + 1) + TOP[0]),
        },
    }


def _multiply(pair: np.ndarray) -> None:
    out = np.empty((MATRIX, MATRIX), np.float32)
    for _ in range(4):
        np.matmul(pair[0], pair[1], out=out)


def _best(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(REPETITIONS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
