"""What a run may be called, and the names that stand beside the run folders."""

from __future__ import annotations

import re

from batchrec.errors import ConfigError

CURRENT = "current"
"""Name of the pointer, beside the run folders, to the newest published run: a link, on an object store an object."""

LOCK = ".lock"
"""Name of the lock of an output folder."""

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def check_run_id(run_id: str) -> str:
    """Return `run_id` if it can name a folder inside the output folder and nothing else.

    Raises
    ------
    ConfigError
        It is empty, longer than 128 characters, holds other characters than letters, digits and ``. _ -``, does not
        start with a letter or digit, or is the name of the pointer to the newest run.
    """
    if not _RUN_ID.fullmatch(run_id):
        raise ConfigError(
            f"--run-id {run_id!r} cannot name a run folder",
            "use 1 to 128 letters, digits, dots, underscores and hyphens, starting with a letter or digit",
        )
    if run_id.lower() == CURRENT:
        raise ConfigError(f"--run-id {run_id!r} is the name of the link to the newest run", "choose another run id")
    return run_id
