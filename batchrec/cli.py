"""The command line: parse, call the library, map errors to exit codes. Imports nothing heavy before a command runs."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NoReturn

import typer

from batchrec import __version__
from batchrec.commands import doctor, models, published
from batchrec.commands.common import stopped_words
from batchrec.commands.plan import plan
from batchrec.commands.run import run
from batchrec.errors import EXIT_INTERRUPTED, BatchrecError
from batchrec.log import announce, begin_log, is_json
from batchrec.redact import redact

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchrec.log import LogFormat

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Every user's top-k list, every night: features, retrieval, filter, ranking and ordering as one batch job.",
)

EXIT_TERMINATED = 75
"""By SIGTERM: temporary, the same run can be gone on with."""

SECONDS_TO_STOP = 8.0
"""After SIGTERM; schedulers send SIGKILL some ten seconds later."""

_UsageError: Any = typer.BadParameter.__base__
"""What Click raises for arguments it cannot parse; Typer exports only this child of it."""


class Terminated(BaseException):
    """SIGTERM came, by which schedulers stop a job."""

    exit_code: ClassVar[int] = EXIT_TERMINATED


def main() -> NoReturn:
    """Run a command; end with the exit code that its outcome stands for."""
    _quiet_libraries()
    if sys.stderr is None:  # closed by whoever started this
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - until the process ends
    begin_log(_log_format(sys.argv))
    stopped = 0
    try:
        with _terminated_by_signal():
            code = app(prog_name="batchrec", standalone_mode=False)
    except Terminated:
        code = stopped = EXIT_TERMINATED
    except KeyboardInterrupt:
        code = stopped = EXIT_INTERRUPTED
    except Exception as error:
        code = _told(error)
    if code == EXIT_INTERRUPTED:  # Click answers Ctrl-C itself
        stopped = EXIT_INTERRUPTED
    if stopped:
        _stop(stopped)
    sys.exit(code)


app.command()(run)
app.command()(plan)
app.command()(models.train)
app.command()(models.index)
app.command("sort-features")(models.sort_features)
app.command()(doctor.doctor)
app.command()(published.evaluate)
app.command()(published.verify)
app.command()(published.show)
app.command()(published.push)
app.command()(published.delta)
app.command()(published.runs)
app.command()(published.gc)


@app.callback(invoke_without_command=True)
def no_command(
    context: typer.Context,
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", show_default="off")
    ] = False,
) -> None:
    """Answer where no command is named: with the version, or with the help and the exit code of wrong usage."""
    if show_version:
        print(f"batchrec {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)


def _log_format(arguments: list[str]) -> LogFormat | None:
    """Read the format of the log off the command line: what is wrong with the line itself is to be told in it."""
    for place, word in enumerate(arguments):
        name, sign, value = word.partition("=")
        if name == "--log-format":
            given = value if sign else next(iter(arguments[place + 1 :]), "")
            return "json" if given == "json" else "text"
    return None


def _told(error: Exception) -> int:
    """Print an error as one line, whatever line breaks a library put into it; return the exit code it stands for."""
    trace = {}
    if "--debug" in sys.argv:
        trace = {"traceback": "".join(traceback.format_exception(error))}
        if not is_json():
            print(redact(trace["traceback"]), file=sys.stderr)
    sentence, code = _sentence(error)
    sentence = " ".join(sentence.split())
    announce(f"batchrec: error: {sentence}", sentence, event="error", exit_code=code, **trace)
    return code


def _sentence(error: Exception) -> tuple[str, int]:
    if isinstance(error, BatchrecError):
        return str(error), error.exit_code
    if isinstance(error, _UsageError):
        command = error.ctx.command_path if error.ctx else "batchrec"
        problem = error.format_message().rstrip(".").replace("Value error, ", "")
        return f"{problem[0].lower()}{problem[1:]}: see `{command} --help`.", error.exit_code
    return f"internal, {type(error).__name__}: {error}: run again with --debug and report it.", 1


@contextmanager
def _terminated_by_signal() -> Iterator[None]:
    """Let SIGTERM clean up as Ctrl-C does, for as long as there is time."""

    def terminate(*_: object) -> NoReturn:
        deadline = threading.Timer(SECONDS_TO_STOP, _stop, [EXIT_TERMINATED])
        deadline.daemon = True
        deadline.start()
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop(code: int) -> NoReturn:
    """Leave at once, without waiting for threads that are in the middle of a part: a part is there whole or not."""
    word = "interrupted" if code == EXIT_INTERRUPTED else "terminated"
    sentence = f"{word}, {stopped_words()}"
    announce(f"batchrec: {sentence}", sentence, event="stopped", exit_code=code)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(code)


def _quiet_libraries() -> None:
    """Keep TensorFlow's start-up messages off the terminal; set before it is ever imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


if __name__ == "__main__":
    main()
