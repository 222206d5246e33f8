"""A task: what travels to a worker for one number, and the check that the worker runs the same code.

Only the standard library and :mod:`batchrec.versions` are imported here, since a Dask scheduler unpickles what passes
through it: to it, the work is bytes.
"""

from __future__ import annotations

import pickle
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from batchrec.errors import ClusterError
from batchrec.versions import code_fingerprint, versions

if TYPE_CHECKING:
    from collections.abc import Callable


def packed(function: Callable[[Any], Any]) -> tuple[bytes, str]:
    """Return the function as bytes, and the code that it is to run on; the first arguments of :func:`call`."""
    return pickle.dumps(function), code_fingerprint()


def call(function: bytes, code: str, task: Any) -> Any:
    """Unpack the function and call it with the task; on the worker.

    Raises
    ------
    ClusterError
        This process runs other code than the one that sent the task: its rows could differ.
    """
    if code_fingerprint() != code:  # a worker that came after the run had begun
        raise ClusterError(
            "a Dask worker that joined in mid-run has another batchrec, or other libraries under it, than this process",
            "install the same versions on all workers and run again with --resume",
        )
    return _unpacked(function)(task)


def described() -> dict[str, Any]:
    """Say which code this process would compute with."""
    return {"code": code_fingerprint(), "versions": versions()}


def ping() -> bool:
    """Answer, and so prove that this module can be imported there."""
    return True


@lru_cache(maxsize=1)
def _unpacked(function: bytes) -> Callable[[Any], Any]:
    unpacked: Callable[[Any], Any] = pickle.loads(function)  # noqa: S301 - from the client, whom a Dask worker obeys anyway
    return unpacked
