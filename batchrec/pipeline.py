"""The straight line: features in, lists out. A composition of the stages and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from batchrec.arrays import gather
from batchrec.stages.anti_join import anti_join
from batchrec.stages.history import history
from batchrec.stages.rank import rank
from batchrec.stages.retrieve import Candidates, FirstKept, Search, first_kept, retrieve
from batchrec.stages.sample import Sampled, sample
from batchrec.stages.unroll import unroll

if TYPE_CHECKING:
    from batchrec.arrays import Array, Ragged
    from batchrec.stopwatch import Stopwatch

Arrays = Mapping[str, "Array"]

PAIRS_PER_BATCH = 16_384
"""Pairs a call of the ranker, about: large enough to keep every core busy, small enough to stay in cache."""

LANES = 16
"""Float32 numbers in the widest vector register of a CPU. The rows of a batch that do not fill one go through other
code than the rest, with other last bits, so every batch of pairs fills all of them."""


@dataclass(frozen=True)
class Users:
    """One partition of users, encoded.

    Parameters
    ----------
    query_inputs, ranker_inputs
        User features by model input, (n,) each.
    seen
        Item positions each user has seen, oldest first; -1 for items outside the catalogue.
    id_hash
        (n,) uint64.
    """

    query_inputs: Arrays
    ranker_inputs: Arrays
    seen: Ragged
    id_hash: Array

    def take(self, rows: Array) -> Users:
        """Return the users at `rows`, (m,) int64, in that order."""
        return Users(
            {name: gather(column, rows) for name, column in self.query_inputs.items()},
            {name: gather(column, rows) for name, column in self.ranker_inputs.items()},
            self.seen.take(rows),
            gather(self.id_hash, rows),
        )


@dataclass(frozen=True)
class Line:
    """What all partitions share: the models, the index, the items.

    Parameters
    ----------
    query_tower
        User inputs and ``history`` (n, L) to query embeddings (n, d) float32.
    search
        The index.
    score_pairs
        The ranker: named inputs of B pairs to relevance (B,) float32.
    score_candidates
        The ranker where it needs no unrolled pairs: its user inputs (n, …) and item positions (n, K) to relevance
        (n, K) float32, -inf where the position is -1. None for a ranker that knows only pairs.
    query_name
        Ranker input that takes the query embedding; None where it takes none.
    item_inputs
        Items by ranker input, (N, …) each.
    eligible
        (N,) bool: items that may be recommended.
    item_hash
        (N,) uint64.
    history_length
        Items of history that the query tower sees.
    anti_join, first_kept, sample
        These stages, as they are fastest on the device.
    """

    query_tower: Callable[[Arrays], Array]
    search: Search
    score_pairs: Callable[[Arrays], Array]
    query_name: str | None
    item_inputs: Arrays
    eligible: Array
    item_hash: Array
    history_length: int
    score_candidates: Callable[[Arrays, Array], Array] | None = None
    anti_join: Callable[[Array, Ragged, Array], Array] = anti_join
    first_kept: FirstKept = first_kept
    sample: Callable[..., Sampled] = sample


@dataclass(frozen=True)
class Options:
    """The options of a run that decide about lists; see :class:`~batchrec.config.JobConfig`."""

    candidates: int
    top_k: int
    temperature: float
    seed: int
    rank_by: Literal["ranker", "retrieval"]


def recommend(users: Users, line: Line, options: Options, stopwatch: Stopwatch) -> Sampled:
    """Make every user's list.

    Parameters
    ----------
    users
        n users.
    line
        Models, index and items.
    options
        What kind of lists.
    stopwatch
        Told what each stage took.

    Returns
    -------
    Sampled
        Positions, relevance and propensity, ``(n, top_k)`` each.
    """
    with stopwatch("query tower"):
        queries = line.query_tower({**users.query_inputs, "history": history(users.seen, line.history_length)})
    with stopwatch("retrieve and filter"):
        candidates = _candidates(queries, users.seen, line, options)
    with stopwatch("rank"):
        relevance = candidates.scores
        if options.rank_by == "ranker":
            relevance = _relevance(queries, candidates.positions, users, line)
    with stopwatch("sample"):
        return line.sample(
            relevance,
            candidates.positions,
            users.id_hash,
            line.item_hash,
            options.top_k,
            options.temperature,
            options.seed,
        )


def _candidates(queries: Array, seen: Ragged, line: Line, options: Options) -> Candidates:
    def keep(positions: Array, rows: Array) -> Array:
        return line.anti_join(positions, seen.take(rows), line.eligible)

    catalogue_size = line.eligible.shape[0]
    width = min(options.candidates, catalogue_size)  # beyond it every column would be searched, ranked and empty
    return retrieve(queries, line.search, keep, seen.lengths, width, catalogue_size, line.first_kept)


def _relevance(queries: Array, positions: Array, users: Users, line: Line) -> Array:
    inputs = dict(users.ranker_inputs)
    if line.query_name is not None:
        inputs[line.query_name] = queries
    if line.score_candidates is not None:
        return line.score_candidates(inputs, positions)
    users_per_batch = batch_of_users(positions.shape[1])
    return rank(inputs, line.item_inputs, positions, line.score_pairs, users_per_batch, unroll=unroll)


def batch_of_users(candidates: int) -> int:
    """Return how many users' pairs the ranker scores in one call: a multiple of :data:`LANES` pairs."""
    step = LANES // math.gcd(LANES, candidates)
    return max(PAIRS_PER_BATCH // candidates // step, 1) * step
