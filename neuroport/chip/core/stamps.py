"""Synapses as stamps: what each spike adds, laid out in the order in which its targets' sums lie.

A dense layer's neuron adds one row of weights to the whole population; a convolution's a vector of weights, all
channels of a pixel, for each tap of its kernel; a neuron of an identity or a pool a single weight; a sparse one as many
as it has synapses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from neuroport.chip.core.storage import Storage, conv_axis
from neuroport.chip.core.work import DENSE, MERGED, POINTS, Signed, Stamps
from neuroport.chip.synapses import IntConv2d, IntConvTranspose2d, IntDense, IntSparse, IntWeights, as_sparse

Dtype = type[np.signedinteger]
_UNITS = (64, 32, 16, 8)  # vectors the kernels add


@dataclass(frozen=True, eq=False)
class Parts:
    """Stamps of one projection: the fields of work.Stamps, `at` kind by kind, and its unit.

    start, width: where the sums of a dense one begin, and how many they are.
    """

    place: NDArray[np.int64]
    kind: NDArray[np.int64]
    weight_at: NDArray[np.int64]
    at: Sequence[NDArray[np.int64]]
    weight: Signed
    unit: int
    start: int = 0
    width: int = 0

    def with_points(self) -> Parts:
        """As single weights, where no neuron has more than one."""
        if self.unit != 1 or max(map(len, self.at)) > 1:
            return self
        first = np.array([at[0] if len(at) else 0 for at in self.at])[self.kind]
        is_empty = np.array([not len(at) for at in self.at])[self.kind]
        return replace(
            self,
            place=np.where(is_empty, self.place.max(initial=0), self.place + first),
            weight_at=np.where(is_empty, self.weight.size, self.weight_at),
            kind=np.zeros_like(self.kind),
            at=[],
            weight=np.append(self.weight, np.zeros(1, self.weight.dtype)),
            unit=POINTS,
        )


@dataclass(frozen=True, eq=False)
class Joined:
    """The stamps of all projections into a population; the rest are fields of work.Spikes."""

    stamps: Stamps
    key: NDArray[np.uint64]
    unit: NDArray[np.int64]
    at: NDArray[np.int64]
    width: NDArray[np.int64]


def join(parts: Sequence[Parts], dtype: Dtype) -> Joined:
    """One after the other."""
    n_kinds = np.cumsum([0, *(len(p.at) for p in parts)])
    n_weights = np.cumsum([0, *(p.weight.size for p in parts)])
    every = [at for p in parts for at in p.at]
    weight = aligned(int(n_weights[-1]), dtype)
    for p, n in zip(parts, n_weights, strict=False):
        weight[n : n + p.weight.size] = p.weight
    stamps = Stamps(
        _joined([p.place for p in parts], np.uint32),
        _joined([p.kind + n for p, n in zip(parts, n_kinds, strict=False)], np.uint32),
        _joined([p.weight_at + n for p, n in zip(parts, n_weights, strict=False)], np.uint64),
        np.cumsum([0, *map(len, every)]).astype(np.uint64),
        _joined(every, np.uint32),
        weight,
    )
    key = np.cumsum([0, *(len(p.place) for p in parts)])[:-1]
    fields = np.array([(p.unit, p.start, p.width) for p in parts], np.int64).reshape(-1, 3)
    return Joined(stamps, key.astype(np.uint64), fields[:, 0].copy(), fields[:, 1].copy(), fields[:, 2].copy())


def aligned(n: int, dtype: type[np.integer]) -> NDArray[Any]:
    """An array whose first number starts a cache line; its contents are arbitrary."""
    raw = np.empty(n * np.dtype(dtype).itemsize + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + n * np.dtype(dtype).itemsize].view(dtype)


def _joined(parts: Sequence[NDArray[np.int64]], dtype: type[np.unsignedinteger]) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, np.int64), *parts]).astype(dtype)


def stamps_of(synapse: IntWeights, exponent: int, dtype: Dtype, pre: Storage, post: Storage) -> Parts:
    """The stamps of a projection with weights mantissa << exponent, or >> -exponent where that is exact."""
    if isinstance(synapse, IntConv2d | IntConvTranspose2d) and post.image != synapse.geometry.out_shape:
        synapse = as_sparse(synapse)
    mantissa = synapse.mantissa.astype(np.promote_types(dtype, np.int32))
    scaled = (mantissa << exponent if exponent >= 0 else mantissa >> -exponent).astype(dtype)
    match synapse:
        case IntDense():
            return _dense(scaled, pre, post)
        case IntSparse():
            return _sparse(synapse, scaled, pre, post).with_points()
        case IntConv2d() | IntConvTranspose2d():
            return _conv(synapse, scaled, pre, post).with_points()


def _dense(scaled: Signed, pre: Storage, post: Storage) -> Parts:
    """A row over all sums of the population, those between its neurons included."""
    n_in = scaled.shape[1]
    weight = np.zeros((n_in, post.size), scaled.dtype)
    weight[:, post.place] = scaled.T
    weight_at = np.zeros(pre.size, np.int64)
    weight_at[pre.place] = np.arange(n_in) * post.size
    nothing = np.zeros(pre.size, np.int64)
    return Parts(nothing, nothing, weight_at, [], weight.ravel(), DENSE, post.lead, post.size)


def _sparse(synapse: IntSparse, scaled: Signed, pre: Storage, post: Storage) -> Parts:
    """Each input is a kind of its own."""
    order = np.arange(1, len(synapse.columns) + 1)  # from 1: a 0 would be left out
    shape = (len(synapse.row_start) - 1, len(pre.place))
    by_column = csr_array((order, synapse.columns, synapse.row_start), shape).tocsc()
    start = by_column.indptr.astype(np.int64)
    targets = post.place[by_column.indices]
    kind, weight_at = np.zeros((2, pre.size), np.int64)
    kind[pre.place], weight_at[pre.place] = np.arange(shape[1]), start[:-1]
    place = np.full(pre.size, post.lead)
    return Parts(place, kind, weight_at, np.split(targets, start[1:-1]), scaled[by_column.data - 1], 1)


def _conv(synapse: IntConv2d | IntConvTranspose2d, scaled: Signed, pre: Storage, post: Storage) -> Parts:
    """A kind for each set of taps a pixel has: by the remainder of a stride, and by borders where there is no halo."""
    g = synapse.geometry
    rows, cols = (conv_axis(synapse, axis, post.halo[axis]) for axis in (0, 1))
    n_in, n_out = g.in_shape[0] // g.groups, g.out_shape[0] // g.groups
    n_added = post.pitch if g.groups == 1 else n_out
    unit = next((n for n in _UNITS if n_added % n == 0), 1)
    within = np.arange(0, n_added if unit > 1 else n_out, unit)  # where each vector of a tap begins
    weight = _by_input(synapse, scaled, n_in, n_out)
    weight = np.pad(weight, ((0, 0), (0, 0), (0, 0), (0, len(within) * unit - n_out)))
    at: list[NDArray[np.int64]] = []
    blocks: list[Signed] = []
    for down, right in product(rows.taps, cols.taps):
        pairs = list(product(down, right))
        offsets = np.array([(y * post.width + x) * post.pitch for (_, y), (_, x) in pairs], np.int64)
        at.append((offsets[:, None] + within).ravel())
        taps = np.array([(i, j) for (i, _), (j, _) in pairs], np.int64).reshape(-1, 2)
        blocks.append(weight[:, taps[:, 0], taps[:, 1]].ravel())
    starts = np.cumsum([0, *(block.size for block in blocks)])[:-1]
    kind = rows.kind[:, None] * len(cols.taps) + cols.kind
    channel = np.arange(g.in_shape[0])[:, None, None]
    weight_at = starts[kind] + channel * np.array([block.size // g.in_shape[0] for block in blocks])[kind]
    place = post.lead + (rows.place[:, None] * post.width + cols.place) * post.pitch + channel // n_in * n_out
    is_merged = unit >= 32 and g.groups == 1 and pre.image == g.in_shape
    if is_merged:  # events of one pixel are told by place and kind: those without taps need places of their own
        is_empty = np.array([not len(x) for x in at])[kind]
        place = np.where(is_empty, np.arange(is_empty.size).reshape(is_empty.shape), place)
    made = np.zeros((3, pre.size), np.int64)
    for array, values in zip(made, (place, kind, weight_at), strict=True):
        array[pre.place] = np.broadcast_to(values, g.in_shape).ravel()
    if is_merged:
        unit += MERGED
    return Parts(made[0], made[1], made[2], at, np.concatenate(blocks), unit)


def _by_input(synapse: IntConv2d | IntConvTranspose2d, scaled: Signed, n_in: int, n_out: int) -> Signed:
    """[C_in, kH, kW, C_out / groups]."""
    g = synapse.geometry
    if isinstance(synapse, IntConvTranspose2d):
        return scaled.transpose(0, 2, 3, 1)
    split = scaled.reshape(g.groups, n_out, n_in, *g.kernel)
    return split.transpose(0, 2, 3, 4, 1).reshape(g.in_shape[0], *g.kernel, n_out)
