"""What stands fixed while a run is pushed: run, store, view and options."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchrec.delivery.push_workers import Work

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from batchrec.delivery.push_journal import Target
    from batchrec.features.online import OnlineView
    from batchrec.output.changes import Increment
    from batchrec.output.record import PartRecord
    from batchrec.output.storage import Storage

VIEW = "user_recommendations"
BATCH = 5000
SAMPLE = 1000
WORKERS = min(4, os.cpu_count() or 1)


@dataclass(frozen=True)
class PushOptions:
    """How to push.

    Parameters
    ----------
    feature_repo
        Feast repository; None for that of the run.
    view
        Feature view to write into.
    workers
        Processes.
    batch
        Users that are written at once.
    sample
        Users that are read back afterwards.
    changes
        Write only what differs from the run that this one was computed since, where the store holds that one whole.
    """

    feature_repo: Path | None = None
    view: str = VIEW
    workers: int = WORKERS
    batch: int = BATCH
    sample: int = SAMPLE
    changes: bool = False


@dataclass(frozen=True)
class Push:
    """All that stands fixed while a push goes on.

    Parameters
    ----------
    folder, records
        The run and its parts.
    target
        What the journal is bound to.
    repo, view
        Where to.
    options
        How.
    lists
        Users of the run.
    increment
        What differs from the run that it was computed since; None where it was since none.
    """

    folder: Storage
    records: list[PartRecord]
    target: Target
    repo: Path
    view: OnlineView
    options: PushOptions
    lists: int
    increment: Increment | None

    @property
    def parts(self) -> list[str]:
        """Names of the run's part files."""
        return [record.name for record in self.records]

    def work(self, at: datetime) -> Work:
        """Return what a process that pushes needs to know."""
        return Work(self.folder.path(), self.repo, self.view.name, at, self.options.batch)
