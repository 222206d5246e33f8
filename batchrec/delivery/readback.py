"""A sample of users read back through the online store, and held against the run's own rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from batchrec.delivery.rows import user_rows
from batchrec.schema import USER_ID

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchrec.features.online import OnlineView
    from batchrec.output.storage import Storage

PARTS = 64
"""Parts that are looked into, at most."""

_ROWS_READ = 10_000


@dataclass(frozen=True)
class ReadBack:
    """What a sample showed.

    Parameters
    ----------
    users
        Users looked at.
    difference
        The first difference in words, None where there is none.
    """

    users: int
    difference: str | None


def read_back(view: OnlineView, folder: Storage, parts: Sequence[str], sample: int) -> ReadBack:
    """Read users back and compare every feature, exactly.

    Looked at are the first and the last of the parts and others by chance, of each its last user and others by chance.

    Parameters
    ----------
    view
        The view that was pushed into.
    folder, parts
        The run's folder, and names of part files in it.
    sample
        Users to look at; more where the parts have it that each is to be looked into.

    Raises
    ------
    ArtifactError, BusyError, SinkError
        The run or the store cannot be read.
    """
    draw = np.random.default_rng()
    chosen = _chosen(parts, draw)
    seen = 0
    for part in chosen:
        rows = _sampled(folder, part, -(-sample // len(chosen)), draw)
        found = view.read([row[USER_ID] for row in rows]) if rows else []
        for row, got in zip(rows, found, strict=True):
            wanted = {name: row[name] for name in view.features}
            if got != wanted:
                return ReadBack(seen, f"user {row[USER_ID]!r} of {part} has {_brief(got)}, expected {_brief(wanted)}")
            seen += 1
    return ReadBack(seen, None)


def _chosen(parts: Sequence[str], draw: np.random.Generator) -> list[str]:
    if len(parts) <= PARTS:
        return list(parts)
    inner = draw.choice(np.arange(1, len(parts) - 1), PARTS - 2, replace=False)
    return [parts[place] for place in (0, *sorted(inner.tolist()), len(parts) - 1)]


def _sampled(folder: Storage, part: str, count: int, draw: np.random.Generator) -> list[dict[str, Any]]:
    """Return about so many rows of a part by chance, and its last."""
    picked: list[dict[str, Any]] = []
    last: list[dict[str, Any]] = []
    for table in user_rows(folder, part, _ROWS_READ):
        rows = draw.choice(len(table), min(count, len(table)), replace=False)
        picked += table.take(np.sort(rows)).to_pylist()
        last = table.slice(len(table) - 1).to_pylist()
    keep = draw.choice(len(picked), min(count, len(picked)), replace=False) if picked else ()
    chosen = [picked[place] for place in keep]
    return chosen + [row for row in last if row[USER_ID] not in {one[USER_ID] for one in chosen}]


def _brief(features: dict[str, Any]) -> str:
    text = ", ".join(f"{name} {value}" for name, value in features.items())
    return text if len(text) <= 200 else f"{text[:197]}..."
