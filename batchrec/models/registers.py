"""Products of a few rows with a kernel, held in the registers of a CPU from the first multiply-add to the last.

BLAS does as much, but between two of its calls everything goes through memory, and Python. What multiplies here can be
part of a compiled loop, with nothing between two layers but the cache, and ask for the numbers that come next while it
multiplies: memory answers after some hundred multiply-adds (docs/decisions/021-ranking-in-registers.md).

Every sum is added up in the order of the depth, whatever rows stand beside it, so each row of a result depends on its
own row and the kernel alone, to the last bit, and is the same on every processor that rounds a product and a sum once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.registry import cpu_target
from numba.extending import intrinsic

if TYPE_CHECKING:
    from collections.abc import Callable

LANES = 16
"""Numbers that are multiplied at once: float32 in the widest register of a CPU."""

LINE = 16
"""Numbers in a line of the cache."""

IS_WIDE = "+avx512f" in cpu_target.target_context.codegen().magic_tuple()[2].split(",")
"""Whether there are 32 registers of 16 numbers; elsewhere each of them takes two registers or four."""

_INT64, _BYTE = ir.IntType(64), ir.IntType(8)
_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_SECOND_CACHE = 2


def product(rows: int, vectors: int) -> Any:
    """Return what multiplies so many rows with so many times 16 columns of a kernel, for use in compiled loops.

    It takes, of arrays float32 in one dimension (places and strides int64):

    - ``a, places, first``: row r of the operands begins at ``a[places[first + r]]``;
    - ``depth, kernel, at, width``: the kernel's columns begin at ``kernel[at]``, `width` numbers further for each step
      of the depth, which is at least 1;
    - ``start, start_at, start_step``: what the sums begin with, of row r at ``start[start_at + r * start_step]``;
    - ``out, out_at, out_step``: where they go, row after row, so that a row may cover the end of the one before;
    - ``lowest``: below which a sum is cut off.
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def multiply(
        _: Any, a: Any, places: Any, first: Any, depth: Any, kernel: Any, at: Any, width: Any,
        start: Any, start_at: Any, start_step: Any, out: Any, out_at: Any, out_step: Any, lowest: Any,
    ) -> tuple[Any, Callable[..., Any]]:  # fmt: skip
        signature = types.void(
            a, places, first, depth, kernel, at, width, start, start_at, start_step, out, out_at, out_step, lowest
        )

        def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            data = _addresses(context, builder, signature, given)
            _, _, first, depth, _, at, width, _, start_at, start_step, _, out_at, out_step, lowest = given

            def places_of(array: int, begin: Any, step: Any) -> list[list[Any]]:
                return [
                    [
                        _at(builder, data[array], begin, builder.mul(step, _whole(r)), _whole(v * LANES))
                        for v in range(vectors)
                    ]
                    for r in range(rows)
                ]

            begun = [[_load(builder, place) for place in row] for row in places_of(7, start_at, start_step)]
            operands = [
                _at(builder, data[0], builder.load(_at(builder, data[1], first, _whole(r)))) for r in range(rows)
            ]
            columns = _at(builder, data[4], at)
            sums = _multiply_and_add(builder, operands, columns, depth, width, begun)
            floor = _splat(builder, lowest)
            for row, targets in zip(sums, places_of(10, out_at, out_step), strict=True):
                for value, place in zip(row, targets, strict=True):
                    _store(builder, builder.select(builder.fcmp_ordered("<", value, floor), floor, value), place)
            return context.get_dummy_value()

        return signature, generate

    return multiply


@intrinsic  # type: ignore[untyped-decorator]
def fetch(_: Any, numbers: Any, at: Any) -> tuple[Any, Callable[..., Any]]:
    """Ask for the line of the cache that a place of a float32 array in one dimension lies in; do not wait for it."""
    signature = types.void(numbers, at)

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        place = _at(builder, _addresses(context, builder, signature, given)[0], given[1])
        address, number = _BYTE.as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [address, number, number, number])
        call = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        to_read, near, is_data = (ir.Constant(number, value) for value in (0, _SECOND_CACHE, 1))
        builder.call(call, [builder.bitcast(place, address), to_read, near, is_data])
        return context.get_dummy_value()

    return signature, generate


def _multiply_and_add(
    builder: Any, operands: list[Any], columns: Any, depth: Any, width: Any, begun: list[list[Any]]
) -> list[list[Any]]:
    """Add, for each step of the depth, each row's number times the kernel's vectors to the row's sums."""
    before, around, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
    builder.branch(around)
    builder.position_at_end(around)
    step = builder.phi(_INT64)
    sums = [[builder.phi(_VECTOR) for _ in row] for row in begun]
    line = _at(builder, columns, builder.mul(step, width))
    kernel = [_load(builder, _at(builder, line, _whole(v * LANES))) for v in range(len(begun[0]))]
    added = [
        [_fused(builder, number, vector, whole) for vector, whole in zip(kernel, row, strict=True)]
        for row, number in (
            (row, _splat(builder, builder.load(_at(builder, place, step))))
            for row, place in zip(sums, operands, strict=True)
        )
    ]
    following = builder.add(step, _whole(1))
    step.add_incoming(_whole(0), before)
    step.add_incoming(following, around)
    for whole, first, later in zip(*map(_flat, (sums, begun, added)), strict=True):
        whole.add_incoming(first, before)
        whole.add_incoming(later, around)
    builder.cbranch(builder.icmp_signed("<", following, depth), around, after)
    builder.position_at_end(after)
    return added


def _fused(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a · b + c, rounded once where the processor can."""
    return builder.fadd(builder.fmul(a, b, flags=("contract",)), c, flags=("contract",))


def _flat(rows: list[list[Any]]) -> list[Any]:
    return [one for row in rows for one in row]


def _whole(number: int) -> ir.Constant:
    return ir.Constant(_INT64, number)


def _addresses(context: Any, builder: Any, signature: Any, given: Any) -> dict[int, Any]:
    """Return where the numbers of each argument that is an array begin."""
    return {
        place: context.make_array(kind)(context, builder, value).data
        for place, (kind, value) in enumerate(zip(signature.args, given, strict=True))
        if isinstance(kind, types.Array)
    }


def _at(builder: Any, address: Any, *steps: Any) -> Any:
    whole = steps[0]
    for step in steps[1:]:
        whole = builder.add(whole, step)
    return builder.gep(address, [whole])


def _load(builder: Any, place: Any) -> Any:
    return builder.load(builder.bitcast(place, _VECTOR.as_pointer()), align=4)


def _store(builder: Any, vector: Any, place: Any) -> None:
    builder.store(vector, builder.bitcast(place, _VECTOR.as_pointer()), align=4)


def _splat(builder: Any, number: Any) -> Any:
    nothing, places = ir.Constant(_VECTOR, ir.Undefined), ir.VectorType(ir.IntType(32), LANES)
    single = builder.insert_element(nothing, number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(single, nothing, ir.Constant(places, [0] * LANES))
