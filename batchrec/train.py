"""One training: from an interaction log and a feature repository to a bundle."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batchrec import __version__
from batchrec.errors import ArtifactError, FeatureError, SinkError
from batchrec.features.store import FeatureRef, FeatureStore
from batchrec.features.training_set import TrainingSet, load_training_set
from batchrec.models.bundle import (
    ITEM_EMBEDDINGS,
    POPULARITY,
    QUERY_SAMPLE,
    write_embeddings,
    write_format,
)
from batchrec.models.bundle_format import BUNDLE_FILE
from batchrec.models.stored_parts import store_parts
from batchrec.models.towers import TowerShape
from batchrec.models.training import Trained, TrainingOptions, train_models
from batchrec.output.storage import is_url, open_storage
from batchrec.progress import say
from batchrec.redact import redact
from batchrec.remote_bundle import put
from batchrec.schema import INTERACTIONS, ITEM_ID, id_type

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchrec.models.bundle_format import FeatureInput


@dataclass(frozen=True)
class TrainJob:
    """What one training reads and where it writes.

    Parameters
    ----------
    interactions
        Parquet file of ``user_id``, ``item_id``, ``event_timestamp``.
    feature_repo
        Feast repository that has been applied.
    output
        Folder or URL of the bundle to be; nothing must be there.
    items
        Parquet file of further ``item_id``; None for none.
    service
        Feature service that holds the users', the items' and the seen-items' features.
    dimension, history
        Of the towers.
    options
        How to train.
    """

    interactions: Path
    feature_repo: Path
    output: Path | str
    items: Path | None = None
    service: str = "query_tower"
    dimension: int = 64
    history: int = 50
    options: TrainingOptions = field(default_factory=TrainingOptions)


@dataclass(frozen=True)
class ServiceFeatures:
    """The features of a service, told apart by what they describe."""

    user: tuple[FeatureRef, ...]
    item: tuple[FeatureRef, ...]
    seen: FeatureRef


def train(job: TrainJob) -> dict[str, Any]:
    """Train all models and write a bundle.

    Returns
    -------
    dict
        Summary: sizes of the training set and held-out figures.

    Raises
    ------
    BatchrecError
        If a table, a feature or the output folder cannot be used; nothing is written then. If the object store of the
        output does not take the bundle; the message says where it lies on this machine.
    """
    _check_output(job.output)
    store = FeatureStore.open(job.feature_repo)
    features = service_features(store, job.service)
    store.check([*features.user, *features.item, features.seen])
    say(f"Joining features of {job.interactions} as of each interaction's time")
    data = load_training_set(job.interactions, job.items, store, features.user, features.item)
    say(
        f"Training on {len(data.events):,} interactions of {len(data.events.starts()):,} users "
        f"with {len(data.item_ids):,} items, until {data.trained_until:%Y-%m-%d %H:%M} UTC"
    )
    shape = TowerShape(
        n_items=len(data.item_ids),
        user_vocabularies=_sizes(data.user_inputs),
        item_vocabularies=_sizes(data.item_inputs),
        user_dense=_dense(data.user_inputs),
        item_dense=_dense(data.item_inputs),
        dimension=job.dimension,
        history=job.history,
    )
    trained = train_models(data.events, data.item_rows, data.item_since, data.catalogue_row, shape, job.options)
    write_bundle(job, data, features.seen, trained)
    return {
        "bundle": redact(str(job.output)),
        "interactions": len(data.events),
        "users": len(data.events.starts()),
        "items": len(data.item_ids),
        "figures": trained.figures,
    }


def service_features(store: FeatureStore, service: str) -> ServiceFeatures:
    """Tell a service's features apart: list features are seen items; the seen items' join key is the user's.

    Raises
    ------
    FeatureError
        If there is not exactly one list feature, or a third join key.
    """
    refs = store.service(service)
    lists = [ref for ref in refs if ref.dtype.startswith("list<")]
    if len(lists) != 1:
        found = ", ".join(ref.ref for ref in lists) or "none"
        raise FeatureError(
            f"feature service {service!r} holds {len(lists)} list features ({found}), expected one: the seen items",
            "put the view of seen items, and no other list, into the service",
        )
    user_key = store.join_key(lists[0].view).name
    keys = {ref.view: store.join_key(ref.view).name for ref in refs}
    item_keys = set(keys.values()) - {user_key}
    if len(item_keys) > 1:
        raise FeatureError(
            f"feature service {service!r} joins by {user_key} and by {', '.join(sorted(item_keys))}",
            "keep views of users and items alone in it",
        )
    rest = [ref for ref in refs if ref not in lists]
    return ServiceFeatures(
        user=tuple(ref for ref in rest if keys[ref.view] == user_key),
        item=tuple(ref for ref in rest if keys[ref.view] != user_key),
        seen=lists[0],
    )


def write_bundle(job: TrainJob, data: TrainingSet, seen: FeatureRef, trained: Trained) -> None:
    """Write models, tables and ``bundle.json`` into a folder beside the output, then move it there as a whole."""
    if is_url(str(job.output)):
        folder = Path(tempfile.mkdtemp(prefix="batchrec-trained-"))
        _write_files(folder, job, data, seen, trained)
        _put(folder, job.output)
        return
    output = Path(job.output)
    folder = output.with_name(f".{output.name}.tmp")
    shutil.rmtree(folder, ignore_errors=True)
    _write_files(folder, job, data, seen, trained)
    folder.rename(output)


def _put(folder: Path, output: Path | str) -> None:
    try:
        put(folder, open_storage(output))
    except SinkError as error:
        raise SinkError(error.problem, f"copy the bundle there yourself, {BUNDLE_FILE} last: it is {folder}") from error
    shutil.rmtree(folder, ignore_errors=True)


def _write_files(folder: Path, job: TrainJob, data: TrainingSet, seen: FeatureRef, trained: Trained) -> None:
    for inner in ("query_tower", "ranker", "vocabularies"):
        (folder / inner).mkdir(parents=True)
    for inner, model in {"query_tower": trained.query_tower, "ranker": trained.ranker}.items():
        path = folder / inner / "model.keras"
        model.save(path)
        store_parts(model, path)
    for name, vocabulary in data.vocabularies.items():
        pq.write_table(pa.table({"value": vocabulary}), folder / "vocabularies" / f"{name}.parquet")
    write_embeddings(folder / ITEM_EMBEDDINGS, {ITEM_ID: data.item_ids}, trained.item_embeddings)
    write_embeddings(folder / QUERY_SAMPLE, {}, trained.query_sample)
    counts = np.bincount(data.events.item, minlength=len(data.item_ids))
    pq.write_table(pa.table({ITEM_ID: data.item_ids, INTERACTIONS: counts}), folder / POPULARITY)
    files = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    write_format(folder, _description(job, data, seen, trained), files)


def _description(job: TrainJob, data: TrainingSet, seen: FeatureRef, trained: Trained) -> dict[str, Any]:
    return {
        "format": 1,
        "created_by": f"batchrec {__version__}",
        "trained_until": data.trained_until,
        "embedding_dimension": job.dimension,
        "metric": "inner_product",
        "user_id_type": str(id_type(data.user_id_type)),
        "item_id_type": str(data.item_ids.type),
        "catalogue_size": len(data.item_ids),
        "seen": {"view": seen.view, "feature": seen.feature, "dtype": seen.dtype},
        "query_tower": {
            "path": "query_tower/model.keras",
            "inputs": data.user_inputs,
            "history_length": job.history,
        },
        "ranker": {
            "path": "ranker/model.keras",
            "user_inputs": _read_by(trained, data.user_inputs),
            "item_inputs": _read_by(trained, data.item_inputs),
            "item_code": "item_code",
            "query_embedding": "query_embedding",
            "item_embedding": "item_embedding",
        },
        "figures": trained.figures,
    }


def _check_output(place: Path | str) -> None:
    """Refuse to replace anything: a bundle that runs depend on is as easily lost as made."""
    if is_url(str(place)):
        storage = open_storage(place)
        if storage.names():
            raise ArtifactError(f"{storage.shown()} holds something already", "name another --output, or move it away")
        return
    output = Path(place)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        what = "holds a bundle already" if (output / BUNDLE_FILE).is_file() else "exists already"
        raise ArtifactError(f"{output} {what}", "name another --output, or move it away")


def _read_by(trained: Trained, inputs: Sequence[FeatureInput]) -> list[FeatureInput]:
    """Leave out the inputs that the ranker does without."""
    return [one for one in inputs if one.name in trained.ranker_features]


def _sizes(inputs: Sequence[FeatureInput]) -> dict[str, int]:
    return {one.name: one.vocabulary_size for one in inputs if one.vocabulary_size is not None}


def _dense(inputs: Sequence[FeatureInput]) -> tuple[str, ...]:
    return tuple(one.name for one in inputs if one.kind == "dense")
