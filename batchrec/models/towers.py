"""Two towers: a query tower that reads a user's features and recent history, an item tower, and their dot product.

The item tower sums an item-id embedding with a projection of the item's features. The query tower runs the history,
as item embeddings in time order, through causal self-attention (SASRec: Kang & McAuley 2018, arXiv:1808.09781), joins
the last state with the user's features, and projects to the same space. Layers are Keras 3 alone, so the saved models
run on every Keras backend and load in safe mode.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
from keras import layers, ops

Tensor = Any
"""A tensor of the Keras backend in use."""


@dataclass(frozen=True)
class TowerShape:
    """Sizes of both towers.

    Parameters
    ----------
    n_items
        Catalogue size N. Item code 0 is padding; code p + 1 is item position p.
    user_vocabularies, item_vocabularies
        Size of each categorical feature's vocabulary, code 0 (null or unknown) included, by input name.
    user_dense, item_dense
        Input names of the dense features.
    dimension
        Size d of query and item embeddings.
    history
        Number L of most recent items that the query tower sees.
    blocks, heads, dropout
        Depth of the self-attention, its heads a block, and the dropout rate between layers.
    """

    n_items: int
    user_vocabularies: dict[str, int]
    item_vocabularies: dict[str, int]
    user_dense: tuple[str, ...]
    item_dense: tuple[str, ...]
    dimension: int = 64
    history: int = 50
    blocks: int = 2
    heads: int = 2
    dropout: float = 0.2


def embedding_width(vocabulary: int, most: int) -> int:
    """Width of a categorical feature's embedding: grows with the fourth root of its vocabulary, at most ``most``."""
    return int(min(most, max(4, round(6 * vocabulary**0.25))))


def feature_encoder(name: str, vocabularies: dict[str, int], dense: tuple[str, ...], width: int) -> keras.Model | None:
    """Build the part of a tower that turns features into one vector.

    Returns
    -------
    keras.Model or None
        Model from ``{name: (n,) int32 codes or float32 values}`` to ``(n, width)`` float32; None without features.
    """
    inputs = {key: keras.Input((), dtype="int32", name=key) for key in vocabularies}
    inputs |= {key: keras.Input((), dtype="float32", name=key) for key in dense}
    if not inputs:
        return None
    parts = [
        layers.Embedding(size, embedding_width(size, width), name=f"{name}_{key}")(inputs[key])
        for key, size in vocabularies.items()
    ]
    parts += [ops.expand_dims(inputs[key], -1) for key in dense]
    joined = layers.Concatenate(name=f"{name}_features")(parts) if len(parts) > 1 else parts[0]
    hidden = layers.Dense(2 * width, activation="gelu", name=f"{name}_hidden")(joined)
    return keras.Model(inputs, layers.Dense(width, name=f"{name}_projection")(hidden), name=f"{name}_encoder")


def history_encoder(shape: TowerShape) -> keras.Model:
    """Build the causal self-attention over a history of item embeddings.

    Returns
    -------
    keras.Model
        Model from ``{"items": (n, L, d) float32, "filled": (n, L) bool}`` to states ``(n, L, d)``; state p has seen the
        items 0..p. Histories are left-padded: the newest item stands last, ``filled`` tells items from padding.
    """
    items = keras.Input((shape.history, shape.dimension), name="items")
    filled = keras.Input((shape.history,), dtype="bool", name="filled")
    # Counting the places inside the graph keeps the model free of custom layers: it loads without this package.
    place = ops.cumsum(ops.ones_like(filled, dtype="int32"), axis=1) - 1
    state = layers.Add()([items, layers.Embedding(shape.history, shape.dimension, name="places")(place)])
    state = layers.Dropout(shape.dropout)(state)
    # A padded place still attends to itself, so that no softmax runs over nothing.
    visible = ops.logical_or(ops.expand_dims(filled, 1), ops.cast(ops.eye(shape.history), "bool"))
    for block in range(shape.blocks):
        normed = layers.LayerNormalization(name=f"block{block}_norm")(state)
        attention = layers.MultiHeadAttention(
            shape.heads, shape.dimension // shape.heads, dropout=shape.dropout, name=f"block{block}_attention"
        )(normed, state, attention_mask=visible, use_causal_mask=True)
        state = layers.Add()([state, attention])
        normed = layers.LayerNormalization(name=f"block{block}_feedforward_norm")(state)
        hidden = layers.Dense(2 * shape.dimension, activation="gelu", name=f"block{block}_feedforward")(normed)
        hidden = layers.Dropout(shape.dropout)(hidden)
        state = layers.Add()([state, layers.Dense(shape.dimension, name=f"block{block}_output")(hidden)])
    return keras.Model(
        {"items": items, "filled": filled}, layers.LayerNormalization(name="states")(state), name="history_encoder"
    )


def query_head(shape: TowerShape, *, with_features: bool) -> keras.Model:
    """Build the last step of the query tower: history state (n, d) and user vector (n, d) to query embedding (n, d)."""
    state = keras.Input((shape.dimension,), name="state")
    if not with_features:
        return keras.Model({"state": state}, layers.Dense(shape.dimension, name="query")(state), name="query_head")
    user = keras.Input((shape.dimension,), name="user")
    joined = layers.Concatenate()([state, user])
    hidden = layers.Dropout(shape.dropout)(layers.Dense(2 * shape.dimension, activation="gelu")(joined))
    correction = layers.Dense(shape.dimension, name="query_correction")(hidden)
    return keras.Model({"state": state, "user": user}, layers.Add(name="query")([state, correction]), name="query_head")
