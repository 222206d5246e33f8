"""What Keras and Faiss see of a GPU, and how they are set up for one or kept off it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchrec.errors import ConfigError
from batchrec.models.backend import import_keras, when_imported

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchrec.models.index_pieces import Storage
    from batchrec.models.precision import Precision

FAISS_SCRATCH = 256 << 20
"""Bytes that Faiss reserves on the GPU for its searches, in place of its 1.5 GB."""


@dataclass(frozen=True)
class _Backend:
    """A backend of Keras.

    Parameters
    ----------
    version
        Of the library.
    for_gpus
        How a build for GPUs is installed in the place of one for CPUs.
    gpus
        Names the GPUs that it sees.
    use
        Sets it up for them: products of float32 in TensorFloat-32 or not, and memory taken as it is needed.
    keep_off
        Hides them from it.
    """

    version: Callable[[], str]
    for_gpus: str
    gpus: Callable[[], list[str]]
    use: Callable[[bool], None]
    keep_off: Callable[[], None]


def keras_versions() -> str:
    """Name the versions of Keras and its backend."""
    keras = import_keras()
    name = keras.backend.backend()
    return f"{keras.__version__} on {name} {_BACKENDS[name].version() if name in _BACKENDS else ''}".rstrip()


def keras_gpus() -> list[str]:
    """Name the GPUs that Keras' backend sees.

    Raises
    ------
    ConfigError
        The backend is neither TensorFlow nor JAX.
    """
    return _backend().gpus()


def keras_for_gpus() -> str:
    """Say how Keras' backend is installed for GPUs."""
    return _backend().for_gpus


def use_gpu(precision: Precision) -> None:
    """Let Keras compute on the GPU, without taking all of its memory at once; in fp32 in float32 throughout.

    Both libraries multiply float32 matrices in TensorFloat-32 unless they are told otherwise, with 10 bits in place of
    23: scores would differ from a CPU's in the third digit.
    """
    _backend().use(precision != "fp32")


def keep_off_gpu() -> None:
    """Let Keras, if ever it is imported, compute on the CPU also where there is a GPU, which it would take by itself.

    Raises
    ------
    ConfigError
        It has computed on the GPU already in this process.
    """
    when_imported(_keep_backend_off)


def _keep_backend_off() -> None:
    backend = _BACKENDS.get(import_keras().backend.backend())
    if backend is not None:
        backend.keep_off()


def faiss_version() -> str:
    """Return the version of Faiss, and whether it was built for GPUs."""
    import faiss

    return f"{faiss.__version__}, built {'with' if _built_for_gpus() else 'without'} GPU code"


def faiss_gpus() -> int:
    """Count the GPUs that Faiss sees; none where it was built without."""
    import faiss

    return int(faiss.get_num_gpus()) if _built_for_gpus() else 0


def index_to_gpu(index: Any, number: int, storage: Storage) -> Any:
    """Copy a Faiss index to one of the GPUs that this process may use, a flat one with vectors stored as asked.

    Its searches are queued on the null stream, as CuPy's work is, so that each sees what the other has written.
    """
    import faiss

    resources = faiss.StandardGpuResources()
    resources.setDefaultNullStreamAllDevices()
    resources.setTempMemory(FAISS_SCRATCH)
    options = faiss.GpuClonerOptions()
    options.useFloat16 = storage == "fp16"
    return faiss.index_cpu_to_gpu(resources, number, index, options)


def _built_for_gpus() -> bool:
    import faiss

    return hasattr(faiss, "StandardGpuResources")


def _backend() -> _Backend:
    name = import_keras().backend.backend()
    if name not in _BACKENDS:
        raise ConfigError(
            f"Keras runs on {name}, expected {' or '.join(_BACKENDS)} for a GPU",
            "set KERAS_BACKEND to one of these, or use --device cpu",
        )
    return _BACKENDS[name]


def _tensorflow_version() -> str:
    import tensorflow as tf

    return str(tf.__version__)


def _tensorflow_gpus() -> list[str]:
    import tensorflow as tf

    return [gpu.name for gpu in tf.config.list_physical_devices("GPU")]


def _use_tensorflow(tensor_float_32: bool) -> None:
    import tensorflow as tf

    tf.config.experimental.enable_tensor_float_32_execution(tensor_float_32)
    try:
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)
    except RuntimeError as error:
        raise _begun("without leaving memory to others", "gpu") from error


def _keep_tensorflow_off() -> None:
    import tensorflow as tf

    if not tf.config.get_visible_devices("GPU"):
        return
    try:
        tf.config.set_visible_devices([], "GPU")
    except RuntimeError as error:
        raise _begun("on the GPU", "cpu") from error


def _jax_version() -> str:
    import jax

    return str(jax.__version__)


def _jax_gpus() -> list[str]:
    import jax

    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # read when JAX first looks for devices
    return [str(device) for device in jax.devices() if device.platform == "gpu"]


def _use_jax(tensor_float_32: bool) -> None:
    import jax

    jax.config.update("jax_default_device", None)  # which an earlier run of this process may have set to the CPU
    jax.config.update("jax_default_matmul_precision", "tensorfloat32" if tensor_float_32 else "highest")


def _keep_jax_off() -> None:
    import jax

    jax.config.update("jax_platforms", "cpu")
    if jax.default_backend() == "cpu":
        return
    # JAX keeps the devices that it finds at its first look, which may have been no more than to see that the worker
    # processes of this run can use the GPU.
    if jax.live_arrays():
        raise _begun("on the GPU", "cpu")
    try:
        jax.config.update("jax_default_device", jax.devices("cpu")[0])
    except RuntimeError as error:
        raise ConfigError(
            "JAX sees a GPU and no CPU", "name both, JAX_PLATFORMS=cuda,cpu, or leave it unset"
        ) from error


def _begun(how: str, wanted: str) -> ConfigError:
    return ConfigError(
        f"Keras has begun to compute {how} in this process", f"run --device {wanted} in a process of its own"
    )


_BACKENDS = {
    "tensorflow": _Backend(
        _tensorflow_version,
        "`pip uninstall tensorflow-cpu`, then `pip install 'batchrec[gpu]'`",
        _tensorflow_gpus,
        _use_tensorflow,
        _keep_tensorflow_off,
    ),
    "jax": _Backend(_jax_version, "`pip install 'jax[cuda12]'`", _jax_gpus, _use_jax, _keep_jax_off),
}
