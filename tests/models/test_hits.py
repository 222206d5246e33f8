"""Order of hits: by score, then by position."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from batchrec.models.hits import best_first

FLOATS = st.one_of(st.floats(width=32), st.sampled_from([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan]))


@settings(deadline=None)  # the first example waits for the compiler
@given(arrays(np.float32, st.tuples(st.just(3), st.integers(0, 12)), elements=FLOATS), st.integers(1, 15), st.data())
def test_by_score_then_by_position(scores, depth, data):
    places = st.lists(st.integers(-1, 2**32 - 2), min_size=scores.shape[1], max_size=scores.shape[1])
    positions = np.array([data.draw(places) for _ in range(3)], np.int64).reshape(scores.shape)
    found_scores, found = best_first(scores, positions, depth)
    for row in range(3):
        hits = zip(scores[row].tolist(), positions[row].tolist(), strict=True)
        real = sorted((-score, position) for score, position in hits if position >= 0 and score == score)[:depth]
        assert found[row].tolist() == [position for _, position in real] + [-1] * (depth - len(real))
        assert found_scores[row].tolist() == [-score for score, _ in real] + [-np.inf] * (depth - len(real))
