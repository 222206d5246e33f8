"""The query tower as it is shipped: trained layers around a table of finished item embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
import numpy as np
from keras import ops

from batchrec.models.events import Events, IntArray, histories
from batchrec.models.serving import HISTORY, QUERY_BATCH, QueryTower

if TYPE_CHECKING:
    import numpy.typing as npt

    from batchrec.models.events import Columns
    from batchrec.models.tower_training import TwoTower

ITEM_BATCH = 8192


ITEM_TABLE = "item_embeddings"
"""Name of the layer that holds a finished embedding a catalogue position, behind the zero vector of the padding."""


def serving_model(towers: TwoTower) -> keras.Model:
    """Build the query tower that reads histories of item codes (n, L) int32; its item table is not filled yet."""
    shape = towers.shape
    table = keras.layers.Embedding(shape.n_items + 1, shape.dimension, name=ITEM_TABLE, trainable=False)
    history = keras.Input((shape.history,), dtype="int32", name=HISTORY)
    user = {name: keras.Input((), dtype="int32", name=name) for name in shape.user_vocabularies}
    user |= {name: keras.Input((), name=name) for name in shape.user_dense}
    states = towers.read_history({"items": table(history), "filled": history > 0})
    parts = {"state": states[:, -1]}
    if towers.read_user is not None:
        parts["user"] = towers.read_user(user)
    return keras.Model({HISTORY: history} | user, towers.finish(parts), name="query_tower")


class ServingTower:
    """The query tower of a :class:`TwoTower`, from histories of item codes instead of item embeddings.

    Shares every trained layer with the towers it is made from; :meth:`refresh` brings its item table up to date.

    Parameters
    ----------
    towers
        The towers, built.
    catalogue
        Encoded features of each item at serving time, (N,) each.
    """

    def __init__(self, towers: TwoTower, catalogue: Columns) -> None:
        self.towers, self.catalogue = towers, catalogue
        shape = towers.shape
        self.model = serving_model(towers)
        self._table = self.model.get_layer(ITEM_TABLE)
        self._embed = QueryTower(lambda inputs: np.asarray(self.model.predict_on_batch(dict(inputs))), shape.dimension)
        self.item_embeddings = np.zeros((shape.n_items, shape.dimension), np.float32)

    def refresh(self) -> None:
        """Compute all item embeddings anew and put them into the model's table; padding is the zero vector."""
        codes = np.arange(1, self.towers.shape.n_items + 1, dtype=np.int32)
        blocks = [
            ops.convert_to_numpy(
                self.towers.embed_items(
                    codes[start : start + ITEM_BATCH],
                    {name: column[start : start + ITEM_BATCH] for name, column in self.catalogue.items()},
                )
            )
            for start in range(0, len(codes), ITEM_BATCH)
        ]
        self.item_embeddings = np.concatenate(blocks).astype(np.float32)
        padding = np.zeros((1, self.towers.shape.dimension), np.float32)
        self._table.set_weights([np.concatenate([padding, self.item_embeddings])])

    def embed_moments(self, events: Events, ends: IntArray) -> npt.NDArray[np.float32]:
        """Embed users as they stood just before some of their events.

        Parameters
        ----------
        events
            All events.
        ends
            (n,) indices of events.

        Returns
        -------
        (n, d) float32
            Query embeddings.
        """
        queries = np.empty((len(ends), self.towers.shape.dimension), np.float32)
        # In blocks, since an (n, L) history for every event of a large log would not fit into memory.
        for start in range(0, len(ends), 16 * QUERY_BATCH):
            block = ends[start : start + 16 * QUERY_BATCH]
            before = histories(events, block, self.towers.shape.history)
            codes = np.where(before >= 0, events.item[before] + 1, 0).astype(np.int32)
            features = {name: column[block] for name, column in events.user_features.items()}
            queries[start : start + len(block)] = self._embed({HISTORY: codes} | features)
        return queries
