"""batchrec: every user's top-k list, every night, from a feature store to Parquet."""

__version__ = "0.1.0"
