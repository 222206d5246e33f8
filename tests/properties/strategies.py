"""Users with candidates, relevance and seen items, as plain lists: small enough to shrink well, with many ties."""

import math
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

ANY_FLOAT32 = st.floats(width=32)
CALM_FLOAT32 = st.floats(-3, 3, width=32)
TYING_FLOAT32 = st.sampled_from([-math.inf, -1.0, 0.0, 0.5, math.nan, math.inf])
HASH = st.integers(0, 2**64 - 1)


@dataclass(frozen=True)
class Users:
    """n users with K candidates each from a catalogue of N items; a row's positions are distinct, but for -1."""

    positions: np.ndarray
    relevance: np.ndarray
    user_hash: np.ndarray
    item_hash: np.ndarray

    def rows(self, rows):
        return Users(self.positions[rows], self.relevance[rows], self.user_hash[rows], self.item_hash)

    def columns(self, columns):
        return Users(self.positions[:, columns], self.relevance[:, columns], self.user_hash, self.item_hash)


@st.composite
def users(draw, relevance=ANY_FLOAT32 | TYING_FLOAT32, min_rows=0, max_width=8):
    n, width, catalogue = draw(st.integers(min_rows, 5)), draw(st.integers(0, max_width)), draw(st.integers(1, 12))
    row = st.permutations([*range(catalogue), *[-1] * width]).map(lambda items: items[:width])
    return Users(
        np.array([draw(row) for _ in range(n)], dtype=np.int64).reshape(n, width),
        np.array([[draw(relevance) for _ in range(width)] for _ in range(n)], dtype=np.float32).reshape(n, width),
        np.array([draw(HASH) for _ in range(n)], dtype=np.uint64),
        np.array([draw(HASH) for _ in range(catalogue)], dtype=np.uint64),
    )


@st.composite
def retrievals(draw):
    """Score matrix with ties, lists of seen items, eligibility, and a width: what retrieval and its filter get."""
    n, catalogue = draw(st.integers(1, 5)), draw(st.integers(1, 20))
    score = st.sampled_from([-1.0, 0.0, 0.25, 1.0]) | CALM_FLOAT32
    return (
        np.array([[draw(score) for _ in range(catalogue)] for _ in range(n)], dtype=np.float32),
        [draw(st.lists(st.integers(-1, catalogue - 1), max_size=30)) for _ in range(n)],
        np.array([draw(st.booleans()) for _ in range(catalogue)]),
        draw(st.integers(1, 8)),
    )
