import numpy as np
import pyarrow as pa
import pytest

from batchrec.errors import SchemaError
from batchrec.hashing import id_hash

MASK = 2**64 - 1
P1, P2, P3, P4, P5 = (
    11400714785074694791,
    14029467366897019727,
    1609587929392839161,
    9650029242287828579,
    2870177450012600261,
)


def rotate(x, bits):
    return ((x << bits) | (x >> (64 - bits))) & MASK


def words(chunk, size):
    return [int.from_bytes(chunk[start : start + size], "little") for start in range(0, len(chunk), size)]


def step(lane, word):
    return rotate((lane + word * P2) & MASK, 31) * P1 & MASK


def stripes(data):
    """Four lanes over blocks of 32 bytes."""
    lanes = [(P1 + P2) & MASK, P2, 0, -P1 & MASK]
    for start in range(0, len(data), 32):
        lanes = [step(lane, word) for lane, word in zip(lanes, words(data[start : start + 32], 8), strict=True)]
    state = sum(rotate(lane, bits) for lane, bits in zip(lanes, (1, 7, 12, 18), strict=True)) & MASK
    for lane in lanes:
        state = ((state ^ step(0, lane)) * P1 + P4) & MASK
    return state


def tail(state, rest):
    """Fewer than 32 bytes: by eight, by four, by one."""
    eights = len(rest) // 8 * 8
    for word in words(rest[:eights], 8):
        state = (rotate(state ^ step(0, word), 27) * P1 + P4) & MASK
    fours = eights + (len(rest) - eights) // 4 * 4
    for word in words(rest[eights:fours], 4):
        state = (rotate(state ^ (word * P1 & MASK), 23) * P2 + P3) & MASK
    for byte in rest[fours:]:
        state = rotate(state ^ (byte * P5 & MASK), 11) * P1 & MASK
    return state


def xxh64(data):
    """XXH64 with seed 0, written from its specification."""
    whole = len(data) // 32 * 32
    state = stripes(data[:whole]) if whole else P5
    state = tail((state + len(data)) & MASK, data[whole:])
    state = (state ^ (state >> 33)) * P2 & MASK
    state = (state ^ (state >> 29)) * P3 & MASK
    return state ^ (state >> 32)


def test_integers_are_splitmix64():
    # The published stream of SplitMix64 from seed 1234567: its state grows by the golden ratio's bits at each output.
    golden = 0x9E3779B97F4A7C15
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    states = [(1234567 + step * golden) % 2**64 for step in range(4)]
    signed = [state - 2**64 if state >= 2**63 else state for state in states]
    hashes = id_hash(pa.array(signed, pa.int64()))
    assert hashes.dtype == np.uint64
    assert hashes.tolist() == published
    assert id_hash(pa.array([0])).tolist() == [0xE220A8397B1DCDAF]


def test_strings_are_xxh64_of_utf8():
    # Published vectors, then the specification for every path through it.
    assert id_hash(pa.array(["", "a", "abc"])).tolist() == [0xEF46DB3751D8E999, 0xD24EC4F1A98C6E5B, 0x44BC2CF5AD770999]
    ids = [("x1y2z" * 20)[:length] for length in range(100)] + ["Grüße", "日本", "🙂"]
    assert id_hash(pa.array(ids)).tolist() == [xxh64(text.encode()) for text in ids]


@pytest.mark.parametrize("narrow", [pa.int8(), pa.int32(), pa.uint16()])
def test_an_integer_hashes_the_same_in_every_width(narrow):
    assert id_hash(pa.array([1, 2, 3], narrow)).tolist() == id_hash(pa.array([1, 2, 3], pa.int64())).tolist()


def test_large_strings_hash_as_strings():
    assert id_hash(pa.array(["u1", "u2"], pa.large_string())).tolist() == id_hash(pa.array(["u1", "u2"])).tolist()


def test_slices_and_no_ids():
    ids = pa.array([5, 6, 7, 8])
    assert id_hash(ids[1:3]).tolist() == id_hash(ids).tolist()[1:3]
    assert id_hash(pa.array([], pa.int64())).shape == (0,)
    assert id_hash(pa.array([], pa.string())).dtype == np.uint64


def test_consecutive_integers_do_not_collide():
    assert len(np.unique(id_hash(pa.array(range(-50_000, 50_000))))) == 100_000


def test_ids_are_never_null():
    with pytest.raises(SchemaError, match="1 of 2 ids are null"):
        id_hash(pa.array([1, None]))


def test_other_types_are_no_ids():
    with pytest.raises(SchemaError, match="double"):
        id_hash(pa.array([1.5]))
