"""Devices that are held against the CPU: a GPU where there is one, and array-api-strict, which stands in for one.

Strict arrays are refused wherever code counts on NumPy, and reach Keras and Faiss by the same way as a GPU's: by DLPack
and by the address of their memory.
"""

from functools import partial
from threading import Lock

import array_api_strict
import faiss
import numpy as np
import pytest

from batchrec.engine.device import Choice, Device, open_device
from batchrec.engine.inventory import first_problem
from batchrec.models.index_pieces import Placement

GPU = Choice("gpu")


def strict(choice=GPU):
    """A stand-in for any number of GPUs; it multiplies in float32 where TensorFloat-32 is asked for.

    Where there is a GPU, Keras computes there and not where strict arrays are.
    """
    skip_beside_a_gpu()

    def place(index, _):
        return in_half(index) if choice.index_storage == "fp16" and isinstance(index, faiss.IndexFlat) else index

    placement = Placement(place, lambda: None, choice.index_storage, choice.index_gpus)
    put = partial(array_api_strict.asarray, copy=True)
    return Device(choice, put, np.from_dlpack, placement, alone=Lock())


def skip_beside_a_gpu():
    """Skip a stand-in where there is a GPU; to test it there too, hide that by ``CUDA_VISIBLE_DEVICES=-1``."""
    if first_problem("--device gpu") is None:
        pytest.skip("there is a GPU here")


def in_half(flat):
    """What Faiss makes of a flat index on a GPU that is told to store float16."""
    half = faiss.IndexScalarQuantizer(flat.d, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    half.add(flat.reconstruct_n(0, flat.ntotal))
    return half


def cupy(choice=GPU):
    problem = first_problem("--device gpu")
    if problem is not None:
        pytest.skip(f"no GPU can be used here: {problem.name}: {problem.problem}")
    return open_device(choice)


def again(device, choice):
    """A device of the same kind, opened for another choice."""
    return strict(choice) if device.fetch is np.from_dlpack else cupy(choice)


DEVICES = {"strict": strict, "cupy": cupy}
