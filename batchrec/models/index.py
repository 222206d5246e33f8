"""The Faiss index over item embeddings: building, tuning on real queries, searching.

Small catalogues get a flat index, which is exact. Larger ones get an inverted file (IVF: Jégou, Douze & Schmid 2011,
doi:10.1109/TPAMI.2010.57) over the uncompressed vectors, searched in as many lists as it takes to find what exact
search finds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from batchrec.errors import ArtifactError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from batchrec.models.bundle_format import IndexFormat

    Floats = npt.NDArray[np.float32]
    Positions = npt.NDArray[np.int64]

FLAT_UP_TO = 20_000
"""Catalogue size up to which exact search is used: below it an IVF saves less time than its own overhead costs."""

SEARCH_BATCH = 1024
"""Queries a call of Faiss. Fixed, because Faiss picks other kernels for small batches, whose last bits differ."""

KMEANS_SEED = 1234


@dataclass(frozen=True)
class Tuned:
    """An index with the number of lists to probe, and the recall this gave on sample queries."""

    index: Any
    kind: str
    nprobe: int
    recall: float
    queries: int


def build_index(embeddings: Floats, queries: Floats, recall_at: int, target: float, flat_up_to: int) -> Tuned:
    """Build an index over (N, d) embeddings and tune it on (m, d) queries.

    ``nprobe`` is doubled from 1 until, on average over the queries, at least ``target`` of the exact top ``recall_at``
    is found; at worst every list is probed, which is exact. Without sample queries the embeddings of items stand in.
    """
    import faiss

    n_items, dimension = embeddings.shape
    flat = faiss.IndexFlatIP(dimension)
    flat.add(embeddings)
    if n_items <= flat_up_to:
        return Tuned(flat, "Flat", 1, 1.0, len(queries))
    if len(queries) == 0:
        queries = embeddings[np.random.default_rng(KMEANS_SEED).choice(n_items, min(n_items, 1000), replace=False)]
    lists = int(2 ** np.round(np.log2(4 * np.sqrt(n_items))))
    ivf = faiss.IndexIVFFlat(faiss.IndexFlatIP(dimension), dimension, lists, faiss.METRIC_INNER_PRODUCT)
    ivf.own_fields = True
    ivf.quantizer.this.disown()
    ivf.cp.seed = KMEANS_SEED
    ivf.train(embeddings)
    ivf.add(embeddings)
    depth = min(recall_at, n_items)
    _, exact = flat.search(queries, depth)
    nprobe, recall = 1, 0.0
    while True:
        ivf.nprobe = nprobe
        _, found = ivf.search(queries, depth)
        recall = recall_of(found, exact)
        if recall >= target or nprobe == lists:
            return Tuned(ivf, f"IVF{lists},Flat", nprobe, recall, len(queries))
        nprobe = min(2 * nprobe, lists)


def recall_of(found: Positions, exact: Positions) -> float:
    """Share of the exact positions (m, k) that were found (m, k), averaged over rows."""
    rows = np.arange(len(exact))[:, None]
    span = int(exact.max(initial=0)) + 1
    hits = np.isin(np.where(found >= 0, found, span) + rows * (span + 1), exact + rows * (span + 1))
    return float(hits.sum() / exact.size)


def write_index(index: Any, path: Path) -> None:
    """Write an index as Faiss stores it."""
    import faiss

    faiss.write_index(index, str(path))


class ItemIndex:
    """An index as retrieval uses it: fixed batches, best first, every row as deep as the catalogue allows.

    Parameters
    ----------
    index
        A Faiss index with inner product over the catalogue's positions.
    """

    def __init__(self, index: Any) -> None:
        self._index = index

    @classmethod
    def read(cls, path: Path, described: IndexFormat, catalogue_size: int, dimension: int) -> ItemIndex:
        """Load an index that has been summed, and see that it fits the bundle.

        Raises
        ------
        ArtifactError
            If Faiss cannot read it, or its size, dimension or metric is another.
        """
        import faiss

        try:
            index = faiss.read_index(str(path))
        except RuntimeError as error:
            raise ArtifactError(f"{path} cannot be read by Faiss ({error})", "build it again with `batchrec index`") from error
        if (index.ntotal, index.d) != (catalogue_size, dimension):
            raise ArtifactError(
                f"{path} holds {index.ntotal} vectors of dimension {index.d}, "
                f"the bundle's catalogue is {catalogue_size} items of dimension {dimension}",
                "build it again with `batchrec index`",
            )
        if index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise ArtifactError(f"{path} does not use the inner product", "build it again with `batchrec index`")
        if hasattr(index, "nprobe"):
            index.nprobe = described.nprobe
        return cls(index)

    def __call__(self, queries: Floats, depth: int) -> tuple[Floats, Positions]:
        """Find the best items of each query.

        Parameters
        ----------
        queries
            (m, d) float32.
        depth
            How many items a query.

        Returns
        -------
        scores
            (m, depth) float32, best first, -inf where there is no further item.
        positions
            (m, depth) int64, -1 where there is no further item.
        """
        depth_found = min(depth, self._index.ntotal)
        scores, positions = self._search(queries, depth_found)
        dry = np.flatnonzero((positions < 0).any(axis=1))
        if len(dry):
            scores[dry], positions[dry] = self._search_all_lists(queries[dry], depth_found)
        missing = ((0, 0), (0, depth - depth_found))
        return (
            np.pad(np.where(positions >= 0, scores, -np.inf), missing, constant_values=-np.inf).astype(np.float32),
            np.pad(positions, missing, constant_values=-1),
        )

    def _search(self, queries: Floats, depth: int, **options: Any) -> tuple[Floats, Positions]:
        scores = np.empty((len(queries), depth), np.float32)
        positions = np.empty((len(queries), depth), np.int64)
        for start in range(0, len(queries), SEARCH_BATCH):
            block = np.zeros((SEARCH_BATCH, queries.shape[1]), np.float32)
            here = queries[start : start + SEARCH_BATCH]
            block[: len(here)] = here
            found_scores, found = self._index.search(block, depth, **options)
            scores[start : start + len(here)] = found_scores[: len(here)]
            positions[start : start + len(here)] = found[: len(here)]
        return scores, positions

    def _search_all_lists(self, queries: Floats, depth: int) -> tuple[Floats, Positions]:
        """Search again the queries whose probed lists held fewer than ``depth`` items; only an IVF has such."""
        import faiss

        return self._search(queries, depth, params=faiss.SearchParametersIVF(nprobe=self._index.nlist))
