"""Small, hand-made outputs that the tests of batchrec.output share."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from batchrec.output.manifest import Accounting, Manifest
from batchrec.output.part import build_table, count_by_status

MISSING = -1
LISTS: dict[str, Any] = {
    "user_ids": pa.array([3, 5, 8, 13]),
    "item_ids": pa.array(["i10", "i20", "i30", "i40"]),
    "positions": np.array([[3, 0, 1], [2, MISSING, MISSING], [MISSING] * 3, [0, 1, MISSING]]),
    "scores": np.array([[3, 2.5, -1], [7, -np.inf, -np.inf], [-np.inf] * 3, [0, -0.5, -np.inf]], np.float32),
    "propensities": np.array([[0.5, 0.75, 1], [1, 0, 0], [0, 0, 0], [0.25, 1, 0]], np.float32),
    "status": ["ok", "short", "unknown", "fallback"],
    "source": ["ranker", "ranker", "none", "popularity"],
}


@pytest.fixture
def lists() -> dict[str, Any]:
    """Four users' dense lists: full, short, empty, short."""
    return dict(LISTS)


@pytest.fixture
def table(lists) -> pa.Table:
    return build_table(**lists, layout="list")


@pytest.fixture
def manifest(table) -> Manifest:
    """A manifest whose numbers add up; tests replace what they are about."""
    return Manifest(
        run_id="night-1",
        created=datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC),
        as_of=datetime(2026, 2, 3, tzinfo=UTC),
        parts=[],
        schema=table.schema,
        accounting=Accounting(7, 1, 2, 4, count_by_status(LISTS["status"])),
        fingerprints={"users": "u", "bundle": "b", "config": "c", "code": "d"},
        seconds={"retrieve": 1.5, "rank": 0.5},
        options={"temperature": 20.0},
        versions={"batchrec": "0.1.0"},
    )
