"""Training of the two towers: sampled softmax over in-batch items, corrected for how often they are drawn."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from batchrec.models.events import Events, IntArray, ItemRows
from batchrec.models.towers import (
    Tensor,
    TowerShape,
    feature_encoder,
    history_encoder,
    query_head,
)

NEVER = -1e9
"""Logit of what cannot be drawn; finite, so that a row of nothing but these still has a gradient."""


class TwoTower(keras.Model):
    """Both towers over one batch of histories and one pool of items.

    Every place of every history predicts the item that came next, against all distinct items of the batch. An item's
    logit is lowered by the log of its chance to be in the pool, which makes the loss an unbiased stand-in for the
    softmax over the whole catalogue (Bengio & Senécal 2008; Yi et al. 2019, "Sampling-bias-corrected neural modeling").
    """

    def __init__(self, shape: TowerShape) -> None:
        super().__init__(name="two_tower")
        self.shape = shape
        self.item_ids = keras.layers.Embedding(
            shape.n_items + 1, shape.dimension, embeddings_initializer=keras.initializers.RandomNormal(stddev=0.02)
        )
        self.read_item = feature_encoder("item", shape.item_vocabularies, shape.item_dense, shape.dimension)
        self.read_user = feature_encoder("user", shape.user_vocabularies, shape.user_dense, shape.dimension)
        self.read_history = history_encoder(shape)
        self.finish = query_head(shape, with_features=self.read_user is not None)

    def embed_items(self, codes: Tensor, features: dict[str, Tensor]) -> Tensor:
        """Item tower: codes (m,) int32 and features (m,) each to embeddings (m, d)."""
        embedding = self.item_ids(codes)
        return embedding if self.read_item is None else embedding + self.read_item(features)

    def embed_queries(
        self, items: Tensor, filled: Tensor, features: dict[str, Tensor], *, training: bool = False
    ) -> Tensor:
        """Query tower at every place: items (n, L, d), filled (n, L), features (n, L) each to queries (n, L, d)."""
        states = self.read_history({"items": items, "filled": filled}, training=training)
        flat = {"state": ops.reshape(states, (-1, self.shape.dimension))}
        if self.read_user is not None:
            flat["user"] = self.read_user({name: ops.reshape(value, (-1,)) for name, value in features.items()})
        return ops.reshape(self.finish(flat, training=training), ops.shape(states))

    def call(self, inputs: dict[str, Any], training: bool = False) -> Tensor:
        """Logits (n·L, m) of the pool's items at every place, corrected and ready for the softmax."""
        pool = self.embed_items(inputs["pool_code"], inputs["pool"])
        filled = inputs["history"] > 0
        items = ops.take(pool, inputs["history"], axis=0) * ops.cast(ops.expand_dims(filled, -1), pool.dtype)
        queries = self.embed_queries(items, filled, inputs["user"], training=training)
        logits = ops.matmul(ops.reshape(queries, (-1, self.shape.dimension)), ops.transpose(pool))
        return logits - ops.expand_dims(inputs["pool_log_chance"], 0)


class WindowBatches(keras.utils.PyDataset):
    """Batches of windows over users' histories, reshuffled every epoch, all of one shape.

    A window is up to L consecutive events of one user. Where each user's windows begin moves from epoch to epoch, so
    that every event is predicted from histories of different lengths.
    """

    def __init__(self, events: Events, items: ItemRows, shape: TowerShape, batch: int, seed: int, horizon: int = 1) -> None:
        super().__init__()
        self.events, self.items, self.shape, self.batch = events, items, shape, batch
        self.horizon = horizon
        self.random = np.random.default_rng(seed)
        counts = np.bincount(events.item, minlength=shape.n_items)
        self.share = counts / max(len(events), 1)
        self.pool_size = 1 + min(len(items), batch * (shape.history + 1))
        self.rank, length = events.ranks()
        self.left = length - self.rank
        counts = np.diff(np.append(events.starts(), len(events)))
        self.batches = -(-int(np.sum(-(-counts // shape.history))) // batch)
        self.on_epoch_end()

    def on_epoch_end(self) -> None:
        """Cut the histories into new windows and shuffle them."""
        length = self.shape.history
        starts = self.events.starts()
        counts = np.diff(np.append(starts, len(self.events)))
        shift = np.where(counts <= length, 0, self.random.integers(0, length, len(starts)))
        windows = -(-(counts + shift) // length)
        user = np.repeat(np.arange(len(starts)), windows)
        stop = (np.arange(len(user)) - (np.cumsum(windows) - windows)[user] + 1) * length - shift[user]
        bounds = np.stack([np.maximum(stop - length, 0), np.minimum(stop, counts[user])], axis=1) + starts[user, None]
        self.windows = bounds[self.random.permutation(len(bounds))]

    def __len__(self) -> int:
        # Moving the windows can make a few more of them; an epoch keeps its length and leaves a random few out.
        return self.batches

    def __getitem__(self, index: int) -> tuple[dict[str, Any], npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """Return inputs, the pool index of every place's next item (n·L,), and the weight of every place (n·L,)."""
        windows = self.windows[index * self.batch : (index + 1) * self.batch]
        windows = np.concatenate([windows, np.zeros((self.batch - len(windows), 2), windows.dtype)])
        event = windows[:, 1:] + np.arange(-self.shape.history, 0)
        wanted = event >= windows[:, :1]
        event = np.where(wanted, event, 0)
        previous = wanted & (self.rank[event] > 0)
        pool, target, history = self._pool(self._targets(event, wanted), np.where(previous, event - 1, -1))
        chance = -np.expm1(wanted.sum() * np.log1p(-np.minimum(self.share[self.items.position[pool]], 1 - 1e-9)))
        log_chance = np.full(self.pool_size, -NEVER, np.float32)
        log_chance[1 : len(pool) + 1] = np.log(np.maximum(chance, 1e-12))
        padding = self.pool_size - len(pool) - 1
        inputs = {
            "history": history,
            "user": {name: column[event] for name, column in self.events.user_features.items()},
            "pool_code": np.pad(self.items.position[pool] + 1, (1, padding)).astype(np.int32),
            "pool": {name: np.pad(column[pool], (1, padding)) for name, column in self.items.features.items()},
            "pool_log_chance": log_chance,
        }
        return inputs, target.reshape(-1), wanted.reshape(-1).astype(np.float32)

    def _targets(self, event: IntArray, wanted: npt.NDArray[np.bool_]) -> IntArray:
        """Draw, for every place, one of its user's next events up to the horizon; -1 where none is wanted."""
        left = np.minimum(self.left[event], self.horizon)
        ahead = (self.random.random(event.shape) * left).astype(np.int64)
        return np.where(wanted, event + ahead, -1)

    def _pool(
        self, target: IntArray, previous: IntArray
    ) -> tuple[IntArray, npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Distinct item rows of a batch, and its targets and histories as pool indices from 1 (0 = none)."""
        events = np.stack([target, previous])
        rows = np.where(events >= 0, self.events.item_row[events], -1)
        pool, index = np.unique(rows, return_inverse=True)
        if pool[0] < 0:
            pool = pool[1:]
        else:
            index = index + 1
        targets, history = index.reshape(rows.shape).astype(np.int32)
        return pool, targets, history
