"""The command that makes a run."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path  # noqa: TC003 - Typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchrec.commands.common import Debug, Suppress, print_summary, when_stopped
from batchrec.log import detail, use_format

if TYPE_CHECKING:
    from batchrec.config import JobConfig


class Layout(StrEnum):
    """Row layout of the output."""

    LIST = "list"
    LONG = "long"


class RankBy(StrEnum):
    """What gives the relevance."""

    RANKER = "ranker"
    RETRIEVAL = "retrieval"


class LogFormat(StrEnum):
    """Form of the log on standard error."""

    TEXT = "text"
    JSON = "json"


class Device(StrEnum):
    """What partitions are computed on."""

    AUTO = "auto"
    CPU = "cpu"
    GPU = "gpu"


class Precision(StrEnum):
    """What matrices are multiplied in on a GPU."""

    FP32 = "fp32"
    TF32 = "tf32"
    BF16 = "bf16"


class Storage(StrEnum):
    """What the index stores vectors in on a GPU."""

    FP32 = "fp32"
    FP16 = "fp16"


class Fallback(StrEnum):
    """What users without features get."""

    POPULARITY = "popularity"
    NONE = "none"


def run(
    users: Annotated[
        str | None,
        typer.Option(
            help="Parquet file, directory, glob or fsspec URL with the ids of the users to serve.",
            show_default="none; required here, as a variable or in the job file",
        ),
    ] = None,
    bundle: Annotated[
        str | None,
        typer.Option(
            help="Folder or URL of the trained models.",
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
    since: Annotated[
        str | None,
        typer.Option(
            help="Published run to start from: a name in the output folder, current, or a path or URL. Only users "
            "whose inputs changed since then are computed; what differs is written to _changes.",
            show_default="every user is computed",
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
    deadline: Annotated[
        str | None,
        typer.Option(
            help="Time by which the run is published: the next 04:00, or a date and time in ISO 8601, local time "
            "unless it says otherwise. Where the time does not suffice, users get status degraded and less is computed "
            "for them: half the candidates, a quarter, an eighth, no ranker, the most popular items.",
            show_default="none",
        ),
    ] = None,
    time_budget: Annotated[
        str | None,
        typer.Option(
            help="The same as a time from the start of the run: seconds, or a text such as 90m or 1h30m.",
            show_default="none",
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
            "machine; cuda, in a worker process for each of its GPUs; tcp://host:port or tls://host:port, by the "
            "workers of an existing Dask cluster.",
            show_default="local",
        ),
    ] = None,
    device: Annotated[
        Device | None,
        typer.Option(
            help="What the run computes on; auto is the GPU where everything it needs can be used, and the CPU on an "
            "existing cluster. `batchrec doctor` says why.",
            show_default="auto",
        ),
    ] = None,
    precision: Annotated[
        Precision | None,
        typer.Option(
            help="What numbers query tower and ranker multiply on a GPU: float32, TensorFloat-32 or bfloat16, summed "
            "in float32. The last two change lists.",
            show_default="fp32",
        ),
    ] = None,
    index_storage: Annotated[
        Storage | None,
        typer.Option(
            help="What the index stores vectors in on a GPU. With fp16, items at the end of the candidates may be "
            "others.",
            show_default="fp32",
        ),
    ] = None,
    index_gpus: Annotated[
        int | None,
        typer.Option(
            help="GPUs of a worker that share the index, each with a range of the items; not with --cluster cuda.",
            show_default="1",
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
    delta: Annotated[
        str | None,
        typer.Option(
            help="Delta Lake table, a path or a URL: its next version is the rows of the published run.",
            show_default="none",
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
    log_format: Annotated[
        LogFormat | None,
        typer.Option(
            help="Form of the messages on standard error: text for people, or one JSON object a line.",
            show_default="text",
        ),
    ] = None,
    metrics: Annotated[
        Path | None,
        typer.Option(
            help="File for Prometheus' textfile collector: figures of the last published run, exit code of the last "
            "run of all.",
            show_default="none",
        ),
    ] = None,
    lineage: Annotated[
        Path | None,
        typer.Option(
            help="File to which OpenLineage events of the run are appended, one JSON object a line.",
            show_default="none",
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
    job = job_of(locals())
    use_format(job.log_format)
    from batchrec.delivery.after_run import after_earlier_run, after_run, attempt_recorded, check_before
    from batchrec.errors import NothingToDo
    from batchrec.run import run as run_job

    check_before(job)
    with attempt_recorded(job):
        try:
            summary = asdict(run_job(job))
        except NothingToDo:
            after_earlier_run(job)  # which may have been killed before it had delivered the run
            raise
        detail(f"published {summary['path']}", event="published", **summary)
        try:
            when_stopped("the run is published, what follows it can be gone on with: `batchrec delta`, `batchrec push`")
            summary |= after_run(job, summary["run_id"], summary["users_per_second"])
        finally:
            print_summary(summary)


def job_of(options: dict[str, Any]) -> JobConfig:
    """Return the settled options of a job from the command's own, which are named as its parameters are."""
    flags = {name: _plain(value) for name, value in options.items() if name not in {"config", "debug"}}
    from batchrec.config import load_config

    return load_config(flags, options["config"])


def _plain(value: object) -> object:
    return value.value if isinstance(value, StrEnum) else value
