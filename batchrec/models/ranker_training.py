"""Training of the ranker: what users took next, against what else retrieval would have offered and random items."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from batchrec.models.ranker import ITEM_CODE, ITEM_EMBEDDING, QUERY_EMBEDDING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from batchrec.models.events import Columns
    from batchrec.models.towers import Tensor

IntArray = npt.NDArray[np.int64]


MOST_POSITIVES = 8
"""Most positives of a list; of more, a random few."""

RANDOM_SHARE = 0.25
"""Share of a list that is drawn from the whole catalogue."""


@dataclass(frozen=True)
class Impressions:
    """What the ranker learns from: moments at which retrieval offered items, and which of them the user then took.

    Parameters
    ----------
    offered
        (n, K) int64: what retrieval returns at that moment; -1 where there is nothing to learn from.
    taken
        (n, K) bool: which of the offered items the user took soon after; at least one a row to learn from.
    queries
        (n, d) float32: query embeddings at that moment.
    user_features
        Encoded user features at that moment, (n,) each.
    time
        (n,) int64: the moment, microseconds since 1970.
    """

    offered: IntArray
    taken: npt.NDArray[np.bool_]
    queries: npt.NDArray[np.float32]
    user_features: Columns
    time: IntArray

    def __len__(self) -> int:
        return len(self.offered)

    def take(self, rows: npt.NDArray[np.generic]) -> Impressions:
        """Return the impressions at ``rows`` (indices or mask)."""
        features = {name: column[rows] for name, column in self.user_features.items()}
        return Impressions(self.offered[rows], self.taken[rows], self.queries[rows], features, self.time[rows])


class ItemTable:
    """Item features by position and time: the version that was true at a moment, never a later one.

    Parameters
    ----------
    position, since
        (R,) int64 each: the item position of each version, and when it was first seen to hold.
    features
        Encoded features of each version, (R,) each.
    embeddings
        (N, d) float32: item embeddings.
    """

    def __init__(
        self, position: IntArray, since: IntArray, features: Columns, embeddings: npt.NDArray[np.float32]
    ) -> None:
        order = np.lexsort((since, position))
        self.features = {name: column[order] for name, column in features.items()}
        self.embeddings = embeddings
        self._position, self._since = position[order], since[order]
        self._first = np.searchsorted(self._position, np.arange(len(embeddings)))
        self._single = len(position) <= len(embeddings)

    def rows(self, positions: IntArray, time: IntArray) -> IntArray:
        """Return the version row of each item at each time; an item's first version where none is as old."""
        first = self._first[positions]
        if self._single:
            return first
        moments, rank = np.unique(np.concatenate([self._since, time]), return_inverse=True)
        scale = len(moments)
        keys = self._position * scale + rank[: len(self._since)]
        found = np.searchsorted(keys, positions * scale + rank[len(self._since) :], side="right") - 1
        return np.maximum(found, first)

    def pairs(self, positions: IntArray, time: IntArray) -> dict[str, npt.NDArray[np.generic]]:
        """Return the ranker's item inputs for (m,) positions at (m,) times."""
        rows = self.rows(positions, time)
        inputs = {name: column[rows] for name, column in self.features.items()}
        return inputs | {
            ITEM_CODE: (positions + 1).astype(np.int32),
            ITEM_EMBEDDING: self.embeddings[positions],
        }


class ListwiseRanker(keras.Model):
    """The ranker while it trains: one list of C pairs a row."""

    def __init__(self, ranker: keras.Model, length: int) -> None:
        super().__init__(name="listwise")
        self.ranker, self.length = ranker, length

    def call(self, inputs: Mapping[str, Tensor], training: bool = False) -> Tensor:
        """Relevance (B, C) of the pairs (B·C,)."""
        return ops.reshape(self.ranker(inputs, training=training), (-1, self.length))


class ListBatches(keras.utils.PyDataset):
    """Batches of lists, one an impression: positives, what else was offered, and random items, drawn anew every epoch.

    Parameters
    ----------
    impressions, items
        What to learn from.
    inputs
        Names of the inputs that the ranker reads.
    batch, length
        B lists a batch, C pairs a list.
    seed
        Fixes order and draws.
    """

    def __init__(
        self, impressions: Impressions, items: ItemTable, inputs: Collection[str], batch: int, length: int, seed: int
    ) -> None:
        super().__init__()
        self.impressions, self.items, self.inputs = impressions, items, inputs
        self.batch, self.length = batch, length
        self.random = np.random.default_rng(seed)
        self.on_epoch_end()

    def on_epoch_end(self) -> None:
        """Shuffle the impressions."""
        self.order = self.random.permutation(len(self.impressions))

    def __len__(self) -> int:
        return math.ceil(len(self.impressions) / self.batch)

    def __getitem__(self, index: int) -> tuple[dict[str, Any], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return inputs of (B·C,) pairs, the share (B, C) of the positives that each is, and each list's weight."""
        chosen = self.order[index * self.batch : (index + 1) * self.batch]
        weight = np.zeros(self.batch, np.float32)
        weight[: len(chosen)] = 1
        chosen = np.resize(chosen, self.batch)
        positions, taken = self._lists(chosen)
        pairs = pair_inputs(self.impressions, self.items, chosen, positions)
        share = taken / taken.sum(axis=1, keepdims=True)
        return {name: pairs[name] for name in self.inputs}, share.astype(np.float32), weight

    def _lists(self, chosen: IntArray) -> tuple[IntArray, npt.NDArray[np.bool_]]:
        """Item positions (B, C) and which of them are positive."""
        hard = self.length - int(self.length * RANDOM_SHARE)
        offered, taken = self.impressions.offered[chosen], self.impressions.taken[chosen]
        key = self.random.random(offered.shape)
        place = np.argsort(np.argsort(np.where(taken, key, 2), axis=1), axis=1)
        # Positives first, then what was offered in random order, then what there is nothing to learn from.
        key = np.where(taken, np.where(place < MOST_POSITIVES, key - 1, 2), np.where(offered < 0, 2, key))
        column = np.argsort(key, axis=1, kind="stable")[:, :hard]
        usable = np.take_along_axis(key, column, axis=1) < 2
        positions = self.random.integers(0, len(self.items.embeddings), (len(chosen), self.length))
        width = column.shape[1]
        positions[:, :width] = np.where(usable, np.take_along_axis(offered, column, axis=1), positions[:, :width])
        positive = np.zeros(positions.shape, bool)
        positive[:, :width] = usable & np.take_along_axis(taken, column, axis=1)
        return positions, positive


def pair_inputs(
    impressions: Impressions, items: ItemTable, rows: IntArray, positions: IntArray
) -> dict[str, npt.NDArray[np.generic]]:
    """Return all inputs of the pairs of impressions ``rows`` (m,) with items (m, C), (m·C, …) each, row by row."""
    row = np.repeat(rows, positions.shape[1])
    inputs = {name: column[row] for name, column in impressions.user_features.items()}
    return inputs | {QUERY_EMBEDDING: impressions.queries[row]} | items.pairs(positions.ravel(), impressions.time[row])
