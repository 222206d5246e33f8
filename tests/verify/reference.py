"""The checks once more, as slow and plain as can be: loops over Python values."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from typing import Any

from batchrec.verify.checks import CHECKS

PERSONAL = ("ranker",)
FITTING = {
    "ok": PERSONAL,
    "short": PERSONAL,
    "degraded": (),
    "fallback": ("popularity",),
    "unknown": ("none",),
    "failed": ("none",),
}
SOURCES = {"ranker", "retrieval", "popularity", "none"}


def violations(rows: list[dict[str, Any]], layout: str, top_k: int, *, sampled: bool, beside: Any) -> dict[str, int]:
    """Count by every check but ``schema``; `beside` has seen (a dict), catalogue and what is suppressed."""
    count = Counter(dict.fromkeys(CHECKS, 0))
    for row in rows:
        count["user_null"] += row["user_id"] is None
        count["suppressed_user"] += row["user_id"] in beside.suppressed_users
    users = [row["user_id"] for row in rows if row["user_id"] is not None]
    for before, user in pairwise(users):
        count["user_order"] += _key(user) <= _key(before) if layout == "list" else _key(user) < _key(before)
    if beside.seen is not None:
        count["seen_missing"] = len(set(users) - beside.seen.keys())
    lists = _lists(rows, layout)
    for user, items, scores, propensities in lists:
        count["score"] += sum(score is None or not math.isfinite(score) for score in scores)
        if sampled:
            count["propensity"] += sum(not (p is not None and 0 < p <= 1) for p in propensities)
        for item in items:
            count["not_in_catalogue"] += item not in beside.catalogue
            count["suppressed_item"] += item in beside.suppressed_items
            if beside.seen is not None and user is not None and item is not None:
                count["seen_item"] += item in (beside.seen.get(user) or ())
        there = [item for item in items if item is not None]
        count["repeated_item"] += len(there) - len(set(there))
    _of_layout(count, rows, lists, layout, top_k, sampled)
    return dict(count)


def _key(value: int | str) -> int | bytes:
    return value.encode() if isinstance(value, str) else value


def _lists(rows, layout):
    if layout == "list":
        return [
            (row["user_id"], row["item_ids"] or [], row["scores"] or [], row.get("propensities") or []) for row in rows
        ]
    by_user: dict[Any, Any] = {}
    for row in rows:
        items, scores, propensities = by_user.setdefault(row["user_id"], ([], [], []))
        items.append(row["item_id"])
        scores.append(row["score"])
        propensities.append(row.get("propensity"))
    return [(user, *columns) for user, columns in by_user.items()]


def _of_layout(count, rows, lists, layout, top_k, sampled):
    if layout == "long":
        count["list_length"] = sum(len(items) > top_k for _, items, _, _ in lists)
        last = None
        for row in rows:
            goes_on = last is not None and last["user_id"] == row["user_id"]
            expected = (last["rank"] or 0) + 1 if goes_on else 1
            count["rank_order"] += row["rank"] != expected
            last = row
        return
    for row, (_, items, _, _) in zip(rows, lists, strict=True):
        columns = [row["item_ids"], row["scores"]] + ([row["propensities"]] if sampled else [])
        count["unequal_lengths"] += None in columns or len({len(column) for column in columns}) > 1
        status, source = row["status"], row["source"]
        count["status_word"] += status not in FITTING
        count["source_word"] += source not in SOURCES
        count["status_source"] += status in FITTING and source in SOURCES and source not in FITTING[status]
        allowed = {
            "ok": [top_k],
            "short": range(top_k),
            "unknown": [0],
            "failed": [0],
            "degraded": [0] if source == "none" else range(top_k + 1),
        }.get(status, range(top_k + 1))
        count["list_length"] += len(items) not in allowed
