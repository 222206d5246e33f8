"""The Faiss index over device arrays, which it reads and writes in place."""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING, Any

from array_api_compat import array_namespace, device

from batchrec.arrays import MISSING, Array, best_first, gather, masked_scores, pad_columns, whole_batches
from batchrec.models.tensors import address
from batchrec.models.threads import turn

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import numpy.typing as npt

    from batchrec.models.probes import Probes

QUERIES_A_SEARCH = 1024
"""Queries a search, the last one filled up: Faiss chooses its kernels by this number."""

DEEPEST = 2048
"""Hits a query, and lists of an IVF, that Faiss selects from on a GPU (GPU_MAX_SELECTION_K)."""

SCORES_AT_A_TIME = 1 << 26
"""Scores in memory, 256 MB, where queries are multiplied with the whole catalogue."""


class DeviceIndex:
    """An index as retrieval uses it: every row best first, and as deep as the catalogue allows.

    Searches beyond :data:`DEEPEST`, which few users need, multiply with every item instead and are exact.

    Parameters
    ----------
    index
        A flat or IVF Faiss index with inner product, over the catalogue's positions, in host memory.
    probes
        Lists of an IVF to probe.
    put
        Copies an array of NumPy to the device.
    place_index
        Copies the index to the device.
    """

    def __init__(
        self,
        index: Any,
        probes: Probes,
        put: Callable[[npt.NDArray[np.float32]], Array],
        place_index: Callable[[Any], Any],
    ) -> None:
        self._on_host, self._put = index, put
        self._index = place_index(index)
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
        rows, asked = queries.shape[0], min(depth, self._index.ntotal)
        if rows == 0 or depth == 0:
            shape, place = (rows, depth), device(queries)
            return xp.zeros(shape, dtype=xp.float32, device=place), xp.zeros(shape, dtype=xp.int64, device=place)
        scores, positions = self._by_faiss(queries, asked)
        positions = xp.where(xp.isnan(scores), MISSING, positions)
        scores = masked_scores(scores, positions)
        order = best_first(positions, scores)  # Faiss leaves the order among equal scores open
        scores, positions = (xp.take_along_axis(found, order, axis=-1) for found in (scores, positions))
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
            return self._by_multiplying(queries, depth)
        return self._search(queries, depth, nprobe)

    def _search(self, queries: Array, depth: int, nprobe: int) -> tuple[Array, Array]:
        xp = array_namespace(queries)
        rows, place = queries.shape[0], device(queries)
        found = []
        for batch in whole_batches(rows, QUERIES_A_SEARCH, queries):
            scores = xp.empty((QUERIES_A_SEARCH, depth), dtype=xp.float32, device=place)
            positions = xp.empty((QUERIES_A_SEARCH, depth), dtype=xp.int64, device=place)
            with turn:  # Faiss searches a GPU from one thread at a time
                search_in_place(self._index, gather(queries, batch), scores, positions, nprobe)
            found.append((scores, positions))
        scores, positions = (xp.concat(parts)[:rows, :] for parts in zip(*found, strict=True))
        return scores, positions

    def _by_multiplying(self, queries: Array, depth: int) -> tuple[Array, Array]:
        """Multiply with every item; equal scores stand by position."""
        xp = array_namespace(queries)
        rows, size = queries.shape[0], min(max(1, SCORES_AT_A_TIME // self._index.ntotal), QUERIES_A_SEARCH)
        found = []
        for batch in whole_batches(rows, size, queries):
            scores = xp.matmul(gather(queries, batch), self._items)
            scores = xp.where(xp.isnan(scores), -math.inf, scores)
            order = xp.argsort(scores, axis=1, descending=True, stable=True)[:, :depth]
            found.append((xp.take_along_axis(scores, order, axis=1), order))
        scores, positions = (xp.concat(parts)[:rows, :] for parts in zip(*found, strict=True))
        return scores, xp.where(scores == -math.inf, MISSING, xp.astype(positions, xp.int64))

    @cached_property
    def _items(self) -> Array:
        """All items' embeddings, (d, N)."""
        vectors = self._on_host.reconstruct_n(0, self._on_host.ntotal)
        return self._put(vectors.T.copy())


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
