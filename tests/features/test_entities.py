from datetime import UTC, datetime, timedelta, timezone

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec.errors import FeatureError
from batchrec.features.entities import checked_ids, distinct_pairs, timestamps

TIME = pa.timestamp("us", tz="UTC")
NOON = datetime(2024, 2, 29, 12, tzinfo=UTC)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["", "a", "b"]), st.sampled_from([0, 1, -1, 2**62])), max_size=30))
def test_distinct_pairs_stand_for_all(pairs):
    ids = pa.array([name for name, _ in pairs], pa.string())
    times = pa.array([time for _, time in pairs], TIME)
    found_ids, found_times, row = distinct_pairs(ids, times)
    distinct = list(zip(found_ids.to_pylist(), found_times.cast(pa.int64()).to_pylist(), strict=True))
    assert distinct == list(dict.fromkeys(pairs))
    assert [distinct[place] for place in row.to_pylist()] == pairs
    assert (found_ids.type, found_times.type) == (pa.string(), TIME)


def test_one_time_stands_for_all_ids():
    assert timestamps(NOON, 3).to_pylist() == [NOON] * 3
    assert timestamps(NOON, 0).type == TIME


def test_what_is_finer_than_a_microsecond_is_cut_off():
    fine = pa.array([1_999], pa.timestamp("ns", "UTC"))
    assert timestamps(fine, 1).cast(pa.int64()).to_pylist() == [1]


@pytest.mark.parametrize(
    ("as_of", "words"),
    [
        (NOON.replace(tzinfo=None), ["2024-02-29 12:00:00", "no time zone"]),
        (pa.array([NOON, NOON]).cast(pa.timestamp("us")), ["timestamp[us]", "no time zone"]),
        (pa.array([1, 2]), ["int64", "no time zone"]),
        (pa.array([NOON], TIME), ["2 ids", "1 as-of times"]),
        (pa.array([NOON, None], TIME), ["2 ids", "1 of them null"]),
    ],
)
def test_times_that_cannot_be_used(as_of, words):
    with pytest.raises(FeatureError) as caught:
        timestamps(as_of, 2)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_offsets_of_zones_are_respected():
    east = NOON.astimezone(timezone(timedelta(hours=5.5)))
    assert timestamps(east, 1).to_pylist() == [NOON]


def test_ids_of_one_kind_become_one_type():
    chunked = pa.chunked_array([pa.array([1], pa.int8()), pa.array([2], pa.int8())])
    assert checked_ids(chunked, "user_id", pa.int32()).equals(pa.array([1, 2], pa.int64()))
    assert checked_ids(pa.array(["a"], pa.large_string()), "user_id", pa.string()).type == pa.string()
    with pytest.raises(FeatureError, match=r"string.*user_id.*int64"):
        checked_ids(pa.array(["1"]), "user_id", pa.int64())
    with pytest.raises(FeatureError, match="double"):
        checked_ids(pa.array([1.0]), "user_id", pa.int64())
