"""Retrieve: each user's best candidates from an index that knows nothing of filters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from array_api_compat import array_namespace, device

from batchrec.arrays import MISSING, Array, gather

Search = Callable[[Array, int], tuple[Array, Array]]
"""``search(queries (m, d), depth)`` returns scores ``(m, depth)`` float32 and item positions ``(m, depth)`` int64.

Every row stands best first, equal scores by position, and is padded with -inf and -1 where the index found nothing
more; no score is NaN. Which of several equal scores are found at the end of a row is free. A row of the result depends
on its query and the depth alone.
"""

Keep = Callable[[Array, Array], Array]
"""``keep(positions (m, depth), rows (m,))`` tells which hits the users of these rows may get, ``(m, depth)`` bool."""

HITS_PER_SEARCH = 1 << 21
"""Hits held at a time: bounds memory at some 100 MB where many users must be searched deep."""

STEPS_AN_OCTAVE = 2
"""Depths from one to its double: the more, the closer to what a row needs and the fewer rows share a search."""


class Candidates(NamedTuple):
    """Candidates of n users, best first.

    Attributes
    ----------
    positions
        Item positions, ``(n, K)`` int64, -1 where there is none.
    scores
        Retrieval scores, ``(n, K)`` float32, -inf where the position is -1.
    """

    positions: Array
    scores: Array


FirstKept = Callable[[Array, Array, Array, int], Candidates]
"""``first_kept(scores, hits, is_kept, width)``: the first `width` hits of each row that are kept, all (m, depth)."""


def first_kept(scores: Array, hits: Array, is_kept: Array, width: int) -> Candidates:
    """Return the first `width` hits of each row that are kept.

    Parameters
    ----------
    scores, hits
        ``(m, depth)`` float32 and int64, best first; see :data:`Search`.
    is_kept
        ``(m, depth)`` bool; false where there is no hit.
    width
        Candidates a row, at most `depth`.

    Returns
    -------
    Candidates
        ``(m, width)`` each.
    """
    xp = array_namespace(hits)
    depth = hits.shape[1]
    columns = xp.arange(depth, dtype=xp.int64, device=device(hits))
    # Numbers sort several times as fast as they are argsorted: those of hits taken out stand behind all others.
    columns = xp.sort(xp.where(is_kept, columns, columns + depth), axis=-1)[:, :width]
    has_hit, columns = columns < depth, columns % depth
    return Candidates(
        xp.where(has_hit, xp.take_along_axis(hits, columns, axis=-1), MISSING),
        xp.where(has_hit, xp.take_along_axis(scores, columns, axis=-1), -math.inf),
    )


def retrieve(
    queries: Array,
    search: Search,
    keep: Keep,
    n_excluded: Array,
    width: int,
    catalogue_size: int,
    first_kept: FirstKept = first_kept,
) -> Candidates:
    """Find each user's first `width` candidates that `keep` lets through, by score, then by item position.

    With an exact search the result is exact: no user loses candidates to the filter. A row is first searched as deep
    as its excluded items ask for, and again at double depth until nothing deeper can matter: `width` candidates stay
    and the last of them scores above the last hit (so that no item of equal score is out of sight), or the search has
    run dry, or the whole catalogue has been seen. Depths are `width` times 1, 1.5, 2, 3, 4, 6, 8 and so on, so rows
    that need about the same depth share a search. What a row gets does not depend on the rows around it.

    Parameters
    ----------
    queries
        Query embeddings, ``(n, d)`` float32.
    search, keep
        See :data:`Search` and :data:`Keep`.
    n_excluded
        How many items `keep` may take from each row, e.g. the length of its list of seen items, ``(n,)`` int64. It
        only sets the first depth: too low costs a further search, too high a deeper one.
    width
        Candidates a user, K.
    catalogue_size
        Items in the index.
    first_kept
        What takes the kept hits, where something is faster than arrays.

    Returns
    -------
    Candidates
        Short rows (fewer than K items left in the catalogue, or found by the search) are padded.
    """
    xp = array_namespace(queries, n_excluded)
    rows = queries.shape[0]
    if rows == 0 or width == 0:
        return _none(queries, width)
    depths = _depths(width, catalogue_size)
    # One more than can be excluded: only a hit below the last candidate proves that no equal one was cut off.
    needed = xp.minimum(n_excluded + width + 1, catalogue_size)
    first = xp.searchsorted(xp.asarray(depths, dtype=xp.int64, device=device(needed)), needed)

    settled: list[tuple[Array, Candidates]] = []
    pending = [[xp.nonzero(first == step)[0]] for step in range(len(depths))]
    for step, depth in enumerate(depths):
        deeper = pending[min(step + STEPS_AN_OCTAVE, len(depths) - 1)]
        for part in _parts(xp.concat(pending[step]), depth):
            scores, hits = search(gather(queries, part), depth)
            found = first_kept(scores, hits, keep(hits, part), width)
            ran_dry = hits[:, -1] < 0
            # What a deeper search finds scores no higher than the last hit.
            is_settled = ran_dry | (found.scores[:, -1] > scores[:, -1]) | (depth >= catalogue_size)
            settled.append((part[is_settled], _select(found, is_settled)))
            deeper.append(part[~is_settled])
    return _in_row_order(settled)


def _none(queries: Array, width: int) -> Candidates:
    xp = array_namespace(queries)
    shape, place = (queries.shape[0], width), device(queries)
    return Candidates(
        xp.full(shape, MISSING, dtype=xp.int64, device=place),
        xp.full(shape, -math.inf, dtype=xp.float32, device=place),
    )


def _depths(width: int, catalogue_size: int) -> list[int]:
    depths = [width, width + (width + 1) // 2]
    while depths[-1] < catalogue_size:
        depths.append(2 * depths[-STEPS_AN_OCTAVE])
    return depths


def _parts(rows: Array, depth: int) -> Iterator[Array]:
    # A power of two, so that a search that works in batches of one has none left half empty.
    size = 1 << (max(HITS_PER_SEARCH // depth, 1).bit_length() - 1)
    count = rows.shape[0]
    for start in range(0, count, size):
        yield rows[start : min(start + size, count)]


def _select(candidates: Candidates, mask: Array) -> Candidates:
    xp = array_namespace(mask)
    if xp.all(mask):
        return candidates
    rows = xp.nonzero(mask)[0]
    return Candidates(xp.take(candidates.positions, rows, axis=0), xp.take(candidates.scores, rows, axis=0))


def _in_row_order(settled: list[tuple[Array, Candidates]]) -> Candidates:
    xp = array_namespace(settled[0][0])
    back = xp.argsort(xp.concat([rows for rows, _ in settled]))
    positions = xp.concat([found.positions for _, found in settled])
    scores = xp.concat([found.scores for _, found in settled])
    return Candidates(xp.take(positions, back, axis=0), xp.take(scores, back, axis=0))
