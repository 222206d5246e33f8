"""Commands that make a bundle, and one that sorts what it reads."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from batchrec.commands.common import Debug, print_summary


class IndexKind(StrEnum):
    """Kind of index."""

    AUTO = "auto"
    FLAT = "flat"
    IVF = "ivf"


def train(
    interactions: Annotated[Path, typer.Option(help="Parquet file of user_id, item_id, event_timestamp.")],
    output: Annotated[str, typer.Option(help="Folder or URL of the bundle to be.")],
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


def index(
    bundle: Annotated[str, typer.Argument(help="Folder or URL of the bundle.")],
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


def sort_features(
    views: Annotated[list[str], typer.Argument(help="Names of feature views.")],
    feature_repo: Annotated[Path, typer.Option(help="Feast repository that has been applied.")] = Path("feature_repo"),
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Sort the Parquet files behind feature views by join key, so that a partition's join reads its own rows only."""
    from batchrec.features.store import FeatureStore

    store = FeatureStore.open(feature_repo)
    print_summary({view: [str(path) for path in store.sort_source(view)] for view in views})
