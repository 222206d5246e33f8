"""Compiled loops where there is no folder to keep machine code in."""

import subprocess
import sys

WITHOUT_FOLDER = """
import numpy as np
from numba.core import caching
caching._CacheImpl._locator_classes = []  # what a read-only installation without a home comes to
from batchrec.models.compiled import compiled

@compiled
def total(numbers):
    whole = 0.0
    for number in numbers:
        whole += number
    return whole

assert total.signatures == []
assert total(np.arange(5.0)) == 10
assert total.signatures
"""


def test_without_a_folder_to_write_to_loops_are_compiled_anew():
    subprocess.run([sys.executable, "-c", WITHOUT_FOLDER], check=True)
