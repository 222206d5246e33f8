"""How many lists of an inverted file a search looks through."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Probes:
    """Lists to probe by the depth of a search, as measured when the index was built.

    Parameters
    ----------
    nprobe
        Lists that find enough of the exact top ``recall_at``.
    recall_at
        Depth that ``nprobe`` was measured for.
    deeper
        The same for greater depths: lists by depth.
    """

    nprobe: int = 1
    recall_at: int = 1
    deeper: Mapping[int, int] = field(default_factory=dict)

    def at(self, depth: int) -> int:
        """Return the lists measured for the next depth that is not less; beyond the last, more in proportion."""
        measured = {self.recall_at: self.nprobe, **self.deeper}
        deepest = max(measured)
        if depth > deepest:
            return measured[deepest] * -(-depth // deepest)
        return measured[min(known for known in measured if known >= depth)]
