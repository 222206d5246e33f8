"""Rank: the relevance of every candidate, by a model that sees pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from array_api_compat import array_namespace, device

from batchrec.arrays import Array, gather, whole_batches

Features = Mapping[str, Array]
Unroll = Callable[[Features, Features, Array], Features]
ScorePairs = Callable[[Features], Array]


def rank(
    user: Features,
    item: Features,
    positions: Array,
    score_pairs: ScorePairs,
    users_per_batch: int,
    *,
    unroll: Unroll,
) -> Array:
    """Score every candidate of every user.

    Every call of `score_pairs` gets exactly ``users_per_batch·K`` pairs (the last batch repeats the last user), because
    the last bits of a model's output change with the shape of its input. So a user's relevance does not depend on how
    many users there are, and pairs exist for one batch at a time.

    Parameters
    ----------
    user
        User features by name, each ``(n, ...)``.
    item
        Item features by name, each ``(N, ...)``.
    positions
        Candidates' item positions, ``(n, K)`` int64, -1 where there is none.
    score_pairs
        The ranker: features of B pairs by name, each ``(B, ...)``, to relevance ``(B,)``.
    users_per_batch
        Users whose pairs are scored in one call.
    unroll
        Builds the pairs of one batch, row by row, from user features, item features and positions.

    Returns
    -------
    Array
        Relevance, ``(n, K)`` float32, -inf where the position is -1.
    """
    xp = array_namespace(positions)
    rows, width = positions.shape
    if rows == 0 or width == 0:
        return xp.zeros((rows, width), dtype=xp.float32, device=device(positions))
    batches = []
    for batch in whole_batches(rows, users_per_batch, positions):
        users = {name: gather(values, batch) for name, values in user.items()}
        scores = score_pairs(unroll(users, item, gather(positions, batch)))
        batches.append(xp.astype(xp.reshape(scores, (users_per_batch, width)), xp.float32))
    return xp.where(positions < 0, -math.inf, xp.concat(batches)[:rows, :])
