"""ATen operators between tensors and element by element, and what each becomes in the ANN graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from neuroport.ann.graph import FloatArray
from neuroport.ann.torch_program.calls import Activation, Call, Several, Value, as_array
from neuroport.ann.torch_program.layers import reduce, training_mode

Operand = str | FloatArray

# --- sums and products


def _operands(call: Call) -> tuple[Operand, Operand]:
    """Both operands of a binary operator, at least one of them an activation of the higher rank."""
    left, right = list(call.args)[:2]
    ranks = [
        len(call.write.shape(value.name)) + 1 if isinstance(value := call.args[name], Activation) else 0
        for name in (left, right)
    ]
    if min(ranks) > 0 and ranks[0] != ranks[1]:
        raise call.moved(f"tensors of {ranks[0]} and {ranks[1]} axes are aligned at their last axis")
    n_axes = max(ranks)
    return call.operand(left, n_axes), call.operand(right, n_axes)


def _combine(call: Call, a: Operand, factor_a: float, b: Operand, factor_b: float) -> Value:
    """factor_a * a + factor_b * b."""
    if isinstance(a, str) and isinstance(b, str):
        if factor_a == -1 and factor_b == 1:
            a, factor_a, b, factor_b = b, factor_b, a, factor_a
        left = call.write.affine(a, np.array(factor_a), None)
        if factor_b in (1, -1):
            return Activation(call.write.add(left, b, sign=int(factor_b)))
        return Activation(call.write.add(left, call.write.affine(b, np.array(factor_b), None)))
    if isinstance(a, str) and not isinstance(b, str):
        return Activation(call.write.affine(a, np.array(factor_a), factor_b * b))
    if isinstance(b, str) and not isinstance(a, str):
        return Activation(call.write.affine(b, np.array(factor_b), factor_a * a))
    if isinstance(a, str) or isinstance(b, str):  # for the type checker: never
        raise call.refuse("no operand")
    return Activation(call.write.constant(factor_a * a + factor_b * b))


def add(call: Call) -> Value:
    """a + alpha * b."""
    a, b = _operands(call)
    return _combine(call, a, 1.0, b, call.scalar("alpha", 1.0))


def sub(call: Call) -> Value:
    """a - alpha * b."""
    a, b = _operands(call)
    return _combine(call, a, 1.0, b, -call.scalar("alpha", 1.0))


def rsub(call: Call) -> Value:
    """b - alpha * a."""
    a, b = _operands(call)
    return _combine(call, a, -call.scalar("alpha", 1.0), b, 1.0)


def neg(call: Call) -> Value:
    """-x."""
    return Activation(call.write.affine(call.x, np.array(-1.0), None))


def mul(call: Call) -> Value:
    """x times a constant."""
    a, b = _operands(call)
    if isinstance(a, str) and isinstance(b, str):
        raise call.refuse("the product of two activations is not converted; a spiking layer has constant weights")
    if isinstance(a, str) and not isinstance(b, str):
        return Activation(call.write.affine(a, b, None))
    if isinstance(b, str) and not isinstance(a, str):
        return Activation(call.write.affine(b, a, None))
    if isinstance(a, str) or isinstance(b, str):
        raise call.refuse("no operand")
    return Activation(call.write.constant(a * b))


def div(call: Call) -> Value:
    """x over a constant, rounded down where the operator says so."""
    a, b = _operands(call)
    mode = "floor" if "floor_divide" in call.operator else call.args.get("rounding_mode")
    if isinstance(b, str):
        raise call.refuse("division by an activation is not converted; only constants divide")
    if mode not in (None, "floor"):
        raise call.refuse(f"rounding mode '{mode}' is not converted; 'floor' is")
    with np.errstate(all="ignore"):  # the graph refuses what is not finite, and names the layer
        if not isinstance(a, str):
            return Activation(call.write.constant(a / b))
        made = call.write.affine(a, 1.0 / b, None)
    return Activation(call.write.rounded(made, "floor") if mode else made)


# --- activation functions


def relu(call: Call) -> Value:
    """max(x, 0)."""
    return Activation(call.write.relu(call.x))


def relu6(call: Call) -> Value:
    """min(max(x, 0), 6)."""
    return Activation(call.write.relu(call.x, 6.0))


def hardtanh(call: Call) -> Value:
    """x between two numbers."""
    return Activation(call.write.clamp(call.x, call.scalar("min_val", -1.0), call.scalar("max_val", 1.0)))


def hardsigmoid(call: Call) -> Value:
    """min(max(x / 6 + 1/2, 0), 1)."""
    return Activation(call.write.relu(call.write.affine(call.x, np.array(1 / 6), np.array(0.5)), 1.0))


def threshold(call: Call) -> Value:
    """x above a number and that number below it: max(x, t)."""
    low, value = call.scalar("threshold", 0.0), call.scalar("value", 0.0)
    if low != value:
        raise call.refuse(f"a threshold {low} with another value {value} below it jumps; give both the same number")
    return Activation(call.write.clamp(call.x, low, None))


def clamp(call: Call) -> Value:
    """x between two bounds: numbers, constants that broadcast, or activations."""
    low, high = (_bound(call, name) for name in ("min", "max"))
    numbers = [float(b.reshape(())) if isinstance(b, np.ndarray) and b.size == 1 else None for b in (low, high)]
    if all(b is None or n is not None for b, n in zip((low, high), numbers, strict=True)):
        return Activation(call.write.clamp(call.x, numbers[0], numbers[1]))
    raised = call.x if low is None else _above(call, call.x, low)
    return Activation(raised if high is None else _below(call, raised, high))


def _bound(call: Call, name: str) -> Operand | None:
    value = call.args.get(name)
    if value is None:
        return None
    if isinstance(value, Activation) and len(call.write.shape(value.name)) + 1 != call.n_axes:
        raise call.moved("tensors of unlike rank are aligned at their last axis")
    return call.operand(name, call.n_axes)


def _above(call: Call, x: str, low: Operand) -> str:
    """max(x, low)."""
    if isinstance(low, str):
        return call.write.maximum(x, low)
    return call.write.affine(call.write.relu(call.write.affine(x, None, -low)), None, low)


def _below(call: Call, x: str, high: Operand) -> str:
    """min(x, high) = high - relu(high - x)."""
    if isinstance(high, str):
        return call.write.minimum(x, high)
    gap = call.write.relu(call.write.affine(x, np.array(-1.0), high))
    return call.write.affine(gap, np.array(-1.0), high)


def maximum(call: Call) -> Value:
    """The larger of two tensors, one of which may be constant."""
    return _extreme(call, _above)


def minimum(call: Call) -> Value:
    """The smaller of two tensors, one of which may be constant."""
    return _extreme(call, _below)


def _extreme(call: Call, bound: Callable[[Call, str, Operand], str]) -> Value:
    a, b = _operands(call)
    if isinstance(a, str):
        return Activation(bound(call, a, b))
    if isinstance(b, str):
        return Activation(bound(call, b, a))
    raise call.refuse("both operands are constants made from the batch size; compute them once, outside forward()")


def max_or_reduce(call: Call) -> Value:
    """torch.max of two tensors, or over an axis."""
    if "other" not in call.args:
        return reduce(call)
    return maximum(call) if call.operator.startswith("aten.max") else minimum(call)


def absolute(call: Call) -> Value:
    """|x|."""
    return Activation(call.write.absolute(call.x))


def leaky_relu(call: Call) -> Value:
    """x above 0, a fixed part of it below."""
    return Activation(call.write.leaky_relu(call.x, np.array(call.scalar("negative_slope", 0.01))))


def rrelu(call: Call) -> Value:
    """A leaky ReLU whose slope is random in training, and the middle of its range afterwards."""
    if call.args.get("training"):
        raise training_mode(call)
    slope = (call.scalar("lower", 1 / 8) + call.scalar("upper", 1 / 3)) / 2
    return Activation(call.write.leaky_relu(call.x, np.array(slope)))


def prelu(call: Call) -> Value:
    """A leaky ReLU with trained slopes, one for all or one per channel (the first axis of the sample)."""
    slope = call.weight("weight")
    if slope.ndim > 1:  # the decomposed form comes broadcast
        slope = call.per_sample(slope, call.n_axes)
    elif slope.size > 1:
        slope = slope.reshape(-1, *(1,) * (len(call.shape) - 1))
    return Activation(call.write.leaky_relu(call.x, slope.reshape(()) if slope.size == 1 else slope))


def rounded(call: Call) -> Value:
    """Whole numbers: floor, ceil, or round (ties to even)."""
    if call.args.get("decimals"):
        raise call.refuse("rounding to decimals is not converted; rounding to whole numbers is")
    kind = call.operator.split(".")[1].removesuffix("_")
    if kind == "ceil":  # ceil x = -floor(-x)
        turned = call.write.affine(call.x, np.array(-1.0), None)
        return Activation(call.write.affine(call.write.rounded(turned, "floor"), np.array(-1.0), None))
    return Activation(call.write.rounded(call.x, "floor" if kind == "floor" else "nearest"))


def softmax(call: Call) -> Value:
    """Softmax or its logarithm over an axis of the sample."""
    axis = call.axis(call.ints("dim")[0])
    return Activation(call.write.softmax(call.x, axis, log="log" in call.operator))


def squash(call: Call) -> Value:
    """A smooth function that keeps the order of the scores."""
    kind = call.operator.split(".")[1].removesuffix("_")
    made = Activation(call.write.squash(call.x, kind.removesuffix("_forward").replace("special_expit", "sigmoid")))
    return Several((made, None)) if kind == "log_sigmoid_forward" else made


# --- joining, and what changes nothing


def join(call: Call) -> Value:
    """Tensors joined along an axis there is (cat) or a new one (stack)."""
    is_new = "stack" in call.operator and "hstack" not in call.operator
    values = [v for v in call.args["tensors"] if isinstance(v, Activation) or as_array(v.value).shape != (0,)]
    n_axes = max(len(call.write.shape(v.name)) + 1 for v in values if isinstance(v, Activation))
    dim = 1 if "hstack" in call.operator else call.ints("dim", (0,))[0]
    axis = call.axis(dim, n_axes + 1 if is_new else n_axes)
    names = []
    for value in values:
        if isinstance(value, Activation):
            name = value.name
        else:
            name = call.write.constant(call.per_sample(as_array(value.value), n_axes))
        shape = list(call.write.shape(name))
        names.append(call.write.reshape(name, [*shape[:axis], 1, *shape[axis:]]) if is_new else name)
    return Activation(call.write.concat(names, axis))


def nothing(call: Call) -> Value:
    """The same numbers."""
    return Activation(call.x)


def dropout(call: Call) -> Value:
    """The same numbers in inference."""
    if call.args.get("train"):
        raise training_mode(call)
    return Several((Activation(call.x), None)) if "native" in call.operator else Activation(call.x)


_SAME = "clone contiguous detach detach_ alias lift lift_fresh lift_fresh_copy to _to_copy type_as positive"
_DROPOUTS = "dropout feature_dropout alpha_dropout feature_alpha_dropout native_dropout"

ARITHMETIC: Mapping[str, Callable[[Call], Value]] = {
    "aten.add": add,
    "aten.sub": sub,
    "aten.subtract": sub,
    "aten.rsub": rsub,
    "aten.neg": neg,
    "aten.negative": neg,
    **{f"aten.{name}": mul for name in ("mul", "multiply")},
    **{f"aten.{name}": div for name in ("div", "divide", "true_divide", "floor_divide")},
    "aten.relu": relu,
    "aten.relu6": relu6,
    "aten.hardtanh": hardtanh,
    "aten.hardsigmoid": hardsigmoid,
    "aten.threshold": threshold,
    **{f"aten.{name}": clamp for name in ("clamp", "clip", "clamp_min", "clamp_max")},
    "aten.maximum": maximum,
    "aten.minimum": minimum,
    "aten.max": max_or_reduce,
    "aten.min": max_or_reduce,
    "aten.abs": absolute,
    "aten.absolute": absolute,
    "aten.leaky_relu": leaky_relu,
    "aten.rrelu": rrelu,
    "aten.prelu": prelu,
    "aten._prelu_kernel": prelu,
    **{f"aten.{name}": rounded for name in ("floor", "ceil", "round")},
    **{f"aten.{name}": softmax for name in ("softmax", "log_softmax", "_softmax", "_log_softmax")},
    **{f"aten.{name}": squash for name in ("sigmoid", "special_expit", "tanh", "log_sigmoid", "log_sigmoid_forward")},
    **{f"aten.{name}": join for name in ("cat", "concat", "concatenate", "stack", "hstack")},
    **{f"aten.{name}": nothing for name in _SAME.split()},
    **{f"aten.{name}": dropout for name in _DROPOUTS.split()},
}
