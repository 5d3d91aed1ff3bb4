"""Populations laid out for the core's kernels: weights by presynaptic neuron, sums of convolutions channels last."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from neuroport.chip import kernels
from neuroport.chip.network import IntNetwork, IntPopulation, IntProjection
from neuroport.chip.synapses import (
    IntConv2d,
    IntConvTranspose2d,
    IntDense,
    IntSparse,
    IntWeights,
    IntWindow,
    sum_bound,
)
from neuroport.snn.gate import window_index
from neuroport.snn.operators import ConvGeometry, Image, Window

Sums = NDArray[np.signedinteger]
Order = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Dense:
    """weight: [n_in, n_out], columns in the order of the sums."""

    pre: str
    weight: Sums

    def add(self, spikes: NDArray[np.uint8], total: Sums) -> None:
        kernels.add_dense(spikes, self.weight, total)


@dataclass(frozen=True, eq=False)
class _Sparse:
    """Compressed columns; rows: where in the sums each weight goes."""

    pre: str
    weight: Sums
    rows: Order
    start: Order

    def add(self, spikes: NDArray[np.uint8], total: Sums) -> None:
        kernels.add_sparse(spikes, self.weight, self.rows, self.start, total)


@dataclass(frozen=True, eq=False)
class _Conv:
    """weight: [C_in, kH, kW, C_out / groups]; the sums are [H', W', C_out]."""

    pre: str
    weight: Sums
    geometry: ConvGeometry
    is_transposed: bool

    def add(self, spikes: NDArray[np.uint8], total: Sums) -> None:
        g = self.geometry
        kernel = kernels.add_conv_transpose if self.is_transposed else kernels.add_conv
        kernel(spikes, self.weight, g.in_shape, g.out_shape, g.stride, g.padding, g.dilation, g.groups, total)


@dataclass(frozen=True, eq=False)
class Gate:
    """What a max-pool gate reads: index [n_out, k] of the inputs of its windows, -1 for padding."""

    pre: str
    index: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Layer:
    """A population ready to run: its synapses, the dtype of exact sums, and where each neuron's sum stands.

    in_place: add to the sums as they lie; elsewhere: write channels last of another shape, and come in by an index.
    """

    population: IntPopulation
    dtype: type[np.signedinteger]
    order: Order = field(repr=False)
    in_place: tuple[_Dense | _Sparse | _Conv, ...] = ()
    elsewhere: tuple[tuple[Order, tuple[_Conv, ...]], ...] = ()
    gate: Gate | None = None

    def total(self, spikes: Mapping[str, NDArray[np.uint8]], n_steps: int) -> Sums:
        """The exact sums [T, N] of one sample; neuron n's stand in column order[n]."""
        total: Sums = np.zeros((n_steps, self.population.n_neurons), self.dtype)
        for synapses in self.in_place:
            synapses.add(spikes[synapses.pre], total)
        for index, convs in self.elsewhere:
            other: Sums = np.zeros_like(total)
            for conv in convs:
                conv.add(spikes[conv.pre], other)
            total += other[:, index]
        return total


def prepare(network: IntNetwork, population: IntPopulation) -> Layer:
    """The population with its synapses as the kernels need them."""
    incoming = network.incoming[population.name]
    natural = np.arange(population.n_neurons, dtype=np.int64)
    weights: list[tuple[IntProjection, IntWeights]] = []
    for j in incoming:
        if isinstance(j.synapse, IntWindow):
            window = Window(j.synapse.op, j.synapse.in_shape, j.synapse.out_shape)
            return Layer(population, np.int32, natural, gate=Gate(j.pre, window_index(window)))
        weights.append((j, j.synapse))
    bound = sum(sum_bound(synapse) << j.exponent for j, synapse in weights)
    dtype = np.int32 if bound < 2**31 else np.int64  # holds each weight too: none that is read is larger
    convs: dict[Image, list[_Conv]] = {}
    for j, synapse in weights:
        if isinstance(synapse, IntConv2d | IntConvTranspose2d):
            convs.setdefault(synapse.geometry.out_shape, []).append(_conv(j, synapse, dtype))
    shapes = list(convs)
    order = _channels_last(shapes[0]) if shapes else natural
    flat: list[_Dense | _Sparse] = []
    for j, synapse in weights:
        if isinstance(synapse, IntDense):
            flat.append(_dense(j, synapse, dtype, order))
        elif isinstance(synapse, IntSparse):
            flat.append(_sparse(j, synapse, dtype, order, network.by_name[j.pre].n_neurons))
    there = np.argsort(order)  # which neuron's sum stands in each column
    elsewhere = tuple((_channels_last(shape)[there], tuple(convs[shape])) for shape in shapes[1:])
    return Layer(population, dtype, order, (*(convs[shapes[0]] if shapes else ()), *flat), elsewhere)


def _channels_last(shape: Image) -> Order:
    """Where neuron n of [C, H, W] stands among [H, W, C]."""
    c, h, w = shape
    return np.arange(c * h * w, dtype=np.int64).reshape(h, w, c).transpose(2, 0, 1).reshape(-1).copy()


def _scaled(j: IntProjection, synapse: IntWeights, dtype: type[np.signedinteger]) -> Sums:
    scaled: Sums = np.left_shift(synapse.mantissa, j.exponent, dtype=dtype)
    return scaled


def _conv(j: IntProjection, synapse: IntConv2d | IntConvTranspose2d, dtype: type[np.signedinteger]) -> _Conv:
    """[C_out, C_in / groups, kH, kW], or [C_in, C_out / groups, kH, kW], as [C_in, kH, kW, C_out / groups]."""
    g, weight = synapse.geometry, _scaled(j, synapse, dtype)
    if isinstance(synapse, IntConvTranspose2d):
        return _Conv(j.pre, np.ascontiguousarray(weight.transpose(0, 2, 3, 1)), g, True)
    split = weight.reshape(g.groups, g.out_shape[0] // g.groups, -1, *g.kernel)
    by_input = split.transpose(0, 2, 3, 4, 1).reshape(g.in_shape[0], *g.kernel, -1)
    return _Conv(j.pre, np.ascontiguousarray(by_input), g, False)


def _dense(j: IntProjection, synapse: IntDense, dtype: type[np.signedinteger], order: Order) -> _Dense:
    """Columns where their neurons' sums stand."""
    laid = np.empty(synapse.mantissa.shape[::-1], dtype)
    laid[:, order] = _scaled(j, synapse, dtype).T
    return _Dense(j.pre, laid)


def _sparse(j: IntProjection, synapse: IntSparse, dtype: type[np.signedinteger], order: Order, n_in: int) -> _Sparse:
    """Compressed columns, their rows where the neurons' sums stand."""
    shape = (len(order), n_in)
    place = np.arange(1, len(synapse.columns) + 1)  # from 1: a 0 would be left out
    by_column = csr_array((place, synapse.columns, synapse.row_start), shape).tocsc()
    weight = _scaled(j, synapse, dtype)[by_column.data - 1]
    return _Sparse(j.pre, weight, order[by_column.indices], by_column.indptr.astype(np.int64))
