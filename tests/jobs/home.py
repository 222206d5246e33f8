"""A folder laid out as docs/scheduling.md says, on a small real world, in which schedulers' commands are executed."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.runs import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.world import World

JOBS = ROOT / "jobs"
INSTALLED_AT = "/srv/batchrec"
"""The folder that the files in jobs/ name."""

SIZE = 40
"""Users a partition: 25 parts."""


@dataclass(frozen=True)
class Home:
    """What stands in for /srv/batchrec."""

    folder: Path

    @property
    def output(self) -> Path:
        return self.folder / "output"

    @property
    def path(self) -> str:
        """The PATH that every file in jobs/ gives its commands."""
        return f"{self.folder}/.venv/bin:/usr/bin:/bin"

    def here(self, text: str) -> str:
        """Return text with this folder in the place of /srv/batchrec."""
        return text.replace(INSTALLED_AT, str(self.folder))

    def current(self) -> str:
        """Name of the run that readers see."""
        return (self.output / "current").readlink().name

    def is_published(self, day: str) -> bool:
        run = self.output / day
        return (run / "_SUCCESS").is_file() and json.loads((run / "_manifest.json").read_text())["run_id"] == day


def make_home(folder: Path, world: World) -> Home:
    commands = folder / ".venv" / "bin"
    commands.mkdir(parents=True)
    (commands / "batchrec").write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m batchrec "$@"\n')
    (commands / "batchrec").chmod(0o755)
    shutil.copy(JOBS / "nightly.sh", folder)
    (folder / "log").mkdir()
    (folder / "feature_repo").symlink_to(world.repo)
    (folder / "job.toml").write_text(
        f'users = "{world.data / "users.parquet"}"\n'
        f'bundle = "{world.bundle}"\n'
        'feature_repo = "feature_repo"\n'
        "candidates = 30\n"
        'output = "output"\n'
        f"users_per_partition = {SIZE}\n"
    )
    return Home(folder)
