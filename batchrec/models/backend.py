"""Importing Keras and its backend without their start-up chatter."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_WHEN_IMPORTED: list[Callable[[], None]] = []


def import_keras() -> Any:
    """Import Keras, and the layers of keras-rs that rankers are made of, and return Keras.

    TensorFlow writes lines about its build to the process's standard error before its own log level applies. They are
    dropped where ``TF_CPP_MIN_LOG_LEVEL`` is 3, as the command line sets it; another value shows them.
    """
    with _native_stderr_dropped():
        import keras
        import keras_rs  # noqa: F401 - registers its layers with Keras
    while _WHEN_IMPORTED:
        _WHEN_IMPORTED.pop()()
    return keras


def when_imported(action: Callable[[], None]) -> None:
    """Do something now if Keras is imported, and otherwise as soon as :func:`import_keras` does so, if ever."""
    if "keras" in sys.modules:
        action()
    else:
        _WHEN_IMPORTED.append(action)


@contextmanager
def _native_stderr_dropped() -> Iterator[None]:
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") != "3" or "keras" in sys.modules:
        yield
        return
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
