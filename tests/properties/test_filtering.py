"""What retrieval and its filter promise whatever the scores, the seen items and the company in the batch."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec.stages.anti_join import anti_join
from batchrec.stages.retrieve import retrieve
from tests.properties.strategies import retrievals
from tests.stages import reference
from tests.stages.support import ragged, same

EXAMPLES = settings(max_examples=60, deadline=None)


def retrieved(xp, case, rows=None):
    scores, seen, eligible, width = case
    rows = range(len(seen)) if rows is None else rows
    history = ragged(xp, [seen[row] for row in rows])

    def search(queries, depth):
        dense = np.asarray(queries)
        hits = np.argsort(-dense, axis=1, kind="stable")[:, :depth]
        room = ((0, 0), (0, depth - hits.shape[1]))
        found = np.pad(np.take_along_axis(dense, hits, axis=1), room, constant_values=-np.inf)
        return xp.asarray(found), xp.asarray(np.pad(hits, room, constant_values=-1))

    def keep(positions, within):
        return anti_join(positions, history.take(within), xp.asarray(eligible))

    queries = xp.asarray(scores[list(rows)])
    return retrieve(queries, search, keep, history.lengths, width, scores.shape[1])


@EXAMPLES
@given(case=retrievals())
def test_no_seen_or_ineligible_item_is_ever_retrieved(xp, case):
    _, seen, eligible, _ = case
    for row, positions in enumerate(np.asarray(retrieved(xp, case).positions).tolist()):
        items = [position for position in positions if position != -1]
        assert not set(items) & set(seen[row])
        assert all(eligible[position] for position in items)
        assert len(items) == len(set(items))


@EXAMPLES
@given(case=retrievals())
def test_lists_are_full_while_items_remain(xp, case):
    _, seen, eligible, width = case
    for row, positions in enumerate(np.asarray(retrieved(xp, case).positions).tolist()):
        available = sum(bool(ok) and position not in seen[row] for position, ok in enumerate(eligible))
        length = min(width, available)
        assert all(position != -1 for position in positions[:length])
        assert positions[length:] == [-1] * (width - length)


@EXAMPLES
@given(case=retrievals())
def test_retrieval_equals_sorting_what_is_left(xp, case):
    scores, seen, eligible, width = case
    allowed = [[bool(ok) and position not in row for position, ok in enumerate(eligible)] for row in seen]
    expected = reference.retrieve(scores.tolist(), allowed, width)
    found = retrieved(xp, case)
    same(found.positions, expected[0])
    same(found.scores, expected[1])


@EXAMPLES
@given(case=retrievals(), data=st.data())
def test_a_user_retrieves_the_same_in_any_company(xp, case, data):
    rows = data.draw(st.lists(st.integers(0, len(case[1]) - 1), min_size=1, max_size=8))
    whole, part = retrieved(xp, case), retrieved(xp, case, rows)
    same(part.positions, np.asarray(whole.positions)[rows])
    same(part.scores, np.asarray(whole.scores)[rows])


@EXAMPLES
@given(case=retrievals())
def test_anti_join_keeps_what_is_eligible_and_unseen(xp, case):
    scores, seen, eligible, _ = case
    positions = np.tile(np.arange(scores.shape[1]), (len(seen), 1))
    keep = anti_join(xp.asarray(positions), ragged(xp, seen), xp.asarray(eligible))
    same(keep, reference.anti_join(positions.tolist(), seen, eligible.tolist()))
