"""Words that all array code shares: missing positions, ragged rows, gathers, sort orders, hash mixing.

Every function here takes its namespace from its arguments and uses the Python array API (2024.12) alone, so that NumPy
and CuPy run the same lines.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from array_api_compat import array_namespace, device

if TYPE_CHECKING:
    from collections.abc import Iterator

Array = Any
"""An array of any library that follows the Python array API."""

MISSING = -1
"""Item position that stands for "no candidate here"."""


class Ragged(NamedTuple):
    """One list of integers a row: row ``i`` holds ``values[offsets[i]:offsets[i + 1]]``.

    Attributes
    ----------
    offsets
        ``(n + 1,)`` int64, never falling.
    values
        ``(m,)`` int64.
    """

    offsets: Array
    values: Array

    @property
    def lengths(self) -> Array:
        """Number of values of each row, ``(n,)`` int64."""
        return self.offsets[1:] - self.offsets[:-1]

    @property
    def owners(self) -> Array:
        """Row of each value, ``(m,)`` int64."""
        xp = array_namespace(self.offsets)
        # `repeat(rows, lengths)` says the same, but CuPy cannot repeat by an array.
        places = xp.arange(self.values.shape[0], dtype=xp.int64, device=device(self.offsets))
        return xp.searchsorted(self.offsets, places, side="right") - 1

    def take(self, rows: Array) -> Ragged:
        """Return the given rows, ``(r,)`` int64, in the given order; a row may come more than once."""
        xp = array_namespace(self.offsets)
        starts = xp.take(self.offsets, rows, axis=0)
        lengths = xp.take(self.offsets, rows + 1, axis=0) - starts
        offsets = xp.cumulative_sum(lengths, include_initial=True, dtype=xp.int64)
        places = xp.arange(int(offsets[-1]), dtype=xp.int64, device=device(self.offsets))
        owners = xp.searchsorted(offsets, places, side="right") - 1
        shift = xp.take(starts - offsets[:-1], owners, axis=0)
        return Ragged(offsets, xp.take(self.values, places + shift, axis=0))


def gather(x: Array, indices: Array) -> Array:
    """Return ``x[indices]``: first axis looked up, shape ``indices.shape + x.shape[1:]``.

    The array API's own ``take`` knows only flat indices.
    """
    xp = array_namespace(x, indices)
    flat = xp.take(x, xp.reshape(indices, (-1,)), axis=0)
    return xp.reshape(flat, indices.shape + x.shape[1:])


def whole_batches(count: int, size: int, like: Array) -> Iterator[Array]:
    """Yield row numbers 0 to `count` - 1 in batches of one size, ``(size,)`` int64; the last row fills the last batch.

    One size means one kernel for all of them, and so the same last bits for a row in whatever batch it stands.

    Parameters
    ----------
    count
        How many rows there are.
    size
        Rows a batch.
    like
        An array of the library, and on the device, that the row numbers are to be of.
    """
    xp = array_namespace(like)
    for start in range(0, count, size):
        rows = xp.arange(start, start + size, dtype=xp.int64, device=device(like))
        yield xp.minimum(rows, count - 1)


def pad_columns(x: Array, width: int, fill: float) -> Array:
    """Append columns of `fill` to ``x (n, K)`` until it has `width`; a wider `x` comes back as it is."""
    xp = array_namespace(x)
    rows, columns = x.shape
    if columns >= width:
        return x
    return xp.concat([x, xp.full((rows, width - columns), fill, dtype=x.dtype, device=device(x))], axis=1)


def masked_scores(scores: Array, positions: Array) -> Array:
    """Return `scores` with -inf where the position is missing and where the score is not a number; dtype kept."""
    xp = array_namespace(scores, positions)
    return xp.where((positions < 0) | xp.isnan(scores), -math.inf, scores)


def best_first(positions: Array, *keys: Array) -> Array:
    """Return the permutation that puts each row into the order of a list.

    Real candidates come before missing ones; among them the first key decides, highest first, then the second, and so
    on; the lowest item position decides last. The outcome depends on nothing but the candidates of the row itself.

    Parameters
    ----------
    positions
        Item positions, ``(n, K)`` int64, :data:`MISSING` where there is none.
    *keys
        ``(n, K)`` floats without NaN, most significant first.

    Returns
    -------
    Array
        ``(n, K)`` int64, for ``take_along_axis`` along the last axis.
    """
    xp = array_namespace(positions, *keys)
    # Falling order by rising order of what is negated; missing candidates, at infinity, are all alike.
    first = xp.where(positions < 0, math.inf, -keys[0])
    permutation = xp.argsort(first, axis=-1, stable=False)
    if positions.shape[1] < 2:
        return permutation
    ordered = xp.take_along_axis(first, permutation, axis=-1)
    is_real = xp.take_along_axis(positions, permutation, axis=-1) >= 0
    is_tied = xp.any((ordered[:, 1:] == ordered[:, :-1]) & (is_real[:, 1:] | is_real[:, :-1]), axis=1)
    tied = xp.nonzero(is_tied)[0]
    if tied.shape[0] == 0:
        return permutation
    clear = xp.nonzero(~is_tied)[0]
    by_all = _by_all_keys(gather(positions, tied), *(gather(key, tied) for key in keys))
    back = xp.argsort(xp.concat([clear, tied]))
    return gather(xp.concat([gather(permutation, clear), by_all]), back)


def best_of(scores: Array, positions: Array, depth: int) -> tuple[Array, Array]:
    """Return the best `depth` of each row's hits (m, k), in any order, by score, then by position."""
    xp = array_namespace(scores)
    positions = xp.where(xp.isnan(scores), MISSING, positions)
    order = best_first(positions, masked_scores(scores, positions))[:, :depth]
    return xp.take_along_axis(scores, order, axis=1), xp.take_along_axis(positions, order, axis=1)


def _by_all_keys(positions: Array, *keys: Array) -> Array:
    """Do as :func:`best_first` says, with a sort for each key: three times the work of one sort by the first."""
    xp = array_namespace(positions, *keys)
    missing = positions < 0
    # Need not be stable: the items of a row are distinct, and missing candidates are all alike.
    permutation = xp.argsort(xp.where(missing, xp.iinfo(xp.int64).max, positions), axis=-1, stable=False)
    for key in reversed(keys):
        column = xp.take_along_axis(xp.where(missing, -math.inf, key), permutation, axis=-1)
        # Stable: what the less significant keys decided stands among equals.
        by_key = xp.argsort(column, axis=-1, descending=True, stable=True)
        permutation = xp.take_along_axis(permutation, by_key, axis=-1)
    return permutation


def splitmix64(x: Array) -> Array:
    """Return the first output of the SplitMix64 generator seeded with each value.

    A bijection of uint64 in which every bit of the input reaches every bit of the output. Steele, Lea, Flood, "Fast
    Splittable Pseudorandom Number Generators" (OOPSLA 2014), with the finaliser that Stafford calls Mix13. Arithmetic
    wraps modulo 2**64.

    Parameters
    ----------
    x
        uint64, at least one-dimensional (NumPy warns of the wrap-around of bare scalars), any shape.
    """
    xp = array_namespace(x)

    def constant(value: int) -> Array:
        return xp.asarray(value, dtype=xp.uint64, device=device(x))

    z = x + constant(0x9E3779B97F4A7C15)
    z = (z ^ (z >> constant(30))) * constant(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> constant(27))) * constant(0x94D049BB133111EB)
    return z ^ (z >> constant(31))
