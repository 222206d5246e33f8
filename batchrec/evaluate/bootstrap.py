"""Percentile bootstrap over users (Efron 1979): how far a figure would move with another draw of users.

Resample r draws n users with replacement from a stream that depends on (seed, r) alone, so neither the number of
resamples nor the block size changes a resample, and all figures of all runs are resampled with the same users: the
difference of two figures within a resample is a paired one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from batchrec.evaluate.metrics import Counts, Values

CONFIDENCE = 0.95
"""Share of the resamples that lies inside an interval."""

DRAWS_PER_BLOCK = 1 << 22
"""Weights held at once (8 bytes each); a single resample is always held whole."""


def resampled_means(values: Values, resamples: int, seed: int) -> Values:
    """Average the users of every resample.

    Parameters
    ----------
    values
        ``(n, f)`` figures, one row a user.
    resamples
        Number of resamples.
    seed
        0 … 2^64 - 1.

    Returns
    -------
    Values
        ``(resamples, f)`` means.
    """
    users = len(values)
    block = max(1, DRAWS_PER_BLOCK // users)
    means = np.empty((resamples, values.shape[1]))
    for start in range(0, resamples, block):
        stop = min(start + block, resamples)
        weights = np.stack([_draw(users, seed, resample) for resample in range(start, stop)])
        means[start:stop] = (weights @ values) / users
    return means


def interval(resampled: Values) -> tuple[Values, Values]:
    """Return the lower and upper ends, each ``(f,)``, of the central 95 % of ``(resamples, f)`` figures."""
    outside = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, (outside, 1 - outside), axis=0)
    return low, high


def _draw(users: int, seed: int, resample: int) -> Values:
    """Return how often each user is drawn, ``(users,)``, as float64 for the matrix product."""
    stream = np.random.Generator(np.random.Philox(key=np.array([seed, resample], dtype=np.uint64)))
    drawn: Counts = np.bincount(stream.integers(users, size=users), minlength=users)
    return drawn.astype(np.float64)
