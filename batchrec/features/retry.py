"""Trying again what may pass by itself: a store that is away for a moment, a file server that hiccups."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

import duckdb

from batchrec.features.refs import brief
from batchrec.progress import say

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Result = TypeVar("Result")

WAITS = (0.5, 4.0)
"""Seconds before the second and the third try."""

# Of DuckDB: binder, catalog, parser and invalid input errors; values that do not fit; what it does not support.
_LASTING = (
    ValueError, TypeError, KeyError, AttributeError, NotImplementedError,
    duckdb.ProgrammingError, duckdb.DataError, duckdb.NotSupportedError,
)  # fmt: skip


def retried(call: Callable[[], Result], what: str, waits: Sequence[float]) -> Result:
    """Return what a call returns, calling again after each wait when it fails in a way that may pass.

    Parameters
    ----------
    call
        Has no effect when it fails.
    what
        The call in words, for the line said before each wait; "joining v:x".
    waits
        Seconds between tries.

    Raises
    ------
    Exception
        That of the last try; that of the first one, if it cannot pass by itself.
    """
    for number, wait in enumerate(waits, 2):
        try:
            return call()
        except Exception as error:
            if is_lasting(error):
                raise
            words = f"{what} failed ({brief(error)}); try {number} of {len(waits) + 1} in {wait:g} s"
            say(words, event="retry", level="warning", attempt=number)
        time.sleep(wait)
    return call()


def is_lasting(error: Exception) -> bool:
    """Tell whether an error of a store comes again however often it is asked: a wrong question, an invalid file."""
    from feast.errors import FeastError
    from ibis.common.exceptions import IbisError  # type: ignore[import-untyped]

    return isinstance(error, (*_LASTING, FeastError, IbisError))
