"""Training of the ranker: each positive against items that retrieval would have offered and items drawn at random."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from batchrec.models.events import Columns
from batchrec.models.ranker import ITEM_CODE, ITEM_EMBEDDING, QUERY_EMBEDDING
from batchrec.models.towers import Tensor

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Impressions:
    """What the ranker learns from: moments at which a user took one item, and what else was on offer.

    Parameters
    ----------
    positive
        (n,) int64: position of the item taken.
    offered
        (n, K) int64: what retrieval returns at that moment, without items the user ever took; -1 where none.
    queries
        (n, d) float32: query embeddings at that moment.
    user_features
        Encoded user features at that moment, (n,) each.
    time
        (n,) int64: the moment, microseconds since 1970.
    """

    positive: IntArray
    offered: IntArray
    queries: npt.NDArray[np.float32]
    user_features: Columns
    time: IntArray

    def __len__(self) -> int:
        return len(self.positive)


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
    """The ranker while it trains: one list of C pairs a row, the positive first."""

    def __init__(self, ranker: keras.Model, length: int) -> None:
        super().__init__(name="listwise")
        self.ranker, self.length = ranker, length

    def call(self, inputs: Mapping[str, Tensor], training: bool = False) -> Tensor:
        """Relevance (B, C) of the pairs (B·C,)."""
        return ops.reshape(self.ranker(inputs, training=training), (-1, self.length))


class PairBatches(keras.utils.PyDataset):
    """Batches of impressions, each unrolled into its positive, hard negatives and random negatives.

    Half of the negatives are drawn from what was on offer, half from the catalogue; both afresh in every epoch.
    """

    def __init__(self, impressions: Impressions, items: ItemTable, batch: int, length: int, seed: int) -> None:
        super().__init__()
        self.impressions, self.items, self.batch, self.length = impressions, items, batch, length
        self.random = np.random.default_rng(seed)
        self.on_epoch_end()

    def on_epoch_end(self) -> None:
        """Shuffle the impressions."""
        self.order = self.random.permutation(len(self.impressions))

    def __len__(self) -> int:
        return -(-len(self.impressions) // self.batch)

    def __getitem__(self, index: int) -> tuple[dict[str, Any], npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """Return inputs of (batch·C,) pairs, the positive's place in each list (always 0), and each list's weight."""
        chosen = self.order[index * self.batch : (index + 1) * self.batch]
        weight = np.zeros(self.batch, np.float32)
        weight[: len(chosen)] = 1
        chosen = np.resize(chosen, self.batch)
        positions = self._lists(chosen)
        row = np.repeat(chosen, self.length)
        inputs: dict[str, Any] = {name: column[row] for name, column in self.impressions.user_features.items()}
        inputs[QUERY_EMBEDDING] = self.impressions.queries[row]
        inputs |= self.items.pairs(positions.ravel(), self.impressions.time[row])
        return inputs, np.zeros(self.batch, np.int32), weight

    def _lists(self, chosen: IntArray) -> IntArray:
        """Item positions (batch, C): the positive, then negatives."""
        hard = (self.length - 1) // 2
        offered = self.impressions.offered[chosen]
        column = self.random.integers(0, offered.shape[1], (self.batch, hard))
        negatives = np.take_along_axis(offered, column, axis=1)
        drawn = self.random.integers(0, len(self.items.embeddings), (self.batch, self.length - 1))
        drawn[:, :hard] = np.where(negatives >= 0, negatives, drawn[:, :hard])
        return np.concatenate([self.impressions.positive[chosen][:, None], drawn], axis=1)
