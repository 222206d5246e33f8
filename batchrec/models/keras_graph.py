"""Telling whether two Keras models compute the same thing: their graphs, written so that equal graphs are equal.

What does not count in a trained model is left out: initializers, regularizers, constraints, dropout rates, the sizes of
vocabularies, and the names of layers that have neither inputs nor weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

Layer = dict[str, Any]
"""The configuration of one layer, as Keras writes it."""

NAMED = frozenset({"InputLayer", "Embedding", "Dense", "LayerNormalization", "MultiHeadAttention", "Functional"})
"""Layers whose names count: by these, inputs and weights are found."""

UNNAMED = frozenset({"dense"})
"""Names that Keras itself gives such a layer, with or without a number behind it."""

IRRELEVANT = frozenset({"name", "trainable", "rate", "dropout", "seed", "input_dim"})
"""Settings without effect on a trained model's output; likewise all initializers, regularizers and constraints."""


def graph_of(config: dict[str, Any]) -> list[Any]:
    """Write a functional model's graph, from its configuration, in the order of a walk from its outputs."""
    layers = layers_of(config)
    numbers: dict[tuple[str, int, int], int] = {}
    graph: list[Any] = []

    def visit(history: Any) -> int:
        name, node, tensor = history
        layer = layers[name]
        nodes = layer["inbound_nodes"]
        # Keras counts the first use of a model as a layer now as 0, now as 1; how many uses there are decides nothing
        # but whether graphs are equal, so that this is no ambiguity.
        key = (name, min(node, len(nodes) - 1), tensor)
        if key not in numbers:
            reads = replace_tensors(nodes[key[1]], visit) if nodes else None
            graph.append((_kind(layer), len(nodes), reads, tensor))
            numbers[key] = len(graph) - 1
        return numbers[key]

    # One output stands there bare, several in a list.
    outputs = config["output_layers"]
    for history in [outputs] if isinstance(outputs[0], str) else outputs:
        visit(history)
    return graph


def layers_of(config: dict[str, Any]) -> dict[str, Layer]:
    """Return a functional model's layers by name."""
    return {layer["name"]: layer for layer in config["layers"]}


def sources(layer: Layer) -> list[str]:
    """Names of the layers that a layer, used once, reads."""
    names: list[str] = []
    replace_tensors(layer["inbound_nodes"][0], lambda history: names.append(history[0]))
    return names


def replace_tensors(value: Any, visit: Callable[[Any], Any]) -> Any:
    """Copy nested arguments of a layer with every tensor in them replaced by what ``visit`` makes of its origin."""
    if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
        return visit(value["config"]["keras_history"])
    if isinstance(value, dict):
        return {key: replace_tensors(inner, visit) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [replace_tensors(inner, visit) for inner in value]
    return value


def inputs_of(model: Any) -> set[str]:
    """Names by which a model finds its inputs in a dictionary: the dictionary's own keys where it was built on one."""
    return set(model.input) if isinstance(model.input, dict) else {tensor.name for tensor in model.inputs}


def weights_of(model: Any, layer: str) -> list[npt.NDArray[np.float32]]:
    """Return the weights of a layer as Keras orders them, C-contiguous."""
    return [np.ascontiguousarray(weight, np.float32) for weight in model.get_layer(layer).get_weights()]


def _kind(layer: Layer) -> tuple[Any, ...]:
    named = layer["class_name"] in NAMED and layer["name"].rstrip("_0123456789") not in UNNAMED
    name = layer["name"] if named else None
    inside = graph_of(layer["config"]) if layer["class_name"] == "Functional" else _settings(layer["config"])
    return layer["module"], layer["class_name"], layer["registered_name"], name, inside


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in config.items()
        if key not in IRRELEVANT and not key.endswith(("_initializer", "_regularizer", "_constraint"))
    }
