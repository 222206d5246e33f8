"""Feature files on object stores, as DuckDB reads them: through fsspec, and of each file only the bytes it asks for.

DuckDB's own reader of ``s3://`` is an extension that it would have to download. fsspec is there already, knows more
kinds of stores, and takes its credentials from where output and users take theirs.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from functools import lru_cache
from glob import has_magic
from typing import Any

import fsspec

_LOCAL = ("file://", "local://")


def is_remote(path: str) -> bool:
    """Tell whether a source's path is a URL of something else than a file of this machine."""
    return "://" in path and not path.startswith(_LOCAL)


def file_system(path: str, endpoint: str | None) -> tuple[Any, str]:
    """Return the file system of a source, without a cache of listings, and the source's path there.

    Parameters
    ----------
    path
        Local path or URL.
    endpoint
        Of the S3 API, where it is another than the environment says.

    Raises
    ------
    ImportError, ValueError
        If fsspec lacks what the file system needs, or does not know it.
    """
    options: dict[str, Any] = {"use_listings_cache": False} if is_remote(path) else {}
    if endpoint and path.startswith("s3://"):
        options["endpoint_url"] = endpoint
    files, root = fsspec.core.url_to_fs(path, **options)
    return files, root


class DuckDBFiles(fsspec.AbstractFileSystem):  # type: ignore[misc] # fsspec is untyped
    """The files of one store, under a protocol of their own, with the few operations that DuckDB asks for.

    Parameters
    ----------
    scheme
        Of the URLs, such as ``s3``.
    endpoint
        As in :func:`file_system`.
    """

    cachable = False

    def __init__(self, scheme: str, endpoint: str | None) -> None:
        super().__init__()
        self._files, _ = file_system(f"{scheme}://", endpoint)
        self._scheme = f"{scheme}://"
        # Not the scheme itself: for s3:// DuckDB would look for its extension, and endpoints may differ by source.
        self.protocol = f"batchrec{hashlib.sha256(f'{scheme} {endpoint}'.encode()).hexdigest()[:16]}"
        self._known: dict[str, dict[str, Any]] = {}

    def name(self, url: str) -> str:
        """Return what DuckDB is to call a URL."""
        return f"{self.protocol}://{url.removeprefix(self._scheme)}"

    def forget(self) -> None:
        """Look at files anew: what was there in the last join may have been replaced."""
        self._known = {}

    def glob(self, path: str, **_: Any) -> list[str]:
        """Return the files that match, and keep what the listing says of them."""
        if not has_magic(path):
            return [path] if self._is_file(path) else []
        found = self._files.glob(self._inner(path), detail=True)
        named = {self.name(self._files.unstrip_protocol(file)): info for file, info in found.items()}
        self._known |= named
        return list(named)

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Return size and type of a file."""
        if path not in self._known:
            self._known[path] = self._files.info(self._inner(path))
        return self._known[path]

    def modified(self, path: str) -> datetime:  # noqa: ARG002 - the signature is given
        """Return no time in particular: DuckDB asks for it to look after a cache that it is told not to have."""
        return datetime.fromtimestamp(0, UTC)

    def open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        """Open a file without reading ahead: DuckDB asks for whole column chunks, and skips what it does not need."""
        return self._files.open(self._inner(path), mode, cache_type="none")

    def _is_file(self, path: str) -> bool:
        try:
            return bool(self.info(path)["type"] == "file")
        except FileNotFoundError:
            return False

    def _inner(self, path: str) -> str:
        return path.replace(f"{self.protocol}://", self._scheme, 1)


@lru_cache
def duckdb_files(scheme: str, endpoint: str | None) -> DuckDBFiles:
    """Return the files of a store; one a process, since its connections are kept."""
    return DuckDBFiles(scheme, endpoint)
