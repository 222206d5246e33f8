"""Picking the few columns of a score matrix that can be among a row's best, without sorting it.

A row is cut into groups. Each group's maximum is one of the row's scores, so the `count`-th largest of these maxima is
no higher than the `count`-th largest score of all: whatever lies below it is out. One pass takes the maxima, NumPy
sorts them, and one pass compares. What is left is some half more than was asked for, and few enough to be counted
again and again: a floor that hardly more than `count` of them reach is found by bisection.

Where scores come piece by piece, a row keeps what reaches its floor so far, and raises it whenever its room is full.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from batchrec.models.compiled import compiled
from batchrec.models.lanes import close_up, pack
from batchrec.models.products import WIDEST, multiply
from batchrec.models.registers import fetch
from batchrec.models.vectors import LANES

if TYPE_CHECKING:
    import numpy.typing as npt

    from batchrec.models.compiled import Number

    Floats = npt.NDArray[np.float32]
    Integers = npt.NDArray[np.int64]
    Places = npt.NDArray[np.int32]
    """Columns, of which there are fewer than 2³¹."""

GROUPS = 512
"""Groups a row where few columns are asked for: NumPy sorts rows of up to 512 numbers several times as fast as longer
ones (docs/decisions/017-search-by-list.md)."""

SPARE = 16
"""Columns beyond those asked for with which a floor is close enough."""

HALVINGS = 64
"""Most steps of a bisection: every second one halves what patterns of numbers lie between, of which there are 2³²."""

QUERIES_A_PRODUCT = 48
"""Most queries multiplied with a tile before their products are looked at, which are in the first cache by then."""

NOTHING = np.float32(-np.inf)

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
        (m, W) float32, C-contiguous, -inf where there is nothing.
    count
        At least 1.
    limit
        Most columns to return for a row. A row with more, of scores that are nearly all alike, gets none.
    """
    m, width = scores.shape
    floors, highest = _floors(scores, count)
    counts = np.zeros(m, np.int64)
    columns = np.full((m, min(limit, width)), -1, np.int64)
    _propose(scores, count, highest, floors, counts, columns)
    return Proposals(floors, np.ascontiguousarray(columns[:, : int(counts.max(initial=0))]))


class Running:
    """Proposals from products with tiles of vectors, in any order.

    Parameters
    ----------
    rows
        m.
    count
        As :func:`propose`; no more than twice as many columns are proposed for a row.
    tile
        Vectors of a tile: a multiple of 16.
    """

    def __init__(self, rows: int, count: int, tile: int) -> None:
        self._count = count
        self._floors = np.full(rows, LOWEST, np.float32)
        self._kept = np.zeros(rows, np.int64)
        room = 2 * count + SPARE + tile
        self._values, self._columns = np.empty((rows, room), np.float32), np.empty((rows, room), np.int32)

    def multiply(self, queries: Floats, tiles: Floats, rows: Integers, ends: Integers, firsts: Integers) -> None:
        """Multiply each tile with the queries that ask for it, and look at the products.

        Parameters
        ----------
        queries
            (m, d) float32, C-contiguous.
        tiles
            (T, d + 1, w) float32, C-contiguous: vectors as columns, and a last row that is added to the products: -inf
            where there is no vector.
        rows
            (p,) int64: the queries that ask for the first tile, then those that ask for the second and so on; a query
            may ask for a tile once.
        ends
            (T,) int64: where each tile's queries end.
        firsts
            (T,) int64: the column that each tile begins with.
        """
        state = self._floors, self._kept, self._values, self._columns
        _multiply(queries, tiles, rows, ends, firsts, self._count, *state)

    def proposals(self) -> Proposals:
        """Return what reaches a floor that at least `count` columns of its row reach; nothing can be added then."""
        state = self._floors, self._kept, self._values, self._columns
        _end(self._count, *state)
        none_left_out = self._floors == LOWEST
        columns = self._columns[:, : int(self._kept.max(initial=0))].astype(np.int64)
        return Proposals(np.where(none_left_out, np.float32(-np.inf), self._floors), columns)


@compiled
def _multiply(
    queries: Floats,
    tiles: Floats,
    rows: Integers,
    ends: Integers,
    firsts: Integers,
    count: int,
    floors: Floats,
    kept: Integers,
    values: Floats,
    columns: Places,
) -> None:
    _, above, width = tiles.shape
    d, room = above - 1, values.shape[1]
    flat_queries, flat_tiles = queries.reshape(queries.size), tiles.reshape(tiles.size)
    flat_values, flat_columns = values.reshape(values.size), columns.reshape(columns.size)
    scores, places = np.empty(QUERIES_A_PRODUCT * width, np.float32), np.empty(QUERIES_A_PRODUCT, np.int64)
    following, ahead = np.empty(1, np.int64), np.zeros(3, np.int64)
    begin = 0
    for tile in range(len(ends)):
        kernel, following[0] = tile * above * width, tile + 1
        ahead[0], ahead[1], ahead[2] = 0, 0, int(tile + 1 < len(ends))
        for first in range(begin, ends[tile], QUERIES_A_PRODUCT):
            asking = rows[first : min(first + QUERIES_A_PRODUCT, ends[tile])]
            for j in range(len(asking)):
                places[j] = asking[j] * d
                fetch(flat_values, asking[j] * room + kept[asking[j]])
                fetch(flat_columns, asking[j] * room + kept[asking[j]])
            multiply(
                flat_queries, places, len(asking), d, flat_tiles, kernel, width, flat_tiles, kernel + d * width, 0,
                scores, width, NOTHING, WIDEST, flat_tiles, above * width, following, ahead,
            )  # fmt: skip
            for j in range(len(asking)):
                row, start = asking[j], j * width
                if kept[row] + width > room:
                    _raise(row, count, floors, kept, values, columns)
                if kept[row] + width > room or not _are_numbers(scores, start, width):
                    floors[row], kept[row] = np.nan, 0  # given up: nothing reaches it any more
                end = row * room + kept[row]
                kept[row] += _left(scores, start, width, firsts[tile], floors[row], flat_values, flat_columns, end)
        begin = ends[tile]


@compiled
def _are_numbers(scores: Floats, start: int, width: int) -> bool:
    strange = 0
    for j in range(start, start + width):
        strange += scores[j] != scores[j]
    return strange == 0


@compiled
def _end(count: int, floors: Floats, kept: Integers, values: Floats, columns: Places) -> None:
    for row in range(len(floors)):
        _raise(row, count, floors, kept, values, columns)
        columns[row, kept[row] :] = -1


@compiled
def _raise(row: int, count: int, floors: Floats, kept: Integers, values: Floats, columns: Places) -> None:
    """Raise a row's floor as far as it goes, and drop what lies below it."""
    held = values[row, : kept[row]]
    floors[row] = _raised(held, count, floors[row], _highest(held))
    kept[row] = _close_up(held, columns[row], floors[row])


@compiled
def _highest(values: Floats) -> Number:
    """Return the highest value; -inf of none."""
    highest = np.full(LANES, -np.inf, np.float32)  # one a lane: a single one would wait for each comparison
    whole = len(values) // LANES * LANES
    for start in range(0, whole, LANES):
        for lane in range(LANES):
            value = values[start + lane]
            highest[lane] = value if value > highest[lane] else highest[lane]
    for j in range(whole, len(values)):
        highest[0] = max(highest[0], values[j])
    best: Number = highest[0]
    for lane in range(1, LANES):
        best = max(best, highest[lane])
    return best


@compiled
def _close_up(values: Floats, columns: Places, floor: Number) -> int:
    """Drop what lies below a floor; return how many are left, which come first."""
    left, whole = 0, len(values) // LANES * LANES
    for start in range(0, whole, LANES):
        left += close_up(values, columns, start, floor, left)
    for j in range(whole, len(values)):
        value, column = values[j], columns[j]
        values[left], columns[left] = value, column
        left += value >= floor
    return left


def _floors(scores: Floats, count: int) -> tuple[Floats, Floats]:
    """Return for each row a score that at least `count` of its columns reach, NaN with one no number; the highest."""
    m, width = scores.shape
    groups = max(GROUPS, 1 << (2 * count - 1).bit_length())
    heads = np.empty((m, min(groups, width)), np.float32)
    is_number = np.empty(m, np.bool_)
    _take_heads(scores, heads, is_number)
    heads.sort(axis=1)
    floors = heads[:, -count] if count < heads.shape[1] else np.full(m, -np.inf, np.float32)
    return np.where(is_number, floors, np.float32(np.nan)), heads[:, -1].copy()


@compiled
def _take_heads(scores: Floats, heads: Floats, is_number: npt.NDArray[np.bool_]) -> None:
    """Take the largest score of each group, one of every so many columns of a row."""
    groups = heads.shape[1]
    for r in range(len(scores)):
        row, largest = scores[r], heads[r]
        strange = 0
        for j in range(len(row)):
            strange += row[j] != row[j]
        is_number[r] = strange == 0
        largest[:] = row[:groups]
        for start in range(groups, len(row) - groups + 1, groups):
            group = row[start : start + groups]
            for j in range(groups):
                largest[j] = group[j] if group[j] > largest[j] else largest[j]


@compiled
def _propose(scores: Floats, count: int, highest: Floats, floors: Floats, counts: Integers, columns: Integers) -> None:
    """Raise each row's floor as far as it goes, and write down what reaches it."""
    values, places = np.empty(scores.shape[1], np.float32), np.empty(scores.shape[1], np.int32)
    for r in range(len(scores)):
        if np.isnan(floors[r]):
            continue
        left = _left(scores[r], 0, scores.shape[1], 0, max(floors[r], LOWEST), values, places, 0)
        floors[r] = _raised(values[:left], count, floors[r], highest[r])
        found = _close_up(values[:left], places, floors[r])
        if found > columns.shape[1]:
            floors[r] = np.nan
        else:
            counts[r], columns[r, :found] = found, places[:found]


@compiled
def _left(
    scores: Floats, start: int, width: int, column: int, floor: Number, values: Floats, columns: Places, end: int
) -> int:
    """Append the scores from a place on that reach a floor, and their columns from `column` on; return how many."""
    found, whole = 0, width // LANES * LANES
    for j in range(0, whole, LANES):
        found += pack(scores, start + j, column + j, floor, values, columns, end + found)
    for j in range(whole, width):
        if scores[start + j] >= floor:
            values[end + found], columns[end + found] = scores[start + j], column + j
            found += 1
    return found


@compiled
def _raised(values: Floats, count: int, low: Number, high: Number) -> Number:
    """Raise a floor that at least `count` values reach, until few more do; `high` is the highest value."""
    if len(values) <= count + SPARE:
        return low
    if _reaching(values, high) >= count:
        return high
    for halving in range(HALVINGS):  # enough reach `low`, too few reach `high`
        middle = _between(low, high) if halving % 2 else np.float32((np.float64(low) + np.float64(high)) / 2)
        if not low < middle < high:
            continue
        reaching = _reaching(values, middle)
        if reaching < count:
            high = middle
            continue
        low = middle
        if reaching <= count + SPARE:
            break
    return low


@compiled
def _between(low: Number, high: Number) -> Number:
    """Return the number whose pattern lies halfway."""
    middle = (_pattern(low) + _pattern(high)) >> 1
    return np.int32(middle if middle >= 0 else middle ^ np.int64(0x7FFFFFFF)).view(np.float32)


@compiled
def _pattern(value: Number) -> np.int64:
    """Return the bits of a number as an integer, in the order of the numbers."""
    bits = np.int64(np.float32(value).view(np.int32))
    return bits if bits >= 0 else bits ^ np.int64(0x7FFFFFFF)


@compiled
def _reaching(values: Floats, floor: Number) -> int:
    """Count the values that reach a floor."""
    reaching = 0
    for j in range(len(values)):
        reaching += values[j] >= floor
    return reaching
