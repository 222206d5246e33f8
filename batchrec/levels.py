"""Levels of effort: what a partition's lists are made with when there is not the time for all that was asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchrec.pipeline import Options

FULL = "full"
"""Name of the level that is what was asked for."""

POPULARITY = "popularity"
"""Name of the level below all others: the most popular items, made without reading a single feature."""

HALVINGS = 3
"""How often the candidates are halved."""


@dataclass(frozen=True)
class Level:
    """One level of effort.

    Parameters
    ----------
    name
        ``full``, ``candidates N`` or ``retrieval N``, with N candidates a user.
    options
        What lists are made with.
    """

    name: str
    options: Options

    @property
    def pairs(self) -> int:
        """Pairs that the ranker scores, a user."""
        return self.options.candidates if self.options.rank_by == "ranker" else 0


def levels(options: Options) -> list[Level]:
    """Return the levels that a run may step down, the one asked for first.

    Candidates are halved up to :data:`HALVINGS` times, never below the length of a list; then the ranker is left out
    and the retrieval score alone decides. Below all of these is :data:`POPULARITY`, which has no options.
    """
    found = [Level(FULL, options)]
    for halving in range(1, HALVINGS + 1):
        candidates = max(options.candidates >> halving, options.top_k)
        if candidates < found[-1].options.candidates:
            found.append(Level(f"candidates {candidates}", replace(options, candidates=candidates)))
    if options.rank_by == "ranker":
        fewest = found[-1].options
        found.append(Level(f"retrieval {fewest.candidates}", replace(fewest, rank_by="retrieval")))
    return found
