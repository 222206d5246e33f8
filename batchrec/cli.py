"""The command line: parse, call the library, map errors to exit codes. Imports nothing heavy before a command runs."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from batchrec import __version__, commands
from batchrec.commands import Debug, Suppress, console, print_summary
from batchrec.errors import BatchrecError
from batchrec.redact import redact

if TYPE_CHECKING:
    from collections.abc import Iterator

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Every user's top-k list, every night: features, retrieval, filter, ranking and ordering as one batch job.",
)

EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 75
"""By SIGTERM: temporary, the same run can be gone on with."""

SECONDS_TO_STOP = 8.0
"""After SIGTERM; schedulers send SIGKILL some ten seconds later."""

_UsageError: Any = typer.BadParameter.__base__
"""What Click raises for arguments it cannot parse; Typer exports only this child of it."""


class Layout(StrEnum):
    """Row layout of the output."""

    LIST = "list"
    LONG = "long"


class RankBy(StrEnum):
    """What gives the relevance."""

    RANKER = "ranker"
    RETRIEVAL = "retrieval"


class Fallback(StrEnum):
    """What users without features get."""

    POPULARITY = "popularity"
    NONE = "none"


class IndexKind(StrEnum):
    """Kind of index."""

    AUTO = "auto"
    FLAT = "flat"
    IVF = "ivf"


class Terminated(BaseException):
    """SIGTERM came, by which schedulers stop a job."""


def main() -> None:
    """Run a command; end with the exit code that its outcome stands for."""
    _quiet_libraries()
    if sys.stderr is None:  # closed by whoever started this
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - until the process ends
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


@app.command()
def run(
    users: Annotated[
        str | None,
        typer.Option(
            help="Parquet file, directory, glob or fsspec URL with the ids of the users to serve.",
            show_default="none; required here, as a variable or in the job file",
        ),
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the trained models.",
            show_default="none; required here, as a variable or in the job file",
        ),
    ] = None,
    feature_repo: Annotated[
        Path | None, typer.Option(help="Feast repository that has been applied.", show_default="feature_repo")
    ] = None,
    user_id_column: Annotated[
        str | None, typer.Option(help="Column of the users file that holds the ids.", show_default="user_id")
    ] = None,
    keep_columns: Annotated[
        str | None,
        typer.Option(
            help="Columns of the users file to carry to the output rows, separated by commas; of a repeated user the "
            "row that sorts first by them counts, in the order given, nulls last.",
            show_default="none",
        ),
    ] = None,
    as_of: Annotated[
        str | None,
        typer.Option(
            help="Time as of which features are read, ISO 8601, UTC unless it says otherwise.", show_default="now"
        ),
    ] = None,
    candidates: Annotated[
        int | None, typer.Option(help="Items that retrieval offers the ranker, a user.", show_default="100")
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Items a list.", show_default="10")] = None,
    temperature: Annotated[
        float | None,
        typer.Option(help="Factor on the relevance in softmax sampling; inf for plain sorting.", show_default="20.0"),
    ] = None,
    rank_by: Annotated[RankBy | None, typer.Option(help="What gives the relevance.", show_default="ranker")] = None,
    fallback: Annotated[
        Fallback | None, typer.Option(help="What users without any features get.", show_default="popularity")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the sampling.", show_default="0")] = None,
    output: Annotated[
        str | None,
        typer.Option(help="Folder of all runs, a local path or a URL that fsspec knows.", show_default="output"),
    ] = None,
    run_id: Annotated[str | None, typer.Option(help="Name of the run's folder.", show_default="the as-of time")] = None,
    resume: Annotated[
        bool | None,
        typer.Option(
            "--resume",
            help="Go on with an unfinished run: the one that --run-id names, otherwise the newest.",
            show_default="off",
        ),
    ] = None,
    users_per_partition: Annotated[
        int | None, typer.Option(help="Users that are computed together, one part file.", show_default="10000")
    ] = None,
    layout: Annotated[
        Layout | None, typer.Option(help="One row a user (list) or one row an item (long).", show_default="list")
    ] = None,
    suppress: Suppress = None,
    max_failed_share: Annotated[
        float | None,
        typer.Option(
            help="Share of the users, 0 to 1, whose features may fail to be read before nothing is published.",
            show_default="0.0",
        ),
    ] = None,
    verify: Annotated[
        bool | None,
        typer.Option(
            "--verify/--no-verify",
            help="Read the part files again and prove them before they are published; --no-verify leaves it out.",
            show_default="verify",
        ),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            help="Where partitions are computed: local, in this process; processes:N, in N worker processes on this "
            "machine; tcp://host:port or tls://host:port, by the workers of an existing Dask cluster.",
            show_default="local",
        ),
    ] = None,
    memory_limit: Annotated[
        str | None,
        typer.Option(
            help="Bytes, or a size such as 4GB, that one process may hold: sorting the users takes half of it "
            "and the rest of the sort goes to disk, and a process of processes:N that exceeds it is replaced.",
            show_default="512 MB for sorting, no other bound",
        ),
    ] = None,
    push: Annotated[
        bool | None,
        typer.Option(
            "--push", help="Push the lists into the online store once the run is published.", show_default="off"
        ),
    ] = None,
    push_view: Annotated[
        str | None,
        typer.Option(help="Name of the feature view to push into.", show_default="user_recommendations"),
    ] = None,
    metrics: Annotated[
        Path | None,
        typer.Option(
            help="File for Prometheus' textfile collector, written anew when the run is published.", show_default="none"
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="Job file: TOML with any of these options; flags and BATCHREC_* variables win.", show_default="none"
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Make a list for every user and publish them as one run."""
    flags = {name: value for name, value in locals().items() if name not in {"config", "debug"}}
    from batchrec.config import load_config

    job = load_config({name: _plain(value) for name, value in flags.items()}, config)
    from batchrec.run import run as run_job

    summary = asdict(run_job(job))
    try:
        commands.when_stopped("the run is published, its push can be gone on with: `batchrec push`")
        from batchrec.delivery.after_run import after_run

        summary |= after_run(job, summary["run_id"], summary["users_per_second"])
    finally:
        print_summary(summary)


@app.command()
def train(
    interactions: Annotated[Path, typer.Option(help="Parquet file of user_id, item_id, event_timestamp.")],
    output: Annotated[Path, typer.Option(help="Folder of the bundle to be.")],
    feature_repo: Annotated[Path, typer.Option(help="Feast repository that has been applied.")] = Path("feature_repo"),
    items: Annotated[
        Path | None,
        typer.Option(help="Parquet file with item_id of items to add to the catalogue.", show_default="none"),
    ] = None,
    service: Annotated[
        str, typer.Option(help="Feature service with user, item and seen-item features.")
    ] = "query_tower",
    dimension: Annotated[int, typer.Option(min=2, help="Numbers in an embedding.")] = 64,
    history: Annotated[int, typer.Option(min=1, help="Most recent items that the query tower sees.")] = 50,
    epochs: Annotated[int, typer.Option(min=1, help="Most passes of the towers over the interactions.")] = 8,
    minutes: Annotated[float, typer.Option(min=0.01, help="Minutes after which no further pass is begun.")] = 15.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights, batches, negatives and dropout.")] = 0,
    debug: Debug = False,  # noqa: ARG001 - read from the command line before parsing
) -> None:
    """Train query tower, item tower and ranker; write a bundle."""
    from batchrec.models.backend import import_keras

    import_keras()
    from batchrec.models.training import TrainingOptions
    from batchrec.train import TrainJob
    from batchrec.train import train as run_training

    options = TrainingOptions(seed=seed, epochs=epochs, minutes=minutes)
    job = TrainJob(interactions, feature_repo, output, items, service, dimension, history, options)
    print_summary(run_training(job))


@app.command()
def index(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    recall_at: Annotated[int, typer.Option(min=1, help="Depth at which recall is measured, in items.")] = 100,
    target: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Recall against exact search to reach, as a share.")
    ] = 0.99,
    kind: Annotated[IndexKind, typer.Option(help="Exact (flat), inverted file (ivf), or by catalogue size (auto).")] = (
        IndexKind.AUTO
    ),
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Build the Faiss index of a bundle's item embeddings."""
    from batchrec.index import build

    print_summary(build(bundle, recall_at, target, kind.value))


@app.command("sort-features")
def sort_features(
    views: Annotated[list[str], typer.Argument(help="Names of feature views.")],
    feature_repo: Annotated[Path, typer.Option(help="Feast repository that has been applied.")] = Path("feature_repo"),
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Sort the Parquet files behind feature views by join key, so that a partition's join reads its own rows only."""
    from batchrec.features.store import FeatureStore

    store = FeatureStore.open(feature_repo)
    print_summary({view: [str(path) for path in store.sort_source(view)] for view in views})


@app.command()
def evaluate(
    runs: Annotated[list[str], typer.Argument(help="Published runs, or output/current.")],
    holdout: Annotated[Path, typer.Option(help="Parquet file of held-out interactions.")],
    interactions: Annotated[Path, typer.Option(help="Parquet file of the interactions trained on.")],
    items: Annotated[
        Path | None,
        typer.Option(help="Parquet file whose item_id is the catalogue.", show_default="items of the interactions"),
    ] = None,
    k: Annotated[int, typer.Option(min=1, help="Places of a list that count.")] = 10,
    resamples: Annotated[int, typer.Option(min=1, help="Bootstrap resamples of the users.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the resamples.")] = 0,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Score runs against held-out interactions, with popularity beside them."""
    from batchrec.evaluate.compare import evaluate_runs

    report = evaluate_runs(runs, holdout, interactions, k, resamples, seed, items)
    console().print(report.to_table())
    print(json.dumps(json.loads(report.to_json())))


app.command()(commands.verify)
app.command()(commands.show)
app.command()(commands.push)
app.command()(commands.runs)
app.command()(commands.gc)


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


def _plain(value: object) -> object:
    return value.value if isinstance(value, StrEnum) else value


def _told(error: Exception) -> int:
    """Print an error as one line, whatever line breaks a library put into it; return the exit code it stands for."""
    if "--debug" in sys.argv:
        print(redact("".join(traceback.format_exception(error))), file=sys.stderr)
    sentence, code = _sentence(error)
    print(f"batchrec: error: {redact(' '.join(sentence.split()))}", file=sys.stderr)
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
    print(f"batchrec: {word}, {commands.stopped_words()}", file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(code)


def _quiet_libraries() -> None:
    """Keep TensorFlow's start-up messages off the terminal; set before it is ever imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


if __name__ == "__main__":
    main()
