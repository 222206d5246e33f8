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
from numba.extending import intrinsic

from batchrec.models.vectors import FLOATS, INT32, INT64, LANES, addresses, further, load, splat, store, whole

if TYPE_CHECKING:
    from collections.abc import Callable

LINE = 16
"""Numbers in a line of the cache."""

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
            data = addresses(context, builder, signature, given)
            _, _, first, depth, _, at, width, _, start_at, start_step, _, out_at, out_step, lowest = given

            def places_of(array: int, begin: Any, step: Any) -> list[list[Any]]:
                return [
                    [
                        further(builder, data[array], begin, builder.mul(step, whole(r)), whole(v * LANES))
                        for v in range(vectors)
                    ]
                    for r in range(rows)
                ]

            begun = [[load(builder, place) for place in row] for row in places_of(7, start_at, start_step)]
            operands = [
                further(builder, data[0], builder.load(further(builder, data[1], first, whole(r)))) for r in range(rows)
            ]
            columns = further(builder, data[4], at)
            sums = _multiply_and_add(builder, operands, columns, depth, width, begun)
            floor = splat(builder, lowest)
            for row, targets in zip(sums, places_of(10, out_at, out_step), strict=True):
                for value, place in zip(row, targets, strict=True):
                    store(builder, builder.select(builder.fcmp_ordered("<", value, floor), floor, value), place)
            return context.get_dummy_value()

        return signature, generate

    return multiply


@intrinsic  # type: ignore[untyped-decorator]
def fetch(_: Any, numbers: Any, at: Any) -> tuple[Any, Callable[..., Any]]:
    """Ask for the line of the cache that a place of an array in one dimension lies in; do not wait for it."""
    signature = types.void(numbers, at)

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        place = further(builder, addresses(context, builder, signature, given)[0], given[1])
        address, number = ir.IntType(8).as_pointer(), INT32
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
    step = builder.phi(INT64)
    sums = [[builder.phi(FLOATS) for _ in row] for row in begun]
    line = further(builder, columns, builder.mul(step, width))
    kernel = [load(builder, further(builder, line, whole(v * LANES))) for v in range(len(begun[0]))]
    added = [
        [_fused(builder, number, vector, total) for vector, total in zip(kernel, row, strict=True)]
        for row, number in (
            (row, splat(builder, builder.load(further(builder, place, step))))
            for row, place in zip(sums, operands, strict=True)
        )
    ]
    following = builder.add(step, whole(1))
    step.add_incoming(whole(0), before)
    step.add_incoming(following, around)
    for total, first, later in zip(*map(_flat, (sums, begun, added)), strict=True):
        total.add_incoming(first, before)
        total.add_incoming(later, around)
    builder.cbranch(builder.icmp_signed("<", following, depth), around, after)
    builder.position_at_end(after)
    return added


def _fused(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a · b + c, rounded once where the processor can."""
    return builder.fadd(builder.fmul(a, b, flags=("contract",)), c, flags=("contract",))


def _flat(rows: list[list[Any]]) -> list[Any]:
    return [one for row in rows for one in row]
