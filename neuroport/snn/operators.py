"""Linear operators of projections: what arrives at the post-synaptic population for given pre-synaptic values.

Shapes are one sample's: [C, H, W], [C, L] or [N]. Relabelling in C order (flatten) is free, so an operator reads a
population of any shape with as many neurons. Weights are float64 here; the chip's integers live in neuroport.chip.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.sparse import csr_array

from neuroport.ann.graph import FloatArray, MaxPool2d, Pair

Shape = tuple[int, ...]
Image = tuple[int, int, int]


@dataclass(frozen=True)
class ConvGeometry:
    """Where a kernel goes: shapes [C, H, W] of both sides, and (vertical, horizontal) steps.

    padding: zeros above and left of the image, negative where it is cut; `out_shape` says how far the kernel goes, so
    the zeros below and right follow from it. Of a transposed convolution: rows and columns cut from its result.
    """

    in_shape: Image
    out_shape: Image
    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    @property
    def span(self) -> Pair:
        """Rows and columns the dilated kernel covers."""
        return (self.dilation[0] * (self.kernel[0] - 1) + 1, self.dilation[1] * (self.kernel[1] - 1) + 1)

    @property
    def far_padding(self) -> Pair:
        """Zeros a convolution reads below and right of the image, negative where it is cut."""
        far = [
            (o - 1) * s + span - n - p
            for o, s, span, n, p in zip(
                self.out_shape[1:], self.stride, self.span, self.in_shape[1:], self.padding, strict=True
            )
        ]
        return (far[0], far[1])

    @property
    def has_equal_padding(self) -> bool:
        """Whether a convolution padded alike on both sides has the same outputs: more zeros there are never read."""
        return min(self.padding) >= 0 and list(self.out_shape[1:]) == [
            (n + 2 * p - span) // s + 1
            for n, p, span, s in zip(self.in_shape[1:], self.padding, self.span, self.stride, strict=True)
        ]

    @property
    def is_depthwise(self) -> bool:
        """Whether each channel goes to one channel of its own."""
        return self.groups == self.in_shape[0] == self.out_shape[0]

    @property
    def is_pointwise(self) -> bool:
        """Whether each pixel goes to itself alone."""
        return self.kernel == self.stride == (1, 1) and self.padding == self.far_padding == (0, 0)


@dataclass(frozen=True, eq=False)
class Dense:
    """y = weight @ x.ravel(). weight: [n_out, n_in]."""

    weight: FloatArray
    in_shape: Shape
    out_shape: Shape


@dataclass(frozen=True, eq=False)
class _Kernels:
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


@dataclass(frozen=True, eq=False)
class Conv2d(_Kernels):
    """Cross-correlation. weight: [C_out, C_in / groups, kH, kW]."""


@dataclass(frozen=True, eq=False)
class ConvTranspose2d(_Kernels):
    """Each input pixel adds a kernel: y[s m + d j - p] += weight[j] x[m]. weight: [C_in, C_out / groups, kH, kW]."""


@dataclass(frozen=True, eq=False)
class Sparse:
    """y = matrix @ x.ravel(). matrix: [n_out, n_in], compressed rows."""

    matrix: csr_array
    in_shape: Shape
    out_shape: Shape


@dataclass(frozen=True, eq=False)
class Scale:
    """y = gain * x, number by number. gain: as many axes as the shape, broadcasts against it."""

    gain: FloatArray
    in_shape: Shape

    @property
    def out_shape(self) -> Shape:
        """The same shape."""
        return self.in_shape


@dataclass(frozen=True, eq=False)
class Gather:
    """y.ravel()[k] = x.ravel()[index[k]], 0 at -1. index: [n_out]."""

    index: NDArray[np.int64]
    in_shape: Shape
    out_shape: Shape


@dataclass(frozen=True, eq=False)
class Resample:
    """y[c] = rows @ x[c] @ cols^T. rows: [H', H]; cols: [W', W]."""

    rows: FloatArray
    cols: FloatArray
    in_shape: Shape

    @property
    def out_shape(self) -> Shape:
        """[C, H', W']."""
        return (self.in_shape[0], len(self.rows), len(self.cols))


@dataclass(frozen=True)
class Window:
    """Maximum over windows: the one operator that is not linear; only a gate population has it."""

    op: MaxPool2d
    in_shape: Shape
    out_shape: Shape


Synapse = Dense | Conv2d | ConvTranspose2d | Sparse
Part = Synapse | Scale | Gather | Resample | Window


@dataclass(frozen=True)
class Chain:
    """Operators one after another, first to last."""

    parts: tuple[Part, ...]

    @property
    def in_shape(self) -> Shape:
        """Shape the first part reads."""
        return self.parts[0].in_shape

    @property
    def out_shape(self) -> Shape:
        """Shape the last part writes."""
        return self.parts[-1].out_shape


Operator = Part | Chain


Linear = Callable[[torch.Tensor], torch.Tensor]


def apply(op: Operator, x: torch.Tensor) -> torch.Tensor:
    """y [N, *out_shape] for x [N, ...] with as many elements per sample as op.in_shape."""
    return prepared(op, x.dtype)(x)


def prepared(op: Operator, dtype: torch.dtype, device: torch.device | str = "cpu") -> Linear:
    """The operator as a function of x [N, ...] of that dtype on that device, as `apply` is.

    Its weights are converted here, once. The answer is in memory of its own, in any order.
    """
    function = _prepared(op, dtype, device)
    in_shape, out_shape = op.in_shape, op.out_shape
    return lambda x: function(x.reshape(len(x), *in_shape)).reshape(len(x), *out_shape)


def _prepared(op: Operator, dtype: torch.dtype, device: torch.device | str) -> Linear:
    """The same for x [N, *in_shape], but for the shape of the answer."""
    match op:
        case Dense(weight):
            dense = torch.as_tensor(weight, dtype=dtype, device=device)
            return lambda x: F.linear(x.flatten(1), dense)
        case Conv2d(weight, g):
            kernel = torch.as_tensor(weight, dtype=dtype, device=device)
            if g.is_pointwise and g.is_depthwise:
                pointwise = kernel.reshape(-1, 1, 1)
                return lambda x: x * pointwise
            return partial(_conv, kernel, g)
        case ConvTranspose2d(weight, g):
            return partial(_conv_transpose, torch.as_tensor(weight, dtype=dtype, device=device), g)
        case Sparse(matrix):
            sparse = _as_torch(matrix, dtype).to(device)
            return lambda x: sparse.matmul(x.flatten(1).T).T
        case Scale(gain):
            factor = torch.as_tensor(np.array(gain), dtype=dtype, device=device)
            return lambda x: x * factor
        case Gather(index):
            return _gather(index, device)
        case Resample(rows, cols):
            left, right = (torch.as_tensor(x, dtype=dtype, device=device) for x in (rows, cols.T))
            return lambda x: left @ x @ right
        case Window(pool):
            return lambda x: F.max_pool2d(x, pool.kernel, pool.stride, pool.padding, pool.dilation, pool.ceil_mode)
        case Chain(parts):
            functions = [prepared(part, dtype, device) for part in parts]
            return lambda x: reduce(lambda y, function: function(y), functions, x)


def _gather(index: NDArray[np.int64], device: torch.device | str) -> Linear:
    where, gaps = (torch.from_numpy(x).to(device) for x in (index.clip(0), np.flatnonzero(index < 0)))
    if not len(gaps):
        return lambda x: x.flatten(1).index_select(1, where)
    return lambda x: x.flatten(1).index_select(1, where).index_fill(1, gaps, 0)


def _conv(weight: torch.Tensor, g: ConvGeometry, x: torch.Tensor) -> torch.Tensor:
    if g.has_equal_padding:
        return F.conv2d(x, weight, None, g.stride, g.padding, g.dilation, g.groups)
    return F.conv2d(_padded(x, g.padding, g.far_padding), weight, None, g.stride, 0, g.dilation, g.groups)


def _conv_transpose(weight: torch.Tensor, g: ConvGeometry, x: torch.Tensor) -> torch.Tensor:
    y = F.conv_transpose2d(x, weight, None, g.stride, 0, 0, g.groups, g.dilation)
    near = [-p for p in g.padding]
    far = [p + n - size for p, n, size in zip(g.padding, g.out_shape[1:], y.shape[2:], strict=True)]
    return _padded(y, near, far)


def _padded(x: torch.Tensor, near: Sequence[int], far: Sequence[int]) -> torch.Tensor:
    """Zeros above and left (near), below and right (far), or what is there cut; more may be cut than was there."""
    ends = (near[1], far[1], near[0], far[0])
    if max(ends) > 0:
        x = F.pad(x, [max(end, 0) for end in ends])
    return F.pad(x, [min(end, 0) for end in ends]) if min(ends) < 0 else x


def _as_torch(matrix: csr_array, dtype: torch.dtype) -> torch.Tensor:
    """The matrix in coordinates: torch warns of its compressed rows as a beta feature."""
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    index = torch.from_numpy(np.stack([rows, matrix.indices]).astype(np.int64))
    values = torch.as_tensor(matrix.data, dtype=dtype)
    return torch.sparse_coo_tensor(index, values, matrix.shape, check_invariants=False)


def conv_geometry(
    in_shape: Shape, weight_shape: Shape, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> ConvGeometry:
    """Geometry of a convolution, padded alike on all sides, from its weight's shape [C_out, C_in / groups, kH, kW]."""
    kernel = (weight_shape[2], weight_shape[3])
    sizes = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(in_shape[1:], padding, dilation, kernel, stride, strict=True)
    ]
    out = (weight_shape[0], sizes[0], sizes[1])
    return ConvGeometry(as_image(in_shape), out, kernel, stride, padding, dilation, groups)


def as_image(shape: Shape) -> Image:
    """The shape as [C, H, W]: [C, L] as [C, 1, L], [N] as [N, 1, 1], further axes joined with the last."""
    if len(shape) <= 1:
        return (shape[0] if shape else 1, 1, 1)
    if len(shape) == 2:
        return (shape[0], 1, shape[1])
    return (shape[0], shape[1], math.prod(shape[2:]))
