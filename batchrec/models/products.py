"""Products of any number of rows with a kernel of any width, by blocks that fit the registers; for compiled loops.

Before each block some lines of the cache are asked for that what comes next will read. Loops that multiply so have this
source among what they are known by, as :mod:`batchrec.models.registers`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numba.extending import register_jitable

from batchrec.models.registers import LINE, fetch, product
from batchrec.models.vectors import HAS_AVX512, LANES

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from batchrec.models.compiled import Number

    Floats = npt.NDArray[np.float32]
    Integers = npt.NDArray[np.int64]

LINES_A_PRODUCT = 24
"""Lines of the cache asked for before each block."""

ROWS = {4: 6, 2: 8, 1: 8} if HAS_AVX512 else {4: 1, 2: 3, 1: 6}
"""Rows that are multiplied with 64, 32 and 16 columns of a kernel at once: as many sums as there are registers for."""

FOUR, TWO, ONE = 4 * LANES, 2 * LANES, LANES

WIDEST = FOUR if HAS_AVX512 else ONE
"""Columns that are multiplied at once, where a row's need not be."""


def to_lanes(width: int) -> int:
    """Return the next multiple of :data:`~batchrec.models.vectors.LANES`."""
    return -(-width // LANES) * LANES


@register_jitable  # type: ignore[untyped-decorator]
def _fetch(table: Floats, row: int, chosen: Integers, ahead: Integers) -> None:
    """Ask for the next lines; see :func:`multiply`."""
    one, place, end = ahead
    lines = LINES_A_PRODUCT
    while lines and one < end:
        fetch(table, max(chosen[one], 0) * row + place)
        lines, place = lines - 1, place + LINE
        if place >= row:
            one, place = one + 1, 0
    ahead[0], ahead[1] = one, place


def _by(vectors: int) -> Any:
    """Return what multiplies all rows with so many times 16 columns."""
    rows, of_rows, of_one = ROWS[vectors], product(ROWS[vectors], vectors), product(1, vectors)

    @register_jitable  # type: ignore[untyped-decorator]
    def block(
        a: Floats,
        places: Integers,
        n: int,
        depth: int,
        kernel: Floats,
        at: int,
        width: int,
        start: Floats,
        start_at: int,
        start_step: int,
        out: Floats,
        out_at: int,
        out_step: int,
        lowest: Number,
        table: Floats,
        row: int,
        chosen: Integers,
        ahead: Integers,
    ) -> None:
        """Multiply some rows at a time; the last ones, where they are fewer, together with some before."""
        for first in range(0, n, rows):
            _fetch(table, row, chosen, ahead)
            r = min(first, n - rows)
            if r >= 0:
                of_rows(
                    a, places, r, depth, kernel, at, width, start, start_at + r * start_step, start_step,
                    out, out_at + r * out_step, out_step, lowest,
                )  # fmt: skip
                continue
            for single in range(n):
                of_one(
                    a, places, single, depth, kernel, at, width, start, start_at + single * start_step, start_step,
                    out, out_at + single * out_step, out_step, lowest,
                )  # fmt: skip

    return block


_by_four, _by_two, _by_one = _by(4), _by(2), _by(1)


@register_jitable  # type: ignore[untyped-decorator]
def multiply(
    a: Floats,
    places: Integers,
    n: int,
    depth: int,
    kernel: Floats,
    at: int,
    width: int,
    start: Floats,
    start_at: int,
    start_step: int,
    out: Floats,
    out_step: int,
    lowest: Number,
    widest: int,
    table: Floats,
    row: int,
    chosen: Integers,
    ahead: Integers,
) -> None:
    """Multiply n rows with a kernel, in blocks of at most `widest` columns.

    Parameters
    ----------
    a, places, depth, kernel, at, width, start, start_at, start_step, out, out_step, lowest
        As :func:`~batchrec.models.registers.product` takes them, from the first row and place on; `width`, a multiple
        of 16, is that of the kernel and of the result.
    n
        Rows.
    widest
        64, 32 or 16. Where a row of the result covers the end of the one before, all its columns are one block.
    table, row, chosen, ahead
        What is asked for meanwhile: rows of so many numbers of a table in one dimension, by their numbers in `chosen`,
        the first row where that is negative. `ahead` holds the place in `chosen`, the place in that row, and the end in
        `chosen`; it is moved on.
    """
    column = 0
    while column < width:
        begin, sums = at + column, start_at + column
        if min(width - column, widest) >= FOUR:
            _by_four(
                a, places, n, depth, kernel, begin, width, start, sums, start_step, out, column, out_step, lowest,
                table, row, chosen, ahead,
            )  # fmt: skip
            column += FOUR
        elif min(width - column, widest) >= TWO:
            _by_two(
                a, places, n, depth, kernel, begin, width, start, sums, start_step, out, column, out_step, lowest,
                table, row, chosen, ahead,
            )  # fmt: skip
            column += TWO
        else:
            _by_one(
                a, places, n, depth, kernel, begin, width, start, sums, start_step, out, column, out_step, lowest,
                table, row, chosen, ahead,
            )  # fmt: skip
            column += ONE
