"""The held-out interactions: what the lists should have predicted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from batchrec.errors import SchemaError
from batchrec.evaluate.metrics import Counts, Positions, pair_keys
from batchrec.evaluate.tables import IdTable, positions_in, sorted_ids
from batchrec.schema import ITEM_ID, USER_ID

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Holdout:
    """Held-out pairs, each counted once, whether or not the user had the item in the train interactions already."""

    users: pa.Array
    """``(n,)`` ids of the users with at least one held-out item, ascending."""
    held_out: Counts
    """``(n,)`` number of held-out items a user, those outside the catalogue included: no list can reach them."""
    keys: Positions
    """Ascending :func:`~batchrec.evaluate.metrics.pair_keys` of the pairs whose item is in the catalogue."""
    null_rows: int
    """Rows without a user id or an item id; left out."""
    duplicate_rows: int
    """Rows that repeat a pair; left out."""


def read_holdout(path: Path, catalogue: pa.Array) -> Holdout:
    """Read held-out interactions (user_id, item_id; any order) and place them in the catalogue.

    Raises
    ------
    SchemaError
        Where the table cannot be read, its items are of another type than the catalogue's, or it holds no pair.
    """
    source = IdTable.open(path, (USER_ID, ITEM_ID))
    source.require(ITEM_ID, catalogue.type, "the catalogue")
    table = pa.concat_tables([source.schema.empty_table(), *source.batches()])
    complete = table.drop_null()
    pairs = complete.group_by([USER_ID, ITEM_ID], use_threads=False).aggregate([])
    if len(pairs) == 0:
        raise SchemaError(f"{path} holds no held-out interaction", "give held-out interactions of at least one user")
    users = sorted_ids(pairs[USER_ID].unique())
    user_rows = positions_in(users, pairs[USER_ID])
    item_positions = positions_in(catalogue, pairs[ITEM_ID])
    known = item_positions >= 0
    return Holdout(
        users=users,
        held_out=np.bincount(user_rows, minlength=len(users)),
        keys=np.sort(pair_keys(user_rows[known], item_positions[known], len(catalogue))),
        null_rows=len(table) - len(complete),
        duplicate_rows=len(complete) - len(pairs),
    )
