"""Published runs of lists that are chosen by hand, written from the documented contract."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batchrec.schema import list_schema, long_schema
from tests.evaluate.support import seal


def invented(users, length=10, seed=0):
    """User id → (item ids, scores): lists of up to `length`; the first user's is empty."""
    draw = np.random.default_rng(seed)
    lists = {}
    for place, user in enumerate(users):
        size = 0 if place == 0 else int(draw.integers(1, length + 1))
        scores = draw.normal(size=size).astype(np.float32)
        lists[user] = (draw.integers(0, 2**40, size).tolist(), scores.tolist())
    return lists


def publish(run, lists, parts=3, layout="list", repo=None, item_type=None):
    """Write lists (user id → (item ids, scores)) as a published run, users ascending over its parts; return it."""
    run.mkdir(parents=True)
    users = sorted(lists)
    item_type = item_type or pa.int64()
    make = list_rows if layout == "list" else long_rows
    schema = (list_schema if layout == "list" else long_schema)(pa.array(users).type, item_type, sampled=False)
    for part, some in enumerate(np.array_split(np.array(users, dtype=object), parts)):
        rows = make({user: lists[user] for user in some})
        pq.write_table(pa.Table.from_pylist(rows, schema), run / f"part-{part:05d}.parquet")
    manifest = {
        "format_version": 2,
        "run_id": run.name,
        "created": "2026-02-03T04:05:06Z",
        "as_of": "2026-02-03T00:00:00Z",
        "accounting": {"by_status": {"ok": len(users)}, "distinct_users": len(users)},
        "options": {"layout": layout, "feature_repo": str(repo)},
    }
    (run / "_manifest.json").write_text(json.dumps(manifest))
    (run / "_SUCCESS").touch()
    return seal(run)


def list_rows(lists):
    return [
        {"user_id": user, "item_ids": items, "scores": scores, "status": "ok", "source": "ranker"}
        for user, (items, scores) in lists.items()
    ]


def long_rows(lists):
    return [
        {"user_id": user, "rank": rank, "item_id": item, "score": score}
        for user, (items, scores) in lists.items()
        for rank, (item, score) in enumerate(zip(items, scores, strict=True), start=1)
    ]
