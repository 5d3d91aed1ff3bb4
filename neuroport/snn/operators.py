"""Linear operators of projections: what arrives at the post-synaptic population for given pre-synaptic values.

Shapes are one sample's: [C, H, W], [C, L] or [N]. Relabelling in C order (flatten) is free, so an operator reads a
population of any shape with as many neurons. Weights are float64 here; the chip's integers live in neuroport.chip.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.sparse import csr_array

from neuroport.ann.graph import FloatArray, MaxPool2d, Pair
from neuroport.ann.interpret import gather

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
    def is_depthwise(self) -> bool:
        """Whether each channel goes to one channel of its own."""
        return self.groups == self.in_shape[0] == self.out_shape[0]


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


@dataclass(frozen=True, eq=False)
class ConvTranspose2d:
    """Each input pixel adds a kernel: y[s m + d j - p] += weight[j] x[m]. weight: [C_in, C_out / groups, kH, kW]."""

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


def apply(op: Operator, x: torch.Tensor) -> torch.Tensor:
    """y [N, *out_shape] for x [N, ...] with as many elements per sample as op.in_shape."""
    x = x.reshape(len(x), *op.in_shape)
    match op:
        case Dense(weight):
            y = F.linear(x.flatten(1), torch.as_tensor(weight, dtype=x.dtype))
        case Conv2d(weight, g):
            y = _conv(torch.as_tensor(weight, dtype=x.dtype), g, x)
        case ConvTranspose2d(weight, g):
            y = _conv_transpose(torch.as_tensor(weight, dtype=x.dtype), g, x)
        case Sparse(matrix):
            y = _as_torch(matrix, x.dtype).matmul(x.flatten(1).T).T
        case Scale(gain):
            y = x * torch.as_tensor(np.array(gain), dtype=x.dtype)
        case Gather(index):
            y = gather(index, x)
        case Resample(rows, cols):
            y = torch.as_tensor(rows, dtype=x.dtype) @ x @ torch.as_tensor(cols, dtype=x.dtype).T
        case Window(pool):
            y = F.max_pool2d(x, pool.kernel, pool.stride, pool.padding, pool.dilation, pool.ceil_mode)
        case Chain(parts):
            y = x
            for part in parts:
                y = apply(part, y)
    return y.reshape(len(x), *op.out_shape)


def _conv(weight: torch.Tensor, g: ConvGeometry, x: torch.Tensor) -> torch.Tensor:
    if g.far_padding == g.padding and min(g.padding) >= 0:
        return F.conv2d(x, weight, None, g.stride, g.padding, g.dilation, g.groups)
    return F.conv2d(_padded(x, g.padding, g.far_padding), weight, None, g.stride, 0, g.dilation, g.groups)


def _conv_transpose(weight: torch.Tensor, g: ConvGeometry, x: torch.Tensor) -> torch.Tensor:
    y = F.conv_transpose2d(x, weight, None, g.stride, 0, 0, g.groups, g.dilation)
    near = [-p for p in g.padding]
    far = [p + n - size for p, n, size in zip(g.padding, g.out_shape[1:], y.shape[2:], strict=True)]
    return _padded(y, near, far)


def _padded(x: torch.Tensor, near: Sequence[int], far: Sequence[int]) -> torch.Tensor:
    """Zeros above and left (near), below and right (far), or what is there cut; more may be cut than was there."""
    grown = F.pad(x, (max(near[1], 0), max(far[1], 0), max(near[0], 0), max(far[0], 0)))
    return F.pad(grown, (min(near[1], 0), min(far[1], 0), min(near[0], 0), min(far[0], 0)))


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
