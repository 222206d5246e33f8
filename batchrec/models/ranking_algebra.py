"""The project's ranker, computed with what depends on one side alone computed once.

A pair's first hidden layer is linear in vectors and dot products, so it is a sum of three shares: one of the user
alone, one of the item alone, and one of the dot products between a user's and an item's vectors. The first is computed
once a user, the second once an item, and only the third and the layers above it once a pair. The numbers are those of
the Keras model but for rounding (docs/decisions/007-ranking-algebra.md).

Every matrix product is one of a single user with that user's candidates, or of a single user or item alone, and runs in
one thread. So the last bit of a score depends on the user, the item, and the number and order of the candidates, and on
nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from array_api_compat import array_namespace, device

from batchrec.arrays import MISSING, Array, gather, pad_columns
from batchrec.errors import ArtifactError
from batchrec.models.compiled import compiled, compiled_sums
from batchrec.models.threads import one_thread_a_call, share_out

if TYPE_CHECKING:
    from batchrec.models.compiled import Number
    from batchrec.models.dlrm import Dlrm, Side

Floats = npt.NDArray[np.float32]
Inputs = Mapping[str, npt.NDArray[np.generic]]

PAIRS_A_BLOCK = 2048
"""Pairs in work at a time in one thread, about; what a block needs stays in a core's own cache."""

ACTIVATED, OUTPUT = np.float32(0), np.float32(-np.inf)
"""Below which what a layer gives is cut off: a ReLU's zero, and nothing."""

USERS_A_PIECE = 256
"""Users whose own part is computed at once; it takes some hundred calls of NumPy, however few they are."""

SMALL_PRODUCT = 100**3
"""Multiply-adds of a small matrix product: OpenBLAS computes those of one without copying its operands first."""

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
    """

    vectors: Array
    embedding: Array
    share: Array


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


def prepare(ranker: Dlrm, items: Inputs) -> Prepared:
    """Compute what depends on the ranker and its item inputs, (N, …) each, alone; on the host, with all cores."""
    one_thread_a_call()
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
        items=_item_parts(ranker.item, item_kernel, items),
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

    def __call__(self, users: Inputs, positions: npt.NDArray[np.int64]) -> Floats:
        """Score every candidate of every user.

        Parameters
        ----------
        users
            The ranker's user inputs, (n, …) each.
        positions
            Candidates' item positions (n, K), -1 where there is none.

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
        groups = _Groups.of(self._prepared, width)
        # Users whose highest candidate is the same share many (minwise hashing: Broder 1997), which stay in the cache.
        order = np.argsort(positions.max(axis=1), kind="stable")

        def score(start: int) -> None:
            rows = order[start : start + USERS_A_PIECE]
            part = user_part(self._prepared, {name: users[name][rows] for name in self._prepared.user.inputs})
            relevance[rows] = self._scores(part, positions[rows], groups)

        share_out(score, range(0, n_users, USERS_A_PIECE))
        return relevance

    def _scores(self, users: Part, positions: npt.NDArray[np.int64], groups: _Groups) -> Floats:
        """Score n users' candidates (n, K), block by block."""
        n_users, width = positions.shape
        grouped = groups.cut(positions)
        owners = np.repeat(np.arange(n_users), len(grouped) // n_users)
        # A copy with the user's vectors as columns: BLAS takes twice as long over the transpose.
        columns = np.ascontiguousarray(users.vectors.transpose(0, 2, 1))
        scores = np.empty(grouped.shape, np.float32)
        step = max(1, PAIRS_A_BLOCK // groups.size)
        for start in range(0, len(grouped), step):
            rows = slice(start, start + step)
            self._score(users, columns, owners[rows], grouped[rows], scores[rows])
        return scores.reshape(n_users, -1)[:, :width]

    def _score(
        self,
        users: Part,
        columns: Floats,
        owners: npt.NDArray[np.int64],
        positions: npt.NDArray[np.int64],
        scores: Floats,
    ) -> None:
        """Score b groups of candidates (b, g), each of the user whose row `owners` (b,) gives."""
        b, size = positions.shape
        items, above = self._prepared.items, self._prepared.above
        _, n_item, dimension = items.vectors.shape
        vectors = np.empty((b, size * n_item, dimension), np.float32)
        _look_up(items.vectors, positions, vectors)
        dots = np.matmul(vectors, columns[owners]).reshape(b, size, -1)
        hidden = np.matmul(dots, self._prepared.cross_kernel)
        _add_shares(hidden, items.share, positions, users.share, owners, ACTIVATED if above else OUTPUT)
        for number, (kernel, bias) in enumerate(above, start=1):
            hidden = np.matmul(hidden, kernel)
            _add_bias(hidden, bias, ACTIVATED if number < len(above) else OUTPUT)
        _add_retrieval(hidden, items.embedding, positions, users.embedding, owners, self._prepared.scale, scores)


@dataclass(frozen=True)
class _Groups:
    """How each user's candidates are cut, so that all products of one group are small.

    Parameters
    ----------
    size
        Candidates a group, g.
    """

    size: int

    @classmethod
    def of(cls, prepared: Prepared, width: int) -> _Groups:
        """Cut `width` candidates into the fewest groups, as equal as can be."""
        dimension = prepared.items.vectors.shape[-1]
        kernels = [prepared.cross_kernel, *(kernel for kernel, _ in prepared.above)]
        largest = max(len(prepared.cross_kernel) * dimension, *(kernel.size for kernel in kernels))
        most = max(1, SMALL_PRODUCT // largest)
        return cls(-(-width // -(-width // most)))

    def cut(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Cut n users' candidates (n, K) into groups (groups of all users, g), the last of a user filled up with -1."""
        whole = -(-positions.shape[1] // self.size) * self.size
        cut: npt.NDArray[np.int64] = pad_columns(positions, whole, MISSING).reshape(-1, self.size)
        return cut


@compiled
def _look_up(table: Floats, positions: npt.NDArray[np.int64], rows: Floats) -> None:
    """Put the rows of a table (N, s, d) at positions (b, g) into (b, g · s, d); where there is none, the first row."""
    n, vectors, dimension = table.shape
    for i in range(positions.shape[0]):
        for k in range(positions.shape[1]):
            item = min(max(positions[i, k], 0), n - 1)
            for v in range(vectors):
                for j in range(dimension):
                    rows[i, k * vectors + v, j] = table[item, v, j]


@compiled
def _add_shares(
    hidden: Floats,
    items: Floats,
    positions: npt.NDArray[np.int64],
    users: Floats,
    owners: npt.NDArray[np.int64],
    lowest: Number,
) -> None:
    """Add to each pair's share (b, g, h) those of its item (N, h) and of its user (n, h); none falls below `lowest`."""
    for i in range(hidden.shape[0]):
        user = users[owners[i]]
        for k in range(hidden.shape[1]):
            item, pair = items[min(max(positions[i, k], 0), len(items) - 1)], hidden[i, k]
            for j in range(len(pair)):
                whole = pair[j] + item[j] + user[j]
                pair[j] = lowest if whole < lowest else whole


@compiled
def _add_bias(hidden: Floats, bias: Floats, lowest: Number) -> None:
    """Add a bias (h,) to what each pair has (b, g, h); none falls below `lowest`."""
    for i in range(hidden.shape[0]):
        for k in range(hidden.shape[1]):
            pair = hidden[i, k]
            for j in range(len(bias)):
                whole = pair[j] + bias[j]
                pair[j] = lowest if whole < lowest else whole


@compiled_sums
def _add_retrieval(
    hidden: Floats,
    items: Floats,
    positions: npt.NDArray[np.int64],
    users: Floats,
    owners: npt.NDArray[np.int64],
    scale: Number,
    scores: Floats,
) -> None:
    """Add to each pair's one number (b, g, 1) the scaled product of both embeddings; -inf where there is no item."""
    for i in range(scores.shape[0]):
        user = users[owners[i]]
        for k in range(scores.shape[1]):
            if positions[i, k] < 0:
                scores[i, k] = -np.inf
                continue
            item, product = items[min(positions[i, k], len(items) - 1)], np.float32(0)
            for j in range(len(user)):
                product += item[j] * user[j]
            scores[i, k] = hidden[i, k, 0] + product * scale


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
    part = _part(prepared.user, prepared.user_kernel, inputs)
    return Part(part.vectors, part.embedding, part.share + prepared.bias)


def _part(side: Side, kernel: Array, inputs: Mapping[str, Array]) -> Part:
    """Compute one side of n rows, each row by itself."""
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


def _item_parts(side: Side, kernel: Floats, items: Inputs) -> Part:
    check_codes(side, items)
    starts = range(0, len(items[side.embedding]), ITEMS_A_BLOCK)
    n_items, dimension = items[side.embedding].shape
    whole = Part(
        np.empty((n_items, len(side.places), dimension), np.float32),
        np.ascontiguousarray(items[side.embedding], np.float32),
        np.empty((n_items, kernel.shape[1]), np.float32),
    )

    def compute(start: int) -> None:
        rows = slice(start, start + ITEMS_A_BLOCK)
        part = _part(side, kernel, {name: items[name][rows] for name in side.inputs})
        whole.vectors[rows], whole.share[rows] = part.vectors, part.share

    share_out(compute, starts)
    return whole
