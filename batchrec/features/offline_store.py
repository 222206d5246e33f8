"""A Feast offline store that reads only the part of a sorted feature file that a point-in-time join needs.

Name it in ``feature_store.yaml``::

    offline_store:
      type: batchrec.features.offline_store.SortedOfflineStore

It is Feast's duckdb store but for point-in-time joins over Parquet files, on this machine or where fsspec finds them:
those are one DuckDB query (:mod:`batchrec.features.asof`), with the range of the keys asked for as a predicate, so that
DuckDB skips every row group whose statistics lie outside. All else is Feast's own: other sources, other formats,
on-demand views, the latest values for an online store. Feast imports this module by the name of its class; it imports
Feast in turn.

For a GPU the store is only asked what it would join; :mod:`batchrec.features.frame_join` does the same there.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from feast.feature_view import DUMMY_ENTITY_ID
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from feast.on_demand_feature_view import OnDemandFeatureView

from batchrec.features.asof import Limits, ViewRows, asof_join
from batchrec.features.connection import resolved
from batchrec.features.sources import column_in_file, is_parquet

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class SortedOfflineStoreConfig(DuckDBOfflineStoreConfig):  # type: ignore[misc] # Feast is untyped
    """What ``offline_store`` in ``feature_store.yaml`` may say, beside the options of Feast's duckdb store.

    Parameters
    ----------
    memory_limit
        Most memory that DuckDB takes for one join; beyond it, it works on disk.
    threads
        Threads of one join; all cores unless given.
    """

    type: str = "batchrec.features.offline_store.SortedOfflineStore"
    memory_limit: str = "1GB"
    threads: int | None = None


class SortedOfflineStore(DuckDBOfflineStore):  # type: ignore[misc]
    """Feast's duckdb store with a point-in-time join that skips row groups."""

    @staticmethod
    def get_historical_features(
        config: Any,
        feature_views: list[Any],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str | None,
        registry: Any,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
    ) -> RetrievalJob:
        """Join features to entity rows; see Feast's ``OfflineStore.get_historical_features``.

        Returns
        -------
        RetrievalJob
            Nothing is read before it is asked for its rows. They come in any order, one for each entity row.
        """

        def by_feast() -> RetrievalJob:
            return DuckDBOfflineStore.get_historical_features(
                config, feature_views, feature_refs, entity_df, registry, project, full_feature_names,
                filter_by_created_timestamp,
            )  # fmt: skip

        if (
            config.offline_store.staging_location
            or (filter_by_created_timestamp and any(_created(view) for view in feature_views))
            or OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
            or not all(is_parquet(view) and _has_keys(view) for view in feature_views)
            or not _is_zoned(entity_df)
        ):
            return by_feast()
        views = [_view_rows(view, feature_refs, config.repo_path, full_feature_names) for view in feature_views]
        names = [*entity_df.columns, *(name for view in views for name in view.features)]
        if len(set(names)) < len(names):
            return by_feast()
        return _Join(entity_df, views, feature_refs, full_feature_names, config.offline_store, by_feast)


def views_of(job: RetrievalJob) -> Sequence[ViewRows] | None:
    """Return the rows that a job of :class:`SortedOfflineStore` joins by itself; None for what it left to Feast."""
    return job.views if isinstance(job, _Join) else None


class _Join(RetrievalJob):  # type: ignore[misc]
    """A join that has been asked for and not yet been made."""

    def __init__(
        self, entity_df: pd.DataFrame, views: Sequence[ViewRows], feature_refs: list[str], full_feature_names: bool,
        settings: SortedOfflineStoreConfig, by_feast: Callable[[], RetrievalJob],
    ) -> None:  # fmt: skip
        super().__init__()
        self._time = infer_event_timestamp_from_entity_df(dict(entity_df.dtypes))
        self._entities = _entity_rows(entity_df, self._time)
        self.views, self._features, self._full_feature_names = views, feature_refs, full_feature_names
        self._limits = Limits(settings.memory_limit, settings.threads)
        self._by_feast = by_feast

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:  # noqa: ARG002 - Feast's duckdb has none either
        return asof_join(self._entities, self._time, self.views, self._limits)

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        frame: pd.DataFrame = self._to_arrow_internal(timeout).to_pandas()
        return frame

    @property
    def full_feature_names(self) -> bool:
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[Any]:
        return []

    def persist(self, storage: Any, allow_overwrite: bool = False, timeout: int | None = None) -> None:
        """Write the joined rows where Feast's own store would, as it would."""
        self._by_feast().persist(storage, allow_overwrite, timeout)

    @property
    def metadata(self) -> RetrievalMetadata:
        times = pc.min_max(self._entities[self._time]).as_py()
        keys = [name for name in self._entities.column_names if name != self._time]
        return RetrievalMetadata(self._features, keys, times["min"], times["max"])


def _entity_rows(entity_df: pd.DataFrame, time: str) -> pa.Table:
    """Return entity rows with their times in microseconds, as precise as DuckDB compares them."""
    table = pa.Table.from_pandas(entity_df, preserve_index=False)
    times = table[time]
    if times.type.unit == "ns":
        times = pc.floor_temporal(times, unit="microsecond")
    times = times.cast(pa.timestamp("us", times.type.tz), safe=False)
    return table.set_column(table.column_names.index(time), time, times)


def _view_rows(view: Any, feature_refs: Sequence[str], repo: Any, full_feature_names: bool) -> ViewRows:
    prefix = f"{view.projection.name_to_use()}:"
    shown = f"{view.projection.name_alias or view.name}__" if full_feature_names else ""
    wanted = [ref.removeprefix(prefix) for ref in feature_refs if ref.startswith(prefix)]
    keys = view.projection.join_key_map or {column.name: column.name for column in view.entity_columns}
    created = _created(view)
    return ViewRows(
        path=resolved(Path(repo), view.batch_source.path),
        keys={column_in_file(view, key): asked for key, asked in keys.items()},
        time=column_in_file(view, view.batch_source.timestamp_field),
        created=None if created is None else column_in_file(view, created),
        features={f"{shown}{feature}": column_in_file(view, feature) for feature in wanted},
        ttl=view.ttl,
        endpoint=view.batch_source.s3_endpoint_override or None,
    )


def _has_keys(view: Any) -> bool:
    return all(column.name != DUMMY_ENTITY_ID for column in view.entity_columns)


def _created(view: Any) -> str | None:
    return view.batch_source.created_timestamp_column or None


def _is_zoned(entity_df: pd.DataFrame | str | None) -> TypeGuard[pd.DataFrame]:
    """Tell whether these are entity rows whose times have a zone; Feast's front gives them one."""
    if not isinstance(entity_df, pd.DataFrame) or entity_df.empty:
        return False
    time = infer_event_timestamp_from_entity_df(dict(entity_df.dtypes))
    return isinstance(entity_df[time].dtype, pd.DatetimeTZDtype)
