"""The weights of one projection on a chip's grid: what rounding them at some scale costs, and the mantissas.

A global average pool folded into a linear layer leaves each weight as often as a channel has pixels, and small. Rounded
alike they would all be wrong in the same direction; so they are rounded to two neighbouring mantissas in turn, which
keeps the sum over the channel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from neuroport.ann.graph import FloatArray
from neuroport.chip.synapses import IntConv2d, IntConvTranspose2d, IntDense, IntSparse, IntWeights
from neuroport.chip.target import Arithmetic, WeightRange
from neuroport.compiled import compiled
from neuroport.snn.operators import Conv2d, ConvTranspose2d, Dense, Sparse, Synapse

_MIN_RUN = 8  # pixels from which the sum matters more than the single weight


@dataclass(frozen=True)
class Rounding:
    """What one scale does to a projection.

    error: mean over the neurons of the squared error of a step's input, in v_th^2; n_clipped: weights beyond the
    range; n_left: weights that are not rounded to 0.
    """

    exponent: int
    error: float
    n_clipped: int
    n_left: int


@dataclass(frozen=True, eq=False)
class Weights:
    """Float weights of one projection, in v_th per spike, and the mean square input each of them is multiplied with."""

    op: Synapse
    power: FloatArray  # broadcasts against `values`
    arithmetic: Arithmetic

    @cached_property
    def values(self) -> FloatArray:
        """The weights as a matrix; its rows mean something else for every kind of synapse."""
        weight = self.op.matrix.data[None] if isinstance(self.op, Sparse) else self.op.weight
        return np.ascontiguousarray(weight, np.float64).reshape(len(weight), -1)

    @cached_property
    def run(self) -> int:
        """Pixels of a channel that share one weight (a pool folded into a matrix), 1 where they differ."""
        if not isinstance(self.op, Dense):
            return 1
        n = math.prod(self.op.in_shape[1:])
        channels = self.values.reshape(len(self.values), -1, n)
        return n if n >= _MIN_RUN and bool((channels == channels[:, :, :1]).all()) else 1

    @cached_property
    def sheet(self) -> WeightRange:
        """The chip's range for the signs that occur."""
        weights = self.arithmetic.weights
        if self.values.min(initial=0.0) >= 0:
            return weights.excitatory
        return weights.inhibitory if self.values.max(initial=0.0) <= 0 else weights.mixed

    @cached_property
    def largest(self) -> float:
        """Largest magnitude."""
        return float(max(self.values.max(initial=0.0), -self.values.min(initial=0.0)))

    @property
    def reach(self) -> int:
        """Largest mantissa that every sign which occurs can have."""
        return min(end for end in (self.sheet.maximum, -self.sheet.minimum) if end > 0)

    @property
    def fan_in(self) -> int:
        """Inputs of a neuron that has most of them."""
        match self.op:
            case Sparse(matrix):
                return int(np.diff(matrix.indptr).max(initial=0))
            case ConvTranspose2d(weight, g):
                kernel = math.prod(-(-k // s) for k, s in zip(g.kernel, g.stride, strict=True))
                return len(weight) // g.groups * kernel
            case Dense(weight) | Conv2d(weight):
                return int(weight[0].size)

    @property
    def n_rows(self) -> int:
        """Neurons whose inputs the matrix holds: all, one per channel, or one per channel and phase of the stride."""
        match self.op:
            case ConvTranspose2d(geometry=g):
                return g.out_shape[0] * math.prod(g.stride)
            case Conv2d(weight):
                return len(weight)
            case Dense() | Sparse():
                return math.prod(self.op.out_shape)

    @cached_property
    def square(self) -> float:
        """Mean over the neurons of the squared input of a step: what `Rounding.error` is compared with."""
        return float((self.values**2 * self.power).sum()) / self.n_rows

    def rounded(self, unit: int) -> Rounding:
        """The cost at `unit` integers per v_th, under the better of the exponents that suit the largest weight."""
        reach = max(self.sheet.maximum, -self.sheet.minimum)
        needed = max(0, math.ceil(math.log2(max(self.largest * unit / reach, 1.0))))
        exponents = {min(max(e, 0), self.arithmetic.weights.exponent_max) for e in (needed, needed - 1)}
        return min((self._at(unit, e) for e in sorted(exponents)), key=lambda r: r.error)

    def _at(self, unit: int, exponent: int) -> Rounding:
        s, factor, n = self.sheet, unit / (1 << exponent), self.run
        power = np.broadcast_to(self.power, self.values.shape)
        if n == 1:
            squared, n_clipped, n_left = _cost(self.values, power, factor, s.step, s.minimum, s.maximum)
        else:  # the sum over a channel is what is rounded
            totals = self.values[:, ::n] * n
            mean_power = power.reshape(len(totals), -1, n).mean(2)
            squared, n_clipped, n_left = _cost(totals, mean_power, factor, s.step, s.minimum * n, s.maximum * n)
            squared, n_clipped = squared / n, n_clipped * n
        return Rounding(exponent, squared / factor**2 / self.n_rows, n_clipped, n_left)

    def synapse(self, unit: int, exponent: int) -> IntWeights:
        """The integer synapses at this scale."""
        exact = self.values * (unit / (1 << exponent)) / self.sheet.step
        rounded = np.rint(exact) if self.run == 1 else _in_turn(exact, self.run)
        rounded *= self.sheet.step
        mantissa = np.clip(rounded, self.sheet.minimum, self.sheet.maximum).astype(np.int32)
        match self.op:
            case Dense(weight):
                return IntDense(mantissa.reshape(weight.shape))
            case Conv2d(weight, geometry):
                return IntConv2d(mantissa.reshape(weight.shape), geometry)
            case ConvTranspose2d(weight, geometry):
                return IntConvTranspose2d(mantissa.reshape(weight.shape), geometry)
            case Sparse(matrix):
                return IntSparse(mantissa.reshape(-1), matrix.indices, matrix.indptr)


def _in_turn(exact: FloatArray, n: int) -> FloatArray:
    """Whole numbers whose sum over every n columns is as near as can be to that of `exact`, which repeats n times."""
    totals = np.rint(exact[:, ::n, None] * np.arange(n + 1))
    return np.diff(totals, axis=2).reshape(exact.shape)


@compiled
def _cost(
    values: FloatArray, power: FloatArray, factor: float, step: float, minimum: float, maximum: float
) -> tuple[float, int, int]:
    """(weighted squared error in mantissas, weights clipped, weights not 0) of values [R, K] * factor on the grid."""
    total = 0.0
    n_clipped = n_left = 0
    for r in range(values.shape[0]):
        squared = 0.0
        for k in range(values.shape[1]):
            exact = values[r, k] * factor
            rounded = np.rint(exact / step) * step
            kept = min(max(rounded, minimum), maximum)
            squared += (kept - exact) ** 2 * power[r, k]
            n_clipped += kept != rounded
            n_left += kept != 0.0
        total += squared
    return total, n_clipped, n_left


def input_power(op: Synapse, power: FloatArray) -> FloatArray:
    """Mean square input of each weight, to broadcast against `Weights.values`; `power`: that of each input neuron.

    A convolution's weight is read at many places: it takes the mean over its channel.
    """
    flat = power.reshape(-1)
    match op:
        case Dense():
            return flat[None]
        case Sparse(matrix):
            return np.asarray(flat[matrix.indices][None])
        case ConvTranspose2d():
            return np.asarray(flat.reshape(op.in_shape[0], -1).mean(1)[:, None])
        case Conv2d(weight, g):
            channels = flat.reshape(g.in_shape[0], -1).mean(1).reshape(g.groups, -1)
            rows = channels if g.groups == 1 else channels.repeat(len(weight) // g.groups, 0)
            return np.repeat(rows, math.prod(g.kernel), axis=1)
