"""The line of a device other than the host: the same stages over its arrays, models and index that read them there."""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING

from batchrec.arrays import Ragged
from batchrec.hashing import id_hash
from batchrec.models.device_index import DeviceIndex
from batchrec.models.device_models import DeviceTower, device_pair_scorer
from batchrec.models.device_ranking import DeviceRanking
from batchrec.models.index import read_index
from batchrec.models.opening import open_ranker, when_called
from batchrec.models.precision import in_precision
from batchrec.models.serving import load_model
from batchrec.models.tensors import on_device
from batchrec.pipeline import Line, Users

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    import numpy.typing as npt

    from batchrec.arrays import Array
    from batchrec.engine.device import Device
    from batchrec.models.bundle import Bundle
    from batchrec.models.bundle_format import IndexFormat
    from batchrec.models.precision import Precision
    from batchrec.models.serving import Model


def device_line(
    bundle: Bundle,
    described: IndexFormat,
    items: Mapping[str, npt.NDArray[np.generic]],
    eligible: npt.NDArray[np.bool_],
    device: Device,
) -> Line:
    """Load models and index of a bundle and put what all partitions share on the device.

    Parameters
    ----------
    bundle
        The bundle.
    described
        Its index.
    items
        Item inputs of the ranker, (N, …) each, in host memory.
    eligible
        (N,): items that may be recommended.
    device
        Where to.
    """
    tower, ranker = bundle.format.query_tower, bundle.format.ranker
    dimension = bundle.format.embedding_dimension
    index = read_index(bundle.folder / described.path, bundle.format.catalogue_size, dimension)
    tower_model = load_model(bundle.folder / tower.path, {one.name for one in tower.inputs} | {"history"})
    user_names = {one.name for one in ranker.user_inputs} | {name for name in [ranker.query_embedding] if name}
    precision = device.choice.precision
    build = partial(DeviceRanking, put=device.put, precision=precision)
    ranking, whole_ranker = open_ranker(bundle, user_names, items, build)
    # What a ranker by parts reads of the items is in its parts.
    item_inputs = {} if ranking else {name: device.put(values) for name, values in items.items()}

    @cache
    def vectors() -> Array:
        if ranker.item_embedding is None:
            return device.put(bundle.item_embeddings)
        return ranking.item_embeddings if ranking else item_inputs[ranker.item_embedding]

    return Line(
        query_tower=DeviceTower(on_device(in_precision(tower_model, precision)), dimension),
        search=DeviceIndex(index, described.probes, device.placement, device.put, vectors),
        score_pairs=_pair_scorer(whole_ranker, precision),
        query_name=ranker.query_embedding,
        item_inputs=item_inputs,
        eligible=device.put(eligible),
        item_hash=device.put(id_hash(bundle.item_ids)),
        history_length=tower.history_length,
        score_candidates=ranking,
    )


def _pair_scorer(whole_ranker: Callable[[], Model], precision: Precision) -> Callable[[Mapping[str, Array]], Array]:
    """Score pairs by the whole model, which is loaded when the first ones come: a ranker by parts sees none."""
    return when_called(cache(lambda: device_pair_scorer(on_device(in_precision(whole_ranker(), precision)))))


def put_users(users: Users, device: Device) -> Users:
    """Copy one partition of users to the device."""
    return _copied(users, device.put)


def fetch_users(users: Users, device: Device) -> Users:
    """Copy one partition of users from the device to host memory."""
    return _copied(users, device.fetch)


def _copied(users: Users, copy: Callable[[Array], Array]) -> Users:
    return Users(
        query_inputs={name: copy(values) for name, values in users.query_inputs.items()},
        ranker_inputs={name: copy(values) for name, values in users.ranker_inputs.items()},
        seen=Ragged(*map(copy, users.seen)),
        id_hash=copy(users.id_hash),
    )
