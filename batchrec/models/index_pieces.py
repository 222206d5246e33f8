"""A Faiss index as GPUs hold it: whole or cut into pieces by item position, its vectors in float32 or float16."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from batchrec.errors import ArtifactError
from batchrec.models.list_search import list_of

if TYPE_CHECKING:
    from collections.abc import Callable

Storage = Literal["fp32", "fp16"]


@dataclass(frozen=True)
class Placement:
    """How the GPUs of a process hold an index.

    Parameters
    ----------
    place
        Copies a Faiss index in host memory to the GPU of a number, from 0.
    wait
        Waits until all of them have done what they were given.
    storage
        What vectors are stored in there; `place` sees to it for flat indexes.
    gpus
        How many GPUs share the index, each with the items of one range of positions.
    """

    place: Callable[[Any, int], Any]
    wait: Callable[[], None]
    storage: Storage = "fp32"
    gpus: int = 1


@dataclass(frozen=True)
class Piece:
    """A range of items.

    Parameters
    ----------
    index
        Their Faiss index.
    first
        What is added to the numbers that it finds, to have positions.
    """

    index: Any
    first: int


def placed(index: Any, placement: Placement) -> list[Piece]:
    """Copy a flat or IVF index to the GPUs.

    Raises
    ------
    ArtifactError
        If it must be cut or stored otherwise, and is an IVF whose vectors are compressed already.
    """
    import faiss

    is_flat, gpus, total = isinstance(index, faiss.IndexFlat), placement.gpus, index.ntotal
    if gpus == 1 and (is_flat or placement.storage == "fp32"):
        return [Piece(placement.place(index, 0), 0)]
    bounds = [total * number // gpus for number in range(gpus + 1)]
    pieces = []
    for number in range(gpus):
        first, end = bounds[number], bounds[number + 1]
        piece = _flat_piece(index, first, end) if is_flat else _ivf_piece(index, first, end, placement.storage)
        pieces.append(Piece(placement.place(piece, number), first if is_flat else 0))
    return pieces


def _flat_piece(index: Any, first: int, end: int) -> Any:
    import faiss

    piece = faiss.IndexFlatIP(index.d)
    piece.add(index.reconstruct_n(first, end - first))
    return piece


def _ivf_piece(ivf: Any, first: int, end: int, storage: Storage) -> Any:
    """Return an IVF of the same lists that holds the positions `first` to `end` - 1 alone, by their own numbers.

    So the same lists are probed in every piece, and all pieces together find what the whole would find.
    """
    import faiss

    if not isinstance(ivf, faiss.IndexIVFFlat):
        raise ArtifactError(
            f"the index is a Faiss {type(ivf).__name__}, expected IndexFlat or IndexIVFFlat for --index-gpus and "
            "--index-storage",
            "build it again with `batchrec index`, or leave these two out",
        )
    piece = _empty_like(ivf, storage)
    for number in range(ivf.nlist):
        _copy_list(ivf, piece, number, range(first, end), np.float16 if storage == "fp16" else np.float32)
    piece.ntotal = end - first
    return piece


def _empty_like(ivf: Any, storage: Storage) -> Any:
    import faiss

    metric, lists = faiss.METRIC_INNER_PRODUCT, (faiss.clone_index(ivf.quantizer), ivf.d, ivf.nlist)
    by_residual = False
    piece: Any = (
        faiss.IndexIVFFlat(*lists, metric)
        if storage == "fp32"
        else faiss.IndexIVFScalarQuantizer(*lists, faiss.ScalarQuantizer.QT_fp16, metric, by_residual)
    )
    piece.is_trained = True  # the lists' centres are the whole's, and float16 has nothing to learn
    return piece


def _copy_list(ivf: Any, piece: Any, number: int, positions: range, dtype: type[np.floating[Any]]) -> None:
    import faiss

    vectors, ids = list_of(ivf.invlists, number, ivf.d)
    kept = (ids >= positions.start) & (ids < positions.stop)
    stored, chosen = vectors[kept].astype(dtype), ids[kept]
    if len(chosen):
        piece.invlists.add_entries(number, len(chosen), faiss.swig_ptr(chosen), faiss.swig_ptr(stored.view(np.uint8)))
