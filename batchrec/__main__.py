"""The command ``batchrec``, and ``python -m batchrec``: a process of its own."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from typing import NoReturn

from batchrec.cli import main


def start() -> NoReturn:
    """Run a command, then end the process with its exit code as soon as threads and exit hooks are through.

    What Python does after these is to take every module and object apart, which gives nothing back that the system does
    not take anyway. With TensorFlow and Feast loaded it takes more than a second.
    """
    try:
        main()
    except SystemExit as ended:
        code = ended.code
    threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001 - as Python itself, and multiprocessing's children
    atexit._run_exitfuncs()  # noqa: SLF001 - all others' hooks, last come first
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except (OSError, ValueError):  # the reader has gone: let Python say so, in its own way
        sys.exit(code)
    os._exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    start()
