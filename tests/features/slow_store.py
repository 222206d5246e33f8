"""A Feast offline store that stops answering: after so many joins of users, each one waits until it is let go."""

from __future__ import annotations

import threading

from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig

asked: list[int] = []
"""Users of each join so far, those with one user left out: the check at the start asks for one."""

answers = threading.Event()
"""Set it to let joins that wait go on."""


class SlowOfflineStoreConfig(DuckDBOfflineStoreConfig):
    type: str = "tests.features.slow_store.SlowOfflineStore"
    after: int = 0


class SlowOfflineStore(DuckDBOfflineStore):
    @staticmethod
    def get_historical_features(config, feature_views, feature_refs, entity_df, *arguments, **options):
        if "user_id_raw" in entity_df.columns and len(entity_df) > 1:
            asked.append(len(entity_df))
            if len(asked) > config.offline_store.after:
                answers.wait()
        return DuckDBOfflineStore.get_historical_features(
            config, feature_views, feature_refs, entity_df, *arguments, **options
        )
