"""Linear operators of projections: what arrives at the post-synaptic population for given pre-synaptic values.

Shapes are one sample's: [C, H, W] or [N]. Relabelling in C order (flatten) is free, so a dense operator takes a
population of any shape. Weights are float64 here; the chip's integers live in neuroport.chip.network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from neuroport.ann.graph import AvgPool2d, FloatArray, Pair
from neuroport.ann.interpret import avg_pool
from neuroport.errors import ConversionError

Shape = tuple[int, ...]
_MAX_DENSE_ELEMENTS = 1 << 27


@dataclass(frozen=True)
class ConvGeometry:
    """Where a convolution's kernel goes: shapes [C, H, W] of both sides, and (vertical, horizontal) steps."""

    in_shape: tuple[int, int, int]
    out_shape: tuple[int, int, int]
    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1


@dataclass(frozen=True, eq=False)
class Dense:
    """y = weight @ x.ravel(). weight: [n_out, n_in]."""

    weight: FloatArray
    in_shape: Shape
    out_shape: Shape


@dataclass(frozen=True, eq=False)
class Conv2d:
    """Cross-correlation. weight: [C_out, C_in / groups, kH, kW]."""

    weight: FloatArray
    geometry: ConvGeometry

    @property
    def in_shape(self) -> Shape:
        """[C_in, H, W]."""
        return self.geometry.in_shape

    @property
    def out_shape(self) -> Shape:
        """[C_out, H', W']."""
        return self.geometry.out_shape


@dataclass(frozen=True)
class Pool:
    """Average pool; becomes a convolution or folds into the operator behind it before it reaches a chip."""

    op: AvgPool2d
    in_shape: Shape
    out_shape: Shape


@dataclass(frozen=True)
class Chain:
    """Operators one after another, first to last."""

    parts: tuple[Dense | Conv2d | Pool, ...]

    @property
    def in_shape(self) -> Shape:
        """Shape the first part reads."""
        return self.parts[0].in_shape

    @property
    def out_shape(self) -> Shape:
        """Shape the last part writes."""
        return self.parts[-1].out_shape


Synapse = Dense | Conv2d
Operator = Dense | Conv2d | Pool | Chain


def apply(op: Operator, x: torch.Tensor) -> torch.Tensor:
    """y [N, *out_shape] for x [N, ...] with as many elements per sample as op.in_shape."""
    x = x.reshape(len(x), *op.in_shape)
    match op:
        case Dense(weight):
            y = F.linear(x.flatten(1), torch.as_tensor(weight, dtype=x.dtype))
        case Conv2d(weight, g):
            y = F.conv2d(x, torch.as_tensor(weight, dtype=x.dtype), None, g.stride, g.padding, g.dilation, g.groups)
        case Pool(pool):
            y = avg_pool(pool, x)
        case Chain(parts):
            y = x
            for part in parts:
                y = apply(part, y)
    return y.reshape(len(x), *op.out_shape)


def merge(op: Operator) -> Synapse:
    """One dense or convolution operator with the same function, as a chip's synapses need it.

    A pool alone is a depthwise convolution; pool then convolution is one larger strided convolution where no border
    is cut differently; whatever is left becomes a dense matrix.

    Raises:
        ConversionError: the dense matrix would be larger than 2^27 entries.
    """
    if isinstance(op, Dense | Conv2d):
        return op
    parts = list(op.parts) if isinstance(op, Chain) else [op]
    merged: list[Dense | Conv2d | Pool] = [_pool_as_conv(p) or p if isinstance(p, Pool) else p for p in parts]
    while len(merged) > 1:
        first, second = merged[-2], merged[-1]
        merged[-2:] = [_conv_behind_pool(first, second) or _dense_of(Chain((first, second)))]
    last = merged[0]
    return last if isinstance(last, Dense | Conv2d) else _dense_of(last)


def _pool_as_conv(pool: Pool) -> Conv2d | None:
    """The pool as a depthwise convolution, None where its divisor changes at the border."""
    op = pool.op
    padded = op.padding != (0, 0)
    regular = _out_size(pool.in_shape[1:], op.kernel, op.stride, op.padding) == pool.out_shape[1:]
    if not regular or (padded and not op.count_include_pad and op.divisor is None):
        return None
    n = pool.in_shape[0]
    weight = np.full((n, 1, *op.kernel), 1.0 / (op.divisor or math.prod(op.kernel)))
    return Conv2d(weight, _geometry(pool.in_shape, pool.out_shape, op.kernel, op.stride, op.padding, groups=n))


def _conv_behind_pool(first: Operator, second: Operator) -> Conv2d | None:
    """Depthwise convolution (a pool) then convolution as one, None where the borders do not allow it."""
    if not (isinstance(first, Conv2d) and isinstance(second, Conv2d)):
        return None
    a, b = first.geometry, second.geometry
    depthwise = a.groups == a.in_shape[0] == a.out_shape[0] and first.weight.shape[1] == 1
    if a.out_shape != b.in_shape:
        return None  # read under another shape: channels and pixels mix
    if not depthwise or a.dilation != (1, 1) or b.dilation != (1, 1):
        return None
    if b.padding != (0, 0) and (a.kernel != a.stride or a.padding != (0, 0) or not _covers(a)):
        return None  # a padded zero of the second stands for a window of zeros of the first only if windows tile
    kernel = tuple((kb - 1) * sa + ka for ka, sa, kb in zip(a.kernel, a.stride, b.kernel, strict=True))
    weight = np.zeros((*second.weight.shape[:2], *kernel))
    per_group = second.weight.shape[1]
    n_out_group = len(second.weight) // b.groups
    for o in range(len(second.weight)):
        channels = slice((o // n_out_group) * per_group, (o // n_out_group + 1) * per_group)
        small = first.weight[channels, 0]
        for i in range(b.kernel[0]):
            for j in range(b.kernel[1]):
                y, x = i * a.stride[0], j * a.stride[1]
                tap = second.weight[o, :, i, j][:, None, None] * small
                weight[o, :, y : y + a.kernel[0], x : x + a.kernel[1]] += tap
    stride = (a.stride[0] * b.stride[0], a.stride[1] * b.stride[1])
    padding = (a.padding[0] + b.padding[0] * a.stride[0], a.padding[1] + b.padding[1] * a.stride[1])
    out = _out_size(a.in_shape[1:], (kernel[0], kernel[1]), stride, padding)
    if out != b.out_shape[1:]:
        return None
    geometry = _geometry(a.in_shape, b.out_shape, (kernel[0], kernel[1]), stride, padding, groups=b.groups)
    return Conv2d(weight, geometry)


def _covers(g: ConvGeometry) -> bool:
    return all(o * s == n for o, s, n in zip(g.out_shape[1:], g.stride, g.in_shape[1:], strict=True))


def _dense_of(op: Operator) -> Dense:
    """The matrix of a linear operator: column i is its answer to unit vector i."""
    n_in, n_out = math.prod(op.in_shape), math.prod(op.out_shape)
    if n_in * n_out > _MAX_DENSE_ELEMENTS:
        raise ConversionError(
            f"linear layers without a ReLU between them, {list(op.in_shape)} to {list(op.out_shape)}, would become a "
            f"dense matrix of {n_in * n_out:,} weights; {_MAX_DENSE_ELEMENTS:,} are allowed; put a ReLU between them"
        )
    first, last = op.parts if isinstance(op, Chain) and len(op.parts) == 2 else (op, op)
    if first is not last and isinstance(last, Dense):
        probe = torch.zeros(1, *first.in_shape, dtype=torch.float64, requires_grad=True)
        image = apply(first, probe).reshape(-1)
        rows = torch.as_tensor(last.weight, dtype=torch.float64)
        (weight,) = torch.autograd.grad(image, probe, rows, is_grads_batched=True)
        return Dense(weight.reshape(n_out, n_in).numpy().copy(), op.in_shape, op.out_shape)
    columns = [
        apply(op, torch.eye(n_in, dtype=torch.float64)[start : start + 1024]).reshape(-1, n_out)
        for start in range(0, n_in, 1024)
    ]
    return Dense(torch.cat(columns).numpy().T.copy(), op.in_shape, op.out_shape)


def scale(op: Synapse, *, lambda_in: FloatArray, lambda_out: FloatArray) -> Synapse:
    """The operator between normalized populations: weight * lambda_in / lambda_out, channel by channel.

    lambda_in, lambda_out: [C] of the pre- and post-synaptic population ([N] where it is flat). A convolution that
    reads the population under another shape, whose channels mix scales, becomes dense.
    Source: Rueckauer et al. 2016, section 3.2.1; Mueller et al. 2021, eq. 2.
    """
    if isinstance(op, Dense):
        n_out, n_in = op.weight.shape
        columns = np.repeat(lambda_in, n_in // len(lambda_in))
        rows = np.repeat(lambda_out, n_out // len(lambda_out))
        return replace(op, weight=op.weight * columns[None, :] / rows[:, None])
    n_in = math.prod(op.in_shape)
    per_neuron = np.repeat(lambda_in, n_in // len(lambda_in)).reshape(op.in_shape[0], -1)
    if (per_neuron != per_neuron[:, :1]).any():
        return scale(_dense_of(op), lambda_in=lambda_in, lambda_out=lambda_out)
    lambda_in = per_neuron[:, 0]
    per_group = op.weight.shape[1]
    n_out_group = len(op.weight) // op.geometry.groups
    group = np.arange(len(op.weight)) // n_out_group
    columns = lambda_in[group[:, None] * per_group + np.arange(per_group)[None, :]]
    return replace(op, weight=op.weight * (columns / lambda_out[:, None])[:, :, None, None])


def conv_geometry(
    in_shape: Shape, weight_shape: Shape, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> ConvGeometry:
    """Geometry of a convolution from its input shape and weight [C_out, C_in / groups, kH, kW]."""
    kernel = (weight_shape[2], weight_shape[3])
    span = (dilation[0] * (kernel[0] - 1) + 1, dilation[1] * (kernel[1] - 1) + 1)
    out = _out_size(in_shape[1:], span, stride, padding)
    shape_in = (in_shape[0], in_shape[1], in_shape[2])
    return ConvGeometry(shape_in, (weight_shape[0], out[0], out[1]), kernel, stride, padding, dilation, groups)


def _geometry(
    in_shape: Shape, out_shape: Shape, kernel: Pair, stride: Pair, padding: Pair, *, groups: int
) -> ConvGeometry:
    i, o = in_shape, out_shape
    return ConvGeometry((i[0], i[1], i[2]), (o[0], o[1], o[2]), kernel, stride, padding, (1, 1), groups)


def _out_size(size: Shape, span: Pair, stride: Pair, padding: Pair) -> Pair:
    return (
        (size[0] + 2 * padding[0] - span[0]) // stride[0] + 1,
        (size[1] + 2 * padding[1] - span[1]) // stride[1] + 1,
    )
