"""What is on record of a part file, and what part files are called."""

from __future__ import annotations

import re
from dataclasses import dataclass

_PART = re.compile(r"part-\d{5,}\.parquet")


@dataclass(frozen=True, slots=True)
class PartRecord:
    """What the journal and the manifest say of one part file.

    Parameters
    ----------
    name
        File name inside the run folder.
    rows
        Rows of the table: users in layout ``list``, items in layout ``long``.
    bytes
        Size of the file.
    sha256
        Of the file's bytes, hexadecimal.
    """

    name: str
    rows: int
    bytes: int
    sha256: str


def part_name(partition: int) -> str:
    """Return the file name of a partition's part."""
    return f"part-{partition:05d}.parquet"


def is_part(name: str) -> bool:
    """Tell whether a file name is that of a part."""
    return _PART.fullmatch(name) is not None
