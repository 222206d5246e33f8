"""What an evaluation found, as JSON for programs and as a table for people."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from batchrec.evaluate.bootstrap import CONFIDENCE
from batchrec.evaluate.metrics import METRICS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table

DECIMALS = 6
"""Decimals of a figure in JSON: the same on every machine, whatever order its library adds floats in."""


@dataclass(frozen=True)
class Figure:
    """An estimate (or a difference of two) and the ends of its bootstrap interval."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class System:
    """The figures of one run, or of the popularity baseline."""

    name: str
    users_without_list: int
    """Evaluated users with no row or an empty list; they count as zeros in every mean."""
    users_left_out: int
    """Users with a row but without a held-out item; no figure looks at them."""
    figures: Mapping[str, Figure]
    """By metric, in the order of :data:`~batchrec.evaluate.metrics.METRICS`."""


@dataclass(frozen=True)
class Comparison:
    """Figures of ``name`` minus figures of ``against``, with paired intervals: both see the same resampled users."""

    name: str
    against: str
    differences: Mapping[str, Figure]


@dataclass(frozen=True)
class HoldoutSummary:
    """What the held-out interactions are."""

    users: int
    """Users with at least one held-out item: the users evaluated."""
    pairs: int
    """Distinct (user, item) pairs, each counted once."""
    pairs_outside_catalogue: int
    """Pairs whose item cannot be recommended; they count as missed."""
    pairs_seen_in_train: int
    """Pairs that are among the train interactions too; they count as any other."""
    null_rows: int
    """Rows without a user id or an item id; left out."""
    duplicate_rows: int
    """Rows that repeat a pair; left out."""


@dataclass(frozen=True)
class Report:
    """Figures of the popularity baseline and of every run, and the differences between them."""

    k: int
    resamples: int
    seed: int
    catalogue_items: int
    holdout: HoldoutSummary
    systems: tuple[System, ...]
    comparisons: tuple[Comparison, ...]

    def to_json(self) -> str:
        """Return the report as JSON: keys in a fixed order, figures rounded to 6 decimals."""
        return json.dumps({"confidence": CONFIDENCE} | _rounded(asdict(self)), indent=2)

    def to_table(self) -> Table:
        """Return the report as a table of at most 100 columns: one row a system, then one row a difference."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(
            title=f"{self.holdout.users:,} users, the first {self.k} items of each list, {CONFIDENCE:.0%} intervals",
            caption=Text(self._caption()),
            caption_justify="left",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            collapse_padding=True,
        )
        table.add_column("", overflow="fold", min_width=16)
        for metric in METRICS:
            table.add_column(f"{metric}@{self.k}", justify="right", no_wrap=True)
        for system in self.systems:
            table.add_row(Text(system.name), *(_cell(system.figures[metric], "") for metric in METRICS))
        table.add_section()
        for comparison in self.comparisons:
            label = Text(f"{comparison.name}\nminus {comparison.against}")
            table.add_row(label, *(_cell(comparison.differences[metric], "+") for metric in METRICS))
        return table

    def _caption(self) -> str:
        holdout = self.holdout
        lines = [
            f"{holdout.pairs:,} held-out pairs; of these {holdout.pairs_outside_catalogue:,} are of items outside the "
            f"catalogue of {self.catalogue_items:,} (missed by all), {holdout.pairs_seen_in_train:,} are in train too.",
            *(
                f"{system.name}: {system.users_without_list:,} users without a list count as zeros; "
                f"{system.users_left_out:,} without held-out items left out."
                for system in self.systems[1:]
            ),
        ]
        return "\n".join(lines)


def _cell(figure: Figure, sign: str) -> str:
    cell = f"{figure.estimate:{sign}.4f}\n({figure.low:{sign}.3f}, {figure.high:{sign}.3f})"
    return re.sub(r"\b0\.", ".", cell)  # five columns of intervals do not fit 100 characters with leading zeros


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(entry) for entry in value]
    return round(value, DECIMALS) + 0.0 if isinstance(value, float) else value
