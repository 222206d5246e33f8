"""What a process loads once: the bundle, the way to the features, and, where it computes, the line made of both."""

from __future__ import annotations

import gc
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np

from batchrec.device_line import device_line
from batchrec.engine.device import open_device
from batchrec.errors import ArtifactError, FeatureError
from batchrec.features.inputs import encode_inputs, refs_of, rows_found
from batchrec.features.store import FeatureStore
from batchrec.hashing import id_hash
from batchrec.host_stages import anti_join, first_kept, sample
from batchrec.increments.digest import items_fingerprint
from batchrec.log import set_up_log
from batchrec.models.bundle import Bundle
from batchrec.models.index import ItemIndex
from batchrec.models.opening import open_ranker, open_tower, when_called
from batchrec.models.ranking_algebra import RankingAlgebra, prepare
from batchrec.models.serving import as_pair_scorer
from batchrec.models.threads import set_up_arrow
from batchrec.pipeline import Line
from batchrec.remote_bundle import local_bundle, named_by
from batchrec.user_features import seen_ref, user_features

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime
    from pathlib import Path

    import numpy.typing as npt
    import pyarrow as pa

    from batchrec.engine.device import Choice, Device
    from batchrec.features.store import FeatureRef
    from batchrec.models.bundle_format import IndexFormat
    from batchrec.user_features import UserFeatures

    Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Resources:
    """What a process loads once: the bundle, the way to the features, and the line made of both, on a device.

    Parameters
    ----------
    bundle, store, device
        As they were opened.
    eligible
        (N,) bool: items that may be recommended.
    features
        The way of users' features to the device.
    items_fingerprint
        Of the items as all lists see them.
    load_line
        Loads models and index.
    """

    bundle: Bundle
    store: FeatureStore
    device: Device
    eligible: Bools
    features: UserFeatures
    items_fingerprint: str
    load_line: Callable[[], Line]

    def line(self) -> Line:
        """Return models and index, loaded when they are first asked for: the client of a cluster never does that.

        Raises
        ------
        ArtifactError
            A model or the index cannot be used.
        """
        with _loading:
            return self.load_line()

    @property
    def seen(self) -> FeatureRef:
        """The feature that lists seen items."""
        return seen_ref(self.bundle)

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
        popular: npt.NDArray[np.int64] = order[self.eligible[order]]
        return popular


_loading = threading.Lock()


_held = ExitStack()
"""What is to be given back with what was loaded, such as the copy of a bundle that lies on an object store."""


def resources(bundle: Path | str, feature_repo: Path, as_of: datetime, device: Choice) -> Resources:
    """Load what a process needs, once; the line when it is asked for.

    Raises
    ------
    BatchrecError
        If the bundle, the features or the device cannot be used.
    """
    with _loading:  # two tasks that start together must not load twice
        return _load(bundle, feature_repo, as_of, device)


def release_resources() -> None:
    """Forget what was loaded: the next run may find another bundle or other features in the same places."""
    with _loading:
        _load.cache_clear()
        _held.close()


@lru_cache(maxsize=1)
def _load(place: Path | str, feature_repo: Path, as_of: datetime, device: Choice) -> Resources:
    set_up_log()
    set_up_arrow()
    folder = _held.enter_context(local_bundle(place))
    with named_by(place, folder), _no_collections():
        bundle, opened = Bundle.open(folder), open_device(device)
        store = FeatureStore.open(feature_repo)
        store.check([*refs_of(bundle.format.feature_inputs), seen_ref(bundle)])
        vocabularies = dict(_vocabularies(bundle))
        index = _index_of(bundle)
        items, eligible = _items(bundle, store, vocabularies, as_of)
        features = user_features(bundle, vocabularies, store, as_of, opened)
    fingerprint = items_fingerprint(items, eligible)

    @cache
    def load_line() -> Line:
        with named_by(place, folder), _no_collections():
            if opened.is_host:
                return _line(bundle, index, items, eligible)
            return device_line(bundle, index, items, eligible, opened)

    return Resources(bundle, store, opened, eligible, features, fingerprint, load_line)


@contextmanager
def _no_collections() -> Iterator[None]:
    """Keep Python from looking for garbage, and from looking through what is there afterwards until it is released.

    Importing TensorFlow and Feast makes a million objects that stay. Looking for cycles among them, again and again
    while they come, took a sixth of a short run (docs/decisions/016-start-up.md).
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
        _held.callback(gc.unfreeze)
    finally:
        if collects:
            gc.enable()


def _vocabularies(bundle: Bundle) -> Iterator[tuple[str, pa.Array]]:
    for one in bundle.format.feature_inputs:
        if one.kind == "categorical":
            yield one.name, bundle.vocabulary(one)


def _index_of(bundle: Bundle) -> IndexFormat:
    if bundle.format.index is None:
        raise ArtifactError(f"bundle {bundle.folder} has no index yet", f"run `batchrec index {bundle.folder}`")
    return bundle.format.index


def _line(bundle: Bundle, index: IndexFormat, items: dict[str, npt.NDArray[np.generic]], eligible: Bools) -> Line:
    described = bundle.format
    ranker = described.ranker
    user_names = {one.name for one in ranker.user_inputs} | (
        {ranker.query_embedding} if ranker.query_embedding else set()
    )
    by_parts, whole_ranker = open_ranker(
        bundle, user_names, items, lambda parts, items: RankingAlgebra(prepare(parts, items))
    )
    return Line(
        query_tower=open_tower(bundle),
        search=ItemIndex.read(
            bundle.folder / index.path,
            index,
            described.catalogue_size,
            described.embedding_dimension,
        ),
        score_pairs=as_pair_scorer(when_called(whole_ranker)),
        query_name=ranker.query_embedding,
        item_inputs=items,
        eligible=eligible,
        item_hash=id_hash(bundle.item_ids),
        history_length=described.query_tower.history_length,
        score_candidates=by_parts,
        anti_join=anti_join,
        first_kept=first_kept,
        sample=sample,
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
