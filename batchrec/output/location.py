"""Where a run's output may lie, and what a run may be called."""

from __future__ import annotations

import os
import re
from pathlib import Path

from batchrec.errors import ConfigError

CURRENT = "current"
"""Name of the link, beside the run folders, that points at the newest published run."""

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
# Path("s3://bucket") keeps one slash only, so one is enough to tell a URL.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")


def local_folder(output: str | os.PathLike[str]) -> Path:
    """Return the output folder as a path.

    Raises
    ------
    ConfigError
        `output` is a URL.
    """
    text = os.fspath(output)
    if _URL.match(text):
        raise ConfigError(
            f"--output {text} is a URL, and runs are published to local paths only for now",
            "give a local folder and copy the published run from there",
        )
    return Path(text)


def check_run_id(run_id: str) -> str:
    """Return `run_id` if it can name a folder inside the output folder and nothing else.

    Raises
    ------
    ConfigError
        It is empty, longer than 128 characters, holds other characters than letters, digits and ``. _ -``, does not
        start with a letter or digit, or is the name of the link to the newest run.
    """
    if not _RUN_ID.fullmatch(run_id):
        raise ConfigError(
            f"--run-id {run_id!r} cannot name a run folder",
            "use 1 to 128 letters, digits, dots, underscores and hyphens, starting with a letter or digit",
        )
    if run_id.lower() == CURRENT:
        raise ConfigError(f"--run-id {run_id!r} is the name of the link to the newest run", "choose another run id")
    return run_id
