"""Training of all models of a bundle from one set of events.

The end of the events of some users decides when training stops; no model learns from it. The towers learn from all
else, and so does the ranker, from moments drawn out of it (docs/decisions/003-ranker.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import keras
import numpy as np

from batchrec.models.fit import Schedule, fit, prepare
from batchrec.models.held_out import HeldOut, best_items, hold_out
from batchrec.models.moments import impressions_at, replay
from batchrec.models.ranker import RankerShape, build_ranker
from batchrec.models.ranker_training import Impressions, ItemTable, ListBatches, ListwiseRanker, pair_inputs
from batchrec.models.reporting import Reporter
from batchrec.models.serving import as_pair_scorer
from batchrec.models.serving_tower import ServingTower
from batchrec.models.tower_training import TwoTower, WindowBatches

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from batchrec.models.events import Events, IntArray, ItemRows
    from batchrec.models.towers import TowerShape

USERS_AT_ONCE = 128
"""Held-out users whose candidates the ranker scores at a time."""


@dataclass(frozen=True)
class TrainingOptions:
    """Everything about training that is not the data.

    Parameters
    ----------
    seed
        Fixes weights, batches, negatives and dropout.
    epochs
        Most epochs of the towers; the ranker gets half as many. Learning rates fall to nothing over them.
    patience
        Epochs without a better figure after which a model's training stops.
    minutes
        Wall-clock minutes after which no further epoch begins; about two thirds are the towers'.
    tower_learning_rate, ranker_learning_rate
        At the first step.
    windows
        Windows of a user's history in one batch of tower training.
    lists
        Lists in one batch of ranker training.
    list_length
        Pairs a list, positives and negatives.
    moments
        Most moments of the log from which the ranker learns.
    top
        Hidden units of the ranker's top MLP.
    """

    seed: int = 0
    epochs: int = 8
    patience: int = 4
    minutes: float = 15.0
    tower_learning_rate: float = 2e-3
    ranker_learning_rate: float = 1e-3
    windows: int = 64
    lists: int = 128
    list_length: int = 32
    moments: int = 30_000
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
    ranker_features
        Names of the features that the ranker reads; it does without those with too many values.
    figures
        Held-out figures by name.
    """

    query_tower: keras.Model
    ranker: keras.Model
    item_embeddings: npt.NDArray[np.float32]
    query_sample: npt.NDArray[np.float32]
    ranker_features: frozenset[str]
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
    held = hold_out(events, options.seed)
    rest = events.take(~held)
    target = HeldOut.of(events, held)
    catalogue = {name: column[catalogue_row] for name, column in items.features.items()}
    towers = TwoTower(shape)
    serving = ServingTower(towers, catalogue)
    _fit_towers(serving, WindowBatches(rest, items, shape, options.windows, options.seed), events, target, options)
    table = ItemTable(items.position, item_since, items.features, serving.item_embeddings)
    offers = impressions_at(serving, events, target.moments, target.seen)
    ranker_shape = RankerShape(
        shape.n_items,
        shape.user_vocabularies,
        shape.item_vocabularies,
        shape.user_dense,
        shape.item_dense,
        shape.dimension,
        options.top,
    ).without_rare(len(rest))
    ranker = build_ranker(ranker_shape)
    figure = _fit_ranker(ranker, replay(serving, rest, options.moments, options.seed), table, target, offers, options)
    return Trained(
        query_tower=serving.model,
        ranker=ranker,
        item_embeddings=serving.item_embeddings,
        query_sample=_query_sample(serving, events, options.seed),
        ranker_features=ranker_shape.features,
        figures={"retrieval_ndcg": target.ndcg(offers.offered), "ranker_ndcg": figure},
    )


def _fit_towers(
    serving: ServingTower, batches: WindowBatches, events: Events, target: HeldOut, options: TrainingOptions
) -> None:
    """Fit the towers, stopped by how well they retrieve what is held out."""
    schedule = Schedule(options.epochs, options.patience, options.tower_learning_rate, 40 * options.minutes)
    prepare(serving.towers, keras.losses.SparseCategoricalCrossentropy(from_logits=True), schedule, batches)

    def measure() -> float:
        serving.refresh()
        queries = serving.embed_moments(events, target.moments)
        return target.ndcg(best_items(queries, serving.item_embeddings, target.seen, 10))

    fit(serving.towers, batches, schedule, measure, Reporter("towers", "NDCG@10"))
    serving.refresh()


def _fit_ranker(
    ranker: keras.Model,
    impressions: Impressions,
    table: ItemTable,
    target: HeldOut,
    offers: Impressions,
    options: TrainingOptions,
) -> float:
    """Fit the ranker, from retrieval's order on, stopped by its order of what held-out users are offered.

    Returns
    -------
    float
        NDCG@10 of the ranker on held-out events.
    """
    begin = target.ndcg(offers.offered)
    if not len(impressions):
        return begin
    inputs = {tensor.name for tensor in ranker.inputs}
    batches = ListBatches(impressions, table, inputs, options.lists, options.list_length, options.seed)
    model = ListwiseRanker(ranker, options.list_length)
    schedule = Schedule((options.epochs + 1) // 2, options.patience, options.ranker_learning_rate, 20 * options.minutes)
    prepare(model, keras.losses.CategoricalCrossentropy(from_logits=True), schedule, batches)
    order = _reorder(ranker, offers, table)
    return fit(model, batches, schedule, lambda: target.ndcg(order()), Reporter("ranker", "NDCG@10"), begin=begin)


def _reorder(ranker: keras.Model, offers: Impressions, table: ItemTable) -> Callable[[], IntArray]:
    """Make the function that puts what is offered, (n, K), into the ranker's present order."""
    score = as_pair_scorer(lambda pairs: np.asarray(ranker.predict_on_batch(dict(pairs))))
    inputs = [tensor.name for tensor in ranker.inputs]

    def order() -> IntArray:
        lists = []
        for start in range(0, len(offers), USERS_AT_ONCE):
            # The last block repeats the last user, so that every block has one shape.
            users = np.minimum(np.arange(start, start + USERS_AT_ONCE), len(offers) - 1)
            offered = offers.offered[users]
            pairs = pair_inputs(offers, table, users, np.maximum(offered, 0))
            scores = score({name: pairs[name] for name in inputs}).reshape(offered.shape)
            best = np.argsort(-np.where(offered >= 0, scores, -np.inf), axis=1, kind="stable")
            lists.append(np.take_along_axis(offered, best, axis=1))
        return np.concatenate([offers.offered[:0], *lists])[: len(offers)]

    return order


def _query_sample(serving: ServingTower, events: Events, seed: int) -> npt.NDArray[np.float32]:
    """Embed up to a thousand users at their last event."""
    last = np.append(events.starts()[1:], len(events)) - 1
    chosen = np.random.default_rng(seed).choice(last, min(len(last), 1000), replace=False)
    return serving.embed_moments(events, np.sort(chosen))
