"""How good published top-k lists are against held-out interactions, with popularity beside them."""

from batchrec.evaluate.compare import evaluate_runs
from batchrec.evaluate.report import Comparison, Figure, Report, System

__all__ = ["Comparison", "Figure", "Report", "System", "evaluate_runs"]
