"""The project's ranker, computed with what depends on one side alone computed once.

A pair's first hidden layer is linear in vectors and dot products, so it is a sum of three shares: one of the user
alone, one of the item alone, and one of the dot products between a user's and an item's vectors. The first is computed
once a user, the second once an item, and only the third and the layers above it once a pair. The numbers are those of
the Keras model but for rounding (docs/decisions/007-ranking-algebra.md).

A user's own part comes of products of that user alone, and a pair's sums have one order, whatever pairs stand beside it
(:mod:`batchrec.models.registers`). So the last bit of a score depends on the user and the item, and on nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from array_api_compat import array_namespace, device

from batchrec.arrays import Array, gather
from batchrec.errors import ArtifactError
from batchrec.models.products import to_lanes
from batchrec.models.ranking_loops import columns_of, products_of, score
from batchrec.models.threads import one_thread_a_call, share_out

if TYPE_CHECKING:
    from batchrec.models.dlrm import Dlrm, Side

Floats = npt.NDArray[np.float32]
Inputs = Mapping[str, npt.NDArray[np.generic]]
ItemParts = Callable[["Side", Floats, Inputs], "Part"]

USERS_A_PIECE = 256
"""Users whose own part is computed at once; it takes some hundred calls of NumPy, however few they are."""

ITEMS_A_BLOCK = 1024
"""Items whose parts are computed at a time."""


@dataclass(frozen=True)
class Part:
    """What the ranker computes of n users, or of n items.

    Parameters
    ----------
    vectors
        (n, s, d): the vectors that take part in the interaction.
    embedding
        (n, d): the tower's embedding.
    share
        (n, h): share of the first layer's output, before its activation.
    rows
        Of items in host memory (n, s · d + h + d): vectors, share and embedding side by side, as they are looked up;
        those are views of it.
    """

    vectors: Array
    embedding: Array
    share: Array
    rows: Array = None


@dataclass(frozen=True)
class Prepared:
    """What the ranker computes before there is a user.

    Parameters
    ----------
    user
        The user's side.
    user_kernel
        Rows of the first layer's kernel that read the user alone.
    cross_kernel
        Those that read the dot products of an item's vectors with a user's, (item vectors · user vectors, h).
    bias
        Of the first layer, (h,).
    above
        Kernel and bias of each layer above the first.
    scale
        Factor on the dot product of both embeddings.
    items
        All items' parts.
    """

    user: Side
    user_kernel: Array
    cross_kernel: Array
    bias: Array
    above: tuple[tuple[Array, Array], ...]
    scale: np.float32
    items: Part


def item_parts(side: Side, kernel: Floats, items: Inputs) -> Part:
    """Compute all items' parts, in host memory and with all cores.

    Parameters
    ----------
    side
        The item's side.
    kernel
        Rows of the first layer's kernel that read the item alone.
    items
        Its item inputs, (N, …) each.

    Raises
    ------
    ArtifactError
        If a categorical input has a code outside the ranker's vocabulary.
    """
    one_thread_a_call()
    check_codes(side, items)
    starts = range(0, len(items[side.embedding]), ITEMS_A_BLOCK)
    n_items, dimension = items[side.embedding].shape
    n_vectors, h = len(side.places), kernel.shape[1]
    rows = np.empty((n_items, n_vectors * dimension + h + dimension), np.float32)
    vectors, share, embedding = np.split(rows, [n_vectors * dimension, n_vectors * dimension + h], axis=1)
    whole = Part(vectors.reshape(n_items, n_vectors, dimension), embedding, share, rows)

    def compute(start: int) -> None:
        block = slice(start, start + ITEMS_A_BLOCK)
        part = part_of(side, kernel, {name: items[name][block] for name in side.inputs})
        whole.vectors[block], whole.share[block], whole.embedding[block] = part.vectors, part.share, part.embedding

    share_out(compute, starts)
    return whole


def prepare(ranker: Dlrm, items: Inputs, item_parts: ItemParts = item_parts) -> Prepared:
    """Compute what depends on the ranker and its item inputs, (N, …) each, alone.

    Parameters
    ----------
    ranker
        The ranker, taken apart.
    items
        Its item inputs.
    item_parts
        Computes all items' parts; by default in host memory.
    """
    first, bias = ranker.top[0]
    dimension = ranker.user.norm[0].size
    n_bottom = (bool(ranker.user.dense) + bool(ranker.item.dense)) * dimension
    user_rows = slice(0, dimension if ranker.user.dense else 0)
    item_kernel = _own_rows(first, slice(user_rows.stop, n_bottom), n_bottom, ranker.item.places)
    crossed = [_dot_row(a, b) for a in ranker.item.places for b in ranker.user.places]
    return Prepared(
        user=ranker.user,
        user_kernel=_own_rows(first, user_rows, n_bottom, ranker.user.places),
        cross_kernel=np.ascontiguousarray(first[n_bottom:][crossed]),
        bias=bias,
        above=ranker.top[1:],
        scale=ranker.retrieval_scale,
        items=item_parts(ranker.item, item_kernel, items),
    )


class RankingAlgebra:
    """The project's ranker over any users and their candidates.

    Parameters
    ----------
    prepared
        What does not depend on users.
    """

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared
        self._kernels, self._layers = _layers(prepared)

    def __call__(self, users: Inputs, positions: npt.NDArray[np.int64]) -> Floats:
        """Score every candidate of every user.

        Parameters
        ----------
        users
            The ranker's user inputs, (n, …) each.
        positions
            Candidates' item positions (n, K) below N, -1 where there is none.

        Returns
        -------
        (n, K) float32
            Relevance, -inf where the position is -1.

        Raises
        ------
        ArtifactError
            If a categorical input has a code outside the ranker's vocabulary.
        """
        n_users, width = positions.shape
        relevance = np.empty((n_users, width), np.float32)
        if not width:
            return relevance
        check_codes(self._prepared.user, users)
        # Users whose highest candidate is the same share many (minwise hashing: Broder 1997), which stay in the cache.
        order = np.argsort(positions.max(axis=1), kind="stable")

        def compute(start: int) -> None:
            rows = order[start : start + USERS_A_PIECE]
            part = user_part(self._prepared, {name: users[name][rows] for name in self._prepared.user.inputs})
            relevance[rows] = self._scores(part, positions[rows])

        share_out(compute, range(0, n_users, USERS_A_PIECE))
        return relevance

    def _scores(self, users: Part, positions: npt.NDArray[np.int64]) -> Floats:
        """Score n users' candidates (n, K)."""
        n_users, n_vectors, dimension = users.vectors.shape
        columns = np.zeros((n_users, dimension, columns_of(n_vectors)), np.float32)
        columns[:, :, :n_vectors] = users.vectors.transpose(0, 2, 1)
        scores = np.empty(positions.shape, np.float32)
        items, scale = self._prepared.items.rows, self._prepared.scale
        score(columns, users.share, users.embedding, positions, items, self._kernels, self._layers, scale, scores)
        return scores


def _layers(prepared: Prepared) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Return biases and kernels of all layers, and where they lie, as :func:`~.ranking_loops.score` takes them."""
    n_item = prepared.items.vectors.shape[1]
    n_user, h = len(prepared.cross_kernel) // n_item, prepared.cross_kernel.shape[1]
    cross = np.zeros((n_item, products_of(n_user), h), np.float32)
    cross[:, :n_user] = prepared.cross_kernel.reshape(n_item, n_user, h)
    parts: list[Floats] = []
    layers, end = [], 0
    for kernel, bias in [(cross.reshape(-1, h), np.zeros(h, np.float32)), *prepared.above]:
        depth, width = len(kernel), to_lanes(len(bias))
        # Columns that there are not are 0, and so is what they give to the next layer, which does not read it.
        parts += [np.pad(both, (*[(0, 0)] * (both.ndim - 1), (0, width - len(bias)))) for both in (bias, kernel)]
        layers.append((end, end + width, depth, width))
        end += (1 + depth) * width
    return np.concatenate([part.reshape(-1) for part in parts]), np.array(layers, np.int64)


def _own_rows(first: Floats, bottom: slice, n_bottom: int, places: tuple[int, ...]) -> Floats:
    """Rows of the first layer's kernel that read one side alone: its bottom MLP, then its own dot products."""
    own = [_dot_row(places[i], places[j]) for i in range(len(places)) for j in range(i)]
    return np.concatenate([first[bottom], first[n_bottom:][own]])


def _dot_row(i: int, j: int) -> int:
    """Place of the dot product of vectors i and j among those of all vectors, (1, 0), (2, 0), (2, 1) and so on."""
    high, low = max(i, j), min(i, j)
    return high * (high - 1) // 2 + low


def user_part(prepared: Prepared, inputs: Mapping[str, Array]) -> Part:
    """Compute n users' part, its share with the first layer's bias; any array library's arrays, of checked codes."""
    part = part_of(prepared.user, prepared.user_kernel, inputs)
    return Part(part.vectors, part.embedding, part.share + prepared.bias)


def part_of(side: Side, kernel: Array, inputs: Mapping[str, Array]) -> Part:
    """Compute one side of n rows, each row by itself; any array library's arrays, of checked codes."""
    xp = array_namespace(kernel)
    embedding = xp.astype(inputs[side.embedding], xp.float32, copy=False)
    parts = [gather(table, inputs[name]) for name, table in side.tables.items()]
    if side.dense:
        parts.append(_bottom(side, inputs))
    parts.append(_normalised(embedding, side))
    vectors = xp.stack(parts, axis=1)
    dots = xp.matmul(vectors, xp.permute_dims(vectors, (0, 2, 1)))
    below = [i * len(parts) + j for i in range(len(parts)) for j in range(i)]
    places = xp.asarray(below, dtype=xp.int64, device=device(kernel))
    reads = xp.take(xp.reshape(dots, (dots.shape[0], len(parts) ** 2)), places, axis=1)
    if side.dense:
        reads = xp.concat([parts[-2], reads], axis=1)
    return Part(vectors, embedding, _times(reads, kernel))


def check_codes(side: Side, inputs: Mapping[str, Array]) -> None:
    """See that codes, (n,) each, lie within the embeddings that are to be looked up.

    Raises
    ------
    ArtifactError
        If a categorical input has a code outside the ranker's vocabulary.
    """
    for name, table in side.tables.items():
        codes, entries = inputs[name], table.shape[0]
        xp = array_namespace(codes)
        if codes.size and xp.any((codes < 0) | (codes >= entries)):
            raise ArtifactError(
                f"the ranker's input {name!r} has codes up to {int(xp.max(codes))}, its embedding {entries} entries",
                "give bundle.json the vocabulary that the model was trained with",
            )


def _bottom(side: Side, inputs: Mapping[str, Array]) -> Array:
    kernel, bias, last_kernel, last_bias = side.bottom
    xp = array_namespace(kernel)
    values = xp.stack([xp.astype(inputs[name], xp.float32, copy=False) for name in side.dense], axis=1)
    return _times(xp.maximum(_times(values, kernel) + bias, 0), last_kernel) + last_bias


def _normalised(embedding: Array, side: Side) -> Array:
    xp = array_namespace(embedding)
    scale, offset = side.norm
    centred = embedding - xp.mean(embedding, axis=1, keepdims=True)
    variance = xp.mean(xp.square(centred), axis=1, keepdims=True)
    return centred / xp.sqrt(variance + side.epsilon) * scale + offset


def _times(rows: Array, kernel: Array) -> Array:
    """Multiply each row (n, a) by itself with a kernel (a, h): the same bits whatever the other rows."""
    return array_namespace(rows).matmul(rows[:, None, :], kernel)[:, 0, :]
