"""From feature tables to named model inputs, as a bundle describes them, and back: fitting that description."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from batchrec.errors import ConfigError
from batchrec.features.encode import encode, fit_dense, fit_vocabulary, standardise
from batchrec.features.store import FeatureRef
from batchrec.models.bundle_format import FeatureInput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    import pyarrow as pa

    Arrays = dict[str, npt.NDArray[np.generic]]


def refs_of(inputs: Sequence[FeatureInput]) -> tuple[FeatureRef, ...]:
    """Return the features that inputs are filled from, each once, in order."""
    return tuple(dict.fromkeys(FeatureRef(one.view, one.feature, one.dtype) for one in inputs))


def encode_inputs(table: pa.Table, inputs: Sequence[FeatureInput], vocabularies: Mapping[str, pa.Array]) -> Arrays:
    """Fill model inputs from a table of features.

    Parameters
    ----------
    table
        (n,) rows; a column a feature.
    inputs
        The inputs to fill.
    vocabularies
        Vocabulary of each categorical input, by input name.

    Returns
    -------
    dict
        (n,) int32 codes or float32 values, by input name.
    """
    return {
        one.name: encode(table[one.feature], vocabularies[one.name])
        if one.kind == "categorical"
        else standardise(table[one.feature], one.mean, one.std)
        for one in inputs
    }


def rows_found(table: pa.Table) -> npt.NDArray[np.bool_]:
    """Tell which rows hold any value at all: (n,) bool, false for ids the store does not know."""
    found = np.zeros(len(table), bool)
    for column in table.columns:
        found |= column.is_valid().to_numpy()
    return found


def fit_inputs(
    table: pa.Table, refs: Sequence[FeatureRef], min_count: int
) -> tuple[list[FeatureInput], dict[str, pa.Array]]:
    """Describe how each feature of a training table becomes a model input.

    Floats become dense inputs, standardised; integers, strings and booleans become categorical ones.

    Parameters
    ----------
    table
        Features at training moments; a column a feature.
    refs
        What those columns are.
    min_count
        Rows a value needs to enter its vocabulary; rarer ones share code 0.

    Returns
    -------
    inputs
        One description a feature.
    vocabularies
        Vocabulary of each categorical input, by input name.

    Raises
    ------
    ConfigError
        If a feature has a type that no model input can be made of.
    """
    inputs, vocabularies = [], {}
    for ref in refs:
        describe = partial(FeatureInput, name=ref.feature, view=ref.view, feature=ref.feature, dtype=ref.dtype)
        if ref.dtype in {"float", "double"}:
            mean, std = fit_dense(table[ref.feature])
            inputs.append(describe(kind="dense", mean=mean, std=std))
        elif ref.dtype.startswith(("int", "uint", "string", "bool")):
            vocabularies[ref.feature] = fit_vocabulary(table[ref.feature], min_count)
            size = len(vocabularies[ref.feature]) + 1
            file = f"vocabularies/{ref.feature}.parquet"
            inputs.append(describe(kind="categorical", vocabulary=file, vocabulary_size=size))
        else:
            raise ConfigError(
                f"feature {ref.ref} is {ref.dtype}; models read integers, strings, booleans and floats",
                "leave it out of the feature service, or give it one of these types",
            )
    return inputs, vocabularies
