"""What instructions over vectors of 16 numbers are written with, for LLVM: addresses, loads, stores, splats."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.registry import cpu_target

LANES = 16
"""Numbers of a vector: float32 in the widest register of a CPU."""

HAS_AVX512 = "+avx512f" in cpu_target.target_context.codegen().magic_tuple()[2].split(",")
"""Whether there are 32 registers of 16 numbers; elsewhere a vector takes two registers or four."""

INT32, INT64 = ir.IntType(32), ir.IntType(64)
FLOATS, INTS = ir.VectorType(ir.FloatType(), LANES), ir.VectorType(INT32, LANES)


def whole(number: int) -> ir.Constant:
    """Return an int64."""
    return ir.Constant(INT64, number)


def addresses(context: Any, builder: Any, signature: Any, given: Any) -> dict[int, Any]:
    """Return where the numbers of each argument that is an array begin."""
    return {
        place: context.make_array(kind)(context, builder, value).data
        for place, (kind, value) in enumerate(zip(signature.args, given, strict=True))
        if isinstance(kind, types.Array)
    }


def further(builder: Any, address: Any, *steps: Any) -> Any:
    """Return the address so many numbers further on."""
    distance = steps[0]
    for step in steps[1:]:
        distance = builder.add(distance, step)
    return builder.gep(address, [distance])


def load(builder: Any, place: Any, kind: ir.VectorType = FLOATS) -> Any:
    """Return the vector at an address."""
    return builder.load(builder.bitcast(place, kind.as_pointer()), align=4)


def store(builder: Any, vector: Any, place: Any) -> None:
    """Put a vector at an address."""
    builder.store(vector, builder.bitcast(place, vector.type.as_pointer()), align=4)


def splat(builder: Any, number: Any, kind: ir.VectorType = FLOATS) -> Any:
    """Return a vector of one number."""
    nothing = ir.Constant(kind, ir.Undefined)
    single = builder.insert_element(nothing, number, ir.Constant(INT32, 0))
    return builder.shuffle_vector(single, nothing, ir.Constant(INTS, [0] * LANES))
