"""The chip's synapses: the ways to hold integer weights, whether they fit their populations, and their sums."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import assert_never, cast

import numpy as np
from numpy.typing import NDArray

from neuroport.ann.graph import MaxPool2d
from neuroport.snn.operators import Conv2d, ConvGeometry, ConvTranspose2d, Dense, Image, Shape
from neuroport.snn.sparse import as_matrix

IntArray = NDArray[np.int32]
Taps = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class IntDense:
    """mantissa: [n_out, n_in] int32; a population of any shape is read in C order."""

    mantissa: IntArray


@dataclass(frozen=True, eq=False)
class IntConv2d:
    """mantissa: [C_out, C_in / groups, kH, kW] int32, cross-correlation as in torch."""

    mantissa: IntArray
    geometry: ConvGeometry


@dataclass(frozen=True, eq=False)
class IntConvTranspose2d:
    """mantissa: [C_in, C_out / groups, kH, kW] int32; each spike adds a kernel to the image behind."""

    mantissa: IntArray
    geometry: ConvGeometry


@dataclass(frozen=True, eq=False)
class IntSparse:
    """Compressed rows: neuron n reads `columns` from row_start[n] to row_start[n + 1], ascending, with `mantissa`.

    mantissa: [nnz] int32; columns: [nnz]; row_start: [n_out + 1].
    """

    mantissa: IntArray
    columns: NDArray[np.signedinteger]
    row_start: NDArray[np.signedinteger]


@dataclass(frozen=True)
class IntWindow:
    """What a max-pool gate looks at; no weights. Shapes [C, H, W]."""

    op: MaxPool2d
    in_shape: Shape
    out_shape: Shape


IntWeights = IntDense | IntConv2d | IntConvTranspose2d | IntSparse
IntSynapse = IntWeights | IntWindow


def sources(synapse: IntConv2d | IntConvTranspose2d | IntWindow, axis: int) -> NDArray[np.int64]:
    """[n_out, k]: the row (axis 0) or column (1) of the image each tap of the kernel reads, -1 outside of it."""
    g = as_conv(synapse) if isinstance(synapse, IntWindow) else synapse.geometry
    n_in, out = g.in_shape[axis + 1], np.arange(g.out_shape[axis + 1])[:, None]
    reach = np.arange(g.kernel[axis]) * g.dilation[axis]
    if isinstance(synapse, IntConvTranspose2d):
        places, rest = np.divmod(out + g.padding[axis] - reach, g.stride[axis])
    else:
        places = out * g.stride[axis] - g.padding[axis] + reach
        rest = np.zeros_like(places)
    return np.where((places >= 0) & (places < n_in) & (rest == 0), places, -1)


def taps(synapse: IntConv2d | IntConvTranspose2d | IntWindow, axis: int) -> Taps:
    """[n_out, k]: whether a tap of the kernel reads inside the image, per output row (axis 0) or column (1)."""
    inside: Taps = sources(synapse, axis) >= 0
    return inside


def as_conv(window: IntWindow) -> ConvGeometry:
    """Where a window looks, as a convolution."""
    in_shape, out_shape = cast(tuple[Image, Image], (window.in_shape, window.out_shape))
    op = window.op
    return ConvGeometry(in_shape, out_shape, op.kernel, op.stride, op.padding, op.dilation)


def n_synapses(synapse: IntSynapse) -> int:
    """Connections of one projection; shared weights count once per use, and what reads the padding not at all."""
    match synapse:
        case IntDense(mantissa) | IntSparse(mantissa):
            return mantissa.size
        case IntConv2d() | IntConvTranspose2d():
            n_pairs = math.prod(synapse.mantissa.shape[:2])
        case IntWindow():
            n_pairs = synapse.in_shape[0]
        case _:
            assert_never(synapse)
    return n_pairs * int(taps(synapse, 0).sum()) * int(taps(synapse, 1).sum())


def sum_bound(synapse: IntWeights) -> int:
    """Largest |sum| one step of 0/1 spikes can give: max over neurons of max(sum w+, sum |w-|), exponent left out."""
    m = synapse.mantissa
    return max(_largest_sum(synapse, np.maximum(m, 0)), _largest_sum(synapse, -np.minimum(m, 0).astype(np.int64)))


def _largest_sum(synapse: IntWeights, magnitude: NDArray[np.signedinteger]) -> int:
    """The largest sum over the inputs of one neuron; `magnitude` like the mantissa, nowhere below 0."""
    match synapse:
        case IntDense():
            return int(magnitude.sum(1, dtype=np.int64).max(initial=0))
        case IntSparse(row_start=row_start):
            before = np.concatenate([[0], np.cumsum(magnitude, dtype=np.int64)])
            return int(np.diff(before[row_start]).max(initial=0))
        case IntConv2d():
            kernels = magnitude.sum(1, dtype=np.int64)
        case IntConvTranspose2d():
            groups = synapse.geometry.groups
            grouped = magnitude.reshape(groups, -1, *magnitude.shape[1:])
            kernels = grouped.sum(1, dtype=np.int64).reshape(-1, *magnitude.shape[2:])
    rows, cols = (np.unique(taps(synapse, axis), axis=0).astype(np.int64) for axis in (0, 1))
    return int((rows @ kernels @ cols.T).max(initial=0))


def as_sparse(synapse: IntWeights) -> IntSparse:
    """The same synapses, those of weight 0 left out, neuron by neuron; exact, as every int32 is a float64."""
    match synapse:
        case IntSparse():
            return synapse
        case IntDense(mantissa):
            n_out, n_in = mantissa.shape
            matrix = as_matrix(Dense(mantissa.astype(np.float64), (n_in,), (n_out,)))
        case IntConv2d(mantissa, geometry):
            matrix = as_matrix(Conv2d(mantissa.astype(np.float64), geometry))
        case IntConvTranspose2d(mantissa, geometry):
            matrix = as_matrix(ConvTranspose2d(mantissa.astype(np.float64), geometry))
    return IntSparse(matrix.data.astype(np.int32), matrix.indices, matrix.indptr)


def problem(synapse: IntSynapse, n_in: int, n_out: int) -> str:
    """Why these synapses do not take n_in neurons to n_out, as the end of a sentence; empty where they do.

    After this, no kernel reads or writes outside its arrays.
    """
    match synapse:
        case IntSparse():
            return _sparse_problem(synapse, n_in, n_out)
        case IntWindow():
            return _window_problem(synapse, n_in, n_out)
        case IntDense(mantissa):
            expected: Shape = (n_out, n_in)
            fits = True
        case IntConv2d(mantissa, g):
            fits = _fits(g, n_in, n_out)
            expected = (g.out_shape[0], g.in_shape[0] // g.groups, *g.kernel) if fits else ()
        case IntConvTranspose2d(mantissa, g):
            fits = _fits(g, n_in, n_out)
            expected = (g.in_shape[0], g.out_shape[0] // g.groups, *g.kernel) if fits else ()
    if fits and mantissa.shape == expected and mantissa.dtype.kind == "i":
        return ""
    kind = "" if mantissa.dtype.kind == "i" else f" and type {mantissa.dtype}"
    return f"have shape {list(mantissa.shape)}{kind}, which does not take {n_in} neurons to {n_out}"


def _fits(g: ConvGeometry, n_in: int, n_out: int) -> bool:
    pairs = (g.kernel, g.stride, g.padding, g.dilation)
    if [len(g.in_shape), len(g.out_shape), *map(len, pairs)] != [3, 3, 2, 2, 2, 2]:
        return False
    if min(*g.in_shape, *g.out_shape, *g.kernel, *g.stride, *g.dilation, g.groups) < 1:
        return False
    divides = g.in_shape[0] % g.groups == 0 and g.out_shape[0] % g.groups == 0
    return divides and (math.prod(g.in_shape), math.prod(g.out_shape)) == (n_in, n_out)


def _window_problem(w: IntWindow, n_in: int, n_out: int) -> str:
    if not _fits(as_conv(w), n_in, n_out) or w.in_shape[0] != w.out_shape[0]:
        return (
            f"are windows from {list(w.in_shape)} to {list(w.out_shape)}, which do not take {n_in} neurons to {n_out}"
        )
    if not all(taps(w, axis).any(1).all() for axis in (0, 1)):
        return f"are windows of {list(w.op.kernel)}, some of which hold nothing but padding"
    return ""


def _sparse_problem(s: IntSparse, n_in: int, n_out: int) -> str:
    arrays = (s.mantissa, s.columns, s.row_start)
    if any(x.dtype.kind != "i" or x.ndim != 1 for x in arrays) or s.columns.shape != s.mantissa.shape:
        return f"have {list(s.mantissa.shape)} values of type {s.mantissa.dtype} for {list(s.columns.shape)} columns"
    start, columns = s.row_start.astype(np.int64), s.columns.astype(np.int64)
    if len(start) != n_out + 1 or start[0] != 0 or start[-1] != len(columns) or (np.diff(start) < 0).any():
        return f"have {len(start) - 1} rows that do not divide {len(columns)} values among {n_out} neurons"
    if columns.min(initial=0) < 0 or columns.max(initial=-1) >= n_in:
        return f"come from neurons {columns.min()} to {columns.max()} of 0 to {n_in - 1}"
    ascends = np.diff(columns) > 0
    ascends[start[(start > 0) & (start < len(columns))] - 1] = True  # the first of a row follows the last of another
    return "" if ascends.all() else "name a neuron twice in one row, or out of order"
