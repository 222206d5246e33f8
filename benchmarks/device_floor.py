"""What a device can do at best, measured in the same run: matrix products, bytes moved on it, and to and from it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import floor
import numpy as np
from array_api_compat import array_namespace

from batchrec.models import gpu
from batchrec.models.backend import import_keras

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchrec.engine.device import Device

REPETITIONS, PRODUCTS = 5, 4


def measure(device: Device, matrix: int, size: int) -> dict[str, Any]:
    """Measure a device.

    Parameters
    ----------
    device
        The device. Of a host :mod:`floor` measures all cores, with its own sizes.
    matrix
        Rows and columns of the matrices that are multiplied.
    size
        Bytes that are moved.

    Returns
    -------
    dict
        ``flop/s`` by precision, by Keras' backend, on a host float32 alone; ``bytes/s`` read and written by a copy on
        the device; where it is no host, ``bytes/s to it`` and ``bytes/s from it`` between ordinary memory of the host,
        as a run uses it, and the device.
    """
    if device.is_host:
        # Keras' products of small matrices are mostly calls, and a copy by one thread into fresh memory maps its pages.
        rates = floor.measure()
        return {"flop/s": {"fp32": rates["flop/s"]}, "bytes/s": rates["bytes/s"]}
    on_host = np.random.default_rng(0).random(size // 4, np.float32)  # CuPy copies bytes one at a time
    there = device.put(on_host)
    xp = array_namespace(there)

    def copied() -> None:
        xp.asarray(there, copy=True)
        device.placement.wait()

    def put() -> None:
        device.put(on_host)
        device.placement.wait()

    return {
        "flop/s": {precision: _multiplied(precision, matrix) for precision in ("fp32", "tf32", "bf16")},
        "bytes/s": 2 * size / best(copied),
        "bytes/s to it": size / best(put),
        "bytes/s from it": size / best(lambda: device.fetch(there)),
    }


def best(work: Callable[[], object], repetitions: int = REPETITIONS) -> float:
    """Return the fewest seconds that a piece of work took, after once that does not count."""
    work()
    seconds = []
    for _ in range(repetitions):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _multiplied(precision: Any, size: int) -> float:
    """Return the rate of matrix products (flop/s), several of them queued at a time."""
    ops = import_keras().ops
    gpu.use_gpu(precision)
    dtype = "bfloat16" if precision == "bf16" else "float32"
    random = np.random.default_rng(1)
    left, right = (ops.cast(ops.convert_to_tensor(random.random((size, size), np.float32)), dtype) for _ in range(2))

    def work() -> None:
        for _ in range(PRODUCTS):
            product = ops.matmul(left, right)
        ops.convert_to_numpy(product[:1, :1])  # and waits

    return 2 * size**3 * PRODUCTS / best(work)
