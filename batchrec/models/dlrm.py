"""Telling the project's own ranker from others, and taking it apart.

A ranker is the project's own if its graph is the one that :func:`~batchrec.models.ranker.build_ranker` builds for the
sizes found in it: the same layers with the same settings, joined in the same way. What may differ is what does not
count once it is trained: initializers, regularizers, dropout rates, the sizes of vocabularies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from batchrec.models.ranker import RankerShape

    Floats = npt.NDArray[np.float32]
    Layer = dict[str, Any]

NAMED = frozenset({"InputLayer", "Embedding", "Dense", "LayerNormalization"})
"""Layers whose names count: by these, inputs and weights are found."""

IRRELEVANT = frozenset({"name", "trainable", "rate", "seed", "input_dim"})
"""Settings without effect on a trained model's output; likewise all initializers, regularizers and constraints."""


@dataclass(frozen=True)
class Side:
    """What the ranker computes of the user alone, or of the item alone.

    Parameters
    ----------
    tables
        Embeddings (v, d) of the categorical inputs, by name, in the order of their vectors.
    dense
        Names of the dense inputs.
    bottom
        Kernels and biases of the bottom MLP's two layers; empty without dense inputs.
    embedding
        Name of the tower's embedding among the inputs.
    norm
        Its layer normalisation: scale (d,), offset (d,).
    epsilon
        Added to the variance there.
    places
        Of this side's vectors among all vectors: the categorical ones', the bottom MLP's if there is one, the
        embedding's.
    """

    tables: dict[str, Floats]
    dense: tuple[str, ...]
    bottom: tuple[Floats, ...]
    embedding: str
    norm: tuple[Floats, Floats]
    epsilon: float
    places: tuple[int, ...]

    @property
    def inputs(self) -> frozenset[str]:
        """Names of all inputs of this side."""
        return frozenset([*self.tables, *self.dense, self.embedding])


@dataclass(frozen=True)
class Dlrm:
    """The project's ranker in parts.

    Parameters
    ----------
    user, item
        Both sides.
    top
        Kernel and bias of each layer of the top MLP, the output included. The first reads the vector of the user's
        bottom MLP, that of the item's, then the dot products of all pairs of vectors i > j, (1, 0), (2, 0), (2, 1), …
    retrieval_scale
        Factor on the dot product of both embeddings, which is added to the output.
    """

    user: Side
    item: Side
    top: tuple[tuple[Floats, Floats], ...]
    retrieval_scale: np.float32


def take_apart(model: Any) -> Dlrm | None:
    """Return the parts of a Keras model, or None if it is not the project's ranker."""
    from batchrec.models.ranker import build_ranker

    shape = _shape_of(model)
    if shape is None or _graph(model) != _graph(build_ranker(shape)):
        return None
    return _parts(model, shape)


def _shape_of(model: Any) -> RankerShape | None:
    """Read the sizes of a ranker off a model; None if some part of a ranker cannot be found in it."""
    from batchrec.models.ranker import ITEM_CODE, ITEM_EMBEDDING, RankerShape

    try:
        layers = {layer["name"]: layer for layer in model.get_config()["layers"]}
        vectors = [_input_below(name, layers) for name in _sources(layers["interaction"])]
        codes = [name for name in vectors if f"embed_{name}" in layers]
        split = codes.index(ITEM_CODE)
        units = [layers[name]["config"]["units"] for name in map("top_{}".format, range(len(layers))) if name in layers]
        return RankerShape(
            n_items=0,  # and vocabularies of one: the sizes of tables do not change the graph
            user_vocabularies=dict.fromkeys(codes[:split], 1),
            item_vocabularies=dict.fromkeys(codes[split + 1 :], 1),
            user_dense=_dense_inputs("user", layers),
            item_dense=_dense_inputs("item", layers),
            dimension=layers[ITEM_EMBEDDING]["config"]["batch_shape"][-1],
            top=tuple(units),
        )
    except (AttributeError, KeyError, IndexError, TypeError, ValueError):
        return None  # whatever does not read like a ranker is none


def _sources(layer: Layer) -> list[str]:
    """Names of the layers that a layer, used once, reads."""
    names: list[str] = []
    _replace_tensors(layer["inbound_nodes"][0], lambda history: names.append(history[0]))
    return names


def _input_below(name: str, layers: dict[str, Layer]) -> str:
    """Follow first inputs down to the model's input."""
    while below := layers[name]["inbound_nodes"] and _sources(layers[name]):
        name = below[0]
    return name


def _dense_inputs(side: str, layers: dict[str, Layer]) -> tuple[str, ...]:
    if f"bottom_{side}_hidden" not in layers:
        return ()
    (stack,) = _sources(layers[f"bottom_{side}_hidden"])
    return tuple(_sources(layers[stack]))


def _graph(model: Any) -> list[Any]:
    """Write a functional model's graph so that equal graphs are equal: in the order of a walk from the output."""
    config = model.get_config()
    layers = {layer["name"]: layer for layer in config["layers"]}
    numbers: dict[tuple[str, int, int], int] = {}
    graph: list[Any] = []

    def visit(history: Any) -> int:
        key = tuple(history)
        if key not in numbers:
            layer = layers[key[0]]
            nodes = layer["inbound_nodes"]
            reads = _replace_tensors(nodes[key[1]], visit) if nodes else None
            graph.append((_kind(layer), reads, key[2]))
            numbers[key] = len(graph) - 1
        return numbers[key]

    # One output stands there bare, several in a list; a model of several is no ranker and differs in any case.
    outputs = config["output_layers"]
    for history in [outputs] if isinstance(outputs[0], str) else outputs:
        visit(history)
    return graph


def _kind(layer: Layer) -> tuple[Any, ...]:
    name = layer["name"] if layer["class_name"] in NAMED else None
    settings = {
        key: value
        for key, value in layer["config"].items()
        if key not in IRRELEVANT and not key.endswith(("_initializer", "_regularizer", "_constraint"))
    }
    return layer["module"], layer["class_name"], layer["registered_name"], name, settings


def _replace_tensors(value: Any, visit: Callable[[Any], Any]) -> Any:
    """Copy nested arguments of a layer with every tensor in them replaced by what ``visit`` makes of its origin."""
    if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
        return visit(value["config"]["keras_history"])
    if isinstance(value, dict):
        return {key: _replace_tensors(inner, visit) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_replace_tensors(inner, visit) for inner in value]
    return value


def _parts(model: Any, shape: RankerShape) -> Dlrm:
    from batchrec.models.ranker import ITEM_CODE, ITEM_EMBEDDING, QUERY_EMBEDDING

    user_codes, item_codes = [*shape.user_vocabularies], [ITEM_CODE, *shape.item_vocabularies]
    n_codes, bottoms = len(user_codes) + len(item_codes), bool(shape.user_dense) + bool(shape.item_dense)
    user_places = [*range(len(user_codes)), *([n_codes] if shape.user_dense else []), n_codes + bottoms]
    item_places = sorted(set(range(n_codes + bottoms + 2)) - set(user_places))
    tops = [*(f"top_{place}" for place in range(len(shape.top))), "top_output"]
    return Dlrm(
        user=_side(model, "user", user_codes, shape.user_dense, QUERY_EMBEDDING, user_places),
        item=_side(model, "item", item_codes, shape.item_dense, ITEM_EMBEDDING, item_places),
        top=tuple((weights[0], weights[1]) for weights in (_weights(model, name) for name in tops)),
        retrieval_scale=_weights(model, "retrieval_scale")[0][0, 0],
    )


def _side(model: Any, side: str, codes: list[str], dense: tuple[str, ...], embedding: str, places: list[int]) -> Side:
    bottom = [*_weights(model, f"bottom_{side}_hidden"), *_weights(model, f"bottom_{side}")] if dense else []
    scale, offset = _weights(model, f"norm_{embedding}")
    return Side(
        tables={name: _weights(model, f"embed_{name}")[0] for name in codes},
        dense=dense,
        bottom=tuple(bottom),
        embedding=embedding,
        norm=(scale, offset),
        epsilon=float(model.get_layer(f"norm_{embedding}").epsilon),
        places=tuple(places),
    )


def _weights(model: Any, layer: str) -> list[Floats]:
    return [np.ascontiguousarray(weight, np.float32) for weight in model.get_layer(layer).get_weights()]
