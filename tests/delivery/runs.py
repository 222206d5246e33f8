"""Published runs of lists that are chosen by hand, written from the documented contract."""

from __future__ import annotations

import hashlib
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


def publish_since(run, lists, before, lists_before, parts=3, layout="list", repo=None, item_type=None):
    """Write lists as a run that was computed since an earlier one, with the changes that dictionaries find."""
    publish(run, lists, parts, layout, repo, item_type)
    make = list_rows if layout == "list" else long_rows
    schema = pq.read_schema(run / "part-00000.parquet")
    has_row = (lambda items: True) if layout == "list" else (lambda items: bool(items))
    now = {user: one for user, one in lists.items() if has_row(one[0])}
    old = {user: one for user, one in lists_before.items() if has_row(one[0])}
    gone = [{"user_id": user} for user in sorted(old.keys() - now.keys())]
    rows = {
        "inserted": make({user: now[user] for user in sorted(now.keys() - old.keys())}),
        "changed": make({user: now[user] for user in sorted(now.keys() & old.keys()) if now[user] != old[user]}),
        "removed": gone,
    }
    files = {}
    for kind, some in rows.items():
        name = f"_changes/{kind}/part-00000.parquet"
        (run / name).parent.mkdir(parents=True)
        columns = pa.schema([schema.field("user_id")]) if kind == "removed" else schema
        pq.write_table(pa.Table.from_pylist(some, columns), run / name)
        data = (run / name).read_bytes()
        record = {"name": name, "rows": len(some), "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        files[kind] = [record]
    manifest = json.loads((run / "_manifest.json").read_text())
    manifest["increment"] = {
        "run_id": before.name,
        "place": str(before),
        "manifest": hashlib.sha256((before / "_manifest.json").read_bytes()).hexdigest(),
        "carried_users": 0,
        "computed_users": len(lists),
        "users": {kind: len({row["user_id"] for row in some}) for kind, some in rows.items()},
        "files": files,
    }
    (run / "_manifest.json").write_text(json.dumps(manifest))
    return run


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
