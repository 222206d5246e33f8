"""Model inputs and seen items out of frames, on a device: what :mod:`batchrec.features.encode` makes on the host."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
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

    import numpy.typing as npt

    from batchrec.features.frame_join import UserFeature
    from batchrec.frames import FrameLibrary, Series
    from batchrec.models.bundle_format import FeatureInput

    UserFeatures = Mapping[FeatureRef, UserFeature]
    Put = Callable[[Array], Array]
    Codes = Callable[[Series], Array]


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
        self._codes = {name: _codes(values, library, put) for name, values in vocabularies.items()}
        self._items = _codes(item_ids, library, put)
        self._put = put

    def inputs(self, features: UserFeatures, *sides: Sequence[FeatureInput]) -> list[dict[str, Array]]:
        """Return for each side (n,) int32 codes or float32 values, by input name; what both read is encoded once."""
        made = {
            one: self._input(features[FeatureRef(one.view, one.feature, one.dtype)], one)
            for one in dict.fromkeys(chain(*sides))
        }
        return [{one.name: made[one] for one in side} for side in sides]

    def seen(self, feature: UserFeature) -> Ragged:
        """Return lists of raw item ids as item positions, -1 for what is not in the catalogue; n rows."""
        lists = feature.values
        lengths = self._put(to_array(lists.list.len(), "int64", 0))
        codes = self._items(values_of_lists(lists.dropna()))
        xp = array_namespace(lengths)
        offsets = xp.cumulative_sum(_with_nobody(lengths), include_initial=True, dtype=xp.int64)
        return Ragged(offsets, codes + MISSING).take(feature.places)

    def found(self, features: UserFeatures) -> Array:
        """Tell which users have any value at all: (n,) bool."""
        valid = [self._spread(to_array(one.values.notna(), "int64", 0), one) for one in features.values()]
        return sum(valid[1:], start=valid[0]) > 0

    def _input(self, feature: UserFeature, one: FeatureInput) -> Array:
        if one.kind == "categorical":
            codes = self._spread(self._codes[one.name](feature.values), feature)
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


def _codes(values: pa.Array, library: FrameLibrary, put: Put) -> Codes:
    """Return what looks distinct values up: a column to codes (n,) int64, 0 where a value is not among them."""
    values = categories(values)
    if pa.types.is_integer(values.type):
        return _codes_of_integers(values.to_numpy(zero_copy_only=False), put)
    known = library.from_arrow(pa.table({"value": values, "code": pa.array(range(1, len(values) + 1), pa.int64())}))
    return lambda series: put(codes_of(series, known))


def _codes_of_integers(values: npt.NDArray[np.int64], put: Put) -> Codes:
    """Look integers up by binary search, in a few operations where a join of frames takes dozens."""
    order = np.argsort(values)
    known, codes = put(values[order]), put(order + 1)

    def look_up(series: Series) -> Array:
        asked, is_null = put(to_array(as_int64(series), "int64", 0)), put(to_array(series.isna(), "bool", 0))
        xp = array_namespace(asked)
        if not len(values):
            return xp.zeros_like(asked)
        places = xp.minimum(xp.searchsorted(known, asked), len(values) - 1)
        return xp.where((gather(known, places) == asked) & ~is_null, gather(codes, places), 0)

    return look_up
