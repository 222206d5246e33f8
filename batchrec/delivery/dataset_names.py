"""What OpenLineage calls a dataset, so that what one program writes and another one reads is one node of the graph.

After its specification of names: https://openlineage.io/docs/spec/naming.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from batchrec.output.storage import is_url, local_path
from batchrec.redact import redact

_SAME = {"s3a": "s3", "s3n": "s3", "gcs": "gs"}
"""Protocols of one and the same store, under the name that OpenLineage has for it."""

_CONTAINERS = {"abfs", "abfss", "wasb", "wasbs"}
"""Protocols in which what stands before the @ is a place and no user."""

_OF_OBJECTS = {"s3", "gs", *_CONTAINERS}
"""Protocols whose names do not begin with a slash."""

_GLOB = re.compile(r"[*?\[]")


class DatasetName(NamedTuple):
    """What identifies a dataset."""

    namespace: str
    name: str


def dataset_name(place: str) -> DatasetName:
    """Name the dataset at a path or URL, without secrets; a glob is named by the folder above it.

    Files of this machine are in namespace ``file`` under their absolute path, objects in that of their bucket, such as
    ``s3://bucket``.
    """
    last = place.rpartition("::")[2]  # of a chain such as simplecache::s3://bucket
    if not is_url(last):
        return DatasetName("file", redact(_above_glob(str(local_path(last).absolute()))))
    protocol, _, rest = last.partition("://")
    authority, _, path = rest.partition("/")
    protocol = _SAME.get(protocol, protocol)
    if protocol not in _CONTAINERS:
        authority = authority.rpartition("@")[2]
    name = redact(_above_glob(path)).rstrip("/")
    return DatasetName(redact(f"{protocol}://{authority}"), name if protocol in _OF_OBJECTS else f"/{name}")


def _above_glob(path: str) -> str:
    steps = path.split("/")
    plain = next((place for place, step in enumerate(steps) if _GLOB.search(step)), len(steps))
    return "/".join(steps[:plain])
