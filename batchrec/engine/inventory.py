"""What this machine has for each device: found or missing, in which version, and why it cannot be used."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from batchrec.models import gpu

if TYPE_CHECKING:
    from collections.abc import Callable

Need = Literal["every run", "--device gpu", "--cluster cuda"]

DRIVER_LIBRARY = "libcuda.so.1"

_DRIVER_VERSION = Path("/sys/module/nvidia/version")
_INSTALL = "`pip install 'batchrec[gpu]'`"


@dataclass(frozen=True)
class Finding:
    """One thing that a run may need.

    Parameters
    ----------
    name
        What it is.
    need
        What needs it.
    found
        Versions and devices; empty where there is none.
    problem
        Why it cannot be used; empty where it can.
    remedy
        What to do about it; empty where there is no problem.
    """

    name: str
    need: Need
    found: str
    problem: str = ""
    remedy: str = ""


def inventory() -> list[Finding]:
    """Look for everything that any run may need."""
    return [_looked(*look) for look in _LOOKS]


def first_problem(*needs: Need) -> Finding | None:
    """Return the first thing missing among what is needed, or None; looks no further, the cheapest first."""
    found = (_looked(*look) for look in _LOOKS if look[1] in needs)
    return next((finding for finding in found if finding.problem), None)


class _Unusable(Exception):  # noqa: N818 - a finding, never raised out of this module
    def __init__(self, problem: str, remedy: str, found: str = "") -> None:
        super().__init__(problem)
        self.problem, self.remedy, self.found = problem, remedy, found


def _looked(name: str, need: Need, look: Callable[[], str]) -> Finding:
    try:
        return Finding(name, need, look())
    except _Unusable as unusable:
        return Finding(name, need, unusable.found, unusable.problem, unusable.remedy)
    except ModuleNotFoundError as error:
        return Finding(name, need, "", f"{error.name} is not installed", _INSTALL)
    except ImportError as error:
        return Finding(name, need, "", f"it cannot be imported ({_line(error)})", _INSTALL)
    except Exception as error:  # libraries raise whatever they like where a GPU is not as they expect it
        return Finding(name, need, "", _line(error), "mend this, or use --device cpu")


def _driver() -> str:
    try:
        driver = ctypes.CDLL(DRIVER_LIBRARY)
    except OSError as error:
        problem = f"there is no {DRIVER_LIBRARY}"
        raise _Unusable(problem, "install NVIDIA's driver, or use --device cpu") from error
    release = _DRIVER_VERSION.read_text().strip() if _DRIVER_VERSION.exists() else "of unknown version"
    failed = driver.cuInit(0)
    if failed:
        raise _Unusable(f"it starts no GPU (cuInit returns {failed})", "see what `nvidia-smi` says", release)
    cuda, gpus = ctypes.c_int(), ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(cuda))
    driver.cuDeviceGetCount(ctypes.byref(gpus))
    found = f"{release}, up to CUDA {cuda.value // 1000}.{cuda.value % 1000 // 10}, {gpus.value} GPUs"
    if not gpus.value:
        raise _Unusable("it has no GPU", "see what CUDA_VISIBLE_DEVICES says", found)
    return found


def _cupy() -> str:
    import cupy

    if int(cupy.arange(4).sum()) != 6:  # compiles and runs a kernel
        raise _Unusable("it computes wrongly", "reinstall it for the CUDA version of the driver", cupy.__version__)
    return str(cupy.__version__)


def _keras_on_gpu() -> str:
    found = gpu.keras_gpus()
    if not found:
        raise _Unusable(f"{gpu.keras_versions()} sees no GPU", gpu.keras_for_gpus())
    return ", ".join(found)


def _faiss_on_gpu() -> str:
    found = gpu.faiss_gpus()
    if not found:
        raise _Unusable(f"{gpu.faiss_version()}, sees no GPU", f"`pip uninstall faiss-cpu`, then {_INSTALL}")
    return f"{found} GPUs"


def _cudf() -> str:
    import cudf

    if int(cudf.Series([1, 2, None]).sum()) != 3:
        raise _Unusable("it computes wrongly", "reinstall it for the CUDA version of the driver", cudf.__version__)
    return str(cudf.__version__)


def _dask_cuda() -> str:
    from dask_cuda import LocalCUDACluster  # noqa: F401 - that it can be imported is the question

    return _version("dask-cuda")


def _rmm() -> str:
    import rmm

    return str(rmm.__version__)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "of unknown version"


def _line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


_LOOKS: tuple[tuple[str, Need, Callable[[], str]], ...] = (
    ("Keras", "every run", gpu.keras_versions),
    ("Faiss", "every run", gpu.faiss_version),
    ("NVIDIA driver", "--device gpu", _driver),
    ("CuPy", "--device gpu", _cupy),
    ("cuDF", "--device gpu", _cudf),
    ("RMM", "--device gpu", _rmm),
    ("Faiss on a GPU", "--device gpu", _faiss_on_gpu),
    ("Keras on a GPU", "--device gpu", _keras_on_gpu),
    ("dask-cuda", "--cluster cuda", _dask_cuda),
)
