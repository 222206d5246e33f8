"""How a process calls into Feast: one thread at a time, quietly, each join over a connection of its own."""

from __future__ import annotations

import threading
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

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
    repository, ibis would look it up wherever the process was started.
    """
    import ibis  # type: ignore[import-untyped]

    connection = ibis.duckdb.connect()
    read_parquet = connection.read_parquet
    connection.read_parquet = lambda path, **options: read_parquet(resolved(repo, path), **options)
    before = ibis.options.default_backend
    ibis.set_backend(connection)
    try:
        yield
    finally:
        ibis.options.default_backend = before
        connection.disconnect()


def resolved(repo: Path, path: str) -> str:
    """Return a source's path, a relative one looked up in the repository; URLs stay as they are."""
    return path if "://" in path else str(repo / path)
