import numpy as np
import pyarrow as pa
import pytest

from batchrec.errors import ConfigError
from batchrec.features.inputs import encode_inputs, fit_inputs, refs_of, rows_found
from batchrec.features.store import FeatureRef
from batchrec.models.bundle_format import FeatureInput

REFS = [
    FeatureRef("users", "city", "string"),
    FeatureRef("users", "age", "int32"),
    FeatureRef("users", "active", "bool"),
    FeatureRef("money", "balance", "double"),
    FeatureRef("money", "ratio", "float"),
]
TABLE = pa.table(
    {
        "city": ["b", "a", None, "b", "c"],
        "age": pa.array([30, 30, 7, None, 7], pa.int32()),
        "active": [True, None, True, False, True],
        "balance": [1.0, 3.0, None, float("nan"), float("inf")],
        "ratio": pa.array([0.5, 0.5, 0.5, None, 0.5], pa.float32()),
    }
)


def test_kinds_by_type():
    inputs, vocabularies = fit_inputs(TABLE, REFS, 1)
    assert [(one.name, one.view, one.feature, one.dtype, one.kind) for one in inputs] == [
        ("city", "users", "city", "string", "categorical"),
        ("age", "users", "age", "int32", "categorical"),
        ("active", "users", "active", "bool", "categorical"),
        ("balance", "money", "balance", "double", "dense"),
        ("ratio", "money", "ratio", "float", "dense"),
    ]
    assert {name: values.to_pylist() for name, values in vocabularies.items()} == {
        "city": ["a", "b", "c"],
        "age": [7, 30],
        "active": [False, True],
    }
    assert [one.vocabulary_size for one in inputs] == [4, 3, 3, None, None]
    assert inputs[0].vocabulary == "vocabularies/city.parquet"
    assert (inputs[3].mean, inputs[3].std) == (2.0, 1.0)
    assert (inputs[4].mean, inputs[4].std) == (0.5, 1.0)


def test_rare_values_stay_out_of_the_vocabulary():
    inputs, vocabularies = fit_inputs(TABLE, REFS, 2)
    assert vocabularies["city"].to_pylist() == ["b"]
    assert vocabularies["active"].to_pylist() == [True]
    assert inputs[0].vocabulary_size == 2


def test_a_column_of_nulls_has_an_empty_vocabulary():
    inputs, vocabularies = fit_inputs(pa.table({"city": pa.array([None, None], pa.string())}), REFS[:1], 1)
    assert inputs[0].vocabulary_size == 1
    assert encode_inputs(TABLE, inputs, vocabularies)["city"].tolist() == [0] * 5


def test_what_was_fitted_encodes():
    inputs, vocabularies = fit_inputs(TABLE, REFS, 1)
    encoded = encode_inputs(TABLE, inputs, vocabularies)
    assert {name: column.tolist() for name, column in encoded.items()} == {
        "city": [2, 1, 0, 2, 3],
        "age": [2, 2, 1, 0, 1],
        "active": [2, 0, 2, 1, 2],
        "balance": [-1.0, 1.0, 0.0, 0.0, 0.0],
        "ratio": [0.0] * 5,
    }
    assert [column.dtype for column in encoded.values()] == [np.int32] * 3 + [np.float32] * 2


def test_values_met_later_are_unknown():
    inputs, vocabularies = fit_inputs(TABLE, REFS[:2], 1)
    later = pa.table({"city": ["d", "a"], "age": pa.array([8, 7], pa.int32())})
    encoded = encode_inputs(later, inputs, vocabularies)
    assert encoded["city"].tolist() == [0, 1]
    assert encoded["age"].tolist() == [0, 1]


def test_an_input_may_have_another_name_than_its_feature():
    one = FeatureInput(name="u", view="money", feature="balance", dtype="double", kind="dense", mean=1.0, std=2.0)
    assert encode_inputs(TABLE, [one], {})["u"].tolist() == [0.0, 1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("dtype", ["list<int64>", "timestamp[us, tz=UTC]", "list<string>"])
def test_types_that_no_model_reads(dtype):
    with pytest.raises(ConfigError, match=r"feature users:tags is .*; models read"):
        fit_inputs(pa.table({"tags": [None]}), [FeatureRef("users", "tags", dtype)], 1)


def test_each_feature_is_asked_for_once():
    inputs, _ = fit_inputs(TABLE, REFS, 1)
    assert refs_of([*inputs[1:], *inputs]) == (*REFS[1:], REFS[0])


def test_rows_that_hold_any_value():
    table = pa.table({"a": [1, None, None, None], "b": [None, None, "", None], "c": [[1], None, None, []]})
    assert rows_found(table).tolist() == [True, False, True, True]
    assert rows_found(pa.table({"a": pa.chunked_array([[None], [], [1]], pa.int64())})).tolist() == [False, True]
    assert rows_found(table.slice(0, 0)).tolist() == []
    assert rows_found(pa.table({"a": pa.chunked_array([], pa.int64())})).tolist() == []
