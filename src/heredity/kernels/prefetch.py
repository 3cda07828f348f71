"""Ask the processor for a cache line before it is needed, where rows are visited in an irregular order."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


@intrinsic
def prefetch(typing_context: Any, array: Any, index: Any) -> Any:
    """Start loading `array[index]` of a contiguous vector into the caches; reads nothing, changes nothing."""
    if not (isinstance(array, types.Array) and isinstance(index, types.Integer)):
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values = context.make_array(array)(context, builder, arguments[0])
        address = builder.gep(
            values.data,
            [builder.sext(arguments[1], ir.IntType(64))] if arguments[1].type.width < 64 else [arguments[1]],
        )
        void_pointer = ir.IntType(8).as_pointer()
        number = ir.IntType(32)
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [void_pointer, number, number, number]),
            "llvm.prefetch.p0",
        )
        flags = [number(0), number(3), number(1)]  # for reading, into all levels, data
        builder.call(function, [builder.bitcast(address, void_pointer), *flags])
        return context.get_dummy_value()

    return types.void(array, index), generate
