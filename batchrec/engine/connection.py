"""The connection to a Dask scheduler, and its loss."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from batchrec.errors import BusyError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distributed import Client


@contextmanager
def connected(client: Client) -> Iterator[None]:
    """Turn the ways in which Dask says that the scheduler is gone into one sentence.

    Raises
    ------
    BusyError
        It is gone.
    """
    from distributed import CancelledError
    from distributed.client import ClosedClientError

    try:
        yield
    except (CancelledError, ClosedClientError, OSError) as error:
        raise gone(client) from error


def gone(client: Client) -> BusyError:
    """Return the error that says that the scheduler is gone."""
    address = client._start_arg if isinstance(client._start_arg, str) else "of this run"  # noqa: SLF001
    return BusyError(
        f"the connection to the Dask scheduler {address} was lost",
        "run again with --resume when it is back, or with another --cluster; finished parts are kept",
    )
