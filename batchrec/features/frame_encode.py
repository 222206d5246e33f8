"""Model inputs and seen items out of frames, on a device: what :mod:`batchrec.features.encode` makes on the host."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
from array_api_compat import array_namespace, device

from batchrec.arrays import MISSING, Array, Ragged, gather
from batchrec.features.dtypes import parse_type
from batchrec.features.encode import categories, scaled
from batchrec.features.frame_join import NotForFrames
from batchrec.features.refs import FeatureRef
from batchrec.frames import as_int64, codes_of, to_array, values_of_lists

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from batchrec.features.frame_join import UserFeature
    from batchrec.frames import Frame, FrameLibrary, Series
    from batchrec.models.bundle_format import FeatureInput

    UserFeatures = Mapping[FeatureRef, UserFeature]


_NUMBERS = frozenset({"bool", "int32", "int64", "float", "double"})


class FrameEncoder:
    """Turns features of users into arrays of a device, without the host.

    Parameters
    ----------
    vocabularies
        Vocabulary of each categorical input, by input name.
    item_ids
        (N,) the catalogue.
    library
        Makes the frames.
    put
        Copies arrays to the device where they are not there already.
    """

    def __init__(
        self,
        vocabularies: Mapping[str, pa.Array],
        item_ids: pa.Array,
        library: FrameLibrary,
        put: Callable[[Array], Array],
    ) -> None:
        self._known = {name: _numbered(values, library) for name, values in vocabularies.items()}
        self._items = _numbered(item_ids, library)
        self._put = put

    def inputs(self, features: UserFeatures, inputs: Sequence[FeatureInput]) -> dict[str, Array]:
        """Return (n,) int32 codes or float32 values, by input name."""
        return {one.name: self._input(features[FeatureRef(one.view, one.feature, one.dtype)], one) for one in inputs}

    def seen(self, feature: UserFeature) -> Ragged:
        """Return lists of raw item ids as item positions, -1 for what is not in the catalogue; n rows."""
        lists = feature.values
        lengths = self._put(to_array(lists.list.len(), "int64", 0))
        codes = self._put(codes_of(_comparable(values_of_lists(lists.dropna())), self._items))
        xp = array_namespace(lengths)
        offsets = xp.cumulative_sum(_with_nobody(lengths), include_initial=True, dtype=xp.int64)
        return Ragged(offsets, codes + MISSING).take(feature.places)

    def found(self, features: UserFeatures) -> Array:
        """Tell which users have any value at all: (n,) bool."""
        valid = [self._spread(to_array(one.values.notna(), "int64", 0), one) for one in features.values()]
        return sum(valid[1:], start=valid[0]) > 0

    def _input(self, feature: UserFeature, one: FeatureInput) -> Array:
        if one.kind == "categorical":
            codes = self._spread(codes_of(_comparable(feature.values), self._known[one.name]), feature)
            return array_namespace(codes).astype(codes, array_namespace(codes).int32)
        numbers = self._put(to_array(feature.values, "float64", float("nan")))
        return gather(_with_nobody(scaled(numbers, one.mean, one.std)), feature.places)

    def _spread(self, values: Array, feature: UserFeature) -> Array:
        """Return for each of n users the one of m values that is theirs, 0 for those who have none."""
        return gather(_with_nobody(self._put(values)), feature.places)


def check_encodable(
    inputs: Sequence[FeatureInput], vocabularies: Mapping[str, pa.Array], seen: FeatureRef, item_ids: pa.Array
) -> None:
    """See that values and what they are looked up among are of one kind, and that dense inputs are numbers.

    Raises
    ------
    NotForFrames
        They are not; encoding on the host either can do it or says what is wrong.
    """
    for one in inputs:
        if one.kind == "categorical":
            _check_kind(f"{one.view}:{one.feature}", one.dtype, vocabularies[one.name])
        elif one.dtype not in _NUMBERS:
            raise NotForFrames(f"dense input {one.name!r} is of type {one.dtype}")
    _check_kind(seen.ref, seen.dtype.removeprefix("list<").removesuffix(">"), item_ids)


def _check_kind(ref: str, dtype: str, known: pa.Array) -> None:
    wanted = categories(known).type
    if categories(pa.nulls(0, parse_type(dtype))).type != wanted:
        raise NotForFrames(f"feature {ref} is of type {dtype} and is looked up among values of type {wanted}")


def _with_nobody(values: Array) -> Array:
    """Append a 0, which is what a user without a row gets."""
    xp = array_namespace(values)
    return xp.concat([values, xp.zeros((1,), dtype=values.dtype, device=device(values))])


def _numbered(values: pa.Array, library: FrameLibrary) -> Frame:
    """Return distinct values with their codes, as :func:`~batchrec.frames.codes_of` looks them up."""
    codes = pa.array(range(1, len(values) + 1), pa.int64())
    return library.from_arrow(pa.table({"value": categories(values), "code": codes}))


def _comparable(values: Series) -> Series:
    """Return categories as vocabularies hold them: integers as int64."""
    return as_int64(values) if values.dtype.kind == "i" else values
