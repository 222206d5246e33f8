"""The Faiss index over device arrays, which it reads and writes in place."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from array_api_compat import array_namespace, device

from batchrec.arrays import MISSING, Array, best_of, gather, masked_scores, pad_columns, whole_batches
from batchrec.models.device_list_search import QUERIES_A_BLOCK, DeviceListSearch
from batchrec.models.index_pieces import Piece, placed
from batchrec.models.list_search import ListSearch
from batchrec.models.tensors import address
from batchrec.models.threads import turn

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchrec.models.device_list_search import Put
    from batchrec.models.index_pieces import Placement
    from batchrec.models.probes import Probes

QUERIES_A_SEARCH = 4096
"""Queries a search, the last one filled up: Faiss chooses its kernels by this number."""

DEEPEST = 2048
"""Hits a query, and lists of an IVF, that Faiss selects from on a GPU (GPU_MAX_SELECTION_K)."""

NUMBERS_AT_A_TIME = 1 << 26
"""Numbers in memory, 256 MB, where queries are multiplied with the whole catalogue, or with the items found."""


class DeviceIndex:
    """An index as retrieval uses it: every row best first, and as deep as the catalogue allows.

    An uncompressed inverted file on one GPU is searched list by list, everything else by Faiss. Searches beyond
    :data:`DEEPEST`, which few users need, multiply with every item instead and are exact. Pieces on several GPUs are
    searched each to the full depth, and their hits are merged by score, then by position.

    Parameters
    ----------
    index
        A flat or IVF Faiss index with inner product, over the catalogue's positions, in host memory.
    probes
        Lists of an IVF to probe.
    placement
        How the index is held on the device. Hits of vectors stored in float16 get scores computed anew in float32.
    put
        Copies an array of NumPy to the device.
    vectors
        Gives the item embeddings (N, d) float32 on the device, when they are needed.
    """

    def __init__(
        self, index: Any, probes: Probes, placement: Placement, put: Put, vectors: Callable[[], Array]
    ) -> None:
        self._by_list: DeviceListSearch | None = None
        if placement.gpus == 1 and placement.storage == "fp32" and ListSearch.can_search(index):
            # Of the index itself, Faiss searches the centres of lists alone.
            self._pieces = [Piece(placement.place(centres_of(index), 0), 0)]
            self._by_list = DeviceListSearch(index, self._nearest, put)
        else:
            self._pieces = placed(index, placement)
        self._size = index.ntotal
        self._wait, self._is_rounded, self._vectors = placement.wait, placement.storage != "fp32", vectors
        self._lists, self._probes = getattr(index, "nlist", 0), probes

    def __call__(self, queries: Array, depth: int) -> tuple[Array, Array]:
        """Find the best items of each query.

        Parameters
        ----------
        queries
            (m, d) float32 on the device.
        depth
            How many items a query.

        Returns
        -------
        scores
            (m, depth) float32, best first, equal ones by position, -inf where there is no further item.
        positions
            (m, depth) int64, -1 where there is no further item or the score is not a number.
        """
        xp = array_namespace(queries)
        rows, asked = queries.shape[0], min(depth, self._size)
        if rows == 0 or depth == 0:
            shape, place = (rows, depth), device(queries)
            return xp.zeros(shape, dtype=xp.float32, device=place), xp.zeros(shape, dtype=xp.int64, device=place)
        scores, positions = self._by_faiss(queries, asked)
        positions = xp.where(xp.isnan(scores), MISSING, positions)
        scores = masked_scores(scores, positions)
        return pad_columns(scores, depth, -math.inf), pad_columns(positions, depth, MISSING)

    def _by_faiss(self, queries: Array, depth: int) -> tuple[Array, Array]:
        """Search; queries whose lists of an IVF held too few items go on with twice as many lists."""
        xp = array_namespace(queries)
        nprobe = min(self._lists, self._probes.at(depth))
        scores, positions = self._probe(queries, depth, nprobe)
        while nprobe < self._lists and bool(xp.any(dry := positions[:, -1] < 0)):
            nprobe = min(2 * nprobe, self._lists)
            again = self._probe(gather(queries, xp.nonzero(dry)[0]), depth, nprobe)
            # The place of each dry row among the dry ones; the others read any and keep what they have.
            place = xp.maximum(xp.cumulative_sum(xp.astype(dry, xp.int64)) - 1, 0)
            scores = xp.where(dry[:, None], gather(again[0], place), scores)
            positions = xp.where(dry[:, None], gather(again[1], place), positions)
        return scores, positions

    def _probe(self, queries: Array, depth: int, nprobe: int) -> tuple[Array, Array]:
        if max(depth, nprobe) > DEEPEST:
            size = min(NUMBERS_AT_A_TIME // self._size, QUERIES_A_SEARCH)
            return self._in_batches(queries, size, lambda some: self._multiply(some, depth))
        if self._by_list is not None:
            return self._by_list(queries, depth, nprobe)
        return self._in_batches(queries, QUERIES_A_SEARCH, lambda some: self._search(some, depth, nprobe))

    def _nearest(self, queries: Array, nprobe: int) -> Array:
        """Return the lists nearest to each query."""
        _, lists = self._in_batches(queries, QUERIES_A_BLOCK, lambda some: self._search(some, nprobe, 0))
        return lists

    def _in_batches(
        self, queries: Array, size: int, search: Callable[[Array], tuple[Array, Array]]
    ) -> tuple[Array, Array]:
        xp = array_namespace(queries)
        batches = whole_batches(queries.shape[0], max(1, size), queries)
        found = [search(gather(queries, batch)) for batch in batches]
        scores, positions = (xp.concat(parts)[: queries.shape[0], :] for parts in zip(*found, strict=True))
        return scores, positions

    def _search(self, queries: Array, depth: int, nprobe: int) -> tuple[Array, Array]:
        """Search every piece; one batch of queries."""
        xp = array_namespace(queries)
        with turn:  # Faiss searches a GPU from one thread at a time
            if len(self._pieces) > 1:
                self._wait()  # the streams of other GPUs do not know when the queries are written,
            found = [search_piece(piece, queries, depth, nprobe) for piece in self._pieces]
            if len(self._pieces) > 1:
                self._wait()  # nor does that of the queries know when the hits are
        scores = xp.concat([scores for scores, _ in found], axis=1)
        positions = xp.concat(
            [
                xp.where(numbers < 0, MISSING, numbers + piece.first)
                for piece, (_, numbers) in zip(self._pieces, found, strict=True)
            ],
            axis=1,
        )
        if self._is_rounded:
            scores = self._rescored(queries, positions)
        return best_of(scores, positions, depth)  # Faiss leaves the order among equal scores open

    def _rescored(self, queries: Array, positions: Array) -> Array:
        """Multiply m queries with the items found, (m, k) positions, in float32."""
        xp = array_namespace(queries)
        vectors, (rows, width) = self._vectors(), positions.shape
        size = max(1, NUMBERS_AT_A_TIME // (width * vectors.shape[1]))
        scores = []
        for batch in whole_batches(rows, min(size, rows), queries):
            items = gather(vectors, xp.maximum(gather(positions, batch), 0))
            scores.append(xp.matmul(items, gather(queries, batch)[:, :, None])[:, :, 0])
        return xp.concat(scores)[:rows, :]

    def _multiply(self, queries: Array, depth: int) -> tuple[Array, Array]:
        """Multiply with every item; equal scores stand by position."""
        xp = array_namespace(queries)
        scores = xp.matmul(queries, xp.permute_dims(self._vectors(), (1, 0)))
        scores = xp.where(xp.isnan(scores), -math.inf, scores)
        order = xp.argsort(scores, axis=1, descending=True, stable=True)[:, :depth]
        scores = xp.take_along_axis(scores, order, axis=1)
        return scores, xp.where(scores == -math.inf, MISSING, xp.astype(order, xp.int64))


def centres_of(ivf: Any) -> Any:
    """Return a flat Faiss index of the centres of an IVF's lists."""
    import faiss

    flat = faiss.IndexFlatIP(ivf.d)
    flat.add(ivf.quantizer.reconstruct_n(0, ivf.nlist))
    return flat


def search_piece(piece: Piece, queries: Array, depth: int, nprobe: int) -> tuple[Array, Array]:
    """Search a piece for m queries: scores (m, depth) float32 and its own numbers (m, depth) int64, -1 for none."""
    xp = array_namespace(queries)
    shape, place = (queries.shape[0], depth), device(queries)
    scores, found = xp.empty(shape, dtype=xp.float32, device=place), xp.empty(shape, dtype=xp.int64, device=place)
    search_in_place(piece.index, queries, scores, found, nprobe)
    return scores, found


def search_in_place(index: Any, queries: Array, scores: Array, positions: Array, nprobe: int) -> None:
    """Search an index for C-contiguous queries (m, d) and write into scores and positions (m, k).

    Faiss's own Python method takes NumPy arrays alone and would copy others to the host; what it is made of takes
    addresses, of the host or of the device that the index lies on.
    """
    import faiss

    parameters = None
    if nprobe:
        parameters = faiss.SearchParametersIVF()
        parameters.nprobe = nprobe
    rows, depth = scores.shape
    index.search_c(
        rows,
        faiss.cast_integer_to_float_ptr(address(queries)),
        depth,
        faiss.cast_integer_to_float_ptr(address(scores)),
        faiss.cast_integer_to_idx_t_ptr(address(positions)),
        parameters,
    )
