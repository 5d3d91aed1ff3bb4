"""What arrives at a node of a NIR graph: a linear function of populations, and what each linear node does to it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray

from neuroport.ann.graph import FloatArray, Pair
from neuroport.errors import InvalidNetworkError, UnsupportedOperatorError
from neuroport.snn.operators import Conv2d, ConvGeometry, Dense, Image, Part, Scale, Shape, apply, conv_geometry

_PATHS = 1 << 10  # each becomes synapses of its own; they double with every fork that joins again
_LARGEST = float(np.finfo(np.float32).max)  # products of some such numbers are finite in float64


@dataclass(frozen=True, eq=False)
class Signal:
    """A sum over populations, each through its own parts, and a constant in every step.

    shape: in NIR; terms: (population, parts); constant: of that shape, None where nothing is added.
    """

    shape: Shape
    terms: tuple[tuple[str, tuple[Part, ...]], ...]
    constant: FloatArray | None = None

    def through(self, part: Part, shape: Shape, bias: FloatArray | None = None) -> Signal:
        """Behind one more part, which writes `shape`; bias: added there, broadcast against it."""
        constant = None
        if self.constant is not None:
            constant = apply(part, torch.from_numpy(self.constant)[None])[0].numpy().reshape(shape)
        if bias is not None:
            bias = np.broadcast_to(bias, shape)
            constant = bias.copy() if constant is None else constant + bias
        return Signal(shape, tuple((name, (*parts, part)) for name, parts in self.terms), constant)


def total(name: str, signals: Sequence[Signal]) -> Signal:
    """Several edges into a node: their sum.

    Raises:
        InvalidNetworkError: their shapes differ. UnsupportedOperatorError: too many paths lead there.
    """
    first, n_paths = signals[0], sum(len(s.terms) for s in signals)
    if n_paths > _PATHS:
        raise UnsupportedOperatorError(
            f"node '{name}' is reached on {n_paths:,} paths without neurons, neuroport follows up to {_PATHS:,}; write "
            f"the linear nodes before it as fewer"
        )
    for other in signals[1:]:
        if other.shape != first.shape:
            raise InvalidNetworkError(
                f"node '{name}': signals of shapes {list(first.shape)} and {list(other.shape)} lead to it, NIR adds "
                f"signals of one shape; is an edge missing?"
            )
    constants = [s.constant for s in signals if s.constant is not None]
    constant: FloatArray | None = np.sum(constants, axis=0) if constants else None
    return Signal(first.shape, tuple(term for s in signals for term in s.terms), constant)


def behind(name: str, node: Any, x: Signal) -> Signal:
    """The signal behind a linear node.

    Raises:
        UnsupportedOperatorError, InvalidNetworkError: what it holds, and what it may.
    """
    match type(node).__name__:
        case "Affine" | "Linear":
            return _dense(name, node, x)
        case "Conv1d" | "Conv2d":
            return _conv(name, node, x)
        case "SumPool2d" | "AvgPool2d":
            return _pool(name, node, x)
        case "Flatten":
            return replace(x, shape=_flat(name, node, x.shape), constant=_reshaped(x, _flat(name, node, x.shape)))
        case "Scale":
            gain = numbers(name, "scale", node.scale)
            return x.through(Scale(spread(name, "scale", gain, x.shape), x.shape), x.shape)
        case _:  # Delay
            delay = numbers(name, "delay", node.delay)
            if delay.any():
                raise UnsupportedOperatorError(
                    f"node '{name}' delays by up to {delay.max():g} s, neuroport's layers read the spikes of the same "
                    f"step; take the delay out, and train without it"
                )
            return x


def numbers(name: str, field: str, values: Any) -> FloatArray:
    """A field of a node as float64.

    Raises:
        InvalidNetworkError: not numbers, or not finite ones, or beyond float32.
    """
    found = np.asarray(values)
    if found.dtype.kind not in "buif" or not np.isfinite(found).all():
        raise InvalidNetworkError(
            f"node '{name}': {field} holds {found.dtype if found.dtype.kind not in 'f' else 'NaN or infinite values'}, "
            f"finite numbers are read; check the tool that wrote the file"
        )
    as_floats: FloatArray = found.astype(np.float64)
    largest = np.abs(as_floats).max(initial=0)
    if largest > _LARGEST:
        raise InvalidNetworkError(
            f"node '{name}': {field} reaches {largest:g}, numbers up to {_LARGEST:.2g} are read (float32); scale the "
            f"node"
        )
    return as_floats


def spread(name: str, field: str, values: FloatArray, shape: Shape) -> FloatArray:
    """One value for all, one per channel, or one per neuron, with as many axes as the shape.

    Raises:
        InvalidNetworkError: another shape.
    """
    if values.size == 1:
        return values.reshape((1,) * len(shape))
    if values.shape == (shape[0],):
        return values.reshape(-1, *(1,) * (len(shape) - 1))
    if values.ndim != len(shape) or any(n not in (1, full) for n, full in zip(values.shape, shape, strict=True)):
        raise InvalidNetworkError(
            f"node '{name}': {field} has shape {list(values.shape)}, its input {list(shape)}; give one number, one per "
            f"channel or one per neuron"
        )
    return values


def _wrong(name: str, needs: str, shape: Shape) -> NoReturn:
    raise InvalidNetworkError(
        f"node '{name}' reads {needs}, what leads to it has shape {list(shape)}; is a Flatten or an edge missing?"
    )


def _dense(name: str, node: Any, x: Signal) -> Signal:
    weight = numbers(name, "weight", node.weight)
    if weight.ndim != 2:
        raise UnsupportedOperatorError(
            f"node '{name}' has weights of shape {list(weight.shape)}, neuroport reads [outputs, inputs]; write one "
            f"node for each matrix"
        )
    n_out, n_in = weight.shape
    if not n_out:
        raise InvalidNetworkError(f"node '{name}' has weights of shape [0, {n_in}], without an output; take it out")
    if math.prod(x.shape) != n_in:
        _wrong(name, f"{n_in} numbers", x.shape)
    bias = numbers(name, "bias", node.bias) if hasattr(node, "bias") and node.bias is not None else None
    if bias is not None and bias.shape != (n_out,):
        raise InvalidNetworkError(
            f"node '{name}' has biases of shape {list(bias.shape)}, {n_out} outputs need [{n_out}]"
        )
    return x.through(Dense(weight, x.shape, (n_out,)), (n_out,), bias)


def _conv(name: str, node: Any, x: Signal) -> Signal:
    is_line = type(node).__name__ == "Conv1d"
    weight = numbers(name, "weight", node.weight)
    n_axes = 1 if is_line else 2
    if weight.ndim != 2 + n_axes:
        _wrong(name, f"with weights of shape {list(weight.shape)}, {2 + n_axes} axes are needed", x.shape)
    groups = int(node.groups)
    if len(x.shape) != 1 + n_axes or x.shape[0] != weight.shape[1] * groups or weight.shape[0] % groups:
        _wrong(name, f"{'[C, L]' if is_line else '[C, H, W]'} with C = {weight.shape[1] * groups}", x.shape)
    image: Image = (x.shape[0], 1, x.shape[1]) if is_line else (x.shape[0], x.shape[1], x.shape[2])
    weight = weight[:, :, None] if is_line else weight
    stride, dilation = (_pair(name, field, getattr(node, field), n_axes) for field in ("stride", "dilation"))
    geometry = _geometry(name, node.padding, image, weight.shape, stride, dilation, groups, n_axes)
    if min(geometry.out_shape) < 1:
        _wrong(name, f"at least the {list(geometry.span)} places its kernel covers", x.shape)
    out: Shape = geometry.out_shape
    if is_line:
        out = (out[0], out[2])
    bias = numbers(name, "bias", node.bias).reshape(-1, *(1,) * n_axes)
    if len(bias) not in (1, out[0]):
        raise InvalidNetworkError(f"node '{name}' has {len(bias)} biases for {out[0]} channels; one for each is needed")
    return x.through(Conv2d(weight, geometry), out, bias)


def _geometry(
    name: str, padding: Any, image: Image, shape: Shape, stride: Pair, dilation: Pair, groups: int, n_axes: int
) -> ConvGeometry:
    """Padding may be a word, as in torch: 'valid' is none, 'same' keeps the size, odd zeros at the far end."""
    word = padding.decode() if isinstance(padding, bytes) else padding
    if not isinstance(word, str):
        return conv_geometry(image, shape, stride, _pair(name, "padding", padding, n_axes, 0), dilation, groups)
    if word == "valid":
        return conv_geometry(image, shape, stride, (0, 0), dilation, groups)
    if word != "same" or stride != (1, 1):
        raise UnsupportedOperatorError(
            f"node '{name}' has padding '{word}' and stride {list(stride)}; numbers, 'valid', and 'same' with stride 1 "
            f"are read"
        )
    near = (dilation[0] * (shape[2] - 1) // 2, dilation[1] * (shape[3] - 1) // 2)
    kernel = (shape[2], shape[3])
    return ConvGeometry(image, (shape[0], image[1], image[2]), kernel, stride, near, dilation, groups)


def _pair(name: str, field: str, values: Any, n_axes: int = 2, along: int = 1) -> Pair:
    """(vertical, horizontal); of a convolution along one axis `along` is the vertical one."""
    found: NDArray[Any] = np.asarray(values).reshape(-1)
    if found.dtype.kind not in "ui" or found.size not in (1, n_axes) or found.min() < (0 if field == "padding" else 1):
        raise InvalidNetworkError(
            f"node '{name}': {field} {found.tolist()}; {n_axes} whole numbers are needed, "
            f"{'0' if field == 'padding' else '1'} or more"
        )
    last = int(found[-1])
    return (along, last) if n_axes == 1 else (int(found[0]), last)


def _pool(name: str, node: Any, x: Signal) -> Signal:
    """The sum, or the mean with the zeros of the padding counted in, as in torch."""
    if len(x.shape) != 3:
        _wrong(name, "[C, H, W]", x.shape)
    kernel = _pair(name, "kernel_size", node.kernel_size)
    stride, padding = _pair(name, "stride", node.stride), _pair(name, "padding", node.padding)
    value = 1.0 if type(node).__name__ == "SumPool2d" else 1.0 / math.prod(kernel)
    weight = np.full((x.shape[0], 1, *kernel), value)
    geometry = conv_geometry(x.shape, weight.shape, stride, padding, (1, 1), x.shape[0])
    if min(geometry.out_shape) < 1:
        _wrong(name, f"at least {list(kernel)} places", x.shape)
    return x.through(Conv2d(weight, geometry), geometry.out_shape)


def _flat(name: str, node: Any, shape: Shape) -> Shape:
    """NIR's axes have no batch among them; a start behind the last axis is one that counted it."""
    n, start, end = len(shape), int(node.start_dim), int(node.end_dim)
    first, last = (k + n if k < 0 else k for k in (start, end))
    if not 0 <= first <= last < n:
        if n == 1:
            return shape
        raise InvalidNetworkError(
            f"node '{name}' flattens axes {start} to {end} of {list(shape)}, which has {n}; NIR counts no batch axis"
        )
    return (*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :])


def _reshaped(x: Signal, shape: Shape) -> FloatArray | None:
    return None if x.constant is None else x.constant.reshape(shape)
