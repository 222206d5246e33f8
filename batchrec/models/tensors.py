"""Arrays of a device to tensors of Keras' backend and back, by DLPack, so that nothing passes through the host.

DLPack (https://dmlc.github.io/dlpack/latest/) hands over memory and not values. Libraries work on streams of their own,
so memory may change hands only when nothing is at work on it any more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from array_api_compat import array_namespace

from batchrec.errors import ConfigError
from batchrec.models.backend import import_keras
from batchrec.models.threads import turn

if TYPE_CHECKING:
    from batchrec.arrays import Array
    from batchrec.models.serving import Model

Arrays = Mapping[str, "Array"]
DeviceFunction = Callable[[Arrays], "Array"]
"""Named inputs of one fixed batch size, (B, …) each, to the model's one output (B, …), on one device."""

ALIGNMENT = 64
"""Bytes whose multiples TensorFlow wants memory to begin at; it ends the process where it finds another."""


def address(array: Array) -> int:
    """Return where the memory of a C-contiguous array begins, on its device."""
    on_gpu = getattr(array, "__cuda_array_interface__", None)
    begin: int = on_gpu["data"][0] if on_gpu else np.from_dlpack(array).ctypes.data
    return begin


def on_device(model: Model) -> DeviceFunction:
    """Return a model as a function of device arrays, which runs one call at a time.

    Parameters
    ----------
    model
        The model; its output comes back as an array of the library that the inputs are of.
    """
    to_tensor = _to_tensor()

    def call(arrays: Arrays) -> Array:
        xp = array_namespace(*arrays.values())
        with turn, model.refusing(arrays):
            for array in arrays.values():
                _wait(array)
            output = model.on_tensors({name: to_tensor(array) for name, array in arrays.items()})
            # A copy: the tensor's memory goes back to its library, which may write there while a reader is at work.
            found = xp.asarray(xp.from_dlpack(_Computed(output)), copy=True)
            _wait(found)
        return found

    return call


def jitted(model: Any) -> Callable[[Arrays], Any]:
    """Return a Keras model of a backend other than TensorFlow as a function of tensors, compiled where that is JAX."""
    import keras

    if keras.backend.backend() != "jax":
        return lambda tensors: model(tensors, training=False)
    import jax

    call = jax.jit(lambda weights, state, tensors: model.stateless_call(weights, state, tensors, training=False)[0])

    weights = [variable.value for variable in model.trainable_variables]
    state = [variable.value for variable in model.non_trainable_variables]

    def run(tensors: Arrays) -> Any:
        return call(weights, state, dict(tensors)).block_until_ready()

    return run


class _Computed:
    """A tensor that is computed already, for readers on any stream.

    TensorFlow waits for a tensor when it exports it, and refuses to be told of the reader's stream.

    Parameters
    ----------
    tensor
        The tensor.
    """

    def __init__(self, tensor: Any) -> None:
        self._tensor = tensor

    def __dlpack__(self, **_stream_and_more: Any) -> Any:
        return self._tensor.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        device: tuple[int, int] = self._tensor.__dlpack_device__()
        return device


def _wait(array: Array) -> None:
    """Wait until the device of an array has done all that it was given; a host has by the time that it returns."""
    synchronize = getattr(array.device, "synchronize", None)
    if synchronize is not None:
        synchronize()


def _to_tensor() -> Callable[[Array], Any]:
    backend = import_keras().backend.backend()
    if backend == "tensorflow":
        return _to_tensorflow
    if backend == "jax":
        import jax

        from_dlpack: Callable[[Array], Any] = jax.dlpack.from_dlpack
        return from_dlpack
    raise ConfigError(
        f"Keras runs on {backend}, which takes no arrays from a GPU here",
        "set KERAS_BACKEND to tensorflow or jax, or use --device cpu",
    )


def _to_tensorflow(array: Array) -> Any:
    import tensorflow as tf

    if address(array) % ALIGNMENT == 0:
        return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
    return tf.constant(np.from_dlpack(array))  # only on a host: memory of a GPU is handed out in multiples of 256 bytes
