"""Compiled loops of the query tower: what stands between its matrix products, each in one pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from batchrec.models.compiled import compiled, compiled_sums

if TYPE_CHECKING:
    import numpy.typing as npt

    from batchrec.models.compiled import Number

    Floats = npt.NDArray[np.float32]

ZERO, HALF, ONE = np.float32(0), np.float32(0.5), np.float32(1)

LOWEST_EXPONENT = np.float32(-87)
"""Below it e to a number is no normal float32, and counts as 0."""

PER_LOG_2 = np.float32(1 / np.log(2))

WHOLE = np.float32(3 << 22)
"""Added to a number below 2²² it leaves the whole nearest to it in the last bits: float32 has none smaller there."""

LOG_2 = (np.float32(0.693359375), np.float32(-2.12194440e-4))
"""Their sum is log 2 to twice the digits of a float32; whole numbers up to 2¹⁵ times the first are exact."""

EXP = tuple(map(np.float32, (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 0.16666665459, 0.5)))
"""(e^r - 1 - r) / r² for |r| up to log 2 / 2, highest power first: Moshier, "Methods and Programs for Mathematical
Functions" (1989), as in Cephes' ``expf``; its last, 0.50000001201, is a float32 of 0.5."""

ERFC = tuple(map(np.float32, (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)))
ERFC_SCALE = np.float32(0.3275911 / np.sqrt(2.0))


@compiled
def look_up_kept(
    history: npt.NDArray[Any], kept: npt.NDArray[np.bool_], items: Floats, places: Floats, state: Floats
) -> None:
    """Put the items (N, d) of a history (b, L), those that are kept (b, L), with their places (L, d) into (b, h, d)."""
    for i in range(history.shape[0]):
        found = 0
        for place in range(history.shape[1]):
            if kept[i, place]:
                item, where, row = items[history[i, place]], places[place], state[i, found]
                for j in range(len(row)):
                    row[j] = item[j] + where[j]
                found += 1


@compiled
def add_gelu(rows: Floats, bias: Floats) -> None:
    """Add a bias (h,) to each row of (b, L, h), and replace every x by x·Φ(x), Φ the standard normal distribution's.

    x·Φ(x) = max(x, 0) - |x| · erfc(|x|/√2) / 2, with erfc by 7.1.26 of Abramowitz & Stegun, "Handbook of Mathematical
    Functions" (1964), whose error is below 1.5e-7.
    """
    for i in range(rows.shape[0]):
        for place in range(rows.shape[1]):
            row = rows[i, place]
            for j in range(len(bias)):
                x = row[j] + bias[j]
                size = abs(x)
                t = ONE / (size * ERFC_SCALE + ONE)
                tail = ((((ERFC[0] * t + ERFC[1]) * t + ERFC[2]) * t + ERFC[3]) * t + ERFC[4]) * t
                tail *= _exp(-HALF * size * size) * size * HALF
                row[j] = (ZERO if x < ZERO else x) - tail


@compiled
def add_rows(state: Floats, rows: Floats, bias: Floats) -> None:
    """Add rows (b, L, d) and a bias (d,) to the state (b, L, d)."""
    for i in range(state.shape[0]):
        for place in range(state.shape[1]):
            found, row = state[i, place], rows[i, place]
            for j in range(len(bias)):
                found[j] += row[j] + bias[j]


@compiled_sums
def normalise(state: Floats, epsilon: Number, normal: Floats) -> None:
    """Take its mean from each row of (b, L, d) and divide by the root of its variance and `epsilon`."""
    dimension = state.shape[2]
    for i in range(state.shape[0]):
        for place in range(state.shape[1]):
            row, found = state[i, place], normal[i, place]
            total, squares = 0.0, 0.0
            for j in range(dimension):
                total += row[j]
            mean = np.float32(total / dimension)
            for j in range(dimension):
                squares += np.float64(row[j] - mean) * np.float64(row[j] - mean)
            deviation = np.float32(np.sqrt(squares / dimension + epsilon))
            for j in range(dimension):
                found[j] = (row[j] - mean) / deviation


@compiled
def causal_exponentials(scores: Floats, sums: Floats) -> None:
    """Replace scores (b, h, keys, queries), C-contiguous, by their exponentials, the highest of a query's being 1.

    A key after the query counts for nothing: 0. `sums` (b, h, queries) receives each query's sum.
    """
    highest = np.empty(scores.shape[2], np.float32)
    for i in range(scores.shape[0]):
        for head in range(scores.shape[1]):
            _take_highest(scores[i, head], highest)
            # All at once, those that count for nothing too: no row is too short for the processor's vectors.
            every = scores[i, head].reshape(-1)
            for j in range(len(every)):
                every[j] = _exp(every[j])
            sums[i, head] = ZERO
            for key in range(len(highest)):
                for query in range(len(highest)):
                    sums[i, head, query] += scores[i, head, key, query]


@compiled
def _take_highest(table: Floats, highest: Floats) -> None:
    """Take each query's highest score from those of keys up to it (keys, queries), and -inf for keys after it."""
    highest[:] = table[0]
    for key in range(1, len(table)):
        for query in range(key, len(table)):
            score = table[key, query]
            highest[query] = score if score > highest[query] else highest[query]
    for key in range(len(table)):
        table[key, :key] = -np.inf
        for query in range(key, len(table)):
            table[key, query] -= highest[query]


@compiled
def divide_heads(found: Floats, sums: Floats, places: Floats) -> None:
    """Divide what each head found (b, h, L, w) by its sum (b, h, L), and lay the heads side by side (b, L, h, w)."""
    for i in range(found.shape[0]):
        for head in range(found.shape[1]):
            for place in range(found.shape[2]):
                for j in range(found.shape[3]):
                    places[i, place, head, j] = found[i, head, place, j] / sums[i, head, place]


@compiled
def _exp(x: Number) -> Number:
    """Return e to a number of at most 0, to about one last bit; 2 to the whole part by the bits of a float32."""
    shifted = x * PER_LOG_2 + WHOLE
    whole = shifted - WHOLE
    r = x - whole * LOG_2[0] - whole * LOG_2[1]
    power = (((((EXP[0] * r + EXP[1]) * r + EXP[2]) * r + EXP[3]) * r + EXP[4]) * r + EXP[5]) * (r * r) + r + ONE
    bits = np.int32((np.float32(shifted).view(np.int32) + np.int32(127)) << np.int32(23))
    return ZERO if x < LOWEST_EXPONENT else power * np.int32(bits).view(np.float32)
