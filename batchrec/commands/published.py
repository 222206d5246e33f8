"""Commands that deal with published runs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path  # noqa: TC003 - Typer reads the annotations
from typing import Annotated

import typer

from batchrec.commands.common import Debug, console, print_summary, when_stopped


def verify(
    run: Annotated[str, typer.Argument(help="Folder or URL of a published run, or output/current.")],
    bundle: Annotated[
        str | None,
        typer.Option(help="Folder or URL of the bundle it was made with.", show_default="where the run found it"),
    ] = None,
    feature_repo: Annotated[
        Path | None, typer.Option(help="Feast repository to read seen items from.", show_default="that of the run")
    ] = None,
    suppress: Annotated[
        list[str] | None,
        typer.Option(
            help="Parquet file with a column item_id or user_id, beside those that the run names: none of its items may"
            " stand in a list, none of its users may have a row. May be given several times.",
            show_default="none",
        ),
    ] = None,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Read a published run again and prove that it holds what it promises."""
    from batchrec.verification import verify_published

    print_summary(verify_published(run, bundle, feature_repo, tuple(suppress or ())))


def show(
    run: Annotated[str, typer.Argument(help="A published run, or output/current.")],
    items: Annotated[
        Path | None, typer.Option(help="Parquet file of item_id and title.", show_default="ids are shown")
    ] = None,
    users: Annotated[int, typer.Option(min=1, help="How many users to show.")] = 5,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Show the first users' lists of a run."""
    from batchrec.delivery.show import lists_table

    console().print(lists_table(run, items, users))


def runs(
    output: Annotated[str, typer.Option(help="Folder or URL of all runs.")] = "output",
    debug: Debug = False,  # noqa: ARG001 - read from the command line before parsing
) -> None:
    """List the runs of an output folder with their outcome, newest first."""
    from batchrec.delivery.catalogue import find_runs, runs_table
    from batchrec.output.storage import open_storage

    storage = open_storage(output)
    found = find_runs(storage)
    console().print(runs_table(storage.shown(), found))
    print_summary({"runs": [run.as_dict() for run in found]})


def gc(
    output: Annotated[str, typer.Option(help="Folder or URL of all runs.")] = "output",
    keep: Annotated[int, typer.Option(min=1, help="Published runs to keep, the newest.")] = 14,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say which runs would be removed, and remove none.", show_default="off")
    ] = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Remove old runs: never the one that `current` names, nor an unfinished one that can still be gone on with."""
    when_stopped("runs that are left are whole; the same command removes the rest")
    from batchrec.delivery.catalogue import collect_garbage

    print_summary(collect_garbage(output, keep, dry_run=dry_run))


def push(
    run: Annotated[str, typer.Argument(help="Folder or URL of a published run, or output/current.")],
    feature_repo: Annotated[
        Path | None,
        typer.Option(help="Feast repository whose online store is written.", show_default="that of the run"),
    ] = None,
    view: Annotated[
        str, typer.Option(help="Name of the feature view that lists are pushed into.")
    ] = "user_recommendations",
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that push at once.", show_default="as many as cores, at most 4"),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Users that are written at once.")] = 5000,
    sample: Annotated[int, typer.Option(min=1, help="Users that are read back afterwards, about so many.")] = 1000,
    changes: Annotated[
        bool,
        typer.Option(
            "--changes",
            help="Write only what differs from the run that this one was computed since; everything where the store "
            "does not hold that run.",
            show_default="off",
        ),
    ] = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Write every list of a published run into an online store; a push that was cut short goes on where it stopped."""
    when_stopped("what was pushed is on record; the same command pushes what is missing")
    from batchrec.delivery.push import push_run
    from batchrec.delivery.push_options import WORKERS, PushOptions

    options = PushOptions(feature_repo, view, workers or WORKERS, batch, sample, changes)
    print_summary(asdict(push_run(run, options)))


def delta(
    run: Annotated[str, typer.Argument(help="Folder or URL of a published run, or output/current.")],
    table: Annotated[str, typer.Argument(help="Folder or URL of the Delta Lake table; made if it is not there.")],
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Write the rows of a published run as the next version of a Delta Lake table, unless it holds them already."""
    when_stopped("the table is what it was; run the same command again")
    from batchrec.delivery.delta import write_delta

    print_summary(asdict(write_delta(run, table)))


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
