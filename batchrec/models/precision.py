"""What matrix products of a GPU are computed in: float32, TensorFloat-32, or bfloat16."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from batchrec.errors import ArtifactError
from batchrec.models.backend import import_keras

if TYPE_CHECKING:
    from batchrec.arrays import Array
    from batchrec.models.serving import Model

Precision = Literal["fp32", "tf32", "bf16"]
"""Bits of an operand's fraction: 23, 10 or 7. Products are summed in float32."""

MULTIPLY = ("Dense", "EinsumDense", "MultiHeadAttention", "GroupQueryAttention")
"""Layers of Keras that multiply matrices."""

_SPLITTER = 2.0**16 + 1


def to_bfloat16(x: Array) -> Array:
    """Round float32 values to the nearest that bfloat16 can hold, and leave them float32.

    Dekker's splitting (1971, doi:10.1007/BF01397083) takes three operations and no look at bits; ties may go either
    way, and values beyond 1e33 overflow. TensorFloat-32 holds such operands exactly, so that their product in it is
    that of a unit for bfloat16 which sums in float32.
    """
    spread = x * _SPLITTER
    return spread - (spread - x)


def in_precision(model: Model, precision: Precision) -> Model:
    """Return a model whose layers multiply in a precision; its output is float32.

    ``fp32`` and ``tf32`` are settings of Keras' backend, see :func:`~batchrec.models.gpu.use_gpu`. For ``bf16`` the
    layers that multiply get Keras' policy ``mixed_bfloat16``: operands and results in bfloat16, weights in float32.
    Layers of a single unit stay as they are, since scores of 8 bits would tie; so does what lies between, among it the
    sums of residual layers. The model given is changed.

    Raises
    ------
    ArtifactError
        If bf16 is asked of a SavedModel, whose operations are fixed.
    """
    if precision != "bf16":
        return model
    if model.keras is None:
        raise ArtifactError(
            f"model {model.path} is a SavedModel, which cannot compute in bf16",
            "save it with `model.save('model.keras')`, or give --precision tf32",
        )
    keras = import_keras()
    kinds = tuple(getattr(keras.layers, name) for name in MULTIPLY)
    for layer in model.keras._flatten_layers(include_self=False):  # noqa: SLF001 - nested models and their layers too
        if isinstance(layer, kinds) and getattr(layer, "units", 0) != 1:
            for part in layer._flatten_layers():  # noqa: SLF001
                part.dtype_policy = "mixed_bfloat16"
    return replace(model, on_tensors=lambda tensors: keras.ops.cast(model.on_tensors(tensors), "float32"))
