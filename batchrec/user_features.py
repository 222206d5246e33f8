"""Features of a partition's users: read, and made into what the line takes, where the device can do that best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from batchrec.device_line import fetch_users, put_users
from batchrec.features.encode import ragged
from batchrec.features.frame_encode import FrameEncoder, check_encodable
from batchrec.features.frame_join import FrameJoin, NotForFrames, frame_views
from batchrec.features.inputs import encode_inputs, refs_of, rows_found
from batchrec.features.store import FeatureRef
from batchrec.hashing import id_hash
from batchrec.increments.digest import user_digests
from batchrec.pipeline import Users
from batchrec.progress import say

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from batchrec.engine.device import Device
    from batchrec.features.frame_join import UserFeature
    from batchrec.features.store import FeatureStore
    from batchrec.models.bundle import Bundle

    Bools = npt.NDArray[np.bool_]


class Encoded(NamedTuple):
    """What a partition's n users are to the line.

    Attributes
    ----------
    users
        On the device.
    found
        (n,) bool, in host memory: who has any feature.
    digests
        (n,) of 16 bytes; see :func:`~batchrec.increments.digest.user_digests`.
    """

    users: Users
    found: Bools
    digests: pa.Array


class UserFeatures(Protocol):
    """How features of users become what the line takes."""

    def read(self, ids: pa.Array) -> Any:
        """Return the features of (n,) ids, for :meth:`encode`.

        Raises
        ------
        FeatureError
            If they cannot be read.
        """

    def encode(self, ids: pa.Array, features: Any) -> Encoded:
        """Make them into arrays."""


@dataclass(frozen=True)
class HostFeatures:
    """Features joined by Feast's store and encoded with Arrow; copied to the device, where that is another.

    Parameters
    ----------
    bundle
        Says which, and how they are encoded.
    vocabularies
        Of categorical inputs, by name.
    store
        Reads them.
    as_of
        The time.
    device
        Where to.
    """

    bundle: Bundle
    vocabularies: Mapping[str, pa.Array]
    store: FeatureStore
    as_of: datetime
    device: Device

    def read(self, ids: pa.Array) -> pa.Table:
        """Return (n,) rows, a column a feature."""
        return self.store.point_in_time(ids, self.as_of, user_refs(self.bundle))

    def encode(self, ids: pa.Array, features: pa.Table) -> Encoded:
        """Encode in host memory."""
        described = self.bundle.format
        users = Users(
            query_inputs=encode_inputs(features, described.query_tower.inputs, self.vocabularies),
            ranker_inputs=encode_inputs(features, described.ranker.user_inputs, self.vocabularies),
            seen=ragged(features[described.seen.feature], self.bundle.item_ids),
            id_hash=id_hash(ids),
        )
        found = rows_found(features)
        return Encoded(put_users(users, self.device), found, user_digests(users, found))


@dataclass(frozen=True)
class DeviceFeatures:
    """Features read, joined and encoded in the memory of the device; only digests are made of a copy on the host.

    Parameters
    ----------
    bundle
        Says how they are encoded.
    join
        Reads them.
    encoder
        Encodes them.
    device
        The device.
    """

    bundle: Bundle
    join: FrameJoin
    encoder: FrameEncoder
    device: Device

    def read(self, ids: pa.Array) -> Mapping[FeatureRef, UserFeature]:
        """Return columns on the device."""
        return self.join(ids)

    def encode(self, ids: pa.Array, features: Mapping[FeatureRef, UserFeature]) -> Encoded:
        """Encode on the device."""
        described = self.bundle.format
        query, ranker = self.encoder.inputs(features, described.query_tower.inputs, described.ranker.user_inputs)
        users = Users(
            query_inputs=query,
            ranker_inputs=ranker,
            seen=self.encoder.seen(features[seen_ref(self.bundle)]),
            id_hash=self.device.put(id_hash(ids)),
        )
        found = self.device.fetch(self.encoder.found(features))
        return Encoded(users, found, user_digests(fetch_users(users, self.device), found))


def user_features(
    bundle: Bundle, vocabularies: Mapping[str, pa.Array], store: FeatureStore, as_of: datetime, device: Device
) -> UserFeatures:
    """Return the way of a run's features to a device; see :class:`HostFeatures` for the parameters.

    On a GPU it leads through frames there where the offline store is our own and its files are as frames need them;
    otherwise through the host, and why is said.
    """
    on_host = HostFeatures(bundle, vocabularies, store, as_of, device)
    if device.is_host:
        return on_host
    try:
        return _on_device(on_host)
    except NotForFrames as why:
        say(f"features are joined on the CPU, not on the GPU: {why}", level="warning")
        return on_host


def user_refs(bundle: Bundle) -> tuple[FeatureRef, ...]:
    """Return every feature that is read of users."""
    described = bundle.format
    inputs = (*described.query_tower.inputs, *described.ranker.user_inputs)
    return tuple(dict.fromkeys((*refs_of(inputs), seen_ref(bundle))))


def seen_ref(bundle: Bundle) -> FeatureRef:
    """Return the feature that lists seen items."""
    seen = bundle.format.seen
    return FeatureRef(seen.view, seen.feature, seen.dtype)


def _on_device(host: HostFeatures) -> DeviceFeatures:
    described, refs = host.bundle.format, user_refs(host.bundle)
    inputs = (*described.query_tower.inputs, *described.ranker.user_inputs)
    seen, item_ids, put = seen_ref(host.bundle), host.bundle.item_ids, host.device.put
    vocabularies = {one.name: host.vocabularies[one.name] for one in inputs if one.kind == "categorical"}
    views = frame_views(host.store, refs)
    check_encodable(inputs, vocabularies, seen, item_ids)
    library = host.device.open_frames()
    join = FrameJoin(views, host.store.join_key(seen.view), host.as_of, library, put, host.store.retry_waits)
    return DeviceFeatures(host.bundle, join, FrameEncoder(vocabularies, item_ids, library, put), host.device)
