"""Explicit vectors for the kernels: left to itself the compiler checks for overlap in every short loop, and widens."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_LANES = 16


def _written_out(function: Any) -> Any:
    return intrinsic(function)


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any, lanes: int) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    vector = ir.VectorType(context.get_value_type(array_type.dtype), lanes)
    return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())


def _read(context: Any, builder: Any, array_type: Any, array: Any, index: Any, lanes: int, bits: int) -> Any:
    """Numbers from array[index], widened to `bits`."""
    width = array_type.dtype.bitwidth
    value = builder.load(_pointer(context, builder, array_type, array, index, lanes), align=width // 8)
    return builder.sext(value, ir.VectorType(ir.IntType(bits), lanes)) if width < bits else value


def _write(context: Any, builder: Any, array_type: Any, array: Any, index: Any, value: Any) -> None:
    pointer = _pointer(context, builder, array_type, array, index, value.type.count)
    builder.store(value, pointer, align=array_type.dtype.bitwidth // 8)


# Vectors of 8, 16, 32 and 64 numbers: compiled code is made for a type, so the length of a tuple says which.
BY_8, BY_16, BY_32, BY_64 = (0,), (0,) * 2, (0,) * 4, (0,) * 8


@_written_out
def add_vector(typing: Any, total: Any, i: Any, weight: Any, offset: Any, rows: Any, by: Any) -> Any:
    """total[i : i + n] += sum of weight[row + offset : row + offset + n] over the rows, n = 8 * len(by)."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        total_type, _, weight_type = signature.args[:3]
        total, i, weight, offset, rows, _ = args
        bits, lanes = total_type.dtype.bitwidth, 8 * signature.args[5].count
        value = _read(context, builder, total_type, total, i, lanes, bits)
        for row in cgutils.unpack_tuple(builder, rows):
            index = builder.add(row, offset)
            value = builder.add(value, _read(context, builder, weight_type, weight, index, lanes, bits))
        _write(context, builder, total_type, total, i, value)
        return context.get_dummy_value()

    return types.void(total, types.intp, weight, types.intp, rows, by), codegen


@_written_out
def update_block(
    typing: Any,
    total: Any,
    i: Any,
    v: Any,
    k: Any,
    bias: Any,
    j: Any,
    shift: Any,
    held: Any,
    creep: Any,
    limit: Any,
    floor: Any,
    fires_at: Any,
    reset: Any,
    kept: Any,
) -> Any:
    """64 neurons: v[k:] -= ((v[k:] & held) - (total[i:] << shift) - bias[j:]) >> creep in 32 bits, held at +-limit.

    With held and creep 0 that adds what arrives; with held -1 it moves v towards it by 2^-creep of the way. Then v is
    not below floor. Those that fire, at v >= fires_at, keep (v - reset) & kept. total is set to 0. Returns three words:
    who fired, who was held at the upper end, who at the lower.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        total, i, v, k, bias, j, *scalars = args
        total_type, _, v_type, _, bias_type = signature.args[:5]
        vector, word = ir.VectorType(ir.IntType(32), _LANES), ir.IntType(64)

        def spread(x: Any) -> Any:
            one = builder.insert_element(ir.Constant(vector, ir.Undefined), x, ir.Constant(ir.IntType(32), 0))
            mask = ir.Constant(ir.VectorType(ir.IntType(32), _LANES), [0] * _LANES)
            return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), mask)

        shifts, held, creep, top, floor, fires_at, reset, kept = (spread(x) for x in scalars)
        bottom = builder.sub(ir.Constant(vector, [0] * _LANES), top)
        nothing = ir.Constant(ir.VectorType(ir.IntType(total_type.dtype.bitwidth), _LANES), [0] * _LANES)
        words = [ir.Constant(word, 0)] * 3
        for first in range(0, 64, _LANES):
            here, there, other = (builder.add(x, ir.Constant(x.type, first)) for x in (k, i, j))
            arriving = _read(context, builder, total_type, total, there, _LANES, 32)
            _write(context, builder, total_type, total, there, nothing)
            x = builder.add(builder.shl(arriving, shifts), _read(context, builder, bias_type, bias, other, _LANES, 32))
            before = _read(context, builder, v_type, v, here, _LANES, 32)
            x = builder.sub(before, builder.ashr(builder.sub(builder.and_(before, held), x), creep))
            above, below = builder.icmp_signed(">", x, top), builder.icmp_signed("<", x, bottom)
            x = builder.select(below, bottom, builder.select(above, top, x))
            x = builder.select(builder.icmp_signed("<", x, floor), floor, x)
            fired = builder.icmp_signed(">=", x, fires_at)
            x = builder.select(fired, builder.and_(builder.sub(x, reset), kept), x)
            _write(context, builder, v_type, v, here, x)
            for n, found in enumerate((fired, above, below)):
                bits = builder.zext(builder.bitcast(found, ir.IntType(_LANES)), word)
                words[n] = builder.or_(words[n], builder.shl(bits, ir.Constant(word, first)))
        return context.make_tuple(builder, signature.return_type, words)

    returned = types.UniTuple(types.uint64, 3)
    return returned(total, types.intp, v, types.intp, bias, types.intp, *[types.int32] * 8), codegen


@_written_out
def word_of(typing: Any, raster: Any, i: Any) -> Any:
    """The 64 bytes from raster[i] on as bits: set where a byte is not 0."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = _read(context, builder, signature.args[0], args[0], args[1], 64, 8)
        return builder.bitcast(builder.icmp_unsigned("!=", value, ir.Constant(value.type, [0] * 64)), ir.IntType(64))

    return types.uint64(raster, types.intp), codegen


@_written_out
def lowest_bit(typing: Any, word: Any) -> Any:
    """Position of the lowest set bit."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), codegen


@_written_out
def n_bits(typing: Any, word: Any) -> Any:
    """Number of set bits."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.int64(types.uint64), codegen
