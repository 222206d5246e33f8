"""Small published runs, written straight from the documented contract."""

import hashlib
import json

import pyarrow as pa
import pyarrow.parquet as pq

from batchrec.schema import list_schema, long_schema


def write_pairs(path, pairs, user_type=None, item_type=None):
    users, items = [user for user, _ in pairs], [item for _, item in pairs]
    pq.write_table(pa.table({"user_id": pa.array(users, user_type), "item_id": pa.array(items, item_type)}), path)
    return path


def write_items(path, items):
    pq.write_table(pa.table({"item_id": pa.array(items)}), path)
    return path


def publish(run, lists, layout="list", parts=1, user_type=None, item_type=None):
    """Write ``lists`` (user id → item ids, best first) as a published run."""
    user_type = user_type or pa.array(list(lists)).type
    item_type = item_type or pa.array([item for items in lists.values() for item in items]).type
    run.mkdir(parents=True)
    users = sorted(lists)
    rows = list_rows if layout == "list" else long_rows
    for part in range(parts):
        table = rows({user: lists[user] for user in users[part::parts]}, user_type, item_type)
        pq.write_table(table, run / f"part-{part:05d}.parquet")
    schema = {field.name: str(field.type) for field in table.schema}
    head = {"format_version": 2, "run_id": run.name, "as_of": "2026-02-03T00:00:00Z", "schema": schema}
    (run / "_manifest.json").write_text(json.dumps(head | {"options": {"layout": layout}}))
    (run / "_SUCCESS").touch()
    return seal(run)


def seal(run, **instead):
    """Let the manifest name the parts there are as they are now, but for what stands in ``instead``."""
    manifest = json.loads((run / "_manifest.json").read_text())
    manifest["parts"] = [record(part) | instead for part in sorted(run.glob("part-*.parquet"))]
    (run / "_manifest.json").write_text(json.dumps(manifest))
    return run


def record(part):
    content = part.read_bytes()
    is_parquet = content.endswith(b"PAR1") and len(content) > 8
    return {
        "name": part.name,
        "rows": pq.read_metadata(part).num_rows if is_parquet else 0,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def list_rows(lists, user_type, item_type):
    rows = [
        {"user_id": user, "item_ids": items, "scores": [0.0] * len(items), "status": "ok", "source": "ranker"}
        for user, items in lists.items()
    ]
    return pa.Table.from_pylist(rows, list_schema(user_type, item_type, sampled=False))


def long_rows(lists, user_type, item_type):
    rows = [
        {"user_id": user, "rank": rank, "item_id": item, "score": 0.0}
        for user, items in lists.items()
        for rank, item in enumerate(items, start=1)
    ]
    return pa.Table.from_pylist(rows, long_schema(user_type, item_type, sampled=False))
