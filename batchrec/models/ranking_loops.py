"""The ranker's pairs in one compiled loop: from two sides' vectors to a score, a few candidates at a time.

What a few candidates need stays in a core's own cache between two layers, and while they are multiplied the numbers of
the next ones are asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from batchrec.models.compiled import compiled, compiled_sums
from batchrec.models.products import FOUR, ONE, TWO, WIDEST, multiply, to_lanes

if TYPE_CHECKING:
    import numpy.typing as npt

    from batchrec.models.compiled import Number

    Floats = npt.NDArray[np.float32]
    Integers = npt.NDArray[np.int64]

PAIRS_A_CHUNK = 48
"""Candidates in work at a time: few enough that their layers stay in the first cache, many enough that the kernels,
which lie in the second, are read seldom."""

ACTIVATED, OUTPUT = np.float32(0), np.float32(-np.inf)
"""Below which what a layer gives is cut off: a ReLU's zero, and nothing."""


def columns_of(vectors: int) -> int:
    """Return how many columns so many vectors of a user take: all that are multiplied at once, those too many 0."""
    at_once = next((width for width in (ONE, TWO, FOUR) if vectors <= width), 0)
    return at_once or to_lanes(vectors)


def products_of(vectors: int) -> int:
    """Return how many products with so many vectors of a user lie behind each other; those too many are 0."""
    return vectors if vectors <= FOUR else to_lanes(vectors)


@compiled
def score(
    columns: Floats,
    share: Floats,
    embedding: Floats,
    positions: Integers,
    items: Floats,
    kernels: Floats,
    layers: Integers,
    scale: Number,
    scores: Floats,
) -> None:
    """Score n users' candidates.

    Parameters
    ----------
    columns
        (n, d, w): each user's vectors as columns, as many as :func:`columns_of` says.
    share, embedding
        (n, h) and (n, d): the users' shares of the first layer, and their embeddings.
    positions
        (n, K): of items, -1 where there is none.
    items
        (N, s · d + h + d): a row an item of its s vectors, its share and its embedding.
    kernels
        In one dimension: biases and kernels of all layers.
    layers
        A row a layer of where its bias begins, where its kernel begins, its depth and its width: a multiple of 16; what
        a bias and a kernel hold for columns that there are not is 0. The first layer's bias is in the shares, and it
        reads :func:`products_of` numbers for each of an item's vectors.
    scale
        Factor on the product of both embeddings.
    scores
        (n, K): receives the scores, -inf where there is no item.
    """
    width, row = positions.shape[1], items.shape[1]
    _, d, w = columns.shape
    s = (row - share.shape[1] - d) // d
    step, hidden = int(layers[0, 2] // s), int(np.max(layers[:, 3]))
    table, chosen, users = items.reshape(items.size), positions.reshape(positions.size), columns.reshape(columns.size)
    products, nothing = np.zeros(PAIRS_A_CHUNK * s * step + FOUR, np.float32), np.zeros(w, np.float32)
    here, there = np.empty(PAIRS_A_CHUNK * hidden, np.float32), np.empty(PAIRS_A_CHUNK * hidden, np.float32)
    of_vectors, ahead = np.empty(PAIRS_A_CHUNK * s, np.int64), np.zeros(3, np.int64)
    of_products, of_hidden = np.arange(PAIRS_A_CHUNK) * s * step, np.arange(PAIRS_A_CHUNK) * hidden
    for i in range(len(positions)):
        for begin in range(i * width, (i + 1) * width, PAIRS_A_CHUNK):
            n = min(PAIRS_A_CHUNK, (i + 1) * width - begin)
            ahead[0], ahead[1], ahead[2] = begin + n, 0, min(begin + n + PAIRS_A_CHUNK, positions.size)
            _begin(table, row, chosen[begin : begin + n], s, d, of_vectors, share[i], layers[0, 3], there, hidden)
            multiply(
                table, of_vectors, n * s, d, users, i * d * w, w, nothing, 0, 0, products, step, OUTPUT, FOUR,
                table, row, chosen, ahead,
            )  # fmt: skip
            first, lowest = layers[0], ACTIVATED if len(layers) > 1 else OUTPUT
            multiply(
                products, of_products, n, first[2], kernels, first[1], first[3], there, 0, hidden, here, hidden,
                lowest, WIDEST, table, row, chosen, ahead,
            )  # fmt: skip
            for layer in range(1, len(layers)):
                bias, kernel, depth, units = layers[layer]
                lowest = ACTIVATED if layer + 1 < len(layers) else OUTPUT
                multiply(
                    here, of_hidden, n, depth, kernels, kernel, units, kernels, bias, 0, there, hidden,
                    lowest, WIDEST, table, row, chosen, ahead,
                )  # fmt: skip
                here, there = there, here
            _end(
                here, hidden, table, row, chosen[begin : begin + n], embedding[i], scale, scores[i, begin - i * width :]
            )


@compiled
def _begin(
    table: Floats,
    row: int,
    chosen: Integers,
    s: int,
    d: int,
    of_vectors: Integers,
    user: Floats,
    units: int,
    shares: Floats,
    hidden: int,
) -> None:
    """Say where the vectors of chosen items begin, and add each pair's two shares of the first layer."""
    for k in range(len(chosen)):
        begin = max(chosen[k], 0) * row
        for place in range(s):
            of_vectors[k * s + place] = begin + place * d
        share, pair = table[begin + s * d : begin + s * d + len(user)], shares[k * hidden : k * hidden + units]
        for j in range(len(user)):
            pair[j] = share[j] + user[j]
        pair[len(user) :] = 0


@compiled_sums
def _end(
    output: Floats,
    hidden: int,
    table: Floats,
    row: int,
    chosen: Integers,
    user: Floats,
    scale: Number,
    scores: Floats,
) -> None:
    """Add to each pair's output the scaled product of both embeddings; -inf where there is no item."""
    for k in range(len(chosen)):
        if chosen[k] < 0:
            scores[k] = OUTPUT
            continue
        item, product_of_both = table[(chosen[k] + 1) * row - len(user) : (chosen[k] + 1) * row], ACTIVATED
        for j in range(len(user)):
            product_of_both += item[j] * user[j]
        scores[k] = output[k * hidden] + product_of_both * scale
