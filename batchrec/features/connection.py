"""How a process calls into Feast: one thread at a time, quietly, each join over a connection of its own."""

from __future__ import annotations

import threading
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FEAST_LOCK = threading.RLock()


@contextmanager
def feast_call() -> Iterator[None]:
    """Call into Feast: one thread at a time, without the deprecation warnings of Feast and of what lies under it.

    Feast's duckdb store queries through ibis' default connection, which is one for the process, and ibis registers
    the entity rows there without a lock: two threads would lose each other's tables.
    """
    with _FEAST_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        yield


@contextmanager
def own_connection(repo: Path) -> Iterator[None]:
    """Give ibis a default connection for one join, which finds relative paths in `repo`, and close it afterwards.

    ibis never forgets what it has registered: on its lasting connection, the entity rows of every partition would
    stay in memory until the process ends. And while `feast apply` looks up the relative path of a file source in the
    repository, ibis would look it up wherever the process was started. A store that does not ask ibis opens nothing.
    """
    import ibis  # type: ignore[import-untyped]

    before = ibis.options.default_backend
    ibis.options.default_backend = backend = _WhenAsked(repo)
    try:
        yield
    finally:
        ibis.options.default_backend = before
        backend.close()


class _WhenAsked:
    """A DuckDB backend of ibis that is opened when something is first asked of it: that takes longer than a join."""

    def __init__(self, repo: Path) -> None:
        self._repo = repo
        self._opened: Any = None

    def __getattr__(self, name: str) -> Any:
        if self._opened is None:
            import ibis

            self._opened = ibis.duckdb.connect()
        return getattr(self._opened, name)

    def read_parquet(self, path: str, **options: Any) -> Any:
        return self.__getattr__("read_parquet")(resolved(self._repo, path), **options)

    def close(self) -> None:
        if self._opened is not None:
            self._opened.disconnect()


def resolved(repo: Path, path: str) -> str:
    """Return a source's path, a relative one looked up in the repository; URLs stay as they are."""
    return path if "://" in path else str(repo / path)
