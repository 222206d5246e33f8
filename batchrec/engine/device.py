"""The device that arrays of a partition are computed on: settled once a run, opened once a process."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchrec.engine.cluster import CUDA, is_elsewhere
from batchrec.engine.cudf_frames import cudf_frames
from batchrec.engine.inventory import first_problem
from batchrec.errors import ConfigError
from batchrec.frames import pandas_frames
from batchrec.models import gpu

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from batchrec.arrays import Array
    from batchrec.engine.inventory import Need
    from batchrec.frames import FrameLibrary

AUTO, CPU, GPU = "auto", "cpu", "gpu"


@dataclass(frozen=True)
class Device:
    """A device, by what tells it from others; all else follows from the library that its arrays are of.

    Parameters
    ----------
    name
        ``cpu`` or ``gpu``.
    put
        Copies an array of NumPy to it.
    fetch
        Copies one of its arrays to NumPy.
    place_index
        Copies a Faiss index to it.
    open_frames
        Returns how data frames are made in its memory.
    """

    name: str
    put: Callable[[npt.NDArray[Any]], Array]
    fetch: Callable[[Array], npt.NDArray[Any]]
    place_index: Callable[[Any], Any]
    open_frames: Callable[[], FrameLibrary] = pandas_frames

    @property
    def is_host(self) -> bool:
        """Whether arrays are NumPy's own."""
        return self.name == CPU


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


def open_device(name: str) -> Device:
    """Return a device, ready to be used by this process.

    Raises
    ------
    ConfigError
        It cannot be used on this machine.
    """
    return _OPEN[name]()


def _host() -> Device:
    gpu.keep_off_gpu()
    return Device(CPU, _as_it_is, _as_it_is, _as_it_is)


def _gpu() -> Device:
    _check_gpu("--device gpu")
    import cupy

    gpu.use_gpu()
    return Device(GPU, cupy.asarray, cupy.asnumpy, gpu.index_to_gpu, cudf_frames)


def _check_gpu(option: Need) -> None:
    problem = first_problem("--device gpu", option)
    if problem is not None:
        raise ConfigError(
            f"{option} cannot be used on {platform.node()}: {problem.name}: {problem.problem}",
            f"{problem.remedy}; `batchrec doctor` shows all that is missing",
        )


def _as_it_is(array: Any) -> Any:
    return array


_OPEN: dict[str, Callable[[], Device]] = {CPU: _host, GPU: _gpu}
