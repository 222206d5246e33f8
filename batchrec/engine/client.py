"""A Dask client that leaves nothing behind where it cannot connect."""

from __future__ import annotations

from typing import Any

from distributed import Client


class TidyClient(Client):  # type: ignore[misc]
    """Dask's own one leaves its thread running when its constructor fails."""

    def start(self, **options: Any) -> None:
        """Connect."""
        try:
            super().start(**options)
        except BaseException:
            self._loop_runner.stop()
            raise
