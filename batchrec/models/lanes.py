"""What a vector register does in one instruction and no loop can say: put the numbers that reach a floor side by side.

That is an instruction of AVX-512. On other processors the numbers that reach the floor, few as they are, are moved one
by one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

if TYPE_CHECKING:
    from collections.abc import Callable

LANES = 16
"""Numbers that are looked at at once: float32 in the widest register of a CPU."""

_INT32, _INT64 = ir.IntType(32), ir.IntType(64)
_FLOATS, _INTS = ir.VectorType(ir.FloatType(), LANES), ir.VectorType(_INT32, LANES)
_MASK = ir.VectorType(ir.IntType(1), LANES)


@intrinsic  # type: ignore[untyped-decorator]
def pack(
    _: Any, row: Any, start: Any, column: Any, floor: Any, values: Any, columns: Any, at: Any
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
    at
        int64: where to append.

    Returns
    -------
    int64
        How many there were.
    """
    signature = types.int64(row, start, column, floor, values, columns, at)

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        row, start, column, floor, values, columns, at = given
        place = _place(context, builder, signature)
        numbers = _load(builder, place(0, row, start), _FLOATS)
        first = _splat(builder, builder.trunc(column, _INT32), _INTS)
        numbered = builder.add(first, ir.Constant(_INTS, list(range(LANES))))
        mask = _reaching(builder, numbers, floor)
        targets = (numbers, place(4, values, at)), (numbered, place(5, columns, at))
        return _store(context, builder, mask, *targets)

    return signature, generate


@intrinsic  # type: ignore[untyped-decorator]
def close_up(_: Any, values: Any, columns: Any, start: Any, floor: Any, at: Any) -> tuple[Any, Callable[..., Any]]:
    """Move those of 16 values that reach a floor, and their columns, further to the front.

    Parameters
    ----------
    values, columns
        (p,) float32 and int32; those from place `start` are looked at.
    start
        int64, at most p - 16.
    floor
        float32.
    at
        int64, at most `start`: where to.

    Returns
    -------
    int64
        How many there were.
    """
    signature = types.int64(values, columns, start, floor, at)

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        values, columns, start, floor, at = given
        place = _place(context, builder, signature)
        numbers = _load(builder, place(0, values, start), _FLOATS)
        numbered = _load(builder, place(1, columns, start), _INTS)
        mask = _reaching(builder, numbers, floor)
        targets = (numbers, place(0, values, at)), (numbered, place(1, columns, at))
        return _store(context, builder, mask, *targets)

    return signature, generate


def _place(context: Any, builder: Any, signature: Any) -> Callable[[int, Any, Any], Any]:
    """Return what gives the address of a place in an array, by the number of the argument that the array is."""

    def place(argument: int, array: Any, index: Any) -> Any:
        return builder.gep(context.make_array(signature.args[argument])(context, builder, array).data, [index])

    return place


def _load(builder: Any, place: Any, kind: ir.VectorType) -> Any:
    return builder.load(builder.bitcast(place, kind.as_pointer()), align=4)


def _splat(builder: Any, value: Any, kind: ir.VectorType) -> Any:
    nothing = ir.Constant(kind, ir.Undefined)
    single = builder.insert_element(nothing, value, ir.Constant(_INT32, 0))
    return builder.shuffle_vector(single, nothing, ir.Constant(_INTS, [0] * LANES))


def _reaching(builder: Any, numbers: Any, floor: Any) -> Any:
    return builder.fcmp_ordered(">=", numbers, _splat(builder, floor, _FLOATS))


def _store(context: Any, builder: Any, mask: Any, *targets: tuple[Any, Any]) -> Any:
    """Store what a mask lets through of each vector, side by side from its place on; return how much that is."""
    bits = builder.bitcast(mask, ir.IntType(LANES))
    _, _, features = context.codegen().magic_tuple()
    if "+avx512f" in features.split(","):
        for numbers, place in targets:
            _compress(builder, mask, numbers, place)
    else:
        _move_one_by_one(builder, bits, targets)
    return builder.zext(builder.ctpop(bits), _INT64)


def _compress(builder: Any, mask: Any, numbers: Any, place: Any) -> None:
    """Store the whole register: to store what the mask lets through alone is slow microcode on Zen 4."""
    kind = numbers.type
    signature = ir.FunctionType(kind, [kind, _MASK, kind])
    name = f"llvm.experimental.vector.compress.v{LANES}{'f32' if kind is _FLOATS else 'i32'}"
    compress = cgutils.get_or_insert_function(builder.module, signature, name)
    packed = builder.call(compress, [numbers, mask, ir.Constant(kind, ir.Undefined)])
    builder.store(packed, builder.bitcast(place, kind.as_pointer()), align=4)


def _move_one_by_one(builder: Any, bits: Any, targets: tuple[tuple[Any, Any], ...]) -> None:
    """Go from one bit that is set to the next, the lowest first."""
    before, around, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
    zero, one = ir.Constant(bits.type, 0), ir.Constant(bits.type, 1)
    builder.cbranch(builder.icmp_unsigned("!=", bits, zero), around, after)
    builder.position_at_end(around)
    left, moved = builder.phi(bits.type), builder.phi(_INT64)
    lane = builder.cttz(left, ir.Constant(ir.IntType(1), 1))
    for numbers, place in targets:
        builder.store(builder.extract_element(numbers, lane), builder.gep(place, [moved]))
    rest = builder.and_(left, builder.sub(left, one))
    left.add_incoming(bits, before)
    left.add_incoming(rest, around)
    moved.add_incoming(ir.Constant(_INT64, 0), before)
    moved.add_incoming(builder.add(moved, ir.Constant(_INT64, 1)), around)
    builder.cbranch(builder.icmp_unsigned("!=", rest, zero), around, after)
    builder.position_at_end(after)
