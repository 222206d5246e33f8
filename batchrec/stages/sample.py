"""Sample: a top-k list drawn from the ranker's softmax, and the probability of each draw."""

from __future__ import annotations

import math
from typing import NamedTuple

from array_api_compat import array_namespace, device

from batchrec.arrays import MISSING, Array, best_first, gather, masked_scores, pad_columns, splitmix64
from batchrec.errors import ConfigError

LOGIT_LIMIT = 8e307
"""Stands for infinite logits: finite itself, and so is the distance between its two signs in float64."""


class Sampled(NamedTuple):
    """Top-k lists of n users, first place first.

    Attributes
    ----------
    positions
        Item positions, ``(n, k)`` int64, -1 past the end of a short list.
    relevance
        What the ranker said, ``(n, k)`` float32, -inf where the position is -1.
    propensity
        Probability of the item at its place given the places above it, ``(n, k)`` float32, 0 where the position is -1
        and nowhere else. The product along a row is the probability of the row's list.
    """

    positions: Array
    relevance: Array
    propensity: Array


def sample(
    relevance: Array,
    positions: Array,
    user_hash: Array,
    item_hash: Array,
    k: int,
    temperature: float,
    seed: int,
) -> Sampled:
    """Draw k candidates a user without replacement, P(next = i) ∝ exp(relevance_i · temperature) over those left.

    Adding independent Gumbel noise to the logits and sorting draws exactly so: Yellott, "The relationship between
    Luce's choice axiom ..." (1977); Kool et al., "Stochastic Beams and Where to Find Them" (ICML 2019); with
    exponentials in place of Gumbels, Efraimidis and Spirakis (2006). The noise of a pair is a hash of seed, user and
    item, so a list depends on neither the partition nor the order of users or candidates.

    Candidates of equal relevance have equal chances at every size of logit, where float64 no longer resolves the noise
    and at -inf too; -inf comes after everything finite. What still ties is ordered by item position.

    Parameters
    ----------
    relevance
        ``(n, K)`` float32. NaN counts as -inf.
    positions
        Candidates' item positions, ``(n, K)`` int64 below N, -1 where there is none; those are never chosen.
    user_hash
        Hash of each user's id, ``(n,)`` uint64.
    item_hash
        Hash of each item's id, ``(N,)`` uint64, N at least 1.
    k
        Length of the lists.
    temperature
        Multiplies the relevance, above 0: the higher, the closer to sorting. ``inf`` sorts, with propensity 1.
    seed
        Any integer, taken modulo 2**64.

    Returns
    -------
    Sampled

    Raises
    ------
    ConfigError
        The temperature is not above 0.
    """
    if not temperature > 0:
        raise ConfigError(
            f"temperature is {temperature}, expected a number above 0",
            "give a positive temperature, or inf to sort without sampling",
        )
    xp = array_namespace(relevance, positions, user_hash, item_hash)
    # At least k + 1 columns: the first k are the result, and those left over are never none.
    positions = pad_columns(positions, k + 1, MISSING)
    relevance = masked_scores(pad_columns(relevance, k + 1, -math.inf), positions)
    if math.isinf(temperature):
        drawn = best_first(positions, relevance)
        propensity = xp.astype(xp.take_along_axis(positions, drawn, axis=-1) >= 0, xp.float64)[:, :k]
    else:
        logits = xp.clip(xp.astype(relevance, xp.float64) * temperature, -LOGIT_LIMIT, LOGIT_LIMIT)
        noise = _gumbel(user_hash, item_hash, positions, seed)
        # Equal logits so large that they swallow the noise still go by it: adding it rounds, but keeps its order.
        drawn = best_first(positions, logits + noise, noise)
        is_item = xp.take_along_axis(positions, drawn, axis=-1) >= 0
        propensity = _propensity(xp.take_along_axis(logits, drawn, axis=-1), is_item, k)
    return Sampled(
        xp.take_along_axis(positions, drawn[:, :k], axis=-1),
        xp.astype(xp.take_along_axis(relevance, drawn[:, :k], axis=-1), xp.float32),
        xp.astype(propensity, xp.float32),
    )


def _gumbel(user_hash: Array, item_hash: Array, positions: Array, seed: int) -> Array:
    """Return standard Gumbel noise of each (seed, user, item), ``(n, K)`` float64."""
    xp = array_namespace(positions)
    run_key = splitmix64(xp.asarray([seed % 2**64], dtype=xp.uint64, device=device(user_hash)))
    user_key = splitmix64(run_key ^ user_hash)
    bits = splitmix64(user_key[:, None] ^ gather(item_hash, xp.maximum(positions, 0)))
    # The 2**52 odd multiples of 2**-53: exact in float64, even about 1/2, and never 0 or 1.
    uniform = (xp.astype(bits >> xp.asarray(12, dtype=xp.uint64, device=device(bits)), xp.float64) + 0.5) * 2.0**-52
    return -xp.log(-xp.log(uniform))


def _propensity(logits: Array, is_item: Array, k: int) -> Array:
    """Return each draw's probability among the items left, ``(n, k)`` float64, for rows in the order drawn.

    The sum of the exponentials of those left is kept as (largest logit, sum relative to it), from the last place to
    the first. Unlike the logarithm of the sum, the pair loses nothing where a logit is so large that float64 does not
    resolve log 2 beside it; unlike the sum, it neither overflows nor vanishes.
    """
    xp = array_namespace(logits, is_item)
    one = xp.astype(is_item, xp.float64)
    largest = xp.max(logits[:, k:], axis=1)
    total = xp.sum(one[:, k:] * xp.exp(logits[:, k:] - largest[:, None]), axis=1)
    columns = [logits[:, :0]]
    for place in reversed(range(k)):
        logit = logits[:, place]
        larger = xp.maximum(largest, logit)
        weight = one[:, place] * xp.exp(logit - larger)
        total = total * xp.exp(largest - larger) + weight
        # With an item left the total is at least 1; without one the weight is 0.
        columns.append((weight / xp.maximum(total, 1.0))[:, None])
        largest = larger
    return xp.concat(columns[::-1], axis=1)
