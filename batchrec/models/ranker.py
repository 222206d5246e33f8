"""The ranker: a deep learning recommendation model over one user, one item and both towers' embeddings of them.

Naumov et al. 2019, "Deep Learning Recommendation Model for Personalization and Recommendation Systems"
(arXiv:1906.00091): one embedding a categorical feature, a bottom MLP for dense features, dot products between all
vectors, a top MLP. Four choices are this project's own (docs/decisions/003-ranker.md):

- the bottom MLP is split, one for the user's and one for the item's dense features, so that everything before the dot
  products depends on the user alone or on the item alone;
- the query and item embeddings of the towers stand among the vectors;
- embeddings start small and some of each are dropped while training, since a pair of ids is soon learnt by heart;
- their dot product, the retrieval score, is also added to the output, so that training starts from retrieval's order
  and learns what to change about it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import keras
from keras import layers, ops
from keras_rs.layers import DotInteraction

QUERY_EMBEDDING = "query_embedding"
ITEM_EMBEDDING = "item_embedding"
ITEM_CODE = "item_code"
"""Input that holds item position + 1; 0 stands for no item."""

EVENTS_PER_VALUE = 100
"""Training events for each value of a categorical feature, below which the feature stays out of the ranker."""


@dataclass(frozen=True)
class RankerShape:
    """Sizes of the ranker.

    Parameters
    ----------
    n_items
        Catalogue size N.
    user_vocabularies, item_vocabularies
        Size of each categorical feature's vocabulary, code 0 included, by input name.
    user_dense, item_dense
        Input names of the dense features.
    dimension
        Size d of every vector that takes part in the interaction; the towers' dimension.
    top
        Units of the top MLP's hidden layers.
    dropout, embedding_dropout
        Dropout rate in the top MLP and of the categorical features' embeddings.
    """

    n_items: int
    user_vocabularies: dict[str, int]
    item_vocabularies: dict[str, int]
    user_dense: tuple[str, ...]
    item_dense: tuple[str, ...]
    dimension: int = 64
    top: tuple[int, ...] = (128, 64, 32)
    dropout: float = 0.1
    embedding_dropout: float = 0.2

    @property
    def features(self) -> frozenset[str]:
        """Names of all features that the ranker reads."""
        return frozenset([*self.user_vocabularies, *self.item_vocabularies, *self.user_dense, *self.item_dense])

    def without_rare(self, n_events: int) -> RankerShape:
        """Leave out the categorical features that have too many values to learn of from ``n_events`` events.

        A user id is such a feature: it has a handful of events, so its embedding learns them by heart. What they tell
        of the user is in the query embedding. See :data:`EVENTS_PER_VALUE`.
        """
        return replace(
            self,
            user_vocabularies=_frequent(self.user_vocabularies, n_events),
            item_vocabularies=_frequent(self.item_vocabularies, n_events),
        )


def build_ranker(shape: RankerShape) -> keras.Model:
    """Build the ranker, untrained.

    Returns
    -------
    keras.Model
        Model from named pair features, (B,) int32 codes or float32 values each, with ``item_code`` (B,) int32,
        ``query_embedding`` and ``item_embedding`` (B, d) float32, to relevance (B,) float32: a logit.
    """
    codes = shape.user_vocabularies | {ITEM_CODE: shape.n_items + 1} | shape.item_vocabularies
    inputs = {name: keras.Input((), dtype="int32", name=name) for name in codes}
    inputs |= {name: keras.Input((), name=name) for name in (*shape.user_dense, *shape.item_dense)}
    towers = {name: keras.Input((shape.dimension,), name=name) for name in (QUERY_EMBEDDING, ITEM_EMBEDDING)}
    embeddings = [embed(name, size, shape.dimension)(inputs[name]) for name, size in codes.items()]
    vectors = [layers.Dropout(shape.embedding_dropout)(embedding) for embedding in embeddings]
    dense = [
        bottom_mlp(side, [inputs[name] for name in names], shape.dimension)
        for side, names in (("user", shape.user_dense), ("item", shape.item_dense))
        if names
    ]
    vectors += dense + [layers.LayerNormalization(name=f"norm_{name}")(tower) for name, tower in towers.items()]
    dots = DotInteraction(name="interaction")(vectors)
    hidden = layers.Concatenate(name="top_input")([*dense, dots]) if dense else dots
    for place, units in enumerate(shape.top):
        hidden = layers.Dense(units, activation="relu", name=f"top_{place}")(hidden)
        hidden = layers.Dropout(shape.dropout, name=f"top_{place}_dropout")(hidden)
    change = layers.Dense(1, kernel_initializer="zeros", name="top_output")(hidden)
    retrieval = ops.sum(towers[QUERY_EMBEDDING] * towers[ITEM_EMBEDDING], axis=-1, keepdims=True)
    scaled = layers.Dense(1, use_bias=False, kernel_initializer="ones", name="retrieval_scale")(retrieval)
    return keras.Model(inputs | towers, ops.squeeze(change + scaled, -1), name="ranker")


def embed(name: str, vocabulary: int, dimension: int) -> layers.Embedding:
    """Build the embedding of one categorical feature."""
    start = keras.initializers.RandomNormal(stddev=0.02)
    return layers.Embedding(vocabulary, dimension, embeddings_initializer=start, name=f"embed_{name}")


def bottom_mlp(side: str, inputs: list[keras.KerasTensor], dimension: int) -> keras.KerasTensor:
    """Turn one side's dense features, (B,) each, into one vector (B, d)."""
    joined = ops.stack(inputs, axis=-1)
    hidden = layers.Dense(2 * dimension, activation="relu", name=f"bottom_{side}_hidden")(joined)
    return layers.Dense(dimension, name=f"bottom_{side}")(hidden)


def _frequent(vocabularies: dict[str, int], n_events: int) -> dict[str, int]:
    return {name: size for name, size in vocabularies.items() if size * EVENTS_PER_VALUE <= n_events}
