"""What all commands share: options, what is said when one is stopped, and how results are printed."""

from __future__ import annotations

import json
import os
import sys
from inspect import Signature, signature
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from batchrec.log import announce

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

Suppress = Annotated[
    list[str] | None,
    typer.Option(
        help="Parquet file with a column item_id or user_id: these items are taken out of every list, these users get "
        "no row. Read when all lists are made. May be given several times.",
        show_default="none",
    ),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", show_default="off")]

_STOPPED = ["a run that had begun can be gone on with --resume"]


def when_stopped(words: str) -> None:
    """Set what is said should the command be stopped from outside from here on."""
    _STOPPED.append(words)


def stopped_words() -> str:
    """Return what is to be said when the command is stopped from outside."""
    return _STOPPED[-1]


def print_summary(summary: dict[str, Any]) -> None:
    """Print one JSON line, the last of standard output; to standard error where nobody can read that.

    What the command was to do is done by now, so this is no failure.
    """
    try:
        print(json.dumps(summary), flush=True)
    except OSError as error:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - until the process ends
        message = f"standard output is gone ({error.strerror}): {json.dumps(summary)}"
        announce(f"batchrec: {message}", message, event="summary", level="warning", summary=summary)


def console() -> Console:
    """Return where tables go: as wide as the terminal, 100 columns off one, nowhere if standard output is closed."""
    from rich.console import Console

    return Console(width=None if sys.stdout is not None and sys.stdout.isatty() else 100)


def with_options_of(command: Callable[..., None]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a function that takes its options by name have those of another command, as Typer sees them."""
    hints = get_type_hints(command, include_extras=True)
    parameters = [one.replace(annotation=hints[name]) for name, one in signature(command).parameters.items()]

    def with_options(function: Callable[..., None]) -> Callable[..., None]:
        function.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        function.__annotations__ = hints
        return function

    return with_options
