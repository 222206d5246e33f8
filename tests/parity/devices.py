"""Devices that are held against the CPU: a GPU where there is one, and array-api-strict, which stands in for one.

Strict arrays are refused wherever code counts on NumPy, and reach Keras and Faiss by the same way as a GPU's: by DLPack
and by the address of their memory.
"""

import array_api_strict
import numpy as np
import pytest

from batchrec.engine.device import Device, open_device
from batchrec.engine.inventory import first_problem


def strict():
    return Device("gpu", lambda array: array_api_strict.asarray(array, copy=True), np.from_dlpack, lambda index: index)


def cupy():
    problem = first_problem("--device gpu")
    if problem is not None:
        pytest.skip(f"no GPU can be used here: {problem.name}: {problem.problem}")
    return open_device("gpu")


DEVICES = {"strict": strict, "cupy": cupy}
