from __future__ import annotations

import sys
from pathlib import Path

JOBS = Path(__file__).parents[2] / "jobs"
sys.path.insert(0, str(JOBS))
