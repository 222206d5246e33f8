"""Compiled loops are kept where that is possible, and compiled anew where it is not."""

import os
import subprocess
import sys

import pytest

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

LOOP = """
import sys
import numpy as np
from batchrec.models.compiled import compiled, compiled_sums

@globals()[sys.argv[1]]
def total(numbers):
    whole = 0.0
    for number in numbers:
        whole += number
    return whole

assert total(np.arange(5.0)) == 10
print(sum(total.stats.cache_hits.values()))
"""


def test_where_nothing_can_be_kept_loops_are_compiled_anew():
    subprocess.run([sys.executable, "-c", WITHOUT_FILE], check=True)


@pytest.fixture
def loaded(tmp_path):
    """Run a loop from a file, and return how often its machine code came from the folder ``kept``."""
    script = tmp_path / "loop.py"

    script.write_text(LOOP)

    def run(decorator="compiled"):
        environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "kept"), "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, script, decorator], env=environment, check=True, capture_output=True, text=True
        )
        return int(done.stdout)

    return run


def kept(tmp_path, ending):
    (path,) = (tmp_path / "kept").rglob(f"*.{ending}")
    return path


def test_machine_code_is_kept(loaded):
    assert [loaded(), loaded()] == [0, 1]


def test_code_compiled_under_other_rules_is_not_taken(loaded):
    assert [loaded(), loaded("compiled_sums"), loaded()] == [0, 0, 1]


@pytest.mark.parametrize(("ending", "size"), [("nbi", 0), ("nbc", 30)])
def test_kept_code_that_was_cut_short_is_made_anew(loaded, tmp_path, ending, size):
    loaded()
    os.truncate(kept(tmp_path, ending), size)
    assert [loaded(), loaded()] == [0, 1]


def test_a_folder_that_cannot_be_written_to_any_more_is_done_without(loaded, tmp_path):
    loaded()
    index = kept(tmp_path, "nbi")
    index.unlink()
    index.mkdir()  # nothing can be put in its place, whoever asks
    assert loaded() == 0
