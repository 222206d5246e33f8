"""The project's ranker by parts, on a device that computes many users at once."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from array_api_compat import array_namespace, device

from batchrec.arrays import gather, whole_batches
from batchrec.models.precision import to_bfloat16
from batchrec.models.ranking_algebra import Part, Prepared, check_codes, part_of, prepare, user_part

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    import numpy.typing as npt

    from batchrec.arrays import Array
    from batchrec.models.dlrm import Dlrm, Side
    from batchrec.models.precision import Precision

    Inputs = Mapping[str, npt.NDArray[np.generic]]
    Put = Callable[[npt.NDArray[np.generic]], Array]

PAIRS_A_BLOCK = 1 << 19
"""Pairs in work at a time, about: so many that a GPU does not wait for Python between two operations. Their vectors
take some 800 MB of its memory."""

ITEMS_A_BLOCK = 1 << 16
"""Items whose parts are computed at a time."""


class DeviceRanking:
    """The project's ranker over any users and their candidates.

    The same sums as :class:`~batchrec.models.ranking_algebra.RankingAlgebra`, in blocks of a size that does not depend
    on the partition.

    Parameters
    ----------
    ranker
        The ranker, taken apart.
    items
        Its item inputs, (N, …) each, in host memory. What depends on items alone is computed on the device and never
        lies in host memory, where it would take several times as much as they do.
    put
        Copies an array of NumPy to the device.
    precision
        Of the products of the layers. In bf16 their operands are rounded to bfloat16 and multiplied in TensorFloat-32,
        which is that of the device's library, as `tf32` is.

    Raises
    ------
    ArtifactError
        If a categorical item input has a code outside the ranker's vocabulary.
    """

    def __init__(self, ranker: Dlrm, items: Inputs, put: Put, precision: Precision = "fp32") -> None:
        self._operand = to_bfloat16 if precision == "bf16" else _as_it_is
        moved = _moved(prepare(ranker, items, partial(_item_parts, put)), put)
        self._prepared = replace(
            moved,
            cross_kernel=self._operand(moved.cross_kernel),
            above=tuple((self._operand(kernel), bias) for kernel, bias in moved.above),
        )

    @property
    def item_embeddings(self) -> Array:
        """The items' embeddings (N, d) float32, on the device."""
        return self._prepared.items.embedding

    def __call__(self, users: Mapping[str, Array], positions: Array) -> Array:
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
        xp = array_namespace(positions)
        n_users, width = positions.shape
        if n_users == 0 or width == 0:
            return xp.zeros((n_users, width), dtype=xp.float32, device=device(positions))
        check_codes(self._prepared.user, users)
        step = max(1, PAIRS_A_BLOCK // width)
        blocks = []
        for rows in whole_batches(n_users, step, positions):
            part = user_part(self._prepared, {name: gather(users[name], rows) for name in self._prepared.user.inputs})
            blocks.append(self._pairs(part, xp.maximum(gather(positions, rows), 0)))
        return xp.where(positions < 0, -math.inf, xp.concat(blocks)[:n_users, :])

    def _pairs(self, users: Part, positions: Array) -> Array:
        """Score b users' candidates (b, K)."""
        xp = array_namespace(positions)
        items = self._prepared.items
        b, width = positions.shape
        _, n_item, dimension = items.vectors.shape
        vectors = xp.reshape(gather(items.vectors, positions), (b, width * n_item, dimension))
        dots = xp.matmul(vectors, xp.permute_dims(users.vectors, (0, 2, 1)))
        # One row a pair: CuPy multiplies (b, K, h) with a kernel user by user, and so never in TensorFloat-32.
        hidden = xp.matmul(self._operand(xp.reshape(dots, (b * width, -1))), self._prepared.cross_kernel)
        hidden = xp.reshape(hidden, (b, width, -1)) + gather(items.share, positions) + users.share[:, None, :]
        hidden = xp.reshape(hidden, (b * width, -1))
        for kernel, bias in self._prepared.above:
            hidden = xp.matmul(self._operand(xp.maximum(hidden, 0)), kernel) + bias
        retrieval = xp.matmul(gather(items.embedding, positions), users.embedding[:, :, None])
        return xp.reshape(hidden, (b, width)) + retrieval[:, :, 0] * float(self._prepared.scale)


def _as_it_is(x: Array) -> Array:
    return x


def _item_parts(put: Put, side: Side, kernel: npt.NDArray[np.float32], items: Inputs) -> Part:
    """Compute all items' parts on the device, block by block; the rest as in :func:`~.ranking_algebra.item_parts`."""
    check_codes(side, items)
    there, kernel = _moved_side(side, put), put(kernel)
    n_items = len(items[side.embedding])
    whole: Part | None = None
    for start in range(0, n_items, ITEMS_A_BLOCK):
        block = slice(start, min(start + ITEMS_A_BLOCK, n_items))
        part = part_of(there, kernel, {name: put(items[name][block]) for name in side.inputs})
        if whole is None:
            whole = Part(*(_empty(n_items, one) for one in (part.vectors, part.embedding, part.share)))
        whole.vectors[block, ...] = part.vectors
        whole.embedding[block, ...] = part.embedding
        whole.share[block, ...] = part.share
    assert whole is not None, "a catalogue has items"  # noqa: S101 - narrows the type
    return whole


def _empty(rows: int, like: Array) -> Array:
    xp = array_namespace(like)
    return xp.empty((rows, *like.shape[1:]), dtype=like.dtype, device=device(like))


def _moved(prepared: Prepared, put: Put) -> Prepared:
    return replace(
        prepared,
        user=_moved_side(prepared.user, put),
        user_kernel=put(prepared.user_kernel),
        cross_kernel=put(prepared.cross_kernel),
        bias=put(prepared.bias),
        above=tuple((put(kernel), put(bias)) for kernel, bias in prepared.above),
    )


def _moved_side(side: Side, put: Put) -> Side:
    scale, offset = side.norm
    return replace(
        side,
        tables={name: put(table) for name, table in side.tables.items()},
        bottom=tuple(map(put, side.bottom)),
        norm=(put(scale), put(offset)),
    )
