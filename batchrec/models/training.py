"""Training of all models of a bundle from one set of events.

Every user's events are split in time order: the towers learn from the first part, the ranker from the second, with
towers that have never seen it, and the last part decides when both stop. The towers then go on over all events, so
that the newest items and moods are in their embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import keras
import numpy as np

from batchrec.models.events import Events, ItemRows, tail
from batchrec.models.fit import Schedule, compile_for_lists, fit
from batchrec.models.held_out import HeldOut, best_items
from batchrec.models.ranker import RankerShape, build_ranker
from batchrec.models.ranker_training import Impressions, ItemTable, ListwiseRanker, PairBatches
from batchrec.models.reporting import Reporter
from batchrec.models.serving import as_pair_scorer
from batchrec.models.serving_tower import ServingTower
from batchrec.models.tower_training import TwoTower, WindowBatches

if TYPE_CHECKING:
    import numpy.typing as npt

    from batchrec.models.events import Columns, IntArray
    from batchrec.models.towers import TowerShape

RANKER_SHARE = 0.1
HELD_SHARE = 0.1
"""Shares of every user's events that train the ranker and that decide when to stop."""

CANDIDATES = 100
"""Items of retrieval among which the ranker learns to choose, as in a run."""


@dataclass(frozen=True)
class TrainingOptions:
    """Everything about training that is not the data.

    Parameters
    ----------
    seed
        Fixes weights, batches, negatives and dropout.
    epochs
        Most epochs of each model.
    patience
        Epochs without a better figure after which a model's training stops.
    minutes
        Wall-clock minutes for all training; about two thirds go to the towers.
    learning_rate
        Of both models.
    windows
        Windows of a user's history in one batch of tower training.
    lists
        Lists in one batch of ranker training.
    list_length
        Pairs a list: one positive, the others negatives.
    top
        Hidden units of the ranker's top MLP.
    """

    seed: int = 0
    epochs: int = 40
    patience: int = 4
    minutes: float = 15.0
    learning_rate: float = 1e-3
    windows: int = 64
    lists: int = 128
    list_length: int = 32
    top: tuple[int, ...] = (128, 64, 32)


@dataclass(frozen=True)
class Trained:
    """Models and what a bundle wants to know of them.

    Parameters
    ----------
    query_tower, ranker
        Ready to be saved.
    item_embeddings
        (N, d) float32.
    query_sample
        (m, d) float32: queries of real users at the end of training.
    figures
        Held-out figures by name.
    """

    query_tower: keras.Model
    ranker: keras.Model
    item_embeddings: npt.NDArray[np.float32]
    query_sample: npt.NDArray[np.float32]
    figures: dict[str, float]


def train_models(
    events: Events,
    items: ItemRows,
    item_since: IntArray,
    catalogue_row: IntArray,
    shape: TowerShape,
    options: TrainingOptions,
) -> Trained:
    """Train towers and ranker.

    Parameters
    ----------
    events, items
        The training set.
    item_since
        (R,) int64: since when each version in `items` was seen to hold.
    catalogue_row
        (N,) int64: version of each item at serving time.
    shape
        Sizes of the towers; the ranker shares vocabularies and dimension.
    options
        See :class:`TrainingOptions`.
    """
    keras.utils.set_random_seed(options.seed)
    held = tail(events, HELD_SHARE)
    rest = events.take(~held)
    later = tail(rest, RANKER_SHARE / (1 - HELD_SHARE))
    catalogue = {name: column[catalogue_row] for name, column in items.features.items()}
    towers = TwoTower(shape)
    serving = ServingTower(towers, catalogue)
    epochs, tower_figure = _fit_towers(towers, serving, rest, later, items, options)
    table = ItemTable(items.position, item_since, items.features, serving.item_embeddings)
    ranker, figures = _fit_ranker(serving, table, events, held, rest, later, options)
    _refit_towers(towers, serving, events, items, epochs, options)
    return Trained(
        query_tower=serving.model,
        ranker=ranker,
        item_embeddings=serving.item_embeddings,
        query_sample=_query_sample(serving, events, options.seed),
        figures={"tower_ndcg": tower_figure} | figures,
    )


def _schedule(options: TrainingOptions, share: float) -> Schedule:
    return Schedule(options.epochs, options.patience, options.learning_rate, 0.004, 60 * options.minutes * share)


def _fit_towers(
    towers: TwoTower,
    serving: ServingTower,
    rest: Events,
    later: npt.NDArray[np.bool_],
    items: ItemRows,
    options: TrainingOptions,
) -> tuple[int, float]:
    """Fit the towers on what came before ``later``, stopped by how well they foresee it."""
    batches = WindowBatches(rest.take(~later), items, towers.shape, options.windows, options.seed)
    target = HeldOut.of(rest, later, options.seed)
    schedule = _schedule(options, 0.6)
    compile_for_lists(towers, schedule)
    best = [0.0]

    def measure() -> float:
        serving.refresh()
        queries = serving.embed_moments(rest, target.moments)
        figure = target.ndcg(best_items(queries, serving.item_embeddings, target.seen, 10))
        best[0] = max(best[0], figure)
        return figure

    epochs = fit(towers, batches, schedule, measure, Reporter("towers", "NDCG@10"))
    serving.refresh()
    return epochs, best[0]


def _fit_ranker(
    serving: ServingTower,
    table: ItemTable,
    events: Events,
    held: npt.NDArray[np.bool_],
    rest: Events,
    later: npt.NDArray[np.bool_],
    options: TrainingOptions,
) -> tuple[keras.Model, dict[str, float]]:
    """Fit the ranker on ``later``, starting from retrieval's order, stopped by its lists for what is held out."""
    shape = serving.towers.shape
    ranker = build_ranker(
        RankerShape(
            shape.n_items,
            shape.user_vocabularies,
            shape.item_vocabularies,
            shape.user_dense,
            shape.item_dense,
            shape.dimension,
            options.top,
        )
    )
    target = HeldOut.of(events, held, options.seed)
    queries = serving.embed_moments(events, target.moments)
    offered = best_items(queries, serving.item_embeddings, target.seen, CANDIDATES)
    features = {name: column[target.moments] for name, column in events.user_features.items()}
    order = _Reorder(ranker, table, queries, features, offered, events.time[target.moments])
    model = ListwiseRanker(ranker, options.list_length)
    schedule = _schedule(options, 0.3)
    compile_for_lists(model, schedule)
    impressions = impressions_of(serving, rest, later)
    begin = target.ndcg(offered)
    best = [begin]

    def measure() -> float:
        figure = target.ndcg(order())
        best[0] = max(best[0], figure)
        return figure

    if len(impressions):
        batches = PairBatches(impressions, table, options.lists, options.list_length, options.seed)
        fit(model, batches, schedule, measure, Reporter("ranker", "NDCG@10"), begin=begin)
    return ranker, {"retrieval_ndcg": begin, "ranker_ndcg": best[0]}


def _refit_towers(
    towers: TwoTower, serving: ServingTower, events: Events, items: ItemRows, epochs: int, options: TrainingOptions
) -> None:
    """Go on with the towers over all events, for as many steps as the parts left out so far make up."""
    more = max(1, round(epochs * (RANKER_SHARE + HELD_SHARE)))
    schedule = Schedule(more, more, options.learning_rate / 2, 0.004, 60 * options.minutes * 0.1)
    compile_for_lists(towers, schedule)
    batches = WindowBatches(events, items, towers.shape, options.windows, options.seed + 1)
    steps = iter(range(more))
    fit(towers, batches, schedule, lambda: float(next(steps)), Reporter("towers on all events", "step"))
    serving.refresh()


def impressions_of(serving: ServingTower, events: Events, later: npt.NDArray[np.bool_]) -> Impressions:
    """Replay the moments of ``later``: what retrieval would have offered, and what the user took.

    What a user takes at another time is no negative. A positive that retrieval would not have offered is set against
    random items only: among the offered ones it would teach the ranker that retrieval is wrong where it was right.
    """
    rank, _ = events.ranks()
    ends = np.flatnonzero(later & (rank > 0))
    queries = serving.embed_moments(events, ends)
    starts = ends - rank[ends]
    seen = np.stack(
        [np.repeat(np.arange(len(ends)), rank[ends]), events.item[_ranges(starts, rank[ends])]], axis=1
    )
    offered = best_items(queries, serving.item_embeddings, seen, CANDIDATES)
    n_items = len(serving.item_embeddings)
    own = np.unique(events.user * n_items + events.item)
    taken = np.isin(events.user[ends][:, None] * n_items + offered, own)
    reached = (offered == events.item[ends][:, None]).any(axis=1)
    return Impressions(
        positive=events.item[ends],
        offered=np.where(taken | ~reached[:, None], -1, offered),
        queries=queries,
        user_features={name: column[ends] for name, column in events.user_features.items()},
        time=events.time[ends],
    )


class _Reorder:
    """The ranker over fixed candidates of held-out users, as one function without arguments."""

    def __init__(
        self,
        ranker: keras.Model,
        table: ItemTable,
        queries: npt.NDArray[np.float32],
        features: Columns,
        offered: IntArray,
        time: IntArray,
    ) -> None:
        self._score = as_pair_scorer(lambda pairs: np.asarray(ranker.predict_on_batch(dict(pairs))))
        self._table, self._queries, self._features = table, queries, features
        self._offered, self._time = offered, time

    def __call__(self) -> IntArray:
        """Return the offered positions (n, K), best first by the ranker."""
        width = self._offered.shape[1]
        block = 128
        lists = []
        for start in range(0, len(self._offered), block):
            users = np.minimum(np.arange(start, start + block), len(self._offered) - 1)
            offered = self._offered[users]
            row = np.repeat(users, width)
            pairs = {name: column[row] for name, column in self._features.items()}
            pairs |= {"query_embedding": self._queries[row]}
            pairs |= self._table.pairs(np.maximum(offered, 0).ravel(), self._time[row])
            scores = np.where(offered >= 0, self._score(pairs).reshape(block, width), -np.inf)
            lists.append(np.take_along_axis(offered, np.argsort(-scores, axis=1, kind="stable"), axis=1))
        return np.concatenate(lists)[: len(self._offered)] if lists else self._offered


def _query_sample(serving: ServingTower, events: Events, seed: int) -> npt.NDArray[np.float32]:
    """Embed up to a thousand users at their last event."""
    last = np.append(events.starts()[1:], len(events)) - 1
    chosen = np.random.default_rng(seed).choice(last, min(len(last), 1000), replace=False)
    return serving.embed_moments(events, np.sort(chosen))


def _ranges(starts: IntArray, lengths: IntArray) -> IntArray:
    """Concatenate the ranges [start, start + length)."""
    ends = np.cumsum(lengths)
    return np.arange(lengths.sum()) + np.repeat(starts - (ends - lengths), lengths)
