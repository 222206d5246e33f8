"""Telling the project's own query tower from others, and taking it apart.

A query tower is the project's own if its graph is the one that :func:`~batchrec.models.serving_tower.serving_model`
builds for the sizes found in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchrec.models.keras_graph import graph_of, layers_of, sources, weights_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from batchrec.models.towers import TowerShape

    Floats = npt.NDArray[np.float32]
    Dense = tuple[Floats, Floats]
    """Kernel (a, b) and bias (b,)."""


@dataclass(frozen=True)
class Norm:
    """A layer normalisation.

    Parameters
    ----------
    scale, offset
        (d,) each.
    epsilon
        Added to the variance.
    """

    scale: Floats
    offset: Floats
    epsilon: float


@dataclass(frozen=True)
class Attention:
    """Self-attention of h heads of width w.

    Parameters
    ----------
    query, key, value
        Kernel (d, h, w) and bias (h, w) of each.
    output
        Kernel (h, w, d) and bias (d,).
    """

    query: Dense
    key: Dense
    value: Dense
    output: Dense


@dataclass(frozen=True)
class Block:
    """One block of the history encoder: attention, then a feed-forward layer, each over a normalised state."""

    norm: Norm
    attention: Attention
    feedforward_norm: Norm
    feedforward: Dense
    output: Dense


@dataclass(frozen=True)
class UserEncoder:
    """What turns a user's features into one vector.

    Parameters
    ----------
    tables
        Embeddings of the categorical inputs, by name, in the order in which they are joined.
    dense
        Names of the dense inputs, which follow.
    hidden, projection
        Both layers, with a GELU between them.
    """

    tables: dict[str, Floats]
    dense: tuple[str, ...]
    hidden: Dense
    projection: Dense


@dataclass(frozen=True)
class Tower:
    """The project's query tower in parts.

    Parameters
    ----------
    items
        (N + 1, d): embedding of each item code, 0 for padding.
    places
        (L, d): embedding of each place of a history, the newest item's last.
    blocks
        Blocks of the history encoder, the lowest first.
    states
        The normalisation above them.
    user
        None for a tower that reads the history alone.
    query
        Layers of the head: with user features a hidden one with a GELU, whose inputs are the state and the user's
        vector, and the correction that is added to the state; otherwise the one layer that the state goes through.
    """

    items: Floats
    places: Floats
    blocks: tuple[Block, ...]
    states: Norm
    user: UserEncoder | None
    query: tuple[Dense, ...]


def take_tower_apart(model: Any) -> Tower | None:
    """Return the parts of a Keras model, or None if it is not the project's query tower, or None itself."""
    from batchrec.models.serving_tower import serving_model
    from batchrec.models.tower_training import TwoTower

    shape = _shape_of(model)
    if shape is None or graph_of(model.get_config()) != graph_of(serving_model(TwoTower(shape)).get_config()):
        return None
    return _parts(model, shape)


def _shape_of(model: Any) -> TowerShape | None:
    """Read the sizes of a query tower off a model; None if some part of one cannot be found in it."""
    from batchrec.models.bundle_format import HISTORY
    from batchrec.models.towers import TowerShape

    try:
        whole = layers_of(model.get_config())
        encoder = layers_of(whole["history_encoder"]["config"])
        blocks = sum(name.endswith("_attention") for name in encoder)
        user = layers_of(whole["user_encoder"]["config"]) if "user_encoder" in whole else {}
        tables = {
            name: layer["config"]["input_dim"] for name, layer in user.items() if layer["class_name"] == "Embedding"
        }
        return TowerShape(
            n_items=0,  # the size of the table does not change the graph
            user_vocabularies={name.removeprefix("user_"): size for name, size in tables.items()},
            item_vocabularies={},
            user_dense=_dense_inputs(user),
            item_dense=(),
            dimension=encoder["items"]["config"]["batch_shape"][-1],
            history=whole[HISTORY]["config"]["batch_shape"][-1],
            blocks=blocks,
            heads=encoder["block0_attention"]["config"]["num_heads"] if blocks else 1,
        )
    except (AttributeError, KeyError, IndexError, TypeError, ValueError):
        return None  # whatever does not read like a query tower is none


def _dense_inputs(user: dict[str, Any]) -> tuple[str, ...]:
    """Names of the dense inputs in the order in which they are joined: those that get an axis of their own first."""
    joined = sources(user["user_features"]) if "user_features" in user else list(user)
    return tuple(sources(user[name])[0] for name in joined if user[name]["class_name"] == "ExpandDims")


def _parts(model: Any, shape: TowerShape) -> Tower:
    from batchrec.models.serving_tower import ITEM_TABLE

    encoder, head = model.get_layer("history_encoder"), model.get_layer("query_head")
    hidden = [layer.name for layer in head.layers if layer.get_weights()]
    return Tower(
        items=weights_of(model, ITEM_TABLE)[0],
        places=weights_of(encoder, "places")[0],
        blocks=tuple(_block(encoder, number) for number in range(shape.blocks)),
        states=_norm(encoder, "states"),
        user=_user_encoder(model.get_layer("user_encoder"), shape)
        if shape.user_vocabularies or shape.user_dense
        else None,
        query=tuple(_dense(head, name) for name in hidden),
    )


def _block(encoder: Any, number: int) -> Block:
    name = f"block{number}"
    weights = weights_of(encoder, f"{name}_attention")
    return Block(
        norm=_norm(encoder, f"{name}_norm"),
        attention=Attention(*zip(weights[::2], weights[1::2], strict=True)),
        feedforward_norm=_norm(encoder, f"{name}_feedforward_norm"),
        feedforward=_dense(encoder, f"{name}_feedforward"),
        output=_dense(encoder, f"{name}_output"),
    )


def _user_encoder(encoder: Any, shape: TowerShape) -> UserEncoder:
    return UserEncoder(
        tables={name: weights_of(encoder, f"user_{name}")[0] for name in shape.user_vocabularies},
        dense=shape.user_dense,
        hidden=_dense(encoder, "user_hidden"),
        projection=_dense(encoder, "user_projection"),
    )


def _norm(model: Any, layer: str) -> Norm:
    scale, offset = weights_of(model, layer)
    return Norm(scale, offset, float(model.get_layer(layer).epsilon))


def _dense(model: Any, layer: str) -> Dense:
    kernel, bias = weights_of(model, layer)
    return kernel, bias
