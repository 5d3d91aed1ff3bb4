"""ONNX operators and what each becomes in the ANN graph; what is not in the table is refused by the reader."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce as fold

import numpy as np
from onnx import TensorProto

from neuroport.ann.graph import FloatArray
from neuroport.ann.onnx_model import layers, views
from neuroport.ann.onnx_model.call import Call, Value

Translate = Callable[[Call], str | Sequence[str]]
_MINUS = np.array(-1.0)
_UNBOUNDED = 1e38  # the lowest float stands for "no limit" where operator sets below 11 must write a number


def add(call: Call) -> str:
    """Add, Sub, Sum and Mean of activations and constants."""
    kind = call.node.op_type
    first, *others = _operands(call)
    total = fold(lambda a, b: _plus(call, a, b, -1 if kind == "Sub" else 1), others, first)
    if not isinstance(total, str):
        raise TypeError("constants alone are evaluated by the reader")
    return call.writer.affine(total, np.array(1 / len(call.inputs)), None) if kind == "Mean" else total


def _plus(call: Call, a: Value, b: Value, sign: int) -> Value:
    if isinstance(a, str) and isinstance(b, str):
        _check_ranks(call, a, b)
        return call.writer.add(a, b, sign)
    if isinstance(a, str):
        return call.writer.affine(a, None, sign * call.per_sample(b, call.rank(a)))  # type: ignore[arg-type]
    if isinstance(b, str):
        return call.writer.affine(b, np.array(float(sign)), call.per_sample(a, call.rank(b)))
    return np.asarray(a + sign * b)


def _operands(call: Call) -> list[Value]:
    return [value for value in call.inputs if value is not None]


def _check_ranks(call: Call, a: str, b: str) -> None:
    if call.rank(a) != call.rank(b):
        raise call.moves_batch(f"shapes {list(call.shape(a))} and {list(call.shape(b))} meet")


def multiply(call: Call) -> str:
    """Mul and Div by constants."""
    a, b = call.inputs[0], call.inputs[1]
    is_quotient = call.node.op_type == "Div"
    if isinstance(a, str) and isinstance(b, str):
        what = "quotient" if is_quotient else "product"
        raise call.writer.refuse(f"a {what} of two activations is not converted; one of them must be constant")
    if is_quotient and isinstance(b, str):
        raise call.writer.refuse("a constant divided by an activation is not converted; only constant divisors are")
    x = call.activation(0 if isinstance(a, str) else 1)
    factor = call.per_sample(call.weight(1 if isinstance(a, str) else 0, "factor"), call.rank(x))
    if is_quotient:
        if (factor == 0).any():
            raise call.writer.refuse("its divisor is 0")
        factor = 1 / factor
    return call.writer.affine(x, factor, None)


def extreme(call: Call) -> str:
    """Max and Min of activations and constants."""
    first, *others = _operands(call)
    found = fold(lambda a, b: _extreme(call, a, b), others, first)
    if not isinstance(found, str):
        raise TypeError("constants alone are evaluated by the reader")
    return found


def _extreme(call: Call, a: Value, b: Value) -> Value:
    is_max = call.node.op_type == "Max"
    writer = call.writer
    if isinstance(a, str) and isinstance(b, str):
        _check_ranks(call, a, b)
        return writer.maximum(a, b) if is_max else writer.minimum(a, b)
    if not isinstance(a, str) and not isinstance(b, str):
        return np.asarray(np.maximum(a, b) if is_max else np.minimum(a, b))
    x, value = (a, b) if isinstance(a, str) else (b, a)
    limit = call.per_sample(value, call.rank(str(x)))  # type: ignore[arg-type]
    if limit.size == 1 and limit.ndim < call.rank(str(x)):
        number = float(limit.reshape(-1)[0])
        return writer.clamp(str(x), number if is_max else None, None if is_max else number)
    if is_max:  # max(x, c) = relu(x - c) + c
        return writer.affine(writer.relu(writer.affine(str(x), None, -limit)), None, limit)
    return writer.affine(writer.relu(writer.affine(str(x), _MINUS, limit)), _MINUS, limit)


def negate(call: Call) -> str:
    """-x."""
    return call.writer.affine(call.activation(0), _MINUS, None)


def absolute(call: Call) -> str:
    """|x|."""
    return call.writer.absolute(call.activation(0))


def same(call: Call) -> str:
    """x itself; Dropout in inference mode."""
    training = call.constant(2, "training mode") if call.node.op_type == "Dropout" else None
    if training is not None and bool(np.asarray(training).any()):
        raise call.writer.refuse("it runs in training mode; export the network in inference mode")
    return call.activation(0)


def cast(call: Call) -> str:
    """x itself: between floating-point types only the precision changes."""
    like = call.constant(1, "type")
    kind = int(call.attr("to", 0)) if like is None else _type_of(np.asarray(like).dtype)
    if kind not in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16):
        raise call.writer.refuse(
            f"an activation becomes {TensorProto.DataType.Name(kind).lower()}; only floating-point types are converted"
        )
    return call.activation(0)


def _type_of(dtype: np.dtype[np.generic]) -> int:
    names = {"float16": TensorProto.FLOAT16, "float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}
    return names.get(dtype.name, TensorProto.INT64)


def relu(call: Call) -> str:
    """max(x, 0); ThresholdedRelu with its threshold at 0 is the same."""
    if call.node.op_type == "ThresholdedRelu" and float(call.attr("alpha", 1.0)) != 0:
        raise call.writer.refuse("a threshold other than 0 jumps; only alpha = 0 is converted")
    return call.writer.relu(call.activation(0))


def leaky_relu(call: Call) -> str:
    """LeakyRelu with one slope, PRelu with a slope for each channel or number."""
    x = call.activation(0)
    if call.node.op_type == "LeakyRelu":
        return call.writer.leaky_relu(x, np.array(float(call.attr("alpha", 0.01))))
    slope = call.per_sample(call.weight(1, "slope"), call.rank(x))
    if np.broadcast_shapes(slope.shape, call.writer.shape(x)) != call.writer.shape(x):
        raise call.writer.refuse(f"a slope of {list(slope.shape)} does not fit {list(call.writer.shape(x))}")
    return call.writer.leaky_relu(x, slope)


def clip(call: Call) -> str:
    """min(max(x, low), high); either side may be missing."""
    if call.opset < 11:
        limits = [call.attr("min"), call.attr("max")]
    else:
        limits = [call.constant(1, "minimum"), call.constant(2, "maximum")]
    low, high = (None if value is None else float(np.asarray(value).reshape(-1)[0]) for value in limits)
    return call.writer.clamp(
        call.activation(0),
        None if low is None or low < -_UNBOUNDED else low,
        None if high is None or high > _UNBOUNDED else high,
    )


def hard_sigmoid(call: Call) -> str:
    """min(max(alpha x + beta, 0), 1)."""
    gain, offset = (np.array(float(call.attr(name, usual))) for name, usual in (("alpha", 0.2), ("beta", 0.5)))
    return call.writer.clamp(call.writer.affine(call.activation(0), gain, offset), 0.0, 1.0)


def softmax(call: Call) -> str:
    """Softmax and LogSoftmax; below operator set 13 they run over all axes from `axis` on."""
    x, log = call.activation(0), call.node.op_type == "LogSoftmax"
    axis = call.sample_axis(x, int(call.attr("axis", 1 if call.opset < 13 else -1)))
    shape = call.writer.shape(x)
    if call.opset >= 13 or all(n == 1 for n in shape[axis + 1 :]):
        return call.writer.softmax(x, axis, log=log)
    rows = call.writer.reshape(x, (*shape[:axis], int(np.prod(shape[axis:]))))
    return call.writer.reshape(call.writer.softmax(rows, axis, log=log), shape)


def squash(call: Call) -> str:
    """Sigmoid and Tanh."""
    return call.writer.squash(call.activation(0), call.node.op_type.lower())


def whole(call: Call) -> str:
    """Floor, Ceil and Round."""
    x = call.activation(0)
    if call.node.op_type == "Ceil":  # -floor(-x)
        down = call.writer.rounded(call.writer.affine(x, _MINUS, None), "floor")
        return call.writer.affine(down, _MINUS, None)
    return call.writer.rounded(x, "floor" if call.node.op_type == "Floor" else "nearest")


def concat(call: Call) -> str:
    """Values joined along an axis of the sample."""
    like = next(value for value in call.inputs if isinstance(value, str))
    axis = call.sample_axis(like, int(call.attr("axis", 1)))
    joined = [_as_activation(call, value, call.rank(like)) for value in _operands(call)]
    shapes = {(*s[:axis], *s[axis + 1 :]) for s in (call.writer.shape(x) for x in joined)}
    if len(shapes) != 1:
        raise call.writer.refuse(f"shapes {[list(call.shape(x)) for x in joined]} cannot be joined along {axis + 1}")
    return call.writer.concat(joined, axis)


def _as_activation(call: Call, value: Value, rank: int) -> str:
    if isinstance(value, str):
        return value
    row: FloatArray = call.per_sample(value, rank)
    if row.ndim != rank - 1:
        raise call.moves_batch(f"a constant of shape {list(np.shape(value))} is joined")
    return call.writer.constant(row)


TABLE: Mapping[str, Translate] = {
    **dict.fromkeys(("Add", "Sub", "Sum", "Mean"), add),
    **dict.fromkeys(("Mul", "Div"), multiply),
    **dict.fromkeys(("Max", "Min"), extreme),
    **dict.fromkeys(("Identity", "Dropout"), same),
    **dict.fromkeys(("Cast", "CastLike"), cast),
    **dict.fromkeys(("Relu", "ThresholdedRelu"), relu),
    **dict.fromkeys(("LeakyRelu", "PRelu"), leaky_relu),
    **dict.fromkeys(("Softmax", "LogSoftmax"), softmax),
    **dict.fromkeys(("Sigmoid", "Tanh"), squash),
    **dict.fromkeys(("Floor", "Ceil", "Round"), whole),
    "Neg": negate,
    "Abs": absolute,
    "Clip": clip,
    "HardSigmoid": hard_sigmoid,
    "Concat": concat,
    "Conv": layers.conv,
    "ConvTranspose": layers.conv_transpose,
    "Gemm": layers.gemm,
    "MatMul": layers.matmul,
    "BatchNormalization": layers.batch_norm,
    "MaxPool": layers.max_pool,
    "AveragePool": layers.average_pool,
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), layers.global_pool),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"), layers.reduce),
    **dict.fromkeys(
        (
            "Transpose",
            "Reshape",
            "Flatten",
            "Squeeze",
            "Unsqueeze",
            "Slice",
            "Split",
            "Gather",
            "Expand",
            "Tile",
            "DepthToSpace",
            "SpaceToDepth",
        ),
        views.relabel,
    ),
    "Pad": views.pad,
    **dict.fromkeys(("Resize", "Upsample"), views.resize),
}

CONVERTED = (
    "convolutions and their transposes, Gemm and MatMul with constants, batch normalization, Relu, LeakyRelu, PRelu, "
    "Clip and other piecewise linear functions, max and average pools, sums, Concat, and what moves numbers "
    "(Reshape, Transpose, Slice, Pad, nearest or linear Resize)"
)
