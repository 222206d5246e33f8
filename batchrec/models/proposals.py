"""Picking the few columns of a score matrix that can be among a row's best, without sorting it.

A row is cut into groups. Each group's maximum is one of the row's scores, so the `count`-th largest of these maxima is
no higher than the `count`-th largest score of all: whatever lies below it is out. One pass takes the maxima, one
compares, and only some hundred columns a row are ever sorted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Integers = npt.NDArray[np.int64]

GROUPS = 512
"""Groups a row where few columns are asked for: NumPy sorts rows of up to 512 numbers several times as fast as longer
ones (docs/decisions/017-search-by-list.md)."""

COLUMNS_A_WORD = 8
"""Comparisons looked at together, a byte each; a score matrix has a multiple of these columns."""

LOWEST = np.finfo(np.float32).min
"""What is lower, -inf, stands for no column at all."""


class Proposals(NamedTuple):
    """Columns that can be among the best of m rows.

    Attributes
    ----------
    floors
        (m,) float32: every column left out is below it. -inf where none is left out, NaN where the row was given up:
        one of its scores is not a number, or too many columns reach its floor.
    columns
        (m, P) int64, in no order, -1 where there is no further one.
    """

    floors: Floats
    columns: Integers


def propose(scores: Floats, count: int, limit: int) -> Proposals:
    """Find every column whose score reaches a floor that at least `count` columns of its row reach.

    Parameters
    ----------
    scores
        (m, W) float32, C-contiguous, W a multiple of :data:`COLUMNS_A_WORD`, -inf where there is nothing.
    count
        At least 1.
    limit
        Most columns to return for a row. A row with more, of scores that are nearly all alike, gets none.
    """
    m, width = scores.shape
    floors = _floors(scores, count)
    found = _reaching(scores, np.maximum(floors, LOWEST))
    counts = _counts(found, m, width)
    crowded = counts > limit
    if crowded.any():
        floors[crowded] = np.nan
        found = found[~np.repeat(crowded, counts)]
        counts[crowded] = 0
    return Proposals(floors, _by_row(found, counts, width))


def _floors(scores: Floats, count: int) -> Floats:
    """Return for each row a score that at least `count` of its columns reach; NaN where one is not a number."""
    m, width = scores.shape
    if count >= width:
        return np.where(np.isnan(scores).any(axis=1), np.float32(np.nan), np.float32(-np.inf))
    groups = max(GROUPS, 1 << (2 * count - 1).bit_length())
    size = max(1, width // groups)
    heads, rest = scores, scores[:, :0]
    if size > 1:
        heads = scores[:, : size * groups].reshape(m, size, groups).max(axis=1)
        rest = scores[:, size * groups :]
    # NaN comes last in NumPy's order, and a maximum with NaN is NaN.
    ordered = np.sort(heads, axis=1)
    is_number = ~(np.isnan(ordered[:, -1]) | np.isnan(rest).any(axis=1))
    return np.where(is_number, ordered[:, -count], np.float32(np.nan))


def _reaching(scores: Floats, floors: Floats) -> Integers:
    """Return flat places of the scores that reach their row's floor, ascending."""
    reach = (scores >= floors[:, None]).reshape(-1)
    words = np.flatnonzero(reach.view(np.uint64))
    word, within = np.divmod(np.flatnonzero(reach.reshape(-1, COLUMNS_A_WORD)[words]), COLUMNS_A_WORD)
    return words[word] * COLUMNS_A_WORD + within


def _counts(found: Integers, m: int, width: int) -> Integers:
    """Return how many of the ascending flat places lie in each of m rows."""
    return np.diff(np.searchsorted(found, np.arange(m + 1) * width))


def _by_row(found: Integers, counts: Integers, width: int) -> Integers:
    """Lay out ascending flat places, `counts` of each row, as one row of columns each."""
    rows = np.repeat(np.arange(len(counts)), counts)
    columns = np.full((len(counts), int(counts.max(initial=0))), -1, np.int64)
    columns[rows, np.arange(len(found)) - (np.cumsum(counts) - counts)[rows]] = found - rows * width
    return columns
