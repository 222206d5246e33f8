"""Training of the two towers: sampled softmax over in-batch items, corrected for how often they are drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from batchrec.models.towers import (
    Tensor,
    TowerShape,
    feature_encoder,
    history_encoder,
    query_head,
)

if TYPE_CHECKING:
    from batchrec.models.events import Events, IntArray, ItemRows

NEVER = -1e9
"""Logit of what cannot be drawn; finite, so that a row of nothing but these still has a gradient."""

MORE_PLACES = 1.1
"""Places of a batch, over the mean number of events that its windows hold."""


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
        # Built at once, so that the weights can be kept before the first batch.
        self.item_ids.build((None,))
        self.read_item = feature_encoder("item", shape.item_vocabularies, shape.item_dense, shape.dimension)
        self.read_user = feature_encoder("user", shape.user_vocabularies, shape.user_dense, shape.dimension)
        self.read_history = history_encoder(shape)
        self.finish = query_head(shape, with_features=self.read_user is not None)

    def embed_items(self, codes: Tensor, features: dict[str, Tensor]) -> Tensor:
        """Item tower: codes (m,) int32 and features (m,) each to embeddings (m, d)."""
        embedding = self.item_ids(codes)
        return embedding if self.read_item is None else embedding + self.read_item(features)

    def call(self, inputs: dict[str, Any], training: bool = False) -> Tensor:
        """Logits (P, m) of the pool's items at the wanted places, corrected and ready for the softmax."""
        pool = self.embed_items(inputs["pool_code"], inputs["pool"])
        filled = inputs["history"] > 0
        items = ops.take(pool, inputs["history"], axis=0) * ops.cast(ops.expand_dims(filled, -1), pool.dtype)
        states = self.read_history({"items": items, "filled": filled}, training=training)
        # Most windows are not full: what follows is worked out at the places that have a next item alone.
        parts = {"state": ops.take(ops.reshape(states, (-1, self.shape.dimension)), inputs["place"], axis=0)}
        if self.read_user is not None:
            parts["user"] = self.read_user(inputs["user"])
        logits = ops.matmul(self.finish(parts, training=training), ops.transpose(pool))
        return logits - ops.expand_dims(inputs["pool_log_chance"], 0)


class WindowBatches(keras.utils.PyDataset):
    """Batches of windows over users' histories, reshuffled every epoch, all of one shape.

    A window is up to L consecutive events of one user. Where each user's windows begin moves from epoch to epoch, so
    that every event is predicted from histories of different lengths. A batch holds as many places as its windows have
    on average and a few more; what a batch has beyond that, a random few, waits for another epoch.

    Parameters
    ----------
    events, items
        What to learn from.
    shape
        Sizes of the towers.
    batch
        Windows a batch.
    seed
        Fixes windows and order.
    """

    def __init__(self, events: Events, items: ItemRows, shape: TowerShape, batch: int, seed: int) -> None:
        super().__init__()
        self.events, self.items, self.shape, self.batch = events, items, shape, batch
        self.random = np.random.default_rng(seed)
        self.share = np.bincount(events.item, minlength=shape.n_items) / max(len(events), 1)
        self.rank, _ = events.ranks()
        self.counts = np.diff(np.append(events.starts(), len(events)))
        self.batches = -(-int(np.sum(-(-self.counts // shape.history))) // batch)
        room = batch * shape.history
        self.places = min(room, int(MORE_PLACES * len(events) / max(self.batches, 1)) + 1)
        self.pool_size = 1 + min(len(items), room + self.places)
        self.on_epoch_end()

    def on_epoch_end(self) -> None:
        """Cut the histories into new windows and shuffle them."""
        windows = cut_windows(self.counts, self.shape.history, self.random)
        self.windows = windows[self.random.permutation(len(windows))]

    def __len__(self) -> int:
        # Moving the windows can make a few more of them; an epoch keeps its length and leaves a random few out.
        return self.batches

    def __getitem__(self, index: int) -> tuple[dict[str, Any], npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """Return inputs, the pool index of each place's next item (P,), and the weight of each place (P,)."""
        windows = self.windows[index * self.batch : (index + 1) * self.batch]
        windows = np.concatenate([windows, np.zeros((self.batch - len(windows), 2), windows.dtype)])
        event = windows[:, 1:] + np.arange(-self.shape.history, 0)
        wanted = event >= windows[:, :1]
        previous = np.where(wanted & (self.rank[np.maximum(event, 0)] > 0), event - 1, -1)
        place = np.flatnonzero(wanted)
        if len(place) > self.places:
            place = np.sort(self.random.choice(place, self.places, replace=False))
        target = event.ravel()[place]
        pool, targets, history = self._pool(target, previous)
        padding = (0, self.places - len(place))
        inputs = {
            "history": history,
            "place": np.pad(place, padding).astype(np.int32),
            "user": {name: np.pad(column[target], padding) for name, column in self.events.user_features.items()},
            **self._pool_inputs(pool, int(wanted.sum())),
        }
        return inputs, np.pad(targets, padding), np.pad(np.ones(len(place), np.float32), padding)

    def _pool(
        self, target: IntArray, previous: IntArray
    ) -> tuple[IntArray, npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Distinct item rows of a batch, and its targets and histories as pool indices from 1 (0 = none)."""
        events = np.concatenate([target, previous.ravel()])
        rows = np.where(events >= 0, self.events.item_row[events], -1)
        pool, index = np.unique(np.append(rows, -1), return_inverse=True)
        targets, history = np.split(index[:-1].astype(np.int32), [len(target)])
        return pool[1:], targets, history.reshape(previous.shape)

    def _pool_inputs(self, pool: IntArray, draws: int) -> dict[str, Any]:
        """Return the item tower's inputs for the pool, padded at both ends, and each item's log-chance to be in it."""
        around = (1, self.pool_size - len(pool) - 1)
        position = self.items.position[pool]
        log_chance = np.full(self.pool_size, -NEVER, np.float32)
        log_chance[1 : len(pool) + 1] = log_chance_of(self.share[position], draws)
        return {
            "pool_code": np.pad(position + 1, around).astype(np.int32),
            "pool": {name: np.pad(column[pool], around) for name, column in self.items.features.items()},
            "pool_log_chance": log_chance,
        }


def cut_windows(counts: IntArray, length: int, random: np.random.Generator) -> IntArray:
    """Cut consecutive histories into windows that cover every event once.

    Parameters
    ----------
    counts
        (U,) int64: events of each user; the users' events follow one another.
    length
        L, most events a window.
    random
        Where the first window of a history longer than L ends.

    Returns
    -------
    (W, 2) int64
        First event of each window and the one after its last.
    """
    shift = np.where(counts <= length, 0, random.integers(0, length, len(counts)))
    windows = -(-(counts + shift) // length)
    user = np.repeat(np.arange(len(counts)), windows)
    stop = (np.arange(len(user)) - (np.cumsum(windows) - windows)[user] + 1) * length - shift[user]
    bounds = np.stack([np.maximum(stop - length, 0), np.minimum(stop, counts[user])], axis=1)
    return np.asarray(bounds + (np.cumsum(counts) - counts)[user, None])


def log_chance_of(share: npt.NDArray[np.float64], draws: int) -> npt.NDArray[np.float64]:
    """Log of the chance that an item with this share of all events is among ``draws`` of them, drawn independently."""
    chance = -np.expm1(draws * np.log1p(-np.minimum(share, 1 - 1e-9)))
    return np.asarray(np.log(np.maximum(chance, 1e-12)))
