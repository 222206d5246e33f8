"""What a vector register does in one instruction and no loop can say: put the numbers that reach a floor side by side.

That is an instruction of AVX-512. On other processors the numbers that reach the floor, few as they are, are moved one
by one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from batchrec.models.vectors import (
    FLOATS,
    HAS_AVX512,
    INT32,
    INT64,
    INTS,
    LANES,
    addresses,
    further,
    load,
    splat,
    store,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_MASK = ir.VectorType(ir.IntType(1), LANES)


@intrinsic  # type: ignore[untyped-decorator]
def pack(
    _: Any, row: Any, start: Any, column: Any, floor: Any, values: Any, columns: Any, end: Any
) -> tuple[Any, Callable[..., Any]]:
    """Append those of 16 numbers that reach a floor, and their columns, to values and columns.

    Parameters
    ----------
    row
        (w,) float32; those from place `start` are looked at.
    start
        int64, at most w - 16.
    column
        int64 below 2³¹ - 16: the column of the first.
    floor
        float32.
    values, columns
        (p,) float32 and int32, with room for 16 more, all of which may be written.
    end
        int64: where to append.

    Returns
    -------
    int64
        How many there were.
    """
    signature = types.int64(row, start, column, floor, values, columns, end)

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        data = addresses(context, builder, signature, given)
        _, start, column, floor, _, _, end = given
        numbers = load(builder, further(builder, data[0], start))
        first = splat(builder, builder.trunc(column, INT32), INTS)
        numbered = builder.add(first, ir.Constant(INTS, list(range(LANES))))
        mask = _reaching(builder, numbers, floor)
        return _store(
            builder, mask, (numbers, further(builder, data[4], end)), (numbered, further(builder, data[5], end))
        )

    return signature, generate


@intrinsic  # type: ignore[untyped-decorator]
def close_up(_: Any, values: Any, columns: Any, start: Any, floor: Any, end: Any) -> tuple[Any, Callable[..., Any]]:
    """Move those of 16 values that reach a floor, and their columns, further to the front.

    Parameters
    ----------
    values, columns
        (p,) float32 and int32; those from place `start` are looked at.
    start
        int64, at most p - 16.
    floor
        float32.
    end
        int64, at most `start`: where to.

    Returns
    -------
    int64
        How many there were.
    """
    signature = types.int64(values, columns, start, floor, end)

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        data = addresses(context, builder, signature, given)
        _, _, start, floor, end = given
        numbers = load(builder, further(builder, data[0], start))
        numbered = load(builder, further(builder, data[1], start), INTS)
        mask = _reaching(builder, numbers, floor)
        return _store(
            builder, mask, (numbers, further(builder, data[0], end)), (numbered, further(builder, data[1], end))
        )

    return signature, generate


def _reaching(builder: Any, numbers: Any, floor: Any) -> Any:
    return builder.fcmp_ordered(">=", numbers, splat(builder, floor))


def _store(builder: Any, mask: Any, *targets: tuple[Any, Any]) -> Any:
    """Store what a mask lets through of each vector, side by side from its place on; return how much that is."""
    bits = builder.bitcast(mask, ir.IntType(LANES))
    if HAS_AVX512:
        for numbers, place in targets:
            _compress(builder, mask, numbers, place)
    else:
        _move_one_by_one(builder, bits, targets)
    return builder.zext(builder.ctpop(bits), INT64)


def _compress(builder: Any, mask: Any, numbers: Any, place: Any) -> None:
    """Store the whole register: to store what the mask lets through alone is slow microcode on Zen 4."""
    kind = numbers.type
    signature = ir.FunctionType(kind, [kind, _MASK, kind])
    name = f"llvm.experimental.vector.compress.v{LANES}{'f32' if kind is FLOATS else 'i32'}"
    compress = cgutils.get_or_insert_function(builder.module, signature, name)
    packed = builder.call(compress, [numbers, mask, ir.Constant(kind, ir.Undefined)])
    store(builder, packed, place)


def _move_one_by_one(builder: Any, bits: Any, targets: tuple[tuple[Any, Any], ...]) -> None:
    """Go from one bit that is set to the next, the lowest first."""
    before, around, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
    zero, one = ir.Constant(bits.type, 0), ir.Constant(bits.type, 1)
    builder.cbranch(builder.icmp_unsigned("!=", bits, zero), around, after)
    builder.position_at_end(around)
    left, moved = builder.phi(bits.type), builder.phi(INT64)
    lane = builder.cttz(left, ir.Constant(ir.IntType(1), 1))
    for numbers, place in targets:
        builder.store(builder.extract_element(numbers, lane), further(builder, place, moved))
    rest = builder.and_(left, builder.sub(left, one))
    left.add_incoming(bits, before)
    left.add_incoming(rest, around)
    moved.add_incoming(ir.Constant(INT64, 0), before)
    moved.add_incoming(builder.add(moved, ir.Constant(INT64, 1)), around)
    builder.cbranch(builder.icmp_unsigned("!=", rest, zero), around, after)
    builder.position_at_end(after)
