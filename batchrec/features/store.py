"""Features as they were known at a time, read from a Feast repository.

Feast is imported inside functions only: the import alone takes seconds.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pyarrow as pa

from batchrec.errors import FeatureError
from batchrec.features.connection import feast_call, resolved
from batchrec.features.dtypes import parse_type
from batchrec.features.entities import checked_ids, distinct_pairs, timestamps
from batchrec.features.feast_import import import_feast
from batchrec.features.join import join, views_to_join
from batchrec.features.refs import FeatureRef, JoinKey, brief, check_names, dtype_of, feature_ref, key_of, listed
from batchrec.features.retry import WAITS
from batchrec.features.sort import sort_remote, sort_source, why_not_sorted
from batchrec.features.sources import (
    ViewSource,
    column_in_file,
    is_parquet,
    parquet_files,
    source_state,
    view_source,
)
from batchrec.progress import say
from batchrec.schema import EVENT_TIMESTAMP, id_type

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchrec.features.asof import ViewRows
    from batchrec.features.online import OnlineView
    from batchrec.features.sources import FeatureFile

__all__ = ["CONFIG_FILE", "FeatureRef", "FeatureStore", "JoinKey"]

CONFIG_FILE = "feature_store.yaml"

_EPOCH = datetime.fromtimestamp(0, UTC)
_SAID: set[str] = set()
"""Files that this process has said are not sorted."""


class FeatureStore:
    """A Feast repository that has been applied, read through its offline store.

    Cheap to construct and to pickle: only the folder travels, and a worker opens Feast at its first question.

    Parameters
    ----------
    repo
        Folder that holds ``feature_store.yaml``. Use :meth:`open` to have it checked at once.

    Attributes
    ----------
    retry_waits
        Seconds before each further try of a join that failed in a way that may pass by itself.
    """

    retry_waits: Sequence[float] = WAITS

    def __init__(self, repo: Path) -> None:
        self.repo = repo

    def __reduce__(self) -> tuple[type[FeatureStore], tuple[Path]]:
        return FeatureStore, (self.repo,)

    @classmethod
    def open(cls, repo: Path) -> FeatureStore:
        """Open a Feast repository and see that it has been applied.

        Parameters
        ----------
        repo
            Folder that holds ``feature_store.yaml``.

        Raises
        ------
        FeatureError
            If there is no such folder or file, Feast cannot read it, or no feature view has been applied.
        """
        store = cls(Path(repo).absolute())
        if not store._views:
            store._refuse_unapplied(f"its registry holds no feature view of project {store._feast.project!r}")
        return store

    def service(self, name: str) -> tuple[FeatureRef, ...]:
        """Return the features of a feature service, in the service's order.

        Raises
        ------
        FeatureError
            If there is no such service (the message lists those there are), or if it renames views or keys.
        """
        with self._reading_registry():
            services = {s.name: s for s in self._registry.list_feature_services(self._feast.project, allow_cache=True)}
        if name not in services:
            raise FeatureError(
                f"{self.repo} has no feature service {name!r}; it has {listed(services)}",
                f"name one of these, or define the service and run `feast -c {self.repo} apply`",
            )
        return tuple(
            ref for projection in services[name].feature_view_projections for ref in self._projected(projection)
        )

    def refs(self, view: str) -> tuple[FeatureRef, ...]:
        """Return all features of a view, in the view's order.

        Raises
        ------
        FeatureError
            If there is no such view (the message lists those there are).
        """
        return tuple(feature_ref(view, field) for field in self._view(view).features)

    def join_key(self, view: str) -> JoinKey:
        """Return the column by which a view is joined.

        Raises
        ------
        FeatureError
            If there is no such view, or if it has no entity, or several.
        """
        return key_of(self._view(view))

    def online(self, view: str) -> OnlineView:
        """Return a view as the online store holds it.

        Raises
        ------
        FeatureError
            If there is no such view, or it cannot be pushed into.
        """
        from batchrec.features.online import OnlineView

        return OnlineView(self.repo, self._feast, self._view(view))

    def check(self, expected: Sequence[FeatureRef]) -> None:
        """See, before any work, that every feature exists with the type expected and can be read.

        Beside the registry the offline store itself is asked, for one id a view: a source that is missing, damaged or
        lacks a column shows here. A Parquet file of which a join by key ranges would read more than it needs is said
        once a process, on standard error.

        Raises
        ------
        FeatureError
            At the first feature, in the order given, that is missing, has another type, or cannot be read.
        """
        for ref in expected:
            self._check_ref(ref)
        for view in dict.fromkeys(ref.view for ref in expected):
            refs = [ref for ref in dict.fromkeys(expected) if ref.view == view]
            self._check_source(view)
            parquet_files(self._view(view), self.repo)
            no_id = pa.array([0], pa.int64()).cast(id_type(parse_type(self.join_key(view).dtype)))
            self.point_in_time(no_id, _EPOCH, refs)
            self._say_if_unsorted(view)

    def point_in_time(self, ids: pa.Array, as_of: datetime | pa.Array, refs: Sequence[FeatureRef]) -> pa.Table:
        """Return each id's features as they were known at its time.

        Of every view, an id gets the values of that row of its own which has the latest event timestamp not after
        the time asked for, and nulls where there is none (or where that row is older than the view's time to live).
        Among rows of one id and one event timestamp, the source's created timestamp decides, the latest first; a
        source that holds such rows without a created timestamp leaves open which of them comes.

        Parameters
        ----------
        ids
            ``(n,)`` raw ids, integer or string as the views' join key is, without nulls. They may repeat.
        as_of
            One aware time for all, or ``(n,)`` timestamps with a time zone, one for each id.
        refs
            Features to read. Their views must share one join key, and their names must differ.

        Returns
        -------
        pa.Table
            ``(n,)`` rows in the order of `ids`; one column a feature, named and typed as its reference says.

        Raises
        ------
        FeatureError
            If the question cannot be asked of this store, the store fails, or its answer does not fit the question.
        """
        key = self._shared_key(refs)
        ids = checked_ids(ids, key.name, parse_type(key.dtype))
        times = timestamps(as_of, len(ids))
        distinct_ids, distinct_times, row = distinct_pairs(ids, times)
        if len(distinct_ids) == 0:
            return pa.schema([(ref.feature, parse_type(ref.dtype)) for ref in refs]).empty_table()
        entities = pa.table({key.name: distinct_ids, EVENT_TIMESTAMP: distinct_times})
        return self._join(entities, refs).take(row).combine_chunks()

    def views_to_join(self, refs: Sequence[FeatureRef]) -> list[tuple[ViewRows, list[FeatureRef]]] | None:
        """Return the rows that :meth:`point_in_time` joins, where batchrec's own offline store joins them."""
        key = self._shared_key(refs)
        no_id = pa.array([0], pa.int64()).cast(id_type(parse_type(key.dtype)))
        entities = pa.table({key.name: no_id, EVENT_TIMESTAMP: timestamps(_EPOCH, 1)})
        return views_to_join(self._feast, self.repo, entities, refs)

    def sort_source(self, view: str) -> tuple[str, ...]:
        """Sort the Parquet files of a view by its join key, then event timestamp, so that joins can skip row groups.

        Returns
        -------
        tuple of str
            Paths or URLs of the files that were rewritten; those of which joins can skip row groups already stay
            untouched.

        Raises
        ------
        FeatureError
            If there is no such view, its source is not made of Parquet files, or one cannot be sorted.
        """
        self._check_source(view)
        described = self._view(view)
        if not is_parquet(described):
            raise FeatureError(
                f"feature view {view!r} does not read Parquet files that can be opened from here",
                "sort its rows where they are kept",
            )
        key = column_in_file(described, self.join_key(view).name)
        time = column_in_file(described, described.batch_source.timestamp_field)
        unsorted = [file for file, _ in self._unsorted(view)]
        for file in unsorted:
            if file.is_remote:
                sort_remote(file, key, [time])
            else:
                sort_source(Path(file.path), key, [time])
        return tuple(file.shown for file in unsorted)

    def source_fingerprint(self, refs: Sequence[FeatureRef]) -> str:
        """Return SHA-256, in hexadecimal, over the sources of the views of these features.

        It changes when a source's path, or the size or time of modification (entity tag, for URLs) of one of its files
        changes. Of sources that are not files, and of URLs that fsspec cannot look at here, only the name counts.

        Raises
        ------
        FeatureError
            If there is no such view, or a source that is made of files cannot be looked at.
        """
        views = sorted({ref.view for ref in refs})
        for view in views:
            self._check_source(view)
        state = [[view, *source_state(self._view(view), self.repo)] for view in views]
        return hashlib.sha256(json.dumps(state).encode()).hexdigest()

    def sources(self, refs: Sequence[FeatureRef]) -> tuple[ViewSource, ...]:
        """Return where the views of these features have their data, in the order of the features.

        Raises
        ------
        FeatureError
            If there is no such view.
        """
        views = dict.fromkeys(ref.view for ref in refs)
        return tuple(
            view_source(self._view(view), self.repo, [ref for ref in refs if ref.view == view]) for view in views
        )

    @cached_property
    def _feast(self) -> Any:
        config = self.repo / CONFIG_FILE
        if not config.is_file():
            raise FeatureError(
                f"{self.repo} is not a Feast repository: it holds no {CONFIG_FILE}",
                f"give the folder that holds {CONFIG_FILE}",
            )
        try:
            with feast_call():
                store = import_feast().FeatureStore(fs_yaml_file=config, repo_path=str(self.repo))
                settings = store.config.registry
                # Entity rows made here have a zone. Feast would look at 500 of them one by one, each time, to see it.
                store.config.coerce_tz_aware = False
        except Exception as error:
            raise FeatureError(f"Feast cannot read {config} ({brief(error)})", f"correct {config}") from error
        if settings.registry_type == "file" and "://" not in settings.path:
            registry = self.repo / settings.path
            if not registry.exists():  # Feast itself would quietly write an empty registry there
                self._refuse_unapplied(f"there is no registry {registry}")
        return store

    @cached_property
    def _registry(self) -> Any:
        with self._reading_registry():
            return self._feast.registry

    @cached_property
    def _views(self) -> dict[str, Any]:
        with self._reading_registry():
            views = self._registry.list_all_feature_views(self._feast.project, allow_cache=True)
        # On-demand views have no rows of their own to join.
        return {view.name: view for view in views if getattr(view, "batch_source", None) is not None}

    @contextmanager
    def _reading_registry(self) -> Iterator[None]:
        try:
            with feast_call():
                yield
        except FeatureError:
            raise
        except Exception as error:
            raise FeatureError(
                f"the Feast registry of {self.repo} cannot be read ({brief(error)})",
                f"restore it, or delete it and run `feast -c {self.repo} apply`",
            ) from error

    def _refuse_unapplied(self, found: str) -> NoReturn:
        raise FeatureError(
            f"the Feast repository {self.repo} has not been applied: {found}", f"run `feast -c {self.repo} apply`"
        )

    def _view(self, name: str) -> Any:
        if name not in self._views:
            raise FeatureError(
                f"{self.repo} has no feature view {name!r}; it has {listed(self._views)}",
                f"name one of these, or define the view and run `feast -c {self.repo} apply`",
            )
        return self._views[name]

    def _projected(self, projection: Any) -> Iterator[FeatureRef]:
        if projection.name_to_use() != projection.name or projection.join_key_map:
            raise FeatureError(
                f"a feature service takes view {projection.name!r} under another name or join key",
                "list the view in the service as it is, without with_name or with_join_key_map",
            )
        self._view(projection.name)
        for field in projection.features:
            yield feature_ref(projection.name, field)

    def _check_ref(self, ref: FeatureRef) -> None:
        fields = {field.name: field for field in self._view(ref.view).features}
        if ref.feature not in fields:
            raise FeatureError(
                f"feature view {ref.view!r} has no feature {ref.feature!r} (expected {ref.dtype}); "
                f"it has {listed(fields)}",
                "add the feature to the view and apply it, or use a bundle that was trained without it",
            )
        found = dtype_of(ref.view, fields[ref.feature])
        if found != ref.dtype:
            raise FeatureError(
                f"feature {ref.ref} has dtype {found}, expected {ref.dtype}",
                "correct the view and apply it, or use a bundle that was trained with this dtype",
            )

    def _check_source(self, view: str) -> None:
        path = resolved(self.repo, getattr(self._view(view).batch_source, "path", None) or "")
        if "://" in path or any(sign in path for sign in "*?["):
            return
        if not Path(path).exists():
            raise FeatureError(
                f"feature view {view!r} reads {path}, which does not exist",
                f"write that file, or correct the path of the view's source and run `feast -c {self.repo} apply`",
            )

    def _unsorted(self, view: str) -> Iterator[tuple[FeatureFile, str]]:
        """Yield each file of which joins by key ranges read more than they need, and why."""
        described = self._view(view)
        key = column_in_file(described, self.join_key(view).name)
        for file in parquet_files(described, self.repo):
            try:
                with file.files.open(file.path, "rb") as source:
                    reason = why_not_sorted(source, key)
            except Exception as error:  # file systems raise what the libraries under them do
                raise FeatureError(f"{file.shown} cannot be read ({brief(error)})", "write that file again") from error
            if reason is not None:
                yield file, reason

    def _say_if_unsorted(self, view: str) -> None:
        file, reason = next(self._unsorted(view), (None, None))
        if file is not None and file.shown not in _SAID:
            _SAID.add(file.shown)
            say(
                f"{file.shown} {reason}: every partition reads far more of it than its own users; sort it once with "
                f"`batchrec sort-features --feature-repo {self.repo} {view}`",
                level="warning",
            )

    def _shared_key(self, refs: Sequence[FeatureRef]) -> JoinKey:
        check_names(refs)
        keys = {view: self.join_key(view) for view in dict.fromkeys(ref.view for ref in refs)}
        if len(set(keys.values())) != 1:
            found = ", ".join(f"{view} by {key.name} ({key.dtype})" for view, key in keys.items())
            raise FeatureError(
                f"features of one join must share one join key, found: {found or 'no features at all'}",
                "ask for features of one entity",
            )
        return next(iter(keys.values()))

    def _join(self, entities: pa.Table, refs: Sequence[FeatureRef]) -> pa.Table:
        for view in dict.fromkeys(ref.view for ref in refs):
            self._check_source(view)
        return join(self._feast, self.repo, entities, refs, self.retry_waits)
