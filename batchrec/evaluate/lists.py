"""The top-k lists of a published run, of either layout, as one array over the evaluated users."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batchrec.errors import ArtifactError, ConfigError, SchemaError
from batchrec.evaluate.tables import positions_in, require_type
from batchrec.output.manifest import MANIFEST, read_manifest
from batchrec.output.publish import SUCCESS, open_run
from batchrec.output.sums import verified_parts
from batchrec.schema import ITEM_ID, USER_ID

if TYPE_CHECKING:
    from batchrec.evaluate.metrics import Positions
    from batchrec.output.storage import Storage

ITEM_IDS = "item_ids"
RANK = "rank"


@dataclass(frozen=True)
class Lists:
    """The lists of one run for the evaluated users."""

    positions: Positions
    """``(n, k)`` item positions, best first, -1 where a list has ended."""
    users_left_out: int
    """Users with a row in the run but without a held-out item: no figure looks at them."""


class Entries(NamedTuple):
    """Items of lists in any order, with the place each stands at."""

    user_rows: Positions
    """``(m,)`` row of the evaluated user, -1 for any other user."""
    ranks: Positions
    """``(m,)`` place in the list, from 0."""
    items: pa.ChunkedArray
    """``(m,)`` item ids."""

    def filter(self, keep: npt.NDArray[np.bool_]) -> Entries:
        """Return the entries marked True."""
        return Entries(self.user_rows[keep], self.ranks[keep], self.items.filter(pa.array(keep)))


def read_lists(run: str, users: pa.Array, catalogue: pa.Array, k: int) -> Lists:
    """Read the first k items of every evaluated user's list.

    Parameters
    ----------
    run
        Path or URL of a published run, or of the pointer to one such as ``output/current``.
    users
        ``(n,)`` ids of the evaluated users, ascending.
    catalogue
        ``(N,)`` item ids, ascending.
    k
        Number of items to read of each list.

    Raises
    ------
    ArtifactError
        Where the folder is not a published run, a part is missing or not the one that was published, or the rows
        contradict each other or the catalogue.
    SchemaError
        Where the part files lack a column, or their ids are of another type.
    ConfigError
        Where no list of the run is as long as k.
    """
    positions = np.full((len(users), k), -1, dtype=np.int64)
    longest = users_left_out = 0
    folder, names = part_files(run)
    for name in names:
        part = folder.shown(name)
        table = _read_part(folder, name, users.type, catalogue.type)
        user_rows = positions_in(users, table[USER_ID])
        entries = _entries(table, user_rows)
        _refuse_ranks(entries, part)
        longest = max(longest, int(entries.ranks.max(initial=-1)) + 1)
        users_left_out += len(table[USER_ID].filter(pa.array(user_rows < 0)).unique())
        _place(positions, entries.filter((entries.user_rows >= 0) & (entries.ranks < k)), users, catalogue, part)
    if longest < k:
        raise ConfigError(
            f"k is {k}, but the longest list of {run} holds {longest} items", "choose a k that the lists reach"
        )
    _refuse_repeats(positions, users, catalogue, run)
    return Lists(positions, users_left_out)


def part_files(run: str) -> tuple[Storage, list[str]]:
    """Return the folder of a published run and its part files, in the order of its manifest.

    Raises
    ------
    ArtifactError
        Where the folder lacks ``_SUCCESS``, ``_manifest.json`` or part files, or a part is not as the manifest says.
    """
    folder = open_run(run)
    for name in (SUCCESS, MANIFEST):
        if not folder.exists(name):
            raise ArtifactError(
                f"{run} is not a published run (it has no {name})", "give the folder of a run that was published"
            )
    parts = verified_parts(folder, read_manifest(folder))
    if not parts:
        raise ArtifactError(f"{run} holds no part file", "give the folder of a run that holds lists")
    return folder, parts


def _read_part(folder: Storage, name: str, user_type: pa.DataType, item_type: pa.DataType) -> pa.Table:
    """Return user_id with item_ids or with rank and item_id, ids in the given types."""
    part = folder.shown(name)
    try:
        with folder.open(name) as file, pq.ParquetFile(file) as parquet:
            schema = parquet.schema_arrow
            columns, found_items = _layout(schema, part)
            require_type(schema.field(USER_ID).type, user_type, f"column {USER_ID} of {part}", "the holdout")
            require_type(found_items, item_type, f"column {columns[-1]} of {part}", "the catalogue")
            table = parquet.read(columns=columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise ArtifactError(f"{part} cannot be read ({error})", "publish the run again") from error
    types = {USER_ID: user_type, ITEM_ID: item_type, ITEM_IDS: pa.list_(item_type), RANK: pa.int64()}
    return table.cast(pa.schema([(name, types[name]) for name in table.column_names]))


def _layout(schema: pa.Schema, part: str) -> tuple[list[str], pa.DataType]:
    """Return the columns that hold the lists, the items last, and the type of the item ids."""
    if {USER_ID, ITEM_IDS} <= set(schema.names) and pa.types.is_list(schema.field(ITEM_IDS).type):
        return [USER_ID, ITEM_IDS], schema.field(ITEM_IDS).type.value_type
    if {USER_ID, RANK, ITEM_ID} <= set(schema.names):
        return [USER_ID, RANK, ITEM_ID], schema.field(ITEM_ID).type
    found = ", ".join(f"{field.name} {field.type}" for field in schema)
    raise SchemaError(
        f"{part} has the columns {found}; expected {USER_ID} and a list column {ITEM_IDS} (layout list), or {USER_ID}, "
        f"{RANK} and {ITEM_ID} (layout long)",
        "give the folder of a run that batchrec published",
    )


def _entries(table: pa.Table, user_rows: Positions) -> Entries:
    """Flatten the lists of a part, whichever its layout; ``user_rows`` is one a row of the table."""
    if RANK in table.column_names:
        return Entries(user_rows, table[RANK].to_numpy() - 1, table[ITEM_ID])
    lengths = pc.list_value_length(table[ITEM_IDS]).fill_null(0).to_numpy().astype(np.int64)
    starts = np.cumsum(lengths) - lengths
    ranks = np.arange(lengths.sum(), dtype=np.int64) - np.repeat(starts, lengths)
    return Entries(np.repeat(user_rows, lengths), ranks, pc.list_flatten(table[ITEM_IDS]))


def _refuse_ranks(entries: Entries, part: str) -> None:
    """Raise where a rank is below 1: it has no place in a list."""
    if (entries.ranks < 0).any():
        raise ArtifactError(
            f"{part} holds rank {entries.ranks.min() + 1}, expected ranks from 1", "give a run that batchrec published"
        )


def _place(positions: Positions, entries: Entries, users: pa.Array, catalogue: pa.Array, part: str) -> None:
    """Write the items of a part into ``positions`` in place."""
    items = positions_in(catalogue, entries.items)
    if (items < 0).any():
        item = entries.items[int(np.argmax(items < 0))].as_py()
        raise ArtifactError(
            f"{part} recommends item {item!r}, which is not among the {len(catalogue)} items of the catalogue",
            "give the catalogue that the run recommended from",
        )
    cells = entries.user_rows * positions.shape[1] + entries.ranks
    taken = positions.reshape(-1)[cells] >= 0
    repeated = np.ones(cells.size, dtype=np.bool_)
    repeated[np.unique(cells, return_index=True)[1]] = False
    if (taken | repeated).any():
        user = users[int(entries.user_rows[np.argmax(taken | repeated)])].as_py()
        raise ArtifactError(f"{part} holds a second list of user {user!r}", "publish the run again")
    positions.reshape(-1)[cells] = items


def _refuse_repeats(positions: Positions, users: pa.Array, catalogue: pa.Array, run: str) -> None:
    """Raise where a list holds an item twice: its hits would count twice."""
    ordered = np.sort(positions, axis=1)
    row, place = np.nonzero((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0))
    if row.size:
        user, item = users[int(row[0])].as_py(), catalogue[int(ordered[row[0], place[0]])].as_py()
        raise ArtifactError(f"{run} lists item {item!r} twice for user {user!r}", "publish the run again")
