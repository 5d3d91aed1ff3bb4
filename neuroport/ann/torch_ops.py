"""ATen operators and what each becomes in the ANN graph; what is not in the table is refused by the reader."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import fx

from neuroport.ann.graph import AvgPool2d, BatchNorm, Conv2d, FloatArray, Linear, Op, Origin, Pair, ReLU, Reshape
from neuroport.errors import InvalidNetworkError, UnsupportedOperatorError


@dataclass(frozen=True)
class Call:
    """One call of an ATen operator: its arguments by position or name, constants resolved."""

    node: fx.Node
    constants: Mapping[str, torch.Tensor]
    origin: Origin

    @property
    def operator(self) -> str:
        """The overload's name, 'aten.conv2d.default'."""
        return str(self.node.target)

    def arg(self, position: int, name: str, default: Any = None) -> Any:
        """An argument as torch.export wrote it."""
        if len(self.node.args) > position:
            return self.node.args[position]
        return self.node.kwargs.get(name, default)

    def array(self, position: int, name: str) -> FloatArray | None:
        """A constant tensor as float64, None where the argument is None.

        Raises:
            UnsupportedOperatorError: the tensor is computed from the input (two activations multiplied, say).
        """
        value = self.arg(position, name)
        if value is None:
            return None
        if not isinstance(value, fx.Node) or value.name not in self.constants:
            raise UnsupportedOperatorError(
                f"operator '{self.operator}' in {self.origin}: its {name} is computed from the input; "
                f"only constant weights can be put on a chip"
            )
        return cast(FloatArray, self.constants[value.name].detach().to(torch.float64).numpy().copy())

    def weight(self, position: int, name: str) -> FloatArray:
        """A constant tensor that must be there."""
        value = self.array(position, name)
        if value is None:
            raise InvalidNetworkError(f"operator '{self.operator}' in {self.origin} has no {name}")
        return value

    @property
    def value(self) -> torch.Tensor | None:
        """What the call returns, without its numbers; of several tensors the first; None for anything else."""
        value = self.node.meta.get("val")
        first = value[0] if isinstance(value, tuple | list) and value else value
        return first if isinstance(first, torch.Tensor) else None

    def check_axes(self, *allowed: int) -> None:
        """Refuse an input with another number of axes, the batch axis counted.

        Raises:
            UnsupportedOperatorError: an image without its batch or channel axis, a sequence, a volume.
        """
        n_axes = cast(fx.Node, self.node.args[0]).meta["val"].ndim
        if n_axes not in allowed:
            raise UnsupportedOperatorError(
                f"operator '{self.operator}' in {self.origin} reads {n_axes} axes; "
                f"{' or '.join(map(str, allowed))} are converted (samples, channels or features, height, width)"
            )


def _pair(value: Any) -> Pair:
    values = list(value) if isinstance(value, list | tuple) else [value]
    return (int(values[0]), int(values[-1]))


def _conv(call: Call, padding: Any, dilation: Any, groups: int) -> Op:
    weight = call.weight(1, "weight")
    if weight.ndim != 4:
        raise UnsupportedOperatorError(
            f"operator '{call.operator}' in {call.origin}: a convolution over {weight.ndim - 2} axes is not converted; "
            f"2-d convolutions are"
        )
    call.check_axes(4)
    bias = call.array(2, "bias")
    bias = np.zeros(len(weight)) if bias is None else bias
    return Conv2d(weight, bias, _pair(call.arg(3, "stride", 1)), _pair(padding), _pair(dilation), groups)


def _conv2d(call: Call) -> Op:
    return _conv(call, call.arg(4, "padding", 0), call.arg(5, "dilation", 1), int(call.arg(6, "groups", 1)))


def _conv2d_named_padding(call: Call) -> Op:
    dilation, kernel = _pair(call.arg(5, "dilation", 1)), call.weight(1, "weight").shape[2:]
    padding = (0, 0)
    if call.arg(4, "padding", "valid") == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        if any(n % 2 for n in total):
            raise UnsupportedOperatorError(
                f"operator '{call.operator}' in {call.origin}: padding 'same' of an even kernel pads one side more "
                f"than the other, which is not converted; give the padding as numbers"
            )
        padding = (total[0] // 2, total[1] // 2)
    return _conv(call, padding, dilation, int(call.arg(6, "groups", 1)))


def _convolution(call: Call) -> Op:
    if call.arg(6, "transposed", False):
        raise UnsupportedOperatorError(f"operator '{call.operator}' in {call.origin}: transposed convolution")
    return _conv(call, call.arg(4, "padding", 0), call.arg(5, "dilation", 1), int(call.arg(8, "groups", 1)))


def _linear(call: Call) -> Op:
    return _dense(call, call.weight(1, "weight"), call.array(2, "bias"))


def _addmm(call: Call) -> Op:
    if call.arg(3, "beta", 1) != 1 or call.arg(4, "alpha", 1) != 1:
        raise UnsupportedOperatorError(f"operator '{call.operator}' in {call.origin}: factors other than 1")
    return _dense(call, call.weight(2, "mat2").T.copy(), call.array(0, "input"))


def _mm(call: Call) -> Op:
    return _dense(call, call.weight(1, "mat2").T.copy(), None)


def _dense(call: Call, weight: FloatArray, bias: FloatArray | None) -> Op:
    shape = tuple(call.node.meta["val"].shape)
    if len(shape) != 2:
        raise UnsupportedOperatorError(
            f"operator '{call.operator}' in {call.origin}: a linear layer over the last of {len(shape) - 1} axes is "
            f"not converted; flatten before it"
        )
    if bias is not None and bias.ndim > 1:
        raise UnsupportedOperatorError(
            f"operator '{call.operator}' in {call.origin}: a bias of {bias.ndim} axes differs between the samples of "
            f"a batch; one number for each output is converted"
        )
    return Linear(weight, np.zeros(len(weight)) if bias is None else np.broadcast_to(bias, (len(weight),)).copy())


def _relu(call: Call) -> Op:
    return ReLU()


def _batch_norm(call: Call) -> Op:
    if call.arg(5, "training", False) and call.arg(3, "running_mean") is not None:
        raise _training_mode(call)
    return _normalization(call, float(call.arg(7, "eps", 1e-5)))


def _batch_norm_inference(call: Call) -> Op:
    return _normalization(call, float(call.arg(6, "eps", 1e-5)))


def _normalization(call: Call, eps: float) -> Op:
    call.check_axes(2, 4)
    mean, variance = call.array(3, "running_mean"), call.array(4, "running_var")
    if mean is None or variance is None:
        raise UnsupportedOperatorError(
            f"operator '{call.operator}' in {call.origin}: batch norm without running statistics depends on the other "
            f"images of the batch; train with track_running_stats=True"
        )
    gamma, beta = call.array(1, "weight"), call.array(2, "bias")
    with np.errstate(all="ignore"):  # the graph refuses what is not finite, and names the layer
        gain = (1.0 if gamma is None else gamma) / np.sqrt(variance + eps)
        return BatchNorm(gain, (0.0 if beta is None else beta) - mean * gain)


def _avg_pool(call: Call) -> Op:
    call.check_axes(4)
    kernel = _pair(call.arg(1, "kernel_size"))
    stride = call.arg(2, "stride")
    divisor = call.arg(6, "divisor_override")
    return AvgPool2d(
        kernel,
        _pair(stride) if stride else kernel,
        _pair(call.arg(3, "padding", 0)),
        bool(call.arg(4, "ceil_mode", False)),
        bool(call.arg(5, "count_include_pad", True)),
        None if divisor is None else int(divisor),
    )


def _reshape(call: Call) -> Op:
    return Reshape()


def _nothing(call: Call) -> None:
    return None


def _first(call: Call) -> None:
    if call.arg(1, "index") != 0:
        raise UnsupportedOperatorError(
            f"operator '{call.operator}' in {call.origin} takes result number {call.arg(1, 'index')} of an operator "
            f"with several; the first is converted"
        )


def _dropout(call: Call) -> None:
    if call.arg(2, "train", False):
        raise _training_mode(call)


def _training_mode(call: Call) -> UnsupportedOperatorError:
    return UnsupportedOperatorError(
        f"operator '{call.operator}' in {call.origin} was exported in training mode; call model.eval() before "
        f"torch.export"
    )


CONVERTED = "2-d convolution, linear, ReLU, batch norm, average pool, flatten, view, reshape and dropout"
TABLE: Mapping[str, Callable[[Call], Op | None]] = {
    "aten.conv2d.default": _conv2d,
    "aten.conv2d.padding": _conv2d_named_padding,
    "aten.convolution.default": _convolution,
    "aten.linear.default": _linear,
    "aten.addmm.default": _addmm,
    "aten.mm.default": _mm,
    "aten.relu.default": _relu,
    "aten.relu_.default": _relu,
    "aten.batch_norm.default": _batch_norm,
    "aten._native_batch_norm_legit_no_training.default": _batch_norm_inference,
    "aten.avg_pool2d.default": _avg_pool,
    "aten.flatten.using_ints": _reshape,
    "aten.view.default": _reshape,
    "aten.reshape.default": _reshape,
    "aten._unsafe_view.default": _reshape,
    "aten.dropout.default": _dropout,
    "aten.dropout_.default": _dropout,
    "aten.feature_dropout.default": _dropout,
    "aten.clone.default": _nothing,
    "aten.contiguous.default": _nothing,
    "aten.detach.default": _nothing,
    "aten.alias.default": _nothing,
    str(operator.getitem): _first,
}


def is_in_place(node: fx.Node) -> bool:
    """Whether the operator writes into one of its arguments."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def shares_memory(node: fx.Node) -> bool:
    """Whether the result may be its first argument or a view of it."""
    own = ("aten.clone.default", str(operator.getitem))
    return str(node.target) not in own and TABLE[str(node.target)] in (_reshape, _nothing, _dropout)
