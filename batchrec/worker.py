"""What a worker does: load the line once, then turn one partition of user ids into one part file after another."""

from __future__ import annotations

import platform
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np

from batchrec.device_line import device_line, put_users
from batchrec.engine.device import open_device
from batchrec.errors import ArtifactError, FeatureError
from batchrec.features.encode import ragged
from batchrec.features.inputs import encode_inputs, refs_of, rows_found
from batchrec.features.store import FeatureRef, FeatureStore
from batchrec.fence import FencedStopwatch, passing
from batchrec.hashing import id_hash
from batchrec.increments.carry import carry_over
from batchrec.increments.digest import items_fingerprint, user_digests
from batchrec.log import about, set_up_log
from batchrec.models.bundle import Bundle
from batchrec.models.index import ItemIndex
from batchrec.models.serving import as_pair_scorer, load_model, query_tower, ranking_algebra
from batchrec.models.threads import set_up_arrow
from batchrec.output.digests import write_digests
from batchrec.output.part import build_table, count_by_status, write_part
from batchrec.output.record import part_name
from batchrec.output.status import write_status
from batchrec.output.storage import open_storage
from batchrec.pipeline import Line, Options, Users, recommend
from batchrec.redact import redact
from batchrec.remote_bundle import local_bundle, named_by
from batchrec.schema import USER_ID, Source, Status
from batchrec.stages.sample import Sampled
from batchrec.users import read_partition

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

    import numpy.typing as npt
    import pyarrow as pa

    from batchrec.engine.device import Device
    from batchrec.increments.previous import Previous
    from batchrec.models.bundle_format import FeatureInput, IndexFormat
    from batchrec.output.record import PartRecord
    from batchrec.output.storage import Storage

    Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Work:
    """All that a worker must know; small, so that it travels with every task.

    Parameters
    ----------
    bundle, feature_repo
        Folders to load from; of the bundle perhaps a URL.
    bundle_fingerprint
        Of the bundle that the run began with.
    users
        The sorted ids and the kept columns, one row group a partition; a path or a URL.
    output
        Folder of all runs, a local path or a URL.
    run_id
        Name of the run: part files go into the folder of this name.
    as_of
        Time as of which features are read.
    options
        What kind of lists.
    fallback
        What users without any features get.
    layout
        Of the part files.
    device
        ``cpu`` or ``gpu``: what partitions are computed on.
    is_degraded
        Whether `options` are less than what was asked for, because of a deadline.
    attempt
        Names the attempt at the run, so that its work can be given up; see :mod:`batchrec.fence`.
    previous
        The run whose lists are carried over where a user's inputs are the same; None to compute every user.
    """

    bundle: Path | str
    feature_repo: Path
    bundle_fingerprint: str
    users: Path | str
    output: str
    run_id: str
    as_of: datetime
    options: Options
    fallback: Literal["popularity", "none"]
    layout: Literal["list", "long"]
    device: str
    is_degraded: bool = False
    attempt: str = ""
    previous: Previous | None = None

    @property
    def folder(self) -> Storage:
        """The run folder."""
        return open_storage(self.output).folder(self.run_id)


@dataclass(frozen=True)
class Outcome:
    """What came of one partition.

    Parameters
    ----------
    partition
        Its number.
    part
        Its part file; None where the partition failed and nothing was written.
    users
        Users of the partition.
    by_status
        The same, counted by status.
    seconds
        Wall-clock seconds, by stage.
    failure
        Why it failed; empty where it did not.
    digests
        The file of its users' digests; None where the partition failed.
    carried
        Users whose lists were carried over.
    """

    partition: int
    part: PartRecord | None
    users: int
    by_status: dict[str, int]
    seconds: dict[str, float]
    failure: str = ""
    digests: PartRecord | None = None
    carried: int = 0


@dataclass(frozen=True)
class Resources:
    """What a worker loads once: the bundle, the way to the features, and the line made of both, on a device."""

    bundle: Bundle
    store: FeatureStore
    device: Device
    line: Line
    vocabularies: dict[str, pa.Array]
    items_fingerprint: str

    @property
    def user_inputs(self) -> tuple[FeatureInput, ...]:
        """Inputs of both models that are filled from users' features."""
        return (*self.bundle.format.query_tower.inputs, *self.bundle.format.ranker.user_inputs)

    @property
    def seen(self) -> FeatureRef:
        """The feature that lists seen items."""
        seen = self.bundle.format.seen
        return FeatureRef(seen.view, seen.feature, seen.dtype)

    @property
    def refs(self) -> tuple[FeatureRef, ...]:
        """Every feature that is read, of users and of items."""
        return tuple(dict.fromkeys((*refs_of(self.bundle.format.feature_inputs), self.seen)))

    @cached_property
    def popular(self) -> npt.NDArray[np.int64]:
        """Positions of eligible items by falling popularity, then position; empty where the bundle knows none."""
        counts = self.bundle.popularity
        if counts is None:
            return np.zeros(0, np.int64)
        order = np.argsort(-counts, kind="stable")
        popular: npt.NDArray[np.int64] = order[self.device.fetch(self.line.eligible)[order]]
        return popular


_loading = threading.Lock()


_held = ExitStack()
"""The copy of the bundle, where it lies on an object store."""


def resources(bundle: Path | str, feature_repo: Path, as_of: datetime, device: str) -> Resources:
    """Load what a worker needs, once a process.

    Raises
    ------
    BatchrecError
        If the bundle, a model, the index, the features or the device cannot be used.
    """
    with _loading:  # two tasks that start together must not load twice
        return _load(bundle, feature_repo, as_of, device)


def release_resources() -> None:
    """Forget what was loaded: the next run may find another bundle or other features in the same places."""
    with _loading:
        _load.cache_clear()
        _held.close()


def compute_partition(work: Work, number: int) -> Outcome:
    """Compute one partition and write its part file.

    Where the users' features cannot be read, the partition has failed and not the run: nothing is written, and the
    outcome says why.

    Parameters
    ----------
    work
        The run.
    number
        Which partition; also names the part file.

    Raises
    ------
    BatchrecError
        If models, index or items cannot be used, or the part cannot be written.
    """
    about(run_id=work.run_id, partition=number)
    loaded = resources(work.bundle, work.feature_repo, work.as_of, work.device)
    if loaded.bundle.fingerprint != work.bundle_fingerprint:
        raise ArtifactError(
            f"{platform.node()} finds another bundle at {redact(str(work.bundle))} than the run began with",
            "let all machines see the same bundle at this path, and leave it alone during the run",
        )
    stopwatch = FencedStopwatch(work.attempt)
    rows = read_partition(work.users, number)
    ids = rows[USER_ID].combine_chunks()
    try:
        with stopwatch("read features"):
            refs = tuple(dict.fromkeys((*refs_of(loaded.user_inputs), loaded.seen)))
            table = loaded.store.point_in_time(ids, work.as_of, refs)
    except FeatureError as error:
        by_status = count_by_status(np.full(len(ids), Status.FAILED))
        return Outcome(number, None, len(ids), by_status, stopwatch.seconds, error.problem)
    with stopwatch("encode"):
        users, found = encode_users(ids, table, loaded), rows_found(table)
        digests = user_digests(users, found)
    with stopwatch("carry over"):
        # A partition for which there is less time is made in one way, so that all its rows have one source.
        previous = None if work.is_degraded else work.previous
        carried = carry_over(previous, ids, digests, loaded.bundle.item_ids, work.options.top_k)

    def compute(rest: Users) -> Sampled:
        made = recommend(put_users(rest, loaded.device), loaded.line, work.options, stopwatch)
        return Sampled(*map(loaded.device.fetch, made))

    lists = carried.completed(users, compute)
    with stopwatch("write"):
        popular = loaded.popular if work.fallback == "popularity" else loaded.popular[:0]
        if not found.all():
            lists = with_fallback(lists, found, popular, loaded.bundle.popularity)
        status = statuses(lists, found, fallback=len(popular) > 0, degraded=work.is_degraded)
        # Lists made with less than was asked for must not be carried over from here: they leave no digests.
        digested = None if work.is_degraded else write_digests(work.folder, part_name(number), ids, digests)
        record = write_lists(rows, lists, status, sources(status, work.options), loaded, work, number)
    counts = count_by_status(status)
    return Outcome(number, record, len(ids), counts, stopwatch.seconds, "", digested, len(carried.rows))


def encode_users(ids: pa.Array, table: pa.Table, loaded: Resources) -> Users:
    """Turn n users' features into model inputs and seen item positions."""
    described = loaded.bundle.format
    return Users(
        query_inputs=encode_inputs(table, described.query_tower.inputs, loaded.vocabularies),
        ranker_inputs=encode_inputs(table, described.ranker.user_inputs, loaded.vocabularies),
        seen=ragged(table[described.seen.feature], loaded.bundle.item_ids),
        id_hash=id_hash(ids),
    )


def with_fallback(
    lists: Sampled, found: Bools, popular: npt.NDArray[np.int64], popularity: npt.NDArray[np.int64] | None
) -> Sampled:
    """Replace the lists of users without any features by the most popular items, scored by their popularity.

    Parameters
    ----------
    lists
        (n, k) lists.
    found
        (n,) bool: whose features there are.
    popular
        Positions of items, most popular first; none for empty lists.
    popularity
        Interactions of each item (N,); None where `popular` is empty for want of them.
    """
    k = lists.positions.shape[1]
    chosen = popular[:k]
    positions = np.full(k, -1, np.int64)
    scores = np.full(k, -np.inf, np.float32)
    if popularity is not None:
        positions[: len(chosen)] = chosen
        scores[: len(chosen)] = popularity[chosen]
    certain = (positions >= 0).astype(np.float32)
    return Sampled(*(np.where(found[:, None], *pair) for pair in zip(lists, (positions, scores, certain), strict=True)))


def statuses(lists: Sampled, found: Bools, *, fallback: bool, degraded: bool = False) -> npt.NDArray[np.str_]:
    """Say of every user (n,) why the list looks as it does; see :class:`~batchrec.schema.Status`."""
    full = (lists.positions >= 0).all(axis=1)
    personal = np.full(len(full), Status.DEGRADED) if degraded else np.where(full, Status.OK, Status.SHORT)
    without = Status.FALLBACK if fallback else Status.UNKNOWN
    return np.where(found, personal, without)


def sources(status: npt.NDArray[np.str_], options: Options) -> npt.NDArray[np.str_]:
    """Say of every user (n,) what ordered the list; see :class:`~batchrec.schema.Source`."""
    personal = Source.RANKER if options.rank_by == "ranker" else Source.RETRIEVAL
    return np.select([status == Status.FALLBACK, status == Status.UNKNOWN], [Source.POPULARITY, Source.NONE], personal)


def write_lists(
    rows: pa.Table,
    lists: Sampled,
    status: npt.NDArray[np.str_],
    source: npt.NDArray[np.str_],
    loaded: Resources,
    work: Work,
    number: int,
) -> PartRecord:
    """Write the part of a partition: n rows of users, their (n, k) lists, and (n,) status and source.

    Raises
    ------
    BusyError
        The attempt was given up; nothing is written.
    SinkError
        It could not be written.
    """
    table = build_table(
        user_ids=rows[USER_ID].combine_chunks(),
        item_ids=loaded.bundle.item_ids,
        positions=lists.positions,
        scores=lists.relevance,
        propensities=lists.propensity if np.isfinite(work.options.temperature) else None,
        status=status,
        source=source,
        layout=work.layout,
        kept=rows.drop_columns(USER_ID) if rows.num_columns > 1 else None,
    )
    folder, name = work.folder, part_name(number)
    with passing(work.attempt):
        if work.layout == "long":  # whose rows do not tell
            write_status(folder, name, status)
        return write_part(table, folder, name)


@lru_cache(maxsize=1)
def _load(place: Path | str, feature_repo: Path, as_of: datetime, device_name: str) -> Resources:
    set_up_log()
    set_up_arrow()
    folder = _held.enter_context(local_bundle(place))
    with named_by(place, folder):
        return _loaded(Bundle.open(folder), feature_repo, as_of, open_device(device_name))


def _loaded(bundle: Bundle, feature_repo: Path, as_of: datetime, device: Device) -> Resources:
    store = FeatureStore.open(feature_repo)
    described = bundle.format
    store.check(
        [
            *refs_of(described.feature_inputs),
            FeatureRef(described.seen.view, described.seen.feature, described.seen.dtype),
        ]
    )
    vocabularies = dict(_vocabularies(bundle))
    if described.index is None:
        raise ArtifactError(f"bundle {bundle.folder} has no index yet", f"run `batchrec index {bundle.folder}`")
    items, eligible = _items(bundle, store, vocabularies, as_of)
    if device.is_host:
        line = _line(bundle, described.index, items, eligible)
    else:
        line = device_line(bundle, described.index, items, eligible, device)
    return Resources(bundle, store, device, line, vocabularies, items_fingerprint(items, eligible))


def _vocabularies(bundle: Bundle) -> Iterator[tuple[str, pa.Array]]:
    for one in bundle.format.feature_inputs:
        if one.kind == "categorical":
            yield one.name, bundle.vocabulary(one)


def _line(bundle: Bundle, index: IndexFormat, items: dict[str, npt.NDArray[np.generic]], eligible: Bools) -> Line:
    described = bundle.format
    tower, ranker = described.query_tower, described.ranker
    user_names = {one.name for one in ranker.user_inputs} | (
        {ranker.query_embedding} if ranker.query_embedding else set()
    )
    ranker_model = load_model(bundle.folder / ranker.path, user_names | set(items))
    return Line(
        query_tower=query_tower(
            load_model(bundle.folder / tower.path, {one.name for one in tower.inputs} | {"history"}),
            described.embedding_dimension,
        ),
        search=ItemIndex.read(
            bundle.folder / index.path,
            index,
            described.catalogue_size,
            described.embedding_dimension,
        ),
        score_pairs=as_pair_scorer(ranker_model),
        query_name=ranker.query_embedding,
        item_inputs=items,
        eligible=eligible,
        item_hash=id_hash(bundle.item_ids),
        history_length=tower.history_length,
        score_candidates=ranking_algebra(ranker_model, user_names, items),
    )


def _items(
    bundle: Bundle, store: FeatureStore, vocabularies: dict[str, pa.Array], as_of: datetime
) -> tuple[dict[str, npt.NDArray[np.generic]], Bools]:
    """Item inputs of the ranker (N, …), and which items have features at the as-of time, hence may be recommended."""
    ranker = bundle.format.ranker
    inputs: dict[str, npt.NDArray[np.generic]] = {}
    eligible = np.ones(bundle.format.catalogue_size, bool)
    if ranker.item_inputs:
        table = store.point_in_time(bundle.item_ids, as_of, refs_of(ranker.item_inputs))
        inputs |= encode_inputs(table, ranker.item_inputs, vocabularies)
        eligible = rows_found(table)
    if not eligible.any():
        raise FeatureError(
            f"none of the bundle's {len(eligible)} items has features as of {as_of:%Y-%m-%d %H:%M %Z}",
            "give a later --as-of, or write item features that are as old",
        )
    if ranker.item_code:
        inputs[ranker.item_code] = np.arange(1, len(eligible) + 1, dtype=np.int32)
    if ranker.item_embedding:
        inputs[ranker.item_embedding] = bundle.item_embeddings
    return inputs, eligible
