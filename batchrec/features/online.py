"""A feature view written and read through the online store of its repository."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from batchrec.errors import BusyError, FeatureError, SinkError
from batchrec.features.connection import feast_call
from batchrec.features.dtypes import cast_exactly, parse_type, type_name
from batchrec.features.online_bytes import direct_writer
from batchrec.features.proto import PUSHED_TYPES, online_rows
from batchrec.features.refs import brief, dtype_of, key_of, listed
from batchrec.features.retry import WAITS, retried
from batchrec.redact import redact_value
from batchrec.schema import USER_ID

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime
    from pathlib import Path

_WIDER = {"int32": "int64", "float": "double", "list<int32>": "list<int64>", "list<float>": "list<double>"}
"""Types that a feature may have beside the column's own: every value fits."""

# Of Redis' client and others, none of which may be installed; of those among OSError.
_PASSING = {"ConnectionError", "TimeoutError", "BusyLoadingError", "TryAgainError", "ClusterDownError"}
_LASTING = {"AuthenticationError", "AuthorizationError"}
"""Children of Redis' ConnectionError that come again."""


class OnlineView:
    """A feature view of an applied repository; made by :meth:`batchrec.features.store.FeatureStore.online`.

    Parameters
    ----------
    repo
        Folder of the repository.
    feast
        Feast's store of it.
    view
        Feast's view.

    Attributes
    ----------
    name
        Name of the view.
    key
        The column by which users are looked up.
    features
        Arrow type name of each feature, in the view's order.
    retry_waits
        Seconds before each further try of what failed in a way that may pass by itself.

    Raises
    ------
    FeatureError
        If the view is kept out of the online store, or has a join key or feature that cannot be pushed.
    """

    retry_waits: Sequence[float] = WAITS

    def __init__(self, repo: Path, feast: Any, view: Any) -> None:
        self.repo, self.name = repo, str(view.name)
        self._feast, self._view = feast, view
        if not view.online:
            raise FeatureError(
                f"feature view {self.name!r} is not kept online", f"give it online=True and run `feast -c {repo} apply`"
            )
        self.key = key_of(view)
        self.features = {field.name: dtype_of(self.name, field) for field in view.features}
        odd = [f"{name} ({dtype})" for name, dtype in self.features.items() if dtype not in PUSHED_TYPES]
        if odd:
            raise FeatureError(
                f"feature view {self.name!r} has features that cannot be pushed: {listed(odd)}",
                f"leave them out of the view, or use one of {', '.join(sorted(PUSHED_TYPES))}",
            )

        try:
            with feast_call():
                self._store = feast._get_provider().online_store  # noqa: SLF001 - what Feast's own push writes to
                self._direct = direct_writer(feast.config, self._store, view, self.key, self.features)
        except Exception as error:
            raise FeatureError(
                f"the online store of {repo} cannot be used ({brief(error)})",
                "install what it needs (for Redis `pip install 'batchrec[redis]'`), or correct feature_store.yaml",
            ) from error

    @property
    def place(self) -> str:
        """SHA-256, in hexadecimal, over what tells this view of this store from others; passwords do not count."""
        config = self._feast.config
        store = redact_value(json.loads(config.online_store.model_dump_json()))
        # A relative path means another file in another repository.
        relative_to = str(self.repo) if isinstance(store.get("path"), str) else ""
        what = [config.project, self.name, store, relative_to]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()

    @property
    def expires(self) -> bool:
        """Whether the view gives its rows a time to live."""
        return bool(self._view.ttl)

    def check(self, schema: pa.Schema) -> None:
        """See that rows with these columns can be pushed.

        Raises
        ------
        FeatureError
            A feature has no column of its name, or one of another type; or users have ids of another type.
        """
        found = {field.name: type_name(field.type) for field in schema}
        self._expect(f"{USER_ID} (join key {self.key.name})", found.get(USER_ID), self.key.dtype, found)
        for name, dtype in self.features.items():
            self._expect(name, found.get(name), dtype, found)

    def write(self, table: pa.Table, at: datetime) -> None:
        """Write rows: whatever the store held of these users in this view is replaced.

        Parameters
        ----------
        table
            ``(n,)`` rows that :meth:`check` let pass: ``user_id``, distinct, and a column for each feature.
        at
            Event timestamp. Some stores keep what they hold of a later or of the same time.

        Raises
        ------
        BusyError
            The store is away, also after some waiting.
        SinkError
            The store refuses.
        """
        key = cast_exactly(table[USER_ID], parse_type(self.key.dtype))
        columns = {name: cast_exactly(table[name], parse_type(dtype)) for name, dtype in self.features.items()}
        rows = pa.table({self.key.name: key, **columns})
        self._asked(lambda: (self._direct or self._by_feast)(rows, at), f"writing to {self.name}")

    def empty(self, ids: pa.Array, at: datetime) -> None:
        """Give ``(n,)`` users an empty list in every feature that is a list, and nothing in the others.

        Raises
        ------
        BusyError, SinkError
            As :meth:`write`.
        """
        columns = {}
        for name, dtype in self.features.items():
            nothing = pa.scalar([] if dtype.startswith("list<") else None, parse_type(dtype))
            columns[name] = pa.repeat(nothing, len(ids))
        self.write(pa.table({USER_ID: ids, **columns}), at)

    def read(self, ids: Sequence[int | str]) -> list[dict[str, Any]]:
        """Return what Feast's ``get_online_features`` gives for users, in their order; None where the store has none.

        Raises
        ------
        BusyError, SinkError
            As :meth:`write`.
        """
        refs = [f"{self.name}:{name}" for name in self.features]
        rows = [{self.key.name: one} for one in ids]
        answer = self._asked(
            lambda: self._feast.get_online_features(features=refs, entity_rows=rows).to_dict(),
            f"reading from {self.name}",
        )
        return [{name: answer[name][row] for name in self.features} for row in range(len(ids))]

    def _by_feast(self, table: pa.Table, at: datetime) -> None:
        rows = online_rows(table, self.key, self.features, at)
        self._store.online_write_batch(self._feast.config, self._view, rows, None)

    def _expect(self, what: str, found: str | None, wanted: str, columns: dict[str, str]) -> None:
        if found is None:
            has = listed(f"{name} ({dtype})" for name, dtype in columns.items())
            raise FeatureError(
                f"feature view {self.name!r} wants {what} of type {wanted}, but the run has none; it has {has}",
                "name features of the view as the run's columns, or push into another view with --view",
            )
        if wanted not in {found, _WIDER.get(found)}:
            raise FeatureError(
                f"feature view {self.name!r} wants {what} of type {wanted}, but in the run it is {found}",
                "correct the view and apply it, or push into another view with --view",
            )

    def _asked(self, call: Callable[[], Any], what: str) -> Any:
        try:
            return retried(lambda: _told(call), what, self.retry_waits)
        except _Passing as error:
            raise BusyError(
                f"{what}: the online store of {self.repo} does not answer ({error})",
                "see that it runs and can be reached, then give the same command again: it pushes what is missing",
            ) from error
        except _Refused as error:
            raise SinkError(
                f"{what}: the online store of {self.repo} refused ({error})",
                f"see to the store (after a change of the view run `feast -c {self.repo} apply`), then give the same "
                "command again: it pushes what is missing",
            ) from error


class _Passing(Exception):  # noqa: N818 - never leaves this module
    """The store is away."""


class _Refused(ValueError):  # noqa: N818 - never leaves this module
    """The store answers, and will not do it: nothing to be tried again."""


def _told(call: Callable[[], Any]) -> Any:
    """Tell what may pass by itself from what comes again."""
    try:
        with feast_call():
            return call()
    except Exception as error:
        raise (_Passing if _may_pass(error) else _Refused)(brief(error)) from error


def _may_pass(error: Exception) -> bool:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, sqlite3.OperationalError):
        return any(word in str(error) for word in ("locked", "busy"))
    return bool(kinds & _PASSING) and not kinds & _LASTING
