"""A Feast offline store that is away at every third join."""

from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig

calls: list[bool] = []
"""Whether each call so far failed."""


class FlakyOfflineStoreConfig(DuckDBOfflineStoreConfig):
    type: str = "tests.features.flaky_store.FlakyOfflineStore"
    fails_every: int = 3


class FlakyOfflineStore(DuckDBOfflineStore):
    @staticmethod
    def get_historical_features(config, *arguments, **options):
        calls.append((len(calls) + 1) % config.offline_store.fails_every == 0)
        if calls[-1]:
            raise OSError("the store is away")
        return DuckDBOfflineStore.get_historical_features(config, *arguments, **options)
