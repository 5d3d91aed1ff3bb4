"""Two convolutions in a row as one, where borders allow it: the algebra behind condensing linear layers.

Along one axis a convolution reads x[s y + d i - p] for output y and tap i; a transposed one adds to y = s m + d j - p
for input m and tap j; whatever lies outside is 0. Two in a row are one wherever a number cut off or padded between
them is 0 in any case; that is checked for every position.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from neuroport.ann.graph import FloatArray
from neuroport.snn.operators import Conv2d, ConvGeometry, ConvTranspose2d

_MAX_ELEMENTS = 1 << 25
_MAX_SPREAD = 4


@dataclass(frozen=True, eq=False)
class _Axis:
    """One axis of the composite. place: [taps of the second, taps of the first] -> tap of the composite."""

    place: NDArray[np.int64]
    stride: int
    padding: int
    dilation: int

    @property
    def kernel(self) -> int:
        """Taps of the composite."""
        return int(self.place.max()) + 1


@dataclass(frozen=True)
class _Numbers:
    """A convolution's geometry along one axis."""

    stride: int
    padding: int
    dilation: int
    kernel: int
    n_in: int
    n_out: int


def compose_convs(a: Conv2d, b: Conv2d) -> Conv2d | None:
    """The convolution that does a, then b; None where there is none."""
    made = _composite(a, b, _conv_axis)
    return None if made is None else Conv2d(_conv_weight(made[0]), made[1])


def compose_up(a: ConvTranspose2d, b: Conv2d) -> ConvTranspose2d | None:
    """The transposed convolution that does a (upsampling), then b, a convolution of stride 1; None if there is none."""
    if b.geometry.stride != (1, 1):
        return None
    made = _composite(a, b, _up_axis)
    return None if made is None else ConvTranspose2d(_transposed_weight(made[0]), made[1])


def compose_ups(a: ConvTranspose2d, b: ConvTranspose2d) -> ConvTranspose2d | None:
    """Two transposed convolutions in a row as one; None where there is none."""
    made = _composite(a, b, _ups_axis)
    return None if made is None else ConvTranspose2d(_transposed_weight(made[0]), made[1])


def compose_conv_up(a: Conv2d, b: ConvTranspose2d) -> ConvTranspose2d | None:
    """A pointwise convolution, then a transposed one, as one transposed convolution; None if a is not pointwise."""
    g = a.geometry
    if not (g.kernel == (1, 1) == g.stride and g.padding == (0, 0) and g.in_shape[1:] == g.out_shape[1:]):
        return None
    return compose_ups(ConvTranspose2d(_transposed_weight(_grouped(a)), g), b)


def add_convs(a: Conv2d, b: Conv2d) -> Conv2d | None:
    """The convolution that is the sum of both; None where strides or dilations differ, or their grids do not meet."""
    g, h = a.geometry, b.geometry
    same = (g.in_shape, g.out_shape, g.stride) == (h.in_shape, h.out_shape, h.stride)
    if not same or any(d > 1 for x in (g, h) for d, k in zip(x.dilation, x.kernel, strict=True) if k > 1):
        return None
    groups = math.gcd(g.groups, h.groups)
    first, second = _regrouped(_grouped(a), groups), _regrouped(_grouped(b), groups)
    if first is None or second is None:
        return None
    pad = [max(p, q) for p, q in zip(g.padding, h.padding, strict=True)]
    kernel = [
        max(big - p + k for p, k in ((g.padding[axis], g.kernel[axis]), (h.padding[axis], h.kernel[axis])))
        for axis, big in enumerate(pad)
    ]
    if math.prod(kernel) > _MAX_SPREAD * (math.prod(g.kernel) + math.prod(h.kernel)):
        return None  # two kernels far apart would leave mostly zeros between them
    total = np.zeros((*first.shape[:3], *kernel))
    for weight, x in ((first, g), (second, h)):
        y0, x0 = pad[0] - x.padding[0], pad[1] - x.padding[1]
        total[..., y0 : y0 + x.kernel[0], x0 : x0 + x.kernel[1]] += weight
    geometry = ConvGeometry(g.in_shape, g.out_shape, (kernel[0], kernel[1]), g.stride, (pad[0], pad[1]), (1, 1), groups)
    return Conv2d(_conv_weight(total), geometry)


def _composite(
    a: Conv2d | ConvTranspose2d, b: Conv2d | ConvTranspose2d, axis: Callable[[_Numbers, _Numbers], _Axis | None]
) -> tuple[FloatArray, ConvGeometry] | None:
    """Grouped weights [groups, C_in, C_out, kH, kW] of the composite, and its geometry."""
    g, h = a.geometry, b.geometry
    if g.out_shape != h.in_shape:
        return None
    y, x = axis(_numbers(g, 0), _numbers(h, 0)), axis(_numbers(g, 1), _numbers(h, 1))
    if y is None or x is None:
        return None
    weight = _joined(_grouped(a), _grouped(b), y, x)
    if weight is None:
        return None
    geometry = ConvGeometry(
        g.in_shape,
        h.out_shape,
        (y.kernel, x.kernel),
        (y.stride, x.stride),
        (y.padding, x.padding),
        (y.dilation, x.dilation),
        len(weight),
    )
    return weight, geometry


def _numbers(g: ConvGeometry, k: int) -> _Numbers:
    return _Numbers(g.stride[k], g.padding[k], g.dilation[k], g.kernel[k], g.in_shape[k + 1], g.out_shape[k + 1])


def _axis(offset: NDArray[np.int64], stride: int, padding: int) -> _Axis:
    """Taps at these offsets, on the coarsest grid that holds them all."""
    step = math.gcd(*(int(o) for o in offset.reshape(-1))) or 1
    return _Axis(offset // step, stride, padding, step)


def _conv_axis(a: _Numbers, b: _Numbers) -> _Axis | None:
    middle = np.arange(b.n_out)[:, None] * b.stride + np.arange(b.kernel) * b.dilation - b.padding
    source = middle[:, :, None] * a.stride + np.arange(a.kernel) * a.dilation - a.padding
    seen = (source >= 0) & (source < a.n_in)
    if seen[(middle < 0) | (middle >= a.n_out)].any():
        return None
    offset = np.arange(b.kernel)[:, None] * (a.stride * b.dilation) + np.arange(a.kernel) * a.dilation
    return _axis(offset, a.stride * b.stride, a.stride * b.padding + a.padding)


def _up_axis(a: _Numbers, b: _Numbers) -> _Axis | None:
    reads = np.arange(b.n_out)[:, None] + np.arange(b.kernel) * b.dilation - b.padding
    if np.isin(reads, _cut(a)).any():
        return None
    # y = s m + (d_a j - d_b i) + (p_b - p_a)
    offset = np.arange(a.kernel) * a.dilation - np.arange(b.kernel)[:, None] * b.dilation
    first = int(offset.min())
    return _axis(offset - first, a.stride, a.padding - b.padding - first)


def _ups_axis(a: _Numbers, b: _Numbers) -> _Axis | None:
    after = _cut(a)[:, None] * b.stride + np.arange(b.kernel) * b.dilation - b.padding
    if ((after >= 0) & (after < b.n_out)).any():
        return None
    offset = np.arange(b.kernel)[:, None] * b.dilation + np.arange(a.kernel) * (a.dilation * b.stride)
    return _axis(offset, a.stride * b.stride, a.padding * b.stride + b.padding)


def _cut(a: _Numbers) -> NDArray[np.int64]:
    """Positions outside the image that a transposed convolution would have written."""
    written = np.arange(a.n_in)[:, None] * a.stride + np.arange(a.kernel) * a.dilation - a.padding
    return written[(written < 0) | (written >= a.n_out)]


def _grouped(op: Conv2d | ConvTranspose2d) -> FloatArray:
    """Weights as [groups, C_in / groups, C_out / groups, kH, kW]."""
    g = op.geometry
    if isinstance(op, ConvTranspose2d):
        return op.weight.reshape(g.groups, -1, *op.weight.shape[1:])
    return op.weight.reshape(g.groups, -1, *op.weight.shape[1:]).swapaxes(1, 2)


def _conv_weight(grouped: FloatArray) -> FloatArray:
    n_in = grouped.shape[1]
    return np.ascontiguousarray(grouped.swapaxes(1, 2)).reshape(-1, n_in, *grouped.shape[3:])


def _transposed_weight(grouped: FloatArray) -> FloatArray:
    return np.ascontiguousarray(grouped).reshape(-1, *grouped.shape[2:])


def _regrouped(weight: FloatArray, groups: int) -> FloatArray | None:
    """The same channels in fewer groups, zeros between what was apart; None where that would be too large."""
    ratio = len(weight) // groups
    if ratio == 1:
        return weight
    if weight.size * ratio > _MAX_ELEMENTS:
        return None
    _, n_in, n_out, *kernel = weight.shape
    wide = np.zeros((groups, ratio, n_in, ratio, n_out, *kernel))
    for r in range(ratio):
        wide[:, r, :, r] = weight.reshape(groups, ratio, n_in, n_out, *kernel)[:, r]
    return wide.reshape(groups, ratio * n_in, ratio * n_out, *kernel)


def _joined(first: FloatArray, second: FloatArray, y: _Axis, x: _Axis) -> FloatArray | None:
    """Weights of the composite: each pair of taps, its channels multiplied, at its place."""
    groups = math.gcd(len(first), len(second))
    is_diagonal = (first.shape[1:3] == (1, 1), second.shape[1:3] == (1, 1))
    n_in, n_out = first.shape[1] * len(first) // groups, second.shape[2] * len(second) // groups
    if groups * n_in * n_out * y.kernel * x.kernel > _MAX_ELEMENTS:
        return None
    a: FloatArray | None
    b: FloatArray | None
    if is_diagonal[0]:  # one number per channel scales the rows of the second
        a, b = first.reshape(groups, n_in, 1, *first.shape[3:]), _regrouped(second, groups)
    elif is_diagonal[1]:
        a, b = _regrouped(first, groups), second.reshape(groups, 1, n_out, *second.shape[3:])
    else:
        a, b = _regrouped(first, groups), _regrouped(second, groups)
    if a is None or b is None:
        return None
    total = np.zeros((groups, n_in, n_out, y.kernel, x.kernel))
    for i, j in product(*map(range, second.shape[3:])):
        for k, m in product(*map(range, first.shape[3:])):
            left, right = a[..., k, m], b[..., i, j]
            total[..., y.place[i, k], x.place[j, m]] += left * right if any(is_diagonal) else left @ right
    return total
