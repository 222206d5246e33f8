"""The log, always on standard error: lines for people, or one JSON object a line for machines. No secrets in either.

Which of the two is kept in the environment variable ``BATCHREC_LOG_FORMAT``, and nowhere else: so the processes that
this one starts log in the same way.
"""

from __future__ import annotations

import io
import json
import os
import sys
import threading
import time
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from batchrec.redact import redact, redact_value

LogFormat = Literal["text", "json"]

VARIABLE = "BATCHREC_LOG_FORMAT"

_ABOUT: ContextVar[dict[str, Any] | None] = ContextVar("about", default=None)


def say(message: str, *, event: str = "log", level: str = "info", **fields: Any) -> None:
    """Write one line to the log.

    Parameters
    ----------
    message
        For people.
    event, level, fields
        Stand in JSON beside the message, the time, and what :func:`about` told.
    """
    _write(f"{time.strftime('%H:%M:%S')} {message}", message, event, level, fields)


def detail(message: str, *, event: str, **fields: Any) -> None:
    """Write one line to a log of JSON; people learn the same from progress and summary."""
    if is_json():
        _write("", message, event, "info", fields)


def announce(text: str, message: str, *, event: str, level: str = "error", **fields: Any) -> None:
    """Write how a command ends: `text` as it is for people, an object with `message` in JSON."""
    _write(text, message, event, level, fields)


def about(**fields: Any) -> None:
    """Let further lines of this thread tell, in JSON, what they are about: the run, the partition."""
    _ABOUT.set((_ABOUT.get() or {}) | fields)


def is_json() -> bool:
    """Tell whether lines are JSON."""
    return os.environ.get(VARIABLE) == "json"


def begin_log(log_format: LogFormat | None) -> None:
    """Begin the log of a command, in this format if one is given, otherwise in that of the environment."""
    _ABOUT.set(None)
    if log_format is None:
        set_up_log()
    else:
        use_format(log_format)


def use_format(log_format: LogFormat) -> None:
    """Log in this format from here on, here and in the processes that are started from now on.

    In JSON this covers whatever Python code writes to ``sys.stderr``: warnings, tracebacks, log lines of libraries.
    What compiled code writes to the file descriptor itself stays as it is.
    """
    os.environ[VARIABLE] = log_format
    set_up_log()


def set_up_log() -> None:
    """Let ``sys.stderr`` be what the environment says; in a process that another one has started."""
    wrapped = isinstance(sys.stderr, _LibraryLines)
    if is_json() and not wrapped and sys.stderr is not None:
        sys.stderr = _LibraryLines(sys.stderr)
    elif not is_json() and isinstance(sys.stderr, _LibraryLines):
        sys.stderr = sys.stderr.beneath


class _LibraryLines(io.TextIOBase):
    """A stream that turns each line written to it into a JSON object on the stream beneath."""

    def __init__(self, beneath: TextIO) -> None:
        self.beneath = beneath
        self._line = ""
        self._writing = threading.Lock()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Of the stream beneath."""
        return self.beneath.encoding

    def fileno(self) -> int:
        """Of the stream beneath."""
        return self.beneath.fileno()

    def writable(self) -> bool:
        """Say yes."""
        return True

    def write(self, text: str) -> int:
        """Take text; a line is logged when it is complete."""
        with self._writing:
            *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            if line.strip():
                _write("", line.rstrip(), "library", "warning", {})
        return len(text)

    def flush(self) -> None:
        """Flush the stream beneath."""
        self.beneath.flush()


def _write(text: str, message: str, event: str, level: str, fields: dict[str, Any]) -> None:
    line = _json_line(message, event, level, fields) if is_json() else redact(text)
    stream = sys.stderr.beneath if isinstance(sys.stderr, _LibraryLines) else sys.stderr
    with suppress(OSError):  # whoever read the log is gone: no reason to stop the work
        stream.write(f"{line}\n")  # in one piece, so that lines of several threads do not mix
        stream.flush()


def _json_line(message: str, event: str, level: str, fields: dict[str, Any]) -> str:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    told = {"timestamp": now, "level": level, "event": event, "message": message} | (_ABOUT.get() or {}) | fields
    return json.dumps(redact_value(told), default=str)
