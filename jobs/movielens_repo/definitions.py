"""Entities, feature views and feature services of a prepared MovieLens folder; ``feast apply`` registers them.

The feature files lie in the folder above this one; the environment variable ``BATCHREC_FEATURE_DATA`` names another.
Their paths are absolute because Feast's duckdb reader takes a relative one from the current directory, not from the
repository.
"""

import os
from datetime import timedelta
from pathlib import Path

from feast import Entity, FeatureService, FeatureView, Field, FileSource, Project, PushSource, ValueType
from feast.types import Array, Float32, Int64, String

DATA = Path(os.environ.get("BATCHREC_FEATURE_DATA", Path(__file__).parent.parent)).resolve()
FOREVER = timedelta(0)
"""A value holds until a newer one; in particular the seen items of a user who has long been away."""


def parquet(name: str) -> FileSource:
    """Return the source of one feature file."""
    return FileSource(name=f"{name}_file", path=str(DATA / f"{name}.parquet"), timestamp_field="event_timestamp")


project = Project(name="movielens", description="MovieLens, prepared by jobs/movielens.py.")

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64, description="A user of MovieLens.")
item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.INT64, description="A movie.")

user_features = FeatureView(
    name="user_features",
    description="Who a user is, and what they have rated so far.",
    entities=[user],
    ttl=FOREVER,
    schema=[
        Field(name="user_id", dtype=Int64),
        Field(name="user_gender", dtype=String),
        Field(name="user_age", dtype=Int64, description="Lower end of the age bracket."),
        Field(name="user_occupation", dtype=String),
        Field(name="user_region", dtype=String, description="First character of the postal code."),
        Field(
            name="user_activity", dtype=Int64, description="0 before the first rating, else 1 + floor(log2(ratings))."
        ),
        Field(name="user_genre", dtype=String, description="The genre rated most often."),
        Field(name="user_mean_rating", dtype=Float32),
        Field(name="user_mean_year", dtype=Float32, description="Mean release year of the movies rated."),
    ],
    source=parquet("user_features"),
    online=True,
)

item_features = FeatureView(
    name="item_features",
    description="What a movie is, and how popular it is.",
    entities=[item],
    ttl=FOREVER,
    schema=[
        Field(name="item_id", dtype=Int64),
        Field(name="item_year", dtype=Int64, description="Release year."),
        Field(name="item_decade", dtype=Int64, description="First year of the release decade."),
        Field(name="item_genre", dtype=String, description="First genre."),
        Field(name="item_genres", dtype=String, description="All genres, joined by |."),
        Field(name="item_popularity", dtype=Int64, description="0 if never rated, else 1 to 10 by rank among movies."),
    ],
    source=parquet("item_features"),
    online=True,
)

item_id_seen = FeatureView(
    name="item_id_seen",
    description="The distinct movies a user has rated, oldest first; not recommended again.",
    entities=[user],
    ttl=FOREVER,
    schema=[Field(name="user_id", dtype=Int64), Field(name="item_id_seen", dtype=Array(Int64))],
    source=parquet("item_id_seen"),
    online=True,
)

user_recommendations = FeatureView(
    name="user_recommendations",
    description="Top-k lists pushed by a run: movie ids, best first, and their scores.",
    entities=[user],
    ttl=FOREVER,
    schema=[
        Field(name="user_id", dtype=Int64),
        Field(name="item_ids", dtype=Array(Int64)),
        Field(name="scores", dtype=Array(Float32)),
    ],
    source=PushSource(name="user_recommendations_push", batch_source=parquet("user_recommendations")),
    online=True,
)

query_tower = FeatureService(
    name="query_tower",
    description="What the two towers read, and the seen items.",
    features=[user_features, item_features, item_id_seen],
)

ranker = FeatureService(
    name="ranker", description="What the ranker reads of a user and a movie.", features=[user_features, item_features]
)
