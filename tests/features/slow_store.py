"""A Feast offline store that takes its time: joins of a partition wait, or never come back."""

from __future__ import annotations

import time

from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig

asked: list[int] = []
"""Entity rows of each join that waited."""


class SlowOfflineStoreConfig(DuckDBOfflineStoreConfig):
    type: str = "tests.features.slow_store.SlowOfflineStore"
    seconds: float = 0.0
    """What each join of so many users waits."""
    after: int = 0
    """Joins that come at once before the first one waits."""


class SlowOfflineStore(DuckDBOfflineStore):
    @staticmethod
    def get_historical_features(config, feature_views, feature_refs, entity_df, *arguments, **options):
        if len(feature_refs) > 1 and "user_id_raw" in entity_df.columns and len(entity_df) > 1:
            asked.append(len(entity_df))
            if len(asked) > config.offline_store.after:
                time.sleep(config.offline_store.seconds)
        return DuckDBOfflineStore.get_historical_features(
            config, feature_views, feature_refs, entity_df, *arguments, **options
        )
