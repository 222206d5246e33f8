"""Search of an inverted file on a device, list by list instead of query by query.

The idea is that of :mod:`batchrec.models.list_search`: all queries of a block that probe a list are multiplied with it
together. Here the products themselves are the scores. Every product has one shape, and so does every call of them, so
that a score has the same last bits wherever its query stands (docs/decisions/018-search-on-a-gpu.md).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace, device

from batchrec.arrays import MISSING, Array, Ragged, best_of, gather
from batchrec.models.list_search import lists_of
from batchrec.models.tiles import TILE, tile_columns, tiles_of

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    Put = Callable[[npt.NDArray[np.generic]], Array]
    Nearest = Callable[[Array, int], Array]

QUERIES_A_BLOCK = 8192
"""Queries searched together: the more, the more of them share a list, and the larger the scores that are held."""

QUERIES_A_PRODUCT = 64
"""Queries multiplied with a tile, those that are missing filled up."""

PRODUCTS_A_CALL = 4096
"""Products of a call, those that are missing filled up."""

HEADS_A_TILE = 4
"""Groups that the scores of a query with a tile are cut into, for their maxima."""

FEWEST_GROUPS = 512
"""Groups of a query's scores of which a floor is taken; twice the depth at least."""

MOST_PROPOSED = 1 << 25
"""Proposals held at a time, some 100 bytes each. A block with more, of scores that are nearly all alike, is halved."""

_COLUMNS_ALIGNED = 4
"""Rows of a tile's columns are a multiple of this: matrix products of GPUs read 16 bytes at a time."""

_LOWEST = float(np.finfo(np.float32).min)


class _Layout(NamedTuple):
    """Where the products of m queries with the W tiles of each stand.

    Attributes
    ----------
    tiles
        (P,) int64: the tile of each product, P a multiple of :data:`PRODUCTS_A_CALL`.
    queries
        (P, Q) int64: the queries multiplied with it, m where one is missing.
    rows
        (m, W) int64: where among the P·Q rows of scores those of a query with its tiles stand; where there are fewer
        tiles than W, a row of the last product, which is with no vector.
    """

    tiles: Array
    queries: Array
    rows: Array


class DeviceListSearch:
    """Searches an uncompressed inverted file with inner product, in the memory of a device.

    A row of the result depends on its query, the depth and the number of lists probed alone.

    Parameters
    ----------
    ivf
        A Faiss index that :meth:`~batchrec.models.list_search.ListSearch.can_search` accepts, in host memory.
    nearest
        ``nearest(queries (m, d), nprobe)`` returns the lists nearest to each, (m, nprobe) int64.
    put
        Copies an array of NumPy to the device.
    """

    def __init__(self, ivf: Any, nearest: Nearest, put: Put) -> None:
        vectors, positions, bounds = lists_of(ivf)
        first, starts, stops = tiles_of(bounds)
        self._dimension = vectors.shape[1]
        depth = -(-(self._dimension + 1) // _COLUMNS_ALIGNED) * _COLUMNS_ALIGNED
        columns = tile_columns(vectors, starts, stops, depth)
        empty = tile_columns(vectors, np.zeros(1, np.int64), np.zeros(1, np.int64), depth)
        self._nearest = nearest
        self._columns = put(np.concatenate([columns, empty]))
        self._starts, self._positions = put(np.append(starts, 0)), put(positions)
        self._tiles = Ragged(put(first), put(np.arange(len(starts))))

    def __call__(self, queries: Array, depth: int, nprobe: int) -> tuple[Array, Array]:
        """Find the best items in the lists nearest to each query.

        Parameters
        ----------
        queries
            (m, d) float32 on the device, m at least 1.
        depth
            How many items a query, at least 1.
        nprobe
            Lists to look through, at least 1.

        Returns
        -------
        scores
            (m, depth) float32, best first, equal ones by position, -inf where there is no further item.
        positions
            (m, depth) int64, -1 where there is no further item and for queries that are not numbers.
        """
        xp, count = array_namespace(queries), queries.shape[0]
        blocks = [
            self._block(queries[start : min(start + QUERIES_A_BLOCK, count), :], depth, nprobe)
            for start in range(0, count, QUERIES_A_BLOCK)
        ]
        scores, positions = (xp.concat(parts) for parts in zip(*blocks, strict=True))
        return scores, positions

    def _block(self, queries: Array, depth: int, nprobe: int) -> tuple[Array, Array]:
        xp = array_namespace(queries)
        return self._search(queries, xp.maximum(self._nearest(queries, nprobe), 0), depth)

    def _search(self, queries: Array, lists: Array, depth: int) -> tuple[Array, Array]:
        xp, m = array_namespace(queries), queries.shape[0]
        layout = self._laid_out(lists)
        scores = self._multiplied(queries, layout)
        floors = _floors(scores, layout.rows, depth)
        # Those who are missing reach no floor.
        floors = xp.concat([floors, xp.full((1,), math.inf, dtype=xp.float32, device=device(floors))])
        query_of_row = xp.reshape(layout.queries, (-1,))
        reach = scores >= gather(floors, query_of_row)[:, None]
        found = xp.nonzero(xp.reshape(reach, (-1,)))[0]
        if found.shape[0] > MOST_PROPOSED and m > 1:
            halves = [self._search(queries[rows, :], lists[rows, :], depth) for rows in _halves(m)]
            best, positions = (xp.concat(parts) for parts in zip(*halves, strict=True))
            return best, positions
        row = found // TILE
        places = gather(self._starts, gather(layout.tiles, row // QUERIES_A_PRODUCT)) + found % TILE
        proposed = gather(xp.reshape(scores, (-1,)), found)
        return self._best(gather(query_of_row, row), proposed, places, m, depth)

    def _laid_out(self, lists: Array) -> _Layout:
        """Lay out the products of each query with the tiles of its lists, (m, p)."""
        xp, place = array_namespace(lists), device(lists)
        m, p = lists.shape
        tiles_of_pairs = self._tiles.take(xp.reshape(lists, (-1,)))
        tile, bounds = tiles_of_pairs.values, tiles_of_pairs.offsets[::p]
        pairs, n_tiles = tile.shape[0], self._columns.shape[0] - 1
        order = xp.argsort(xp.astype(tile, xp.int32), stable=True)  # narrow: sorted by their digits
        begins = xp.searchsorted(gather(tile, order), xp.arange(n_tiles + 1, dtype=xp.int64, device=place))
        products = (begins[1:] - begins[:-1] + QUERIES_A_PRODUCT - 1) // QUERIES_A_PRODUCT
        first = xp.cumulative_sum(products, include_initial=True, dtype=xp.int64)
        # At least one product more than there are, with the tile that has no vector.
        whole = (int(first[-1]) // PRODUCTS_A_CALL + 1) * PRODUCTS_A_CALL
        number = xp.arange(whole, dtype=xp.int64, device=place)
        tiles = xp.searchsorted(first, number, side="right") - 1
        ends = xp.concat([begins[1:], begins[-1:]])
        from_first = (number - gather(first, tiles)) * QUERIES_A_PRODUCT
        ranks = (gather(begins, tiles) + from_first)[:, None] + _counted(QUERIES_A_PRODUCT, lists)[None, :]
        is_pair = ranks < gather(ends, tiles)[:, None]
        owners = tiles_of_pairs.owners // p
        queries = xp.where(is_pair, gather(gather(owners, order), xp.minimum(ranks, pairs - 1)), m)
        # Of each pair, in the order of queries: its place among those of its tile, which stand in rows one by one.
        rows = gather(first, tile) * QUERIES_A_PRODUCT + xp.argsort(order) - gather(begins, tile)
        width = int(xp.max(bounds[1:] - bounds[:-1]))
        at = bounds[:-1, None] + _counted(width, lists)[None, :]
        rows = xp.where(at < bounds[1:, None], gather(rows, xp.minimum(at, pairs - 1)), whole * QUERIES_A_PRODUCT - 1)
        return _Layout(tiles, queries, rows)

    def _multiplied(self, queries: Array, layout: _Layout) -> Array:
        """Multiply as laid out: (P·Q, TILE) float32, -inf where there is no vector."""
        xp, place = array_namespace(queries), device(queries)
        m, rows = queries.shape[0], self._columns.shape[1]
        nobody = xp.zeros((1, self._dimension), dtype=xp.float32, device=place)
        # What the last rows of the columns are multiplied with: see `tile_columns`.
        ones = xp.ones((m + 1, 1), dtype=xp.float32, device=place)
        zeros = xp.zeros((m + 1, rows - self._dimension - 1), dtype=xp.float32, device=place)
        filled = xp.concat([xp.concat([queries, nobody]), ones, zeros], axis=1)
        count = layout.tiles.shape[0]
        scores = xp.empty((count, QUERIES_A_PRODUCT, TILE), dtype=xp.float32, device=place)
        for start in range(0, count, PRODUCTS_A_CALL):
            call = slice(start, start + PRODUCTS_A_CALL)
            columns = gather(self._columns, layout.tiles[call])
            scores[call, ...] = xp.matmul(gather(filled, layout.queries[call, :]), columns)
        return xp.reshape(scores, (-1, TILE))

    def _best(self, query: Array, scores: Array, places: Array, m: int, depth: int) -> tuple[Array, Array]:
        """Return the best `depth` of all proposals (n,) of m queries."""
        xp = array_namespace(scores)
        order = xp.argsort(-scores, stable=True)
        order = gather(order, xp.argsort(gather(xp.astype(query, xp.int32), order), stable=True))
        bounds = xp.searchsorted(gather(query, order), xp.arange(m + 1, dtype=xp.int64, device=device(query)))
        at = bounds[:-1, None] + _counted(depth, query)[None, :]
        is_hit = at < bounds[1:, None]
        order = _with_one_more(order)  # to have something to read where there is none at all
        chosen = gather(order, xp.minimum(at, order.shape[0] - 1))
        scores, places = (_with_one_more(one) for one in (scores, places))
        positions = xp.where(is_hit, gather(self._positions, gather(places, chosen)), MISSING)
        return best_of(xp.where(is_hit, gather(scores, chosen), -math.inf), positions, depth)


def _floors(scores: Array, rows: Array, depth: int) -> Array:
    """Return for each query (m,) a score that at least `depth` of its scores reach, or all where there are fewer.

    Each group's maximum is one of the scores, so the `depth`-th largest of them is a floor.
    """
    xp = array_namespace(scores)
    heads = _folded(scores, HEADS_A_TILE)
    m, width = rows.shape
    heads = xp.reshape(gather(heads, rows), (m, width * HEADS_A_TILE))
    if heads.shape[1] < depth:
        return xp.full((m,), _LOWEST, dtype=xp.float32, device=device(scores))
    heads = _folded(heads, max(FEWEST_GROUPS, 1 << (2 * depth - 1).bit_length()))
    return xp.maximum(xp.sort(heads, axis=1, stable=False)[:, heads.shape[1] - depth], _LOWEST)


def _folded(values: Array, groups: int) -> Array:
    """Return the maxima of every `groups`-th column, (m, at most `groups`)."""
    xp = array_namespace(values)
    while values.shape[1] > groups:
        # Halves, of whole groups: each pass reads what is left and writes half of it.
        half = -(-values.shape[1] // (2 * groups)) * groups
        folded = xp.maximum(values[:, : values.shape[1] - half], values[:, half:])
        values = xp.concat([folded, values[:, values.shape[1] - half : half]], axis=1)
    return values


def _with_one_more(values: Array) -> Array:
    xp = array_namespace(values)
    return xp.concat([values, xp.zeros((1,), dtype=values.dtype, device=device(values))])


def _counted(count: int, like: Array) -> Array:
    xp = array_namespace(like)
    return xp.arange(count, dtype=xp.int64, device=device(like))


def _halves(count: int) -> tuple[slice, slice]:
    return slice(0, count // 2), slice(count // 2, count)
