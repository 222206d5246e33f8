"""Loops over numbers that no library has, compiled for this processor by Numba (Lam, Pitrou & Seibert, LLVM-HPC 2015).

NumPy goes through memory once for each operation, so a chain of small ones costs as many passes as it has links; a
compiled loop makes one (docs/decisions/020-compiled-loops.md). Matrix products stay with BLAS.

Machine code is kept beside the sources, or in the user's cache folder where that cannot be written, and made anew when
a source or the processor is another; a function must not call compiled ones of another file, whose changes would not
be seen. Compiled loops run in the thread that calls them, without Python's lock, and check no bounds: whoever calls
them sees to it that places lie within arrays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from collections.abc import Callable

Number = float | np.float32
"""A number that a compiled loop takes or returns; a literal is float64."""

Loop = TypeVar("Loop", bound="Callable[..., object]")

_ALWAYS = {"contract"}
"""A product and a sum may be rounded once. Infinities, what is no number, and signs of zeros keep their meaning."""


def compiled(loop: Loop) -> Loop:
    """Compile a loop, whose operations keep their order."""
    return _compile(loop, _ALWAYS)


def compiled_sums(loop: Loop) -> Loop:
    """Compile a loop that adds numbers up in the order that suits the processor, the same one each time."""
    return _compile(loop, _ALWAYS | {"reassoc"})


def _compile(loop: Loop, freedom: set[str]) -> Loop:
    try:
        made: Loop = njit(loop, cache=True, nogil=True, error_model="numpy", fastmath=freedom)
    except RuntimeError:  # Numba found no folder that it may write to
        made = njit(loop, nogil=True, error_model="numpy", fastmath=freedom)
    return made
