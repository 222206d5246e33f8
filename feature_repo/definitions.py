"""The demo's entities, feature views, feature services and the push view; ``feast apply`` registers them.

The files are those that ``jobs/demo_data.py`` writes into ``data/`` beside this file; the environment variable
``BATCHREC_FEATURE_DATA`` names another folder. Their paths are absolute because Feast's duckdb reader takes a relative
one from the current directory, not from the repository.
"""

import os
from datetime import timedelta
from pathlib import Path

from feast import Entity, FeatureService, FeatureView, Field, FileSource, Project, PushSource, ValueType
from feast.types import Array, Float32, Int64

DATA = Path(os.environ.get("BATCHREC_FEATURE_DATA", Path(__file__).parent / "data")).resolve()
FOREVER = timedelta(0)
"""A value holds until a newer one; in particular the seen items of a user who has long been away."""


def parquet(name: str) -> FileSource:
    """Return the source of one feature file."""
    return FileSource(name=f"{name}_file", path=str(DATA / f"{name}.parquet"), timestamp_field="event_timestamp")


project = Project(name="batchrec", description="The demo shop: clicks with planted preferences.")

user = Entity(
    name="user", join_keys=["user_id_raw"], value_type=ValueType.INT64, description="A user, by the raw id users know."
)
item = Entity(
    name="item", join_keys=["item_id_raw"], value_type=ValueType.INT64, description="An item, by the raw id users know."
)

user_features = FeatureView(
    name="user_features",
    description="Who a user is and, changing over time, what they are after.",
    entities=[user],
    ttl=FOREVER,
    schema=[
        Field(name="user_id_raw", dtype=Int64),
        Field(name="user_id", dtype=Int64, description="Contiguous code of the user."),
        Field(name="user_shops", dtype=Int64, description="Favourite shop at the time."),
        Field(name="user_profile", dtype=Int64, description="Taste segment."),
        Field(name="user_group", dtype=Int64, description="Gender by age."),
        Field(name="user_gender", dtype=Int64),
        Field(name="user_age", dtype=Int64, description="Age bracket."),
        Field(name="user_consumption_2", dtype=Int64, description="Spending level."),
        Field(name="user_is_occupied", dtype=Int64, description="1 if in work."),
        Field(name="user_geography", dtype=Int64, description="Kind of place of residence."),
        Field(name="user_intentions", dtype=Int64, description="Category believed to be sought at the time."),
        Field(name="user_brands", dtype=Int64, description="Favourite brand at the time."),
        Field(name="user_categories", dtype=Int64, description="Favourite category at the time."),
    ],
    source=parquet("user_features"),
    online=True,
)

item_features = FeatureView(
    name="item_features",
    description="What an item is.",
    entities=[item],
    ttl=FOREVER,
    schema=[
        Field(name="item_id_raw", dtype=Int64),
        Field(name="item_id", dtype=Int64, description="Contiguous code of the item."),
        Field(name="item_category", dtype=Int64),
        Field(name="item_shop", dtype=Int64),
        Field(name="item_brand", dtype=Int64),
    ],
    source=parquet("item_features"),
    online=True,
)

item_id_seen = FeatureView(
    name="item_id_seen",
    description="The distinct items a user had clicked, oldest first; not recommended again.",
    entities=[user],
    ttl=FOREVER,
    schema=[Field(name="user_id_raw", dtype=Int64), Field(name="item_id_seen", dtype=Array(Int64))],
    source=parquet("item_id_seen"),
    online=True,
)

user_recommendations = FeatureView(
    name="user_recommendations",
    description="Top-k lists pushed by a run: item ids in the order of the list, and their scores.",
    entities=[user],
    ttl=FOREVER,
    schema=[
        Field(name="user_id_raw", dtype=Int64),
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
    name="ranker", description="What the ranker reads of a user and an item.", features=[user_features, item_features]
)
