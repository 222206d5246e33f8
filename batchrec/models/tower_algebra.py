"""The project's query tower, computed without what its one output does not need.

A query embedding is read off the newest place of a history alone, so most of the tower need not be computed, and what
must be can be written shorter (docs/decisions/015-tower-algebra.md):

- Places without an item are seen by no other place: they are left out, and a history costs what it holds.
- In the last block only the newest place asks. Its scores against all places are products with one vector a head, and
  what it gathers is one weighted mean of the places a head: no key and no value is computed there.
- Scale and offset of a normalisation belong to the kernel behind it. The bias of the keys shifts all scores of a place
  alike, which the softmax does not see, and the bias of the values is added to every mean: it belongs to the output's.

The numbers are those of the Keras model but for rounding. Every matrix product is one of a single user, and users are
stacked by the length of their histories, so the last bit of a query embedding depends on that user alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from batchrec.errors import ArtifactError
from batchrec.models.bundle_format import HISTORY
from batchrec.models.threads import one_thread_a_call, share_out
from batchrec.models.tower_loops import add_gelu, add_rows, causal_exponentials, divide_heads, look_up_kept, normalise

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy.typing as npt

    from batchrec.models.tower_parts import Block, Dense, Norm, Tower, UserEncoder

    Floats = npt.NDArray[np.float32]
    Wide = npt.NDArray[np.float64]
    """Weights are joined in double precision, once."""
    Ints = npt.NDArray[np.int64]
    Inputs = Mapping[str, npt.NDArray[np.generic]]

NUMBERS_A_BLOCK = 400_000
"""Numbers in the largest array of a block of users, about: enough that calling NumPy costs little, few enough for the
cache."""

USERS_A_BLOCK = 512
"""Most users in work at a time in one thread."""


@dataclass(frozen=True)
class _Reading:
    """Attention in a block all of whose places are computed.

    Parameters
    ----------
    heads, epsilon
        Number of heads; what is added to the variance.
    query
        Of all heads, over the normalised state.
    keys_values
        Kernel (d, 2·h·w): all heads' keys, then all heads' values, over the state as it is.
    output
        From what all heads found to what is added to the state.
    """

    heads: int
    epsilon: float
    query: Dense
    keys_values: Floats
    output: Dense


@dataclass(frozen=True)
class _Asking:
    """Attention in the last block, by the newest place.

    Parameters
    ----------
    heads, epsilon
        Number of heads; what is added to the variance.
    question
        Kernel (d, h·d) and bias (h·d,): what to multiply the places with, a vector a head.
    answer
        Kernel (h·d, d) and bias (d,): from the mean of the places, one a head, to what is added to the state.
    """

    heads: int
    epsilon: float
    question: Dense
    answer: Dense


@dataclass(frozen=True)
class _Feedforward:
    epsilon: float
    hidden: Dense
    output: Dense


class TowerAlgebra:
    """The project's query tower over any number of users.

    Parameters
    ----------
    tower
        The tower in parts.
    """

    def __init__(self, tower: Tower) -> None:
        one_thread_a_call()
        self._items, self._places = tower.items, tower.places
        self._reading = [(_reading(block), _feedforward(block)) for block in tower.blocks[:-1]]
        self._asking = [(_asking(block), _feedforward(block)) for block in tower.blocks[-1:]]
        self._states, self._user, self._query = tower.states, tower.user, tower.query

    def __call__(self, inputs: Inputs) -> Floats:
        """Embed users.

        Parameters
        ----------
        inputs
            Feature inputs (n,) each and ``history`` (n, L) int32 item codes, newest last, 0 where there is none.

        Returns
        -------
        (n, d) float32
            Query embeddings.

        Raises
        ------
        ArtifactError
            If the history is of another length than the tower reads, or a code is outside its tables.
        """
        history = inputs[HISTORY]
        self._check(history)
        kept: npt.NDArray[np.bool_] = np.greater(history, 0)
        kept[:, -1] = True  # without any item the newest place stands for the user
        states = np.empty((len(history), 1, self._items.shape[1]), np.float32)

        def read(users: Ints) -> None:
            states[users] = self._state(history[users], kept[users])

        def finish(start: int) -> None:
            rows = slice(start, start + USERS_A_BLOCK)
            self._finish(states[rows], {name: values[rows] for name, values in inputs.items()})

        share_out(read, self._blocks(kept.sum(axis=1)))
        share_out(finish, range(0, len(states), USERS_A_BLOCK))
        return states[:, 0]

    def _check(self, history: npt.NDArray[np.generic]) -> None:
        if history.shape[1] != len(self._places):
            raise ArtifactError(
                f"the query tower reads histories of {len(self._places)} items, bundle.json says {history.shape[1]}",
                "give bundle.json the history length that the model was trained with",
            )
        _check_codes(history, self._items, HISTORY)

    def _blocks(self, lengths: Ints) -> Iterator[Ints]:
        """Cut users (n,) into blocks of equally long histories: indices of the users of each."""
        order = np.argsort(lengths, kind="stable")
        distinct, starts = np.unique(lengths[order], return_index=True)
        heads = max((attention.heads for attention, _ in self._reading), default=1)
        for length, alike in zip(distinct, np.split(order, starts[1:]), strict=False):
            widest = length * max(2 * self._items.shape[1], heads * length)
            step = int(min(USERS_A_BLOCK, max(1, NUMBERS_A_BLOCK // widest)))
            yield from (alike[start : start + step] for start in range(0, len(alike), step))

    def _state(self, history: npt.NDArray[np.generic], kept: npt.NDArray[np.bool_]) -> Floats:
        """Read b histories of one length (b, L), at least one: the newest place's state (b, 1, d)."""
        state = np.empty((len(history), int(kept[0].sum()), self._items.shape[1]), np.float32)
        look_up_kept(history, kept, self._items, self._places, state)
        for attention, feedforward in self._reading:
            _read(state, attention)
            _feed(state, feedforward)
        newest = np.ascontiguousarray(state[:, -1:])
        for asking, feedforward in self._asking:
            _ask(newest, state, asking)
            _feed(newest, feedforward)
        newest = _normalised(newest, self._states.epsilon)
        newest *= self._states.scale
        newest += self._states.offset
        return newest

    def _finish(self, state: Floats, inputs: Inputs) -> None:
        """Turn b users' states (b, 1, d) into their query embeddings, in place."""
        if self._user is None:
            state[...] = _through(state, self._query[0])
            return
        user = _user_vector(self._user, inputs)
        hidden = _activated(np.concatenate([state, user], axis=2), self._query[0])
        _add_through(state, hidden, self._query[1])


def _read(state: Floats, attention: _Reading) -> None:
    """Let every place of b users (b, L, d) read those up to itself, and add what it found."""
    b, length, _ = state.shape
    queries = _through(_normalised(state, attention.epsilon), attention.query)
    queries = queries.reshape(b, length, attention.heads, -1).transpose(0, 2, 3, 1)
    both = np.matmul(state, attention.keys_values).reshape(b, length, 2, attention.heads, -1)
    keys, values = both.transpose(2, 0, 3, 1, 4)
    # Keys down, queries across: what the softmax adds up lies in different rows, a vector operation a row.
    scores = np.matmul(keys, queries)
    sums = np.empty((b, attention.heads, length), np.float32)
    causal_exponentials(scores, sums)
    found = np.empty((b, length, attention.heads, values.shape[-1]), np.float32)
    divide_heads(np.matmul(scores.swapaxes(2, 3), values), sums, found)
    _add_through(state, found.reshape(b, length, -1), attention.output)


def _ask(newest: Floats, state: Floats, asking: _Asking) -> None:
    """Let the newest place (b, 1, d) read all places (b, h, d), itself included, and add what it found."""
    b, _, dimension = newest.shape
    question = _through(_normalised(newest, asking.epsilon), asking.question).reshape(b, asking.heads, dimension)
    scores = np.matmul(question, state.swapaxes(1, 2))
    scores -= scores.max(axis=2, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=2, keepdims=True)
    _add_through(newest, np.matmul(scores, state).reshape(b, 1, -1), asking.answer)


def _feed(state: Floats, feedforward: _Feedforward) -> None:
    _add_through(state, _activated(_normalised(state, feedforward.epsilon), feedforward.hidden), feedforward.output)


def _normalised(state: Floats, epsilon: float) -> Floats:
    """Take its mean from each row (b, L, d), and divide by the standard deviation."""
    normal = np.empty_like(state)
    normalise(state, np.float32(epsilon), normal)
    return normal


def _through(rows: Floats, dense: Dense) -> Floats:
    kernel, bias = dense
    product: Floats = np.matmul(rows, kernel)
    product += bias
    return product


def _add_through(state: Floats, rows: Floats, dense: Dense) -> None:
    kernel, bias = dense
    add_rows(state, np.matmul(rows, kernel), bias)


def _activated(rows: Floats, dense: Dense) -> Floats:
    kernel, bias = dense
    hidden: Floats = np.matmul(rows, kernel)
    add_gelu(hidden, bias)
    return hidden


def _user_vector(user: UserEncoder, inputs: Inputs) -> Floats:
    """(b, 1, d)."""
    parts = []
    for name, table in user.tables.items():
        _check_codes(inputs[name], table, name)
        parts.append(table[inputs[name]])
    parts += [inputs[name].astype(np.float32, copy=False)[:, None] for name in user.dense]
    return _through(_activated(np.concatenate(parts, axis=1)[:, None, :], user.hidden), user.projection)


def _check_codes(codes: npt.NDArray[np.generic], table: Floats, name: str) -> None:
    if codes.size and (codes.min() < 0 or codes.max() >= len(table)):
        raise ArtifactError(
            f"the query tower's input {name!r} has codes up to {codes.max()}, its embedding {len(table)} entries",
            "give bundle.json the vocabulary that the model was trained with",
        )


def _reading(block: Block) -> _Reading:
    query, key, value = (_wide(part) for part in (block.attention.query, block.attention.key, block.attention.value))
    d, heads, width = query[0].shape
    kernel, bias = _behind_norm(block.norm, query)
    return _Reading(
        heads=heads,
        epsilon=block.norm.epsilon,
        query=_narrow(kernel.reshape(d, -1) / np.sqrt(width), bias.reshape(-1) / np.sqrt(width)),
        keys_values=np.concatenate([key[0].reshape(d, -1), value[0].reshape(d, -1)], axis=1).astype(np.float32),
        output=_narrow(*_output(block)),
    )


def _asking(block: Block) -> _Asking:
    kernel, bias = _behind_norm(block.norm, _wide(block.attention.query))
    key, _ = _wide(block.attention.key)
    value, _ = _wide(block.attention.value)
    output, output_bias = _output(block)
    d, heads, width = kernel.shape
    question = np.einsum("ahw,bhw->ahb", kernel, key).reshape(d, heads * d)
    shift = np.einsum("hw,bhw->hb", bias, key).reshape(heads * d)
    answer = np.einsum("ahw,hwb->hab", value, output.reshape(heads, width, d)).reshape(heads * d, d)
    return _Asking(
        heads=heads,
        epsilon=block.norm.epsilon,
        question=_narrow(question / np.sqrt(width), shift / np.sqrt(width)),
        answer=_narrow(answer, output_bias),
    )


def _output(block: Block) -> tuple[Wide, Wide]:
    """Kernel (h·w, d) and bias (d,) of the attention's output, with what the values' bias adds to it."""
    kernel, bias = _wide(block.attention.output)
    flat = kernel.reshape(-1, len(bias))
    return flat, bias + _wide(block.attention.value)[1].reshape(-1) @ flat


def _feedforward(block: Block) -> _Feedforward:
    return _Feedforward(
        epsilon=block.feedforward_norm.epsilon,
        hidden=_narrow(*_behind_norm(block.feedforward_norm, _wide(block.feedforward))),
        output=block.output,
    )


def _behind_norm(norm: Norm, dense: tuple[Wide, Wide]) -> tuple[Wide, Wide]:
    """Give a kernel (d, …) the scale of the normalisation before it, and its bias the offset."""
    kernel, bias = dense
    scale = norm.scale.astype(np.float64).reshape(-1, *(1,) * (kernel.ndim - 1))
    return kernel * scale, bias + np.tensordot(norm.offset.astype(np.float64), kernel, axes=1)


def _wide(dense: Dense) -> tuple[Wide, Wide]:
    return dense[0].astype(np.float64), dense[1].astype(np.float64)


def _narrow(kernel: Wide, bias: Wide) -> Dense:
    return np.ascontiguousarray(kernel, np.float32), np.ascontiguousarray(bias, np.float32)
