"""Sources of feature views: where they lie, what their columns are called, and what tells whether they have changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from batchrec.errors import FeatureError
from batchrec.features.connection import resolved
from batchrec.features.dtypes import parse_type
from batchrec.features.refs import brief, key_of
from batchrec.features.remote_files import file_system

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from batchrec.features.refs import FeatureRef

_VERSIONS = ("etag", "mtime", "lastmodified", "updated", "modified", "created")
"""What file systems call an entity tag or a time of modification, best first, without case and signs."""


class SourceFile(NamedTuple):
    """One file of a source.

    Attributes
    ----------
    path
        As its file system names it, without protocol.
    size
        Bytes.
    version
        Entity tag or time of modification, as its file system gives it; empty where it gives none.
    """

    path: str
    size: int
    version: str


class ViewSource(NamedTuple):
    """Where the features of a view come from, for those who draw the way of the data.

    Attributes
    ----------
    place
        Path or URL; the name of the source where it is not made of files.
    is_file
        Whether it is made of files.
    columns
        Those that are read: join key and features, by the names and types that the view gives them.
    """

    place: str
    is_file: bool
    columns: pa.Schema


def stated_path(view: Any) -> str | None:
    """Return the path or URL of a view's source as the view states it, or None where it is not made of files."""
    path: str | None = getattr(view.batch_source, "path", None)
    return path


def view_source(view: Any, repo: Path, refs: Sequence[FeatureRef]) -> ViewSource:
    """Return where a view's features come from, with the columns that `refs`, all of this view, are read from."""
    path, key = stated_path(view), key_of(view)
    columns = [(key.name, parse_type(key.dtype)), *((ref.feature, parse_type(ref.dtype)) for ref in refs)]
    place = view.batch_source.name if path is None else resolved(repo, path)
    return ViewSource(place, path is not None, pa.schema(columns))


class FeatureFile(NamedTuple):
    """A Parquet file of a source.

    Attributes
    ----------
    files
        Its fsspec file system.
    path
        What the file system calls it.
    """

    files: Any
    path: str

    @property
    def shown(self) -> str:
        """Its path on this machine, or its URL."""
        return str(self.files.unstrip_protocol(self.path)) if self.is_remote else self.path

    @property
    def is_remote(self) -> bool:
        """Whether it lies elsewhere than on this machine."""
        from fsspec.implementations.local import LocalFileSystem

        return not isinstance(self.files, LocalFileSystem)


def is_parquet(view: Any) -> bool:
    """Tell whether a view reads Parquet files that fsspec opens here with the credentials of the environment."""
    from feast.data_format import ParquetFormat
    from feast.infra.offline_stores.file_source import FileSource

    source = view.batch_source
    if not isinstance(source, FileSource) or source.connection_ref is not None:
        return False
    is_other = source.file_format is not None and not isinstance(source.file_format, ParquetFormat)
    if is_other or (source.file_format is None and not source.path.endswith(".parquet")):
        return False
    try:
        file_system(source.path, _endpoint(view))
    except (ImportError, ValueError):
        return False
    return True


def column_in_file(view: Any, name: str) -> str:
    """Return what the view's source calls a column that the view calls `name`."""
    mapping: dict[str, str] = view.batch_source.field_mapping
    return next((old for old, new in mapping.items() if new == name), name)


def parquet_files(view: Any, repo: Path) -> list[FeatureFile]:
    """Return the Parquet files of a view, sorted by path; none for other sources.

    Raises
    ------
    FeatureError
        If the source does not exist.
    """
    stated = stated_path(view)
    if stated is None or not is_parquet(view):
        return []
    return files_at(resolved(repo, stated), _endpoint(view))


def files_at(path: str, endpoint: str | None) -> list[FeatureFile]:
    """Return the Parquet files of a source, sorted by path; parameters and errors as for :func:`source_files`."""
    files, root = file_system(path, endpoint)
    found = (file.path for file in source_files(path, endpoint))
    return [FeatureFile(files, name) for name in found if name.endswith(".parquet") or name == root]


def source_state(view: Any, repo: Path) -> list[Any]:
    """Return what stands for a view's source, for JSON: it changes when a file of the source does.

    Returns
    -------
    list
        Name or path as stated, then for sources made of files a list of path (below `repo`, if it is), size and version
        of each file. Sources that fsspec cannot look at here contribute what is stated only.

    Raises
    ------
    FeatureError
        If there are files and they cannot be looked at.
    """
    stated = stated_path(view)
    if stated is None:
        return [view.batch_source.name]
    try:
        files = source_files(resolved(repo, stated), _endpoint(view))
    except (ImportError, ValueError):  # Feast may have a way of its own to read them
        return [stated]
    return [stated, [[file.path.removeprefix(str(repo)), file.size, file.version] for file in files]]


def source_files(path: str, endpoint: str | None = None) -> list[SourceFile]:
    """Return the files of a source: itself, those of a glob, or all below a folder; sorted by path.

    Parameters
    ----------
    path
        Absolute local path, or URL of a file system that fsspec knows.
    endpoint
        Of the S3 API, where it is another than the environment says.

    Raises
    ------
    ImportError, ValueError
        If fsspec lacks what the file system needs, or does not know it.
    FeatureError
        If the file system cannot be asked.
    """
    files, root = file_system(path, endpoint)
    files.invalidate_cache()
    try:
        found = _infos(files, root)
    except Exception as error:  # file systems raise what the libraries under them do
        raise FeatureError(
            f"the feature source {path} cannot be looked at ({brief(error)})",
            "see that it exists and may be read from here",
        ) from error
    return sorted(SourceFile(name, info["size"] or 0, version_of(info)) for name, info in found.items())


def _endpoint(view: Any) -> str | None:
    return getattr(view.batch_source, "s3_endpoint_override", None) or None


def _infos(files: Any, root: str) -> dict[str, dict[str, Any]]:
    if any(sign in root for sign in "*?["):
        return {name: info for name, info in files.glob(root, detail=True).items() if info["type"] == "file"}
    info = files.info(root)
    if info["type"] == "directory":
        found: dict[str, dict[str, Any]] = files.find(root, detail=True)
        return found
    return {root: info}


def version_of(info: dict[str, Any]) -> str:
    """Return the entity tag or time of modification in what a file system says of a file; empty where it has none."""
    known = {name.lower().replace("-", "").replace("_", ""): value for name, value in info.items()}
    return next((str(known[name]) for name in _VERSIONS if known.get(name) is not None), "")
