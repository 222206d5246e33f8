"""Unroll: one user's features beside the features of each of that user's candidates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from array_api_compat import array_namespace

from batchrec.arrays import Array, gather
from batchrec.errors import FeatureError

if TYPE_CHECKING:
    from collections.abc import Mapping


def unroll(user: Mapping[str, Array], item: Mapping[str, Array], positions: Array) -> dict[str, Array]:
    """Cross each user with the candidates of that user's row.

    Parameters
    ----------
    user
        User features by name, each ``(n, ...)``.
    item
        Item features by name, each ``(N, ...)``, N at least 1.
    positions
        Candidates' item positions, ``(n, K)`` int64. -1 reads the first item; its relevance is to be masked later.

    Returns
    -------
    dict of str to Array
        Features of ``n·K`` pairs by name, each ``(n·K, ...)``, dtypes kept; pair ``u·K + c`` is user row u with its
        candidate c.

    Raises
    ------
    FeatureError
        A user feature and an item feature have the same name.
    """
    shared = sorted(user.keys() & item.keys())
    if shared:
        raise FeatureError(f"user and item features share the names {shared}", "give each feature a name of its own")
    xp = array_namespace(positions)
    width = positions.shape[1]
    items = xp.reshape(xp.maximum(positions, 0), (-1,))
    pairs = {name: xp.repeat(values, width, axis=0) for name, values in user.items()}
    return pairs | {name: gather(values, items) for name, values in item.items()}
