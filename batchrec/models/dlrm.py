"""Telling the project's own ranker from others, and taking it apart.

A ranker is the project's own if its graph is the one that :func:`~batchrec.models.ranker.build_ranker` builds for the
sizes found in it: the same layers with the same settings, joined in the same way. What may differ is what does not
count once it is trained: initializers, regularizers, dropout rates, the sizes of vocabularies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchrec.models.keras_graph import Layer, graph_of, layers_of, sources, weights_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from batchrec.models.ranker import RankerShape

    Floats = npt.NDArray[np.float32]


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
    """Return the parts of a Keras model, or None if it is not the project's ranker, or None itself."""
    from batchrec.models.ranker import build_ranker

    shape = _shape_of(model)
    if shape is None or graph_of(model.get_config()) != graph_of(build_ranker(shape).get_config()):
        return None
    return _parts(model, shape)


def _shape_of(model: Any) -> RankerShape | None:
    """Read the sizes of a ranker off a model; None if some part of a ranker cannot be found in it."""
    from batchrec.models.ranker import ITEM_CODE, ITEM_EMBEDDING, RankerShape

    try:
        layers = layers_of(model.get_config())
        vectors = [_input_below(name, layers) for name in sources(layers["interaction"])]
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


def _input_below(name: str, layers: dict[str, Layer]) -> str:
    """Follow first inputs down to the model's input."""
    while below := layers[name]["inbound_nodes"] and sources(layers[name]):
        name = below[0]
    return name


def _dense_inputs(side: str, layers: dict[str, Layer]) -> tuple[str, ...]:
    if f"bottom_{side}_hidden" not in layers:
        return ()
    (stack,) = sources(layers[f"bottom_{side}_hidden"])
    return tuple(sources(layers[stack]))


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
        top=tuple((weights[0], weights[1]) for weights in (weights_of(model, name) for name in tops)),
        retrieval_scale=weights_of(model, "retrieval_scale")[0][0, 0],
    )


def _side(model: Any, side: str, codes: list[str], dense: tuple[str, ...], embedding: str, places: list[int]) -> Side:
    bottom = [*weights_of(model, f"bottom_{side}_hidden"), *weights_of(model, f"bottom_{side}")] if dense else []
    scale, offset = weights_of(model, f"norm_{embedding}")
    return Side(
        tables={name: weights_of(model, f"embed_{name}")[0] for name in codes},
        dense=dense,
        bottom=tuple(bottom),
        embedding=embedding,
        norm=(scale, offset),
        epsilon=float(model.get_layer(f"norm_{embedding}").epsilon),
        places=tuple(places),
    )
