"""Damage to bytes, the same for the same seed: what disks, networks and hands do to files."""

from __future__ import annotations

import random

_TOKENS = [
    *(
        b"null",
        b"true",
        b"-1",
        b"0",
        b"1e999",
        b"NaN",
        b'""',
        b"[]",
        b"{}",
        b"9" * 400,
        b"\\u0000",
        b"\\ud800",
        b"../x",
    ),
    *(b"\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\xff" * 9 + b"\x01", b"\xef\xbb\xbf", b'"', b","),
]
"""What parsers stumble over: extremes of numbers, empty values, other types, escapes."""


def mutation(data: bytes, seed: str) -> bytes:
    """Return `data` with one to three kinds of damage, always other bytes than before."""
    chance = random.Random(seed)
    damaged = data
    while damaged == data:
        for _ in range(chance.choice((1, 1, 2, 3))):
            damaged = chance.choice(_DAMAGES)(damaged, chance)
    return damaged


def _truncate(data: bytes, chance: random.Random) -> bytes:
    return data[: _place(data, chance)]


def _cut_out(data: bytes, chance: random.Random) -> bytes:
    start, stop = _run(data, chance)
    return data[:start] + data[stop:]


def _flip_bits(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 4, 16)) if data else 0):
        changed[_place(data, chance)] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _overwrite(data: bytes, chance: random.Random) -> bytes:
    start, stop = _run(data, chance)
    filled = chance.choice((b"\0", b"\xff", None))
    run = chance.randbytes(stop - start) if filled is None else filled * (stop - start)
    return data[:start] + run + data[stop:]


def _insert(data: bytes, chance: random.Random) -> bytes:
    place = _place(data, chance)
    return data[:place] + chance.randbytes(chance.choice((1, 4, 100))) + data[place:]


def _put_token(data: bytes, chance: random.Random) -> bytes:
    start, stop = _run(data, chance)
    return data[:start] + chance.choice(_TOKENS) + data[chance.choice((start, stop)) :]


def _swap_blocks(data: bytes, chance: random.Random) -> bytes:
    a, b, c, d = sorted(_place(data, chance) for _ in range(4))
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def _place(data: bytes, chance: random.Random) -> int:
    """Anywhere, but every other time near an end, where headers and footers are."""
    if not data:
        return 0
    reach = min(len(data), 400)
    return chance.choice(
        (chance.randrange(len(data)), chance.randrange(reach), len(data) - 1 - chance.randrange(reach))
    )


def _run(data: bytes, chance: random.Random) -> tuple[int, int]:
    start = _place(data, chance)
    return start, min(len(data), start + chance.choice((1, 2, 8, 64, 512)))


_DAMAGES = (_truncate, _cut_out, _flip_bits, _flip_bits, _overwrite, _insert, _put_token, _swap_blocks)
