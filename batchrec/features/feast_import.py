"""Importing Feast in a quarter of the time."""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


def import_feast() -> Any:
    """Import Feast and return it.

    Feast has typeguard rewrite its classes while they are imported, to check the types of arguments: three of its four
    and a half seconds of processor time (docs/decisions/016-start-up.md). Here only definitions are read that `feast
    apply` has checked, so the classes are left as they are written. A process that has imported Feast before keeps what
    it has.
    """
    if "feast" not in sys.modules:
        with _classes_left_alone():
            import feast
    import feast

    return feast


def import_meanwhile() -> None:
    """Begin to import Feast in another thread, while this one waits for other things than Python's lock.

    Whoever imports it then waits for the rest, and is told what is wrong, if anything is.
    """

    def begin() -> None:
        with suppress(Exception):
            import_feast()

    threading.Thread(target=begin, name="import feast", daemon=True).start()


@contextmanager
def _classes_left_alone() -> Iterator[None]:
    import typeguard

    before = typeguard.typechecked
    typeguard.typechecked = _as_it_is
    try:
        yield
    finally:
        typeguard.typechecked = before


def _as_it_is(target: Any = None, **_: Any) -> Any:
    """Stand in for a decorator that may be given options first."""
    return _as_it_is if target is None else target
