"""The device that arrays of a partition are computed on: settled once a run, opened once a process."""

from __future__ import annotations

import os
import platform
from contextlib import nullcontext
from dataclasses import dataclass, field, fields
from threading import Lock
from typing import TYPE_CHECKING, Any

from batchrec.engine.cluster import CUDA, is_elsewhere
from batchrec.engine.cudf_frames import cudf_frames
from batchrec.engine.gpu_memory import use_pools
from batchrec.engine.inventory import first_problem
from batchrec.errors import ConfigError
from batchrec.frames import pandas_frames
from batchrec.models import gpu
from batchrec.models.index_pieces import Placement, Storage

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    import numpy.typing as npt

    from batchrec.arrays import Array
    from batchrec.engine.inventory import Need
    from batchrec.frames import FrameLibrary
    from batchrec.models.precision import Precision

AUTO, CPU, GPU = "auto", "cpu", "gpu"


@dataclass(frozen=True)
class Choice:
    """A device and how it is to be used: options of the run.

    Parameters
    ----------
    device
        ``cpu`` or ``gpu``.
    precision
        Of the matrix products of towers and ranker.
    index_storage
        What the index stores vectors in.
    index_gpus
        GPUs of a process that share the index.
    """

    device: str
    precision: Precision = "fp32"
    index_storage: Storage = "fp32"
    index_gpus: int = 1


@dataclass(frozen=True)
class Device:
    """A device, by what tells it from others; all else follows from the library that its arrays are of.

    Parameters
    ----------
    choice
        What it was opened for.
    put
        Copies an array of NumPy to it.
    fetch
        Copies one of its arrays to NumPy.
    placement
        How it holds a Faiss index.
    open_frames
        Returns how data frames are made in its memory.
    alone
        Held while a partition's lists are made: two threads that queue short pieces of work on one GPU take Python's
        lock from each other at every one of them, and each waits for what the other queued
        (docs/decisions/018-search-on-a-gpu.md). A host needs none: its stages take turns piece by piece, see
        :mod:`batchrec.models.threads`.
    """

    choice: Choice
    put: Callable[[npt.NDArray[Any]], Array]
    fetch: Callable[[Array], npt.NDArray[Any]]
    placement: Placement
    open_frames: Callable[[], FrameLibrary] = pandas_frames
    alone: AbstractContextManager[object] = field(default_factory=nullcontext)

    @property
    def is_host(self) -> bool:
        """Whether arrays are NumPy's own."""
        return self.choice.device == CPU


def settled_device(asked: str, place: str) -> str:
    """Return the device that a run is to be computed on, ``cpu`` or ``gpu``.

    Parameters
    ----------
    asked
        ``cpu``, ``gpu``, or ``auto``: the GPU where everything that it needs can be used. The workers of an existing
        cluster are not asked, so there ``auto`` is the CPU.
    place
        The cluster, as :func:`~batchrec.engine.cluster.checked_place` returns it.

    Raises
    ------
    ConfigError
        The GPU is asked for, but cannot be used on the machine that would compute; or the CPU, with a cluster of GPUs.
    """
    if place == CUDA and asked == CPU:
        raise ConfigError("--cluster cuda computes on GPUs, but --device is cpu", "leave one of the two out")
    if asked == CPU or (asked == AUTO and is_elsewhere(place)):
        return CPU
    if is_elsewhere(place):
        return GPU
    if asked == GPU or place == CUDA:
        _check_gpu("--cluster cuda" if place == CUDA else "--device gpu")
        return GPU
    return CPU if first_problem("--device gpu") else GPU


def check_choice(choice: Choice, place: str) -> None:
    """See that the options of a run whose device is settled go together.

    Raises
    ------
    ConfigError
        One is for a GPU, and the run computes on the CPU; or the index is to be shared by GPUs that have a worker each.
    """
    for option in fields(choice):
        value = getattr(choice, option.name)
        if choice.device == CPU and option.name != "device" and value != option.default:
            raise ConfigError(
                f"--{option.name.replace('_', '-')} is {value}, but the run computes on the CPU, always with "
                f"{option.default}",
                "leave it out, or give --device gpu",
            )
    if choice.index_gpus > 1 and place == CUDA:
        raise ConfigError(
            f"--index-gpus is {choice.index_gpus}, but --cluster cuda has a worker on each GPU, which would hold as "
            "many pieces",
            "leave one of the two out",
        )


def open_device(choice: Choice) -> Device:
    """Return a device, ready to be used by this process.

    Raises
    ------
    ConfigError
        It cannot be used on this machine, or there are fewer GPUs than are to share the index.
    """
    return _OPEN[choice.device](choice)


def _host(choice: Choice) -> Device:
    gpu.keep_off_gpu()
    return Device(choice, _as_it_is, _as_it_is, Placement(lambda index, _: index, lambda: None))


def _gpu(choice: Choice) -> Device:
    _check_gpu("--device gpu")
    # CuPy reads it at its first product.
    os.environ["CUPY_TF32"] = "0" if choice.precision == "fp32" else "1"
    import cupy

    there = cupy.cuda.runtime.getDeviceCount()
    if there < choice.index_gpus:
        raise ConfigError(
            f"--index-gpus is {choice.index_gpus}, but {platform.node()} has {there} that this process may use",
            "give fewer, or name more in CUDA_VISIBLE_DEVICES",
        )

    def wait() -> None:
        for number in range(choice.index_gpus):
            cupy.cuda.Device(number).synchronize()

    use_pools()
    gpu.use_gpu(choice.precision)
    placement = Placement(
        lambda index, number: gpu.index_to_gpu(index, number, choice.index_storage),
        wait,
        choice.index_storage,
        choice.index_gpus,
    )
    return Device(choice, cupy.asarray, cupy.asnumpy, placement, cudf_frames, Lock())


def _check_gpu(option: Need) -> None:
    problem = first_problem("--device gpu", option)
    if problem is not None:
        raise ConfigError(
            f"{option} cannot be used on {platform.node()}: {problem.name}: {problem.problem}",
            f"{problem.remedy}; `batchrec doctor` shows all that is missing",
        )


def _as_it_is(array: Any) -> Any:
    return array


_OPEN: dict[str, Callable[[Choice], Device]] = {CPU: _host, GPU: _gpu}
