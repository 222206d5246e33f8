"""Compiled loops where Numba can keep nothing: here since the loop is in no file, elsewhere for want of a folder."""

import subprocess
import sys

WITHOUT_FILE = """
import numpy as np
from numba import njit
from batchrec.models.compiled import compiled

@compiled
def total(numbers):
    whole = 0.0
    for number in numbers:
        whole += number
    return whole

try:
    njit(total.py_func, cache=True)
except RuntimeError:
    pass
else:
    raise AssertionError("Numba keeps loops without a file now: this test shows nothing")
assert total(np.arange(5.0)) == 10
assert total.signatures
"""


def test_where_nothing_can_be_kept_loops_are_compiled_anew():
    subprocess.run([sys.executable, "-c", WITHOUT_FILE], check=True)
