"""Loops over numbers that no library has, compiled for this processor by Numba (Lam, Pitrou & Seibert, LLVM-HPC 2015).

NumPy goes through memory once for each operation, so a chain of small ones costs as many passes as it has links; a
compiled loop makes one (docs/decisions/020-compiled-loops.md).

Machine code is kept beside the sources, or in the user's cache folder where that cannot be written, and made anew when
a source or the processor is another; a function must not call compiled ones of another file, whose changes would not
be seen, but those of :data:`INSTRUCTIONS`. Compiled loops run in the thread that calls them, without Python's lock, and
check no bounds: whoever calls them sees to it that places lie within arrays.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numba import njit
from numba.core.caching import FunctionCache

from batchrec.models import lanes, products, registers, vectors

if TYPE_CHECKING:
    from collections.abc import Callable

Number = float | np.float32
"""A number that a compiled loop takes or returns; a literal is float64."""

Loop = TypeVar("Loop", bound="Callable[..., object]")

INSTRUCTIONS = (lanes, products, registers, vectors)
"""What every loop may contain beside its own source."""

_ALWAYS = {"contract"}
"""A product and a sum may be rounded once. Infinities, what is no number, and signs of zeros keep their meaning."""


def compiled(loop: Loop) -> Loop:
    """Compile a loop, whose operations keep their order."""
    return _compile(loop, _ALWAYS)


def compiled_sums(loop: Loop) -> Loop:
    """Compile a loop that adds numbers up in the order that suits the processor, the same one each time."""
    return _compile(loop, _ALWAYS | {"reassoc"})


class _Kept(FunctionCache):
    """Machine code on disk; whatever is wrong with it costs another compilation and nothing else.

    Parameters
    ----------
    loop
        What is compiled.
    freedom
        What the compiler may do, which is no part of the source that Numba knows machine code by.

    Raises
    ------
    RuntimeError
        There is no folder for it.
    """

    def __init__(self, loop: Callable[..., object], freedom: set[str]) -> None:
        super().__init__(loop)
        self._freedom = tuple(sorted(freedom))

    def _index_key(self, signature: Any, codegen: Any) -> tuple[Any, ...]:
        return (*super()._index_key(signature, codegen), self._freedom, _instructions())

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Load what was compiled for argument types; None where there is nothing, or nothing that can be read."""
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # cut short or from elsewhere, it fails in any of the ways of pickle and LLVM
            with suppress(OSError):
                self.flush()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep what was compiled, unless the disk is full."""
        with suppress(OSError):
            super().save_overload(sig, data)


@cache
def _instructions() -> str:
    """Return SHA-256 of what every loop may contain, beside its own source."""
    sources = [Path(str(module.__file__)).read_bytes() for module in INSTRUCTIONS]
    return hashlib.sha256(b"".join(sources)).hexdigest()


def _compile(loop: Loop, freedom: set[str]) -> Loop:
    made: Any = njit(loop, nogil=True, error_model="numpy", fastmath=freedom)
    with suppress(RuntimeError):  # there is no folder that Numba may write to
        made._cache = _Kept(loop, freedom)  # noqa: SLF001 - what `cache=True` sets, to a cache that raises
    compiled_loop: Loop = made
    return compiled_loop
