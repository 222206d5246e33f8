"""The point-in-time join over data frames, pandas' or cuDF's: all users as of one time, one view after the other.

It means what :mod:`batchrec.features.asof` means, which joins with DuckDB, and reads what that reads: of sorted files
the row groups whose keys lie in the range of those asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from array_api_compat import array_namespace, device

from batchrec.errors import FeatureError
from batchrec.features.dtypes import parse_type, plain_type
from batchrec.features.entities import checked_ids
from batchrec.features.refs import brief
from batchrec.features.retry import retried
from batchrec.features.sources import files_at
from batchrec.frames import FilePart, as_int64, to_array
from batchrec.schema import TIMESTAMP_TYPE, id_type, is_id_type

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from batchrec.arrays import Array
    from batchrec.features.asof import ViewRows
    from batchrec.features.refs import FeatureRef, JoinKey
    from batchrec.features.store import FeatureStore
    from batchrec.frames import Frame, FrameLibrary, Series

_MOMENT = pa.timestamp("us")
_NEVER = 2**63 - 1
"""In microseconds since 1970, stands for a row without an event timestamp."""


class NotForFrames(Exception):  # noqa: N818 - a finding, handled where the join is chosen
    """Why a view cannot be joined over frames."""


@dataclass(frozen=True)
class FrameView:
    """A feature view that can be joined over frames.

    Parameters
    ----------
    rows
        Its rows.
    schema
        Columns that are read of its files, by the files' names: key, times, features.
    columns
        Column of the files by feature.
    """

    rows: ViewRows
    schema: pa.Schema
    columns: dict[FeatureRef, str]

    @property
    def key(self) -> str:
        """Column of the key."""
        (key,) = self.rows.keys
        return key


class UserFeature(NamedTuple):
    """A feature of n users.

    Attributes
    ----------
    values
        (m,): one of each user who has a row in the view, perhaps null.
    places
        (n,) int64, on the device: which of the values is a user's; m for a user who has none.
    """

    values: Series
    places: Array


def frame_view(rows: ViewRows, refs: Sequence[FeatureRef]) -> FrameView:
    """See that a view can be joined over frames, from the footers of its files.

    Parameters
    ----------
    rows
        Where the rows are.
    refs
        The features, in the order of ``rows.features``.

    Raises
    ------
    NotForFrames
        It cannot.
    """
    if len(rows.keys) != 1:
        raise NotForFrames(f"{rows.path} is joined by {len(rows.keys)} keys")
    columns = dict(zip(refs, rows.features.values(), strict=True))
    files = files_at(rows.path, rows.endpoint)
    if not files:
        raise NotForFrames(f"{rows.path} holds no Parquet file")
    wanted = {column: parse_type(ref.dtype) for ref, column in columns.items()}
    schemas = set()
    for file in files:
        with file.files.open(file.path, "rb") as opened:
            schemas.add(_read_schema(pq.read_schema(opened), rows, wanted, file.shown))
    if len(schemas) > 1:
        raise NotForFrames(f"keys are of two types in the files of {rows.path}")
    return FrameView(rows, schemas.pop(), columns)


def frame_views(store: FeatureStore, refs: Sequence[FeatureRef]) -> list[FrameView]:
    """Return the views of features, as they can be joined over frames.

    Raises
    ------
    NotForFrames
        They cannot.
    FeatureError
        If a source cannot be looked at.
    """
    views = store.views_to_join(refs)
    if views is None:
        raise NotForFrames(f"{store.repo} does not read them from Parquet files by way of SortedOfflineStore")
    return [frame_view(*view) for view in views]


class FrameJoin:
    """Joins features of users as of one time.

    Parameters
    ----------
    views
        Which, and where they are.
    key
        Of all the views.
    as_of
        The time.
    library
        Makes the frames.
    put
        Copies arrays to the device where they are not there already.
    waits
        Seconds before each further try where one failed in a way that may pass.
    """

    def __init__(
        self,
        views: Sequence[FrameView],
        key: JoinKey,
        as_of: datetime,
        library: FrameLibrary,
        put: Callable[[Array], Array],
        waits: Sequence[float],
    ) -> None:
        self._views, self._key, self._library, self._put, self._waits = views, key, library, put, waits
        self._as_of: int = pa.scalar(as_of, TIMESTAMP_TYPE).value

    def __call__(self, ids: pa.Array) -> dict[FeatureRef, UserFeature]:
        """Return features of users, each from the user's latest row that is not after the time and still holds.

        Of a user's rows with one event timestamp the one created last counts, those without a created timestamp last
        of all; where that leaves several, the last one in the files.

        Parameters
        ----------
        ids
            (n,) raw ids, distinct.

        Raises
        ------
        FeatureError
            If the ids are not of the key's kind, or files cannot be read.
        """
        ids = checked_ids(ids, self._key.name, parse_type(self._key.dtype))
        users = self._library.from_arrow(pa.table({"id": ids, "user": pa.array(range(len(ids)), pa.int64())}))
        found: dict[FeatureRef, UserFeature] = {}
        for view in self._views:
            join = partial(self._joined, view, ids, users)
            try:
                found |= retried(join, f"joining {view.rows.path}", self._waits)
            except Exception as error:
                raise FeatureError(
                    f"{view.rows.path} could not be joined on the GPU ({brief(error)})",
                    "see that its files are whole, hold these columns and stay as they are during the run, and that "
                    "the GPU has memory for a partition of this size",
                ) from error
        return found

    def _joined(self, view: FrameView, ids: pa.Array, users: Frame) -> dict[FeatureRef, UserFeature]:
        parts = _parts(view, ids)
        block = self._library.read(parts, view.schema) if parts else self._library.from_arrow(view.schema.empty_table())
        latest = _latest(block, view, users, self._as_of)
        rows = block.take(to_array(latest["row"], "int64", 0))
        places = _places(self._put(to_array(latest["user"], "int64", 0)), len(ids))
        return {ref: UserFeature(rows[column], places) for ref, column in view.columns.items()}


def _read_schema(found: pa.Schema, rows: ViewRows, wanted: dict[str, pa.DataType], shown: str) -> pa.Schema:
    (key,) = rows.keys
    missing = [name for name in (key, rows.time, rows.created, *wanted) if name and found.get_field_index(name) < 0]
    if missing:
        raise NotForFrames(f"{shown} has not exactly one column {missing[0]!r}")
    if not is_id_type(plain_type(found.field(key).type)):
        raise NotForFrames(f"the keys of {shown} are of type {found.field(key).type}")
    times = [rows.time, *filter(None, [rows.created])]
    for name in times:
        if not pa.types.is_timestamp(found.field(name).type):
            raise NotForFrames(f"column {name!r} of {shown} is of type {found.field(name).type}, not a timestamp")
    for name, dtype in wanted.items():
        if not _widens(plain_type(found.field(name).type), dtype):
            raise NotForFrames(f"column {name!r} of {shown} is of type {found.field(name).type}, declared {dtype}")
    key_type = id_type(plain_type(found.field(key).type))
    return pa.schema({key: key_type, **dict.fromkeys(times, _MOMENT), **wanted})


def _widens(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Tell whether every value of one type is the same in the other, without a look at the values."""
    if pa.types.is_list(found) and pa.types.is_list(wanted):
        return _widens(found.value_type, wanted.value_type)
    for of_kind in (pa.types.is_signed_integer, pa.types.is_floating):
        if of_kind(found) and of_kind(wanted):
            return bool(found.bit_width <= wanted.bit_width)
    return bool(found == wanted)


def _parts(view: FrameView, ids: pa.Array) -> list[FilePart]:
    """Return the row groups in which these ids can be."""
    bounds = pc.min_max(ids).as_py()
    found = []
    for file in files_at(view.rows.path, view.rows.endpoint):
        with file.files.open(file.path, "rb") as opened:
            footer = pq.read_metadata(opened)
        column = [footer.schema.column(place).path for place in range(footer.num_columns)].index(view.key)
        groups = [
            number
            for number in range(footer.num_row_groups)
            if _may_hold(footer.row_group(number).column(column).statistics, bounds["min"], bounds["max"])
        ]
        if groups:
            found.append(FilePart(file.files, file.path, groups, file.is_remote))
    return found


def _may_hold(statistics: Any, first: Any, last: Any) -> bool:
    """Tell whether a row group can hold keys of a range, as far as its statistics say."""
    if statistics is None or not statistics.has_min_max or not isinstance(statistics.min, type(first)):
        return True
    return bool(statistics.min <= last and statistics.max >= first)


def _latest(block: Frame, view: FrameView, users: Frame, as_of: int) -> Frame:
    """Return the rows that hold: at most one a user, ascending by ``user``, with its number in the block, ``row``."""
    rows = view.rows
    key = block[view.key]
    if pa.types.is_integer(view.schema.field(view.key).type):
        key = as_int64(key)
    moments = key.to_frame("id")
    moments["row"] = range(len(block))
    moments["time"] = as_int64(block[rows.time]).fillna(_NEVER)
    order = ["user", "time"]
    if rows.created is not None:
        moments["created"] = as_int64(block[rows.created]).fillna(-_NEVER)
        order.append("created")
    # All users are asked for as of one time: where the latest row has expired, so have all others, and where it has
    # not, leaving out older ones changes nothing.
    is_due = moments["time"] <= as_of
    if rows.ttl:
        is_due &= moments["time"] >= as_of - round(rows.ttl.total_seconds() * 1_000_000)
    known = moments[is_due].merge(users, on="id", how="inner")
    return known.sort_values([*order, "row"]).drop_duplicates(subset=["user"], keep="last")


def _places(users: Array, count: int) -> Array:
    """Return for users 0 to `count` - 1 where they stand among `users` (m,), ascending; m where they do not."""
    xp = array_namespace(users)
    everybody = xp.arange(count, dtype=xp.int64, device=device(users))
    with_end = xp.concat([users, xp.full((1,), count, dtype=xp.int64, device=device(users))])
    places = xp.searchsorted(with_end, everybody)
    return xp.where(xp.take(with_end, places) == everybody, places, users.shape[0])
