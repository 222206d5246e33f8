import math

import pyarrow as pa
import pytest

from batchrec.errors import FeatureError
from batchrec.features.dtypes import cast_exactly, parse_type, type_name

NAMES = {
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "bool": pa.bool_(),
    "string": pa.string(),
    "timestamp[us, tz=UTC]": pa.timestamp("us", tz="UTC"),
    "list<int64>": pa.list_(pa.int64()),
    "list<string>": pa.list_(pa.string()),
}


@pytest.mark.parametrize(("name", "dtype"), NAMES.items())
def test_names_and_types_go_both_ways(name, dtype):
    assert type_name(dtype) == name
    assert parse_type(name) == dtype


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (pa.large_string(), "string"),
        (pa.string_view(), "string"),
        (pa.dictionary(pa.int8(), pa.large_string()), "string"),
        (pa.large_list(pa.field("l", pa.large_string())), "list<string>"),
        (pa.list_(pa.float32(), 4), "list<float>"),
        (pa.list_(pa.list_(pa.int64())), "list<list<int64>>"),
    ],
)
def test_names_leave_the_layout_out(dtype, name):
    assert type_name(dtype) == name


def test_an_unknown_name_is_refused_with_those_there_are():
    with pytest.raises(FeatureError, match=r"'int'.*int64"):
        parse_type("int")


@pytest.mark.parametrize(
    ("values", "found", "wanted", "expected"),
    [
        ([1, None], pa.int64(), pa.int32(), [1, None]),
        ([1.0, None, math.nan], pa.float64(), pa.int64(), [1, None, None]),
        ([1, 2], pa.int64(), pa.float64(), [1.0, 2.0]),
        ([["a"], None], pa.large_list(pa.large_string()), pa.list_(pa.string()), [["a"], None]),
        (["a", "b"], pa.dictionary(pa.int8(), pa.string()), pa.string(), ["a", "b"]),
        ([None], pa.string(), pa.int64(), [None]),
    ],
)
def test_casts_that_keep_every_value(values, found, wanted, expected):
    cast = cast_exactly(pa.chunked_array([pa.array(values, found)]), wanted)
    assert cast.type == wanted
    assert cast.to_pylist() == expected


@pytest.mark.parametrize(
    ("value", "found", "wanted"),
    [
        (2**31, pa.int64(), pa.int32()),
        (0.5, pa.float64(), pa.int64()),
        (math.inf, pa.float64(), pa.int64()),
        ("1", pa.string(), pa.int64()),
        (1, pa.int64(), pa.string()),
        (True, pa.bool_(), pa.int64()),
        (1, pa.int64(), pa.bool_()),
        (["1"], pa.list_(pa.string()), pa.list_(pa.int64())),
        (1, pa.int64(), pa.list_(pa.int64())),
    ],
)
def test_casts_that_would_change_a_value(value, found, wanted):
    with pytest.raises(pa.ArrowInvalid):
        cast_exactly(pa.chunked_array([pa.array([value], found)]), wanted)
