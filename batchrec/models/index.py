"""The Faiss index over item embeddings: building, tuning on real queries, searching.

Small catalogues get a flat index, which is exact. Larger ones get an inverted file (IVF: Jégou, Douze & Schmid 2011,
doi:10.1109/TPAMI.2010.57) over the uncompressed vectors, searched in as many lists as it takes to find what exact
search finds.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from batchrec.errors import ArtifactError
from batchrec.models.exact_search import ExactSearch
from batchrec.models.hits import best_first
from batchrec.models.list_search import ListSearch
from batchrec.models.probes import Probes
from batchrec.models.threads import cores, one_thread_a_call, share_out

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt

    from batchrec.models.bundle_format import IndexFormat

    Floats = npt.NDArray[np.float32]
    Positions = npt.NDArray[np.int64]
    _Search = Callable[[Floats, int], tuple[Floats, Positions]]

FLAT_UP_TO = 30_000
"""Catalogue size up to which exact search is used: below it an IVF that finds nearly as much saves little
(docs/decisions/017-search-by-list.md)."""

KMEANS_SEED = 1234

VECTORS_A_LIST = 39
"""Fewest training vectors a centroid that Faiss asks for."""

MOST_VECTORS_A_LIST = 64
"""Training vectors a centroid, of those there are, that k-means looks at."""

QUERIES_A_BLOCK = 2048
"""Most queries that one thread searches at a time: the more there are, the more of them share a list."""

DEPTHS_MEASURED = (1, 1.5, 2, 3, 4, 6, 8)
"""Depths that the lists to probe are measured for, in units of ``recall_at``: those at which retrieval searches."""

STAND_INS = 1000
"""Item embeddings that stand in for queries where there are none."""

_EXACT = Probes()

_REMEDY = "build it again with `batchrec index`"


@dataclass(frozen=True)
class Tuned:
    """An index with the number of lists to probe, and what this was measured to find.

    Parameters
    ----------
    index
        The Faiss index.
    kind
        ``Flat``, or ``IVF512,Flat`` with 512 lists, as Faiss's index factory writes it.
    nprobe
        Lists to probe for the top ``recall_at``.
    recall
        Share of the exact top ``recall_at`` found so, on average.
    recall_at
        Depth of the measurement; at most the size of the catalogue.
    queries
        Real queries measured on; 0 where there were none and item embeddings stood in.
    deeper
        Lists to probe for 1.5, 2, 3, 4, 6 and 8 times ``recall_at``; empty for ``Flat``.
    """

    index: Any
    kind: str
    nprobe: int
    recall: float
    recall_at: int
    queries: int
    deeper: dict[int, int] = field(default_factory=dict)

    @property
    def probes(self) -> Probes:
        """Lists to probe by the depth of a search."""
        return Probes(self.nprobe, self.recall_at, self.deeper)


def build_index(
    embeddings: Floats, queries: Floats, recall_at: int, target: float, flat_up_to: int = FLAT_UP_TO
) -> Tuned:
    """Build an index over (N, d) embeddings and tune it on (m, d) queries.

    ``nprobe`` is the least for which, on average over the queries, at least ``target`` of the exact top ``recall_at``
    is found; at worst every list is probed, which is exact. The same is measured for greater depths. Without queries,
    embeddings of items stand in. The same embeddings give the same index on one kind of processor, with any number of
    threads.
    """
    _multiply_one_by_one()
    depth = min(recall_at, len(embeddings))
    if len(embeddings) <= flat_up_to:
        return Tuned(_flat(embeddings), "Flat", 1, 1.0, depth, len(queries))
    ivf = _inverted_file(embeddings)
    asked = queries if len(queries) else _stand_ins(embeddings)
    depths = sorted({min(math.ceil(depth * times), len(embeddings)) for times in DEPTHS_MEASURED})
    _, exact = ExactSearch(embeddings)(asked, depths[-1])
    by_list = ListSearch.of(ivf)
    tuned = {at: _fewest_lists(by_list, asked, exact[:, :at], target) for at in depths}
    nprobe, recall = tuned.pop(depth)
    deeper = {at: lists for at, (lists, _) in tuned.items()}
    return Tuned(ivf, f"IVF{ivf.nlist},Flat", nprobe, recall, depth, len(queries), deeper)


def _fewest_lists(search: ListSearch, queries: Floats, exact: Positions, target: float) -> tuple[int, float]:
    """Return the fewest lists that find the share ``target`` of what is exact, (m, k), and the share they find."""

    def recall(nprobe: int) -> float:
        return recall_of(search(queries, exact.shape[1], nprobe)[1], exact)

    nprobe = 1 + bisect_left(range(1, search.lists), target, key=recall)
    return nprobe, recall(nprobe)


def recall_of(found: Positions, exact: Positions) -> float:
    """Share of the exact positions (m, k) that were found (m, k), averaged over rows; 1 where there are none.

    Rows hold distinct positions; -1 in ``found`` stands for nothing found.
    """
    if exact.size == 0:
        return 1.0
    rows = np.arange(len(exact))[:, None]
    span = int(exact.max()) + 1
    known = np.where((found >= 0) & (found < span), found, span)
    hits = np.isin(known + rows * (span + 1), exact + rows * (span + 1))
    return float(hits.sum() / exact.size)


def write_index(index: Any, path: Path) -> None:
    """Write an index as Faiss stores it."""
    import faiss

    faiss.write_index(index, str(path))


def read_index(path: Path, catalogue_size: int, dimension: int) -> Any:
    """Load a Faiss index that has been summed, and see that it fits the bundle.

    Raises
    ------
    ArtifactError
        If Faiss cannot read it, or its kind, size, dimension, metric or positions are others.
    """
    import faiss

    try:
        index = faiss.read_index(str(path))
    except (RuntimeError, MemoryError) as error:
        raise ArtifactError(f"{path} cannot be read by Faiss ({_last_line(error)})", _REMEDY) from error
    if not isinstance(index, faiss.IndexFlat | faiss.IndexIVF):
        raise ArtifactError(f"{path} is a Faiss {type(index).__name__}, expected a flat or an IVF index", _REMEDY)
    if (index.ntotal, index.d) != (catalogue_size, dimension):
        raise ArtifactError(
            f"{path} holds {index.ntotal} vectors of dimension {index.d}, "
            f"the bundle's catalogue is {catalogue_size} items of dimension {dimension}",
            _REMEDY,
        )
    if index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise ArtifactError(f"{path} does not use the inner product", _REMEDY)
    if isinstance(index, faiss.IndexIVF) and not _lists_positions(index):
        raise ArtifactError(f"{path} does not hold each item position from 0 to {catalogue_size - 1} once", _REMEDY)
    return index


class ItemIndex:
    """An index as retrieval uses it: every row best first, and as deep as the catalogue allows.

    A row of the result depends on its query and the depth alone, to the last bit: not on the other queries, nor on the
    number of threads. Searches may run in several threads at once.

    Parameters
    ----------
    index
        A flat or IVF Faiss index with inner product, over the catalogue's positions.
    probes
        Lists of an IVF to probe.
    """

    def __init__(self, index: Any, probes: Probes = _EXACT) -> None:
        one_thread_a_call()
        self._lists, self._probes = getattr(index, "nlist", 0), probes
        if not self._lists:
            self._search: _Search = _exactly(index)
        elif ListSearch.can_search(index):
            self._search = self._completed(ListSearch.of(index))
        else:
            self._search = self._completed(_FaissLists(index))

    @classmethod
    def read(cls, path: Path, described: IndexFormat, catalogue_size: int, dimension: int) -> ItemIndex:
        """Load an index as :func:`read_index` does."""
        return cls(read_index(path, catalogue_size, dimension), described.probes)

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
            (m, depth) float32, best first, equal ones by position, -inf where there is no further item.
        positions
            (m, depth) int64, -1 where there is no further item.
        """
        if len(queries) == 0 or depth == 0:
            return np.zeros((len(queries), depth), np.float32), np.zeros((len(queries), depth), np.int64)
        queries = np.ascontiguousarray(queries, np.float32)
        rounds = -(-len(queries) // (cores() * QUERIES_A_BLOCK))
        size = -(-len(queries) // (cores() * rounds))
        blocks = [queries[start : start + size] for start in range(0, len(queries), size)]
        scores, positions = zip(*share_out(lambda block: self._search_block(block, depth), blocks), strict=True)
        return np.concatenate(scores), np.concatenate(positions)

    def _search_block(self, queries: Floats, depth: int) -> tuple[Floats, Positions]:
        import faiss

        faiss.omp_set_num_threads(1)  # of this thread of the pool
        return self._search(queries, depth)

    def _completed(self, probe: Callable[[Floats, int, int], tuple[Floats, Positions]]) -> _Search:
        """Search lists; queries whose lists held fewer than ``depth`` items go on with twice as many lists."""

        def search(queries: Floats, depth: int) -> tuple[Floats, Positions]:
            nprobe = min(self._lists, self._probes.at(depth))
            scores, positions = probe(queries, depth, nprobe)
            while nprobe < self._lists and len(dry := np.flatnonzero(positions[:, -1] < 0)):
                nprobe = min(2 * nprobe, self._lists)
                scores[dry], positions[dry] = probe(queries[dry], depth, nprobe)
            return scores, positions

        return search


class _FaissLists:
    """An IVF of any kind, searched by Faiss one product at a time."""

    def __init__(self, index: Any) -> None:
        self._index = index

    def __call__(self, queries: Floats, depth: int, nprobe: int) -> tuple[Floats, Positions]:
        _multiply_one_by_one()
        scores, positions = _probe(self._index, queries, depth, nprobe)
        return best_first(scores, positions, depth)


def _exactly(index: Any) -> ExactSearch:
    import faiss

    return ExactSearch(faiss.rev_swig_ptr(index.get_xb(), index.ntotal * index.d).reshape(index.ntotal, index.d).copy())


def _multiply_one_by_one() -> None:
    """Keep Faiss from multiplying many queries by BLAS, which gives other last bits at another place of the batch.

    The setting is the process's own: whoever searches on the pool sets it as the index needs it, of which there is one.
    """
    import faiss

    faiss.cvar.distance_compute_blas_threshold = np.iinfo(np.int32).max


def _flat(embeddings: Floats) -> Any:
    import faiss

    flat = faiss.IndexFlatIP(embeddings.shape[1])
    flat.add(embeddings)
    return flat


def _inverted_file(embeddings: Floats) -> Any:
    import faiss

    n_items, dimension = embeddings.shape
    lists = min(int(2 ** np.round(np.log2(8 * np.sqrt(n_items)))), max(1, n_items // VECTORS_A_LIST))
    ivf = faiss.IndexIVFFlat(faiss.IndexFlatIP(dimension), dimension, lists, faiss.METRIC_INNER_PRODUCT)
    ivf.cp.seed = KMEANS_SEED
    ivf.cp.max_points_per_centroid = MOST_VECTORS_A_LIST
    ivf.cp.min_points_per_centroid = 1  # tiny catalogues have one list: nothing to warn of
    ivf.train(embeddings)
    ivf.add(embeddings)
    return ivf


def _stand_ins(embeddings: Floats) -> Floats:
    chosen = np.random.default_rng(KMEANS_SEED).choice(len(embeddings), min(len(embeddings), STAND_INS), replace=False)
    return embeddings[chosen]


def _probe(ivf: Any, queries: Floats, depth: int, nprobe: int) -> tuple[Floats, Positions]:
    import faiss

    parameters = faiss.SearchParametersIVF()  # not `ivf.nprobe`, which all threads would share
    parameters.nprobe = nprobe
    found: tuple[Floats, Positions] = ivf.search(queries, depth, params=parameters)
    return found


def _lists_positions(ivf: Any) -> bool:
    """Tell whether the lists, held in memory, name each position once: foreign ids would be read as positions."""
    import faiss

    if not isinstance(faiss.downcast_InvertedLists(ivf.invlists), faiss.ArrayInvertedLists):
        return False
    sizes = [ivf.invlists.list_size(number) for number in range(ivf.nlist)]
    ids = [faiss.rev_swig_ptr(ivf.invlists.get_ids(number), size).copy() for number, size in enumerate(sizes) if size]
    return sum(sizes) == ivf.ntotal and np.array_equal(np.sort(np.concatenate(ids)), np.arange(ivf.ntotal))


def _last_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]
