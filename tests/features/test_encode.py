import math
import statistics
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchrec.errors import FeatureError
from batchrec.features.encode import encode, fit_dense, fit_vocabulary, positions_of, ragged, standardise

# A busy machine is no failure.
EXAMPLES = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

INTEGERS = st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3)
STRINGS = st.text(st.characters(codec="utf-8"), max_size=4) | st.sampled_from(
    ["a", "ab", "Z", "é", "\uffff", "\U00010000"]
)
KINDS = [(INTEGERS, pa.int64()), (STRINGS, pa.string()), (st.booleans(), pa.bool_())]


def utf8(value):
    """Sort key: strings by their bytes, everything else by itself."""
    return value.encode() if isinstance(value, str) else value


@st.composite
def columns(draw, kinds=KINDS):
    """Return (values, the same as an Arrow column): whole or in chunks, plain or encoded, with something cut off."""
    values, dtype = draw(st.sampled_from(kinds))
    kept = draw(st.lists(st.none() | values, max_size=30))
    around = [draw(values)]
    array = pa.array(around + kept + around, dtype)
    if draw(st.booleans()):
        array = array.dictionary_encode()
    array = array.slice(1, len(kept))
    if not draw(st.booleans()):
        return kept, array
    cut = draw(st.integers(0, len(kept)))
    return kept, pa.chunked_array([array.slice(0, cut), array.slice(cut)])


# --- vocabularies


@EXAMPLES
@given(columns(), st.integers(1, 4))
def test_vocabulary_is_what_counting_gives(column, min_count):
    values, arrow = column
    counts = Counter(value for value in values if value is not None)
    expected = sorted((value for value, count in counts.items() if count >= min_count), key=utf8)
    vocabulary = fit_vocabulary(arrow, min_count)
    assert isinstance(vocabulary, pa.Array)
    assert vocabulary.type in (pa.int64(), pa.string(), pa.bool_())
    assert vocabulary.to_pylist() == expected


@EXAMPLES
@given(columns(), st.data())
def test_codes_are_what_a_dictionary_gives(column, data):
    values, arrow = column
    known = sorted({value for value in values if value is not None and data.draw(st.booleans())}, key=utf8)
    codes = {value: 1 + index for index, value in enumerate(known)}
    vocabulary = pa.array(known, fit_vocabulary(arrow).type)
    found = encode(arrow, vocabulary)
    assert found.dtype == np.int32
    assert found.tolist() == [codes.get(value, 0) for value in values]


@pytest.mark.parametrize("known", [pa.int8(), pa.uint32(), pa.int64()])
@pytest.mark.parametrize("asked", [pa.int16(), pa.uint64(), pa.dictionary(pa.int8(), pa.int32())])
def test_integers_match_by_value_whatever_their_width(known, asked):
    assert encode(pa.array([7, None, 3, 5], asked), pa.array([3, 7], known)).tolist() == [2, 0, 1, 0]


@pytest.mark.parametrize("known", [pa.string(), pa.large_string(), pa.string_view()])
@pytest.mark.parametrize("asked", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_strings_match_by_value_whatever_their_layout(known, asked):
    assert encode(pa.array(["b", None, "", "c"], asked), pa.array(["", "b"], known)).tolist() == [2, 0, 1, 0]


def test_a_column_without_any_value():
    nothing = pa.nulls(3)
    assert fit_vocabulary(nothing).to_pylist() == []
    assert encode(nothing, pa.array(["a"])).tolist() == [0, 0, 0]
    assert encode(pa.array(["a"]), fit_vocabulary(nothing)).tolist() == [0]
    assert encode(pa.chunked_array([], pa.string()), pa.array(["a"])).tolist() == []


def test_values_of_another_kind_are_refused():
    for column, vocabulary in ([["1"], [1]], [[1], ["1"]], [[True], [1]]):
        with pytest.raises(FeatureError) as caught:
            encode(pa.array(column), pa.array(vocabulary))
        assert str(pa.array(column).type) in str(caught.value)
        assert str(pa.array(vocabulary).type) in str(caught.value)
    for column in (pa.array([1.5]), pa.array([[1]])):
        with pytest.raises(FeatureError, match="not categories"):
            fit_vocabulary(column)
    with pytest.raises(FeatureError, match="beyond int64"):
        fit_vocabulary(pa.array([2**63], pa.uint64()))


# --- dense values

MODERATE = st.floats(-1e6, 1e6)
NOT_FINITE = st.sampled_from([None, math.nan, math.inf, -math.inf])


@EXAMPLES
@given(st.lists(MODERATE | NOT_FINITE), st.sampled_from([pa.float64(), pa.float32()]))
def test_mean_and_deviation_are_those_of_the_finite_values(values, dtype):
    column = pa.array(values, dtype)
    finite = [value for value in column.to_pylist() if value is not None and math.isfinite(value)]
    mean, std = fit_dense(pa.chunked_array([column.slice(0, 2), column.slice(2)]))
    assert mean == pytest.approx(statistics.fmean(finite) if finite else 0.0, abs=1e-6)
    if len(set(finite)) <= 1:
        assert std == 1.0
    elif (expected := statistics.pstdev(finite)) > 1e-6:
        assert std == pytest.approx(expected, rel=1e-6)
    assert std > 0


@EXAMPLES
@given(st.lists(MODERATE | NOT_FINITE), MODERATE, st.floats(1e-3, 1e6))
def test_standardised_values(values, mean, std):
    found = standardise(pa.array(values, pa.float64()), mean, std)
    assert found.dtype == np.float32
    expected = [0.0 if value is None or not math.isfinite(value) else (value - mean) / std for value in values]
    assert found.tolist() == pytest.approx(expected, rel=1e-6)


def test_equal_values_whose_mean_is_rounded_have_deviation_one():
    assert fit_dense(pa.array([0.1] * 3)) == (pytest.approx(0.1), 1.0)


def test_values_that_hardly_differ_have_a_deviation_that_can_divide():
    column = pa.array([0.0, 1e-300])
    assert np.isfinite(standardise(column, *fit_dense(column))).all()


def test_integers_and_booleans_are_numbers():
    assert fit_dense(pa.array([1, None, 3], pa.int32())) == (2.0, 1.0)
    assert fit_dense(pa.array([True, False, None])) == (0.5, 0.5)
    assert standardise(pa.array([True, False, None]), 0.5, 0.5).tolist() == [1.0, -1.0, 0.0]
    assert fit_dense(pa.array([1.0, None, 3.0]).dictionary_encode()) == (2.0, 1.0)
    assert fit_dense(pa.nulls(2)) == (0.0, 1.0)
    assert standardise(pa.nulls(2), 3.0, 2.0).tolist() == [0.0, 0.0]


def test_text_is_not_a_number_even_if_it_reads_like_one():
    with pytest.raises(FeatureError, match=r"string.*not numbers"):
        fit_dense(pa.array(["12"]))


# --- positions in the catalogue

IDS = [(st.integers(0, 9) | INTEGERS, pa.int64()), (STRINGS, pa.string())]


@EXAMPLES
@given(columns(IDS), st.data())
def test_positions_are_places_in_the_sorted_catalogue(column, data):
    values, arrow = column
    known = [value for value in values if value is not None]
    some = data.draw(st.lists(st.sampled_from(known), unique=True)) if known else []
    catalogue = sorted(some, key=utf8)
    found = positions_of(arrow, pa.array(catalogue, fit_vocabulary(arrow).type))
    assert found.dtype == np.int64
    assert found.tolist() == [catalogue.index(value) if value in catalogue else -1 for value in values]


def test_positions_need_ids_of_the_catalogues_kind():
    with pytest.raises(FeatureError, match=r"int64.*string"):
        positions_of(pa.array([1]), pa.array(["1"]))


def rows_of(found):
    return [found.values[start:end].tolist() for start, end in zip(found.offsets[:-1], found.offsets[1:], strict=True)]


LISTS = [pa.list_, pa.large_list]


@EXAMPLES
@given(
    st.lists(st.none() | st.lists(st.none() | st.integers(0, 6), max_size=4), min_size=2, max_size=20),
    st.sampled_from(LISTS),
    st.data(),
)
def test_lists_become_ragged_positions(lists, list_of, data):
    """Of a slice that begins anywhere, cut into chunks anywhere."""
    catalogue = [1, 2, 4, 5]
    start = data.draw(st.integers(0, len(lists)))
    end = data.draw(st.integers(start, len(lists)))
    cut = data.draw(st.integers(0, end - start))
    whole = pa.array(lists, list_of(pa.int32()))
    part = whole.slice(start, end - start)
    expected = [
        [catalogue.index(item) if item in catalogue else -1 for item in items or []] for items in lists[start:end]
    ]
    for column in (part, pa.chunked_array([part.slice(0, cut), part.slice(cut)])):
        found = ragged(column, pa.array(catalogue))
        assert found.offsets.dtype == found.values.dtype == np.int64
        assert found.offsets[0] == 0
        assert found.offsets[-1] == len(found.values)
        assert rows_of(found) == expected


def test_values_under_a_null_list_do_not_count():
    hidden = pa.ListArray.from_arrays(
        pa.array([0, 2, 4, 5]), pa.array(["a", "b", "a", "b", "c"]), mask=pa.array([False, True, False])
    )
    assert rows_of(ragged(hidden, pa.array(["a", "b"]))) == [[0, 1], [], [-1]]


def test_lists_of_encoded_strings_and_of_fixed_length():
    strings = pa.array([["b", "x"], None], pa.list_(pa.dictionary(pa.int8(), pa.string())))
    assert rows_of(ragged(strings, pa.array(["a", "b"]))) == [[1, -1], []]
    fixed = pa.array([[5, 4], None, [9, None]], pa.list_(pa.int64(), 2)).slice(1)
    assert rows_of(ragged(fixed, pa.array([4, 5]))) == [[], [-1, -1]]


def test_no_lists_at_all():
    assert rows_of(ragged(pa.nulls(2), pa.array([1]))) == [[], []]
    empty = ragged(pa.chunked_array([], pa.list_(pa.int64())), pa.array([1]))
    assert (empty.offsets.tolist(), empty.values.tolist()) == ([0], [])
    with pytest.raises(FeatureError, match="not lists"):
        ragged(pa.array([1]), pa.array([1]))
    with pytest.raises(FeatureError, match=r"string.*int64"):
        ragged(pa.array([["1"]]), pa.array([1]))
