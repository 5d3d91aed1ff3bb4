"""The scale of one population: integers per threshold, chosen by the smallest rounding error every range allows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from neuroport.ann.graph import FloatArray
from neuroport.chip.rounding import Rounding, Weights
from neuroport.chip.synapses import sum_bound
from neuroport.chip.target import Target
from neuroport.errors import DoesNotFitError

_STEPS_PER_OCTAVE = 8
_SEARCH_DEPTH = 8
_FINE = 16  # mantissas of a threshold below which a smaller scale must pay
_READOUT_MARGIN = 1.5  # beyond the largest sums seen in calibration


@dataclass(frozen=True)
class Scale:
    """One scale: synaptic integers per v_th, what it does to each projection, and the sums one step can reach."""

    unit: int
    roundings: tuple[Rounding, ...] = ()
    bias_error: float = 0.0
    synaptic_sum: int = 0

    @property
    def weight_error(self) -> float:
        """Mean square error of one step's synaptic input."""
        return sum(r.error for r in self.roundings)

    @property
    def error(self) -> float:
        """Mean square error of one step's input."""
        return self.weight_error + self.bias_error


@dataclass(frozen=True, eq=False)
class ScaleSearch:
    """Looks for the scale of a population.

    weights: of its projections from spiking populations; sources: where those come from; bias_bound: largest |bias +
    input current|, in v_th per step. `driven`: reads input currents; `fires`: or only accumulates, for n_steps;
    `feeds_back`: the threshold arrives as a weight, too, where the reset takes two compartments.
    """

    name: str
    target: Target
    n_steps: int
    weights: Sequence[Weights]
    sources: Sequence[str]
    bias: FloatArray
    bias_bound: float
    driven: bool
    fires: bool
    feeds_back: bool = False

    def best(self) -> Scale:
        """The scale with the smallest error; clipping weights by up to a factor of two is allowed where it pays.

        Raises:
            DoesNotFitError: no scale brings the layer inside the ranges; layer, value, limit, chip and remedy are
            named.
        """
        top = self._largest_unit()
        if not self.weights:
            return Scale(self._unit_of_currents(top))
        best: Scale | None = None
        limit = self.target.arithmetic.synaptic_limit
        for unit in self._units(top):
            roundings = tuple(w.rounded(unit) for w in self.weights)
            if not all(r.n_left for r in roundings):
                continue
            found = Scale(unit, roundings, self._bias_error(unit))
            if best is not None and found.error > best.error:  # among equals the smallest: most room in v
                if unit * _SEARCH_DEPTH < best.unit:  # coarser scales only get worse
                    break
                continue
            is_fine = unit >= _FINE * self._grain
            if best is not None and not is_fine and found.error == best.error:
                continue  # nothing is won, and the threshold would be a handful of mantissas
            synaptic_sum = self._synaptic_sum(found)
            if synaptic_sum <= limit:
                best = Scale(unit, roundings, found.bias_error, synaptic_sum)
        if best is None:
            raise DoesNotFitError(
                f"layer '{self.name}': no scale brings its weights into {self.target.name}'s range without an overflow "
                f"or without rounding all of them to 0 ({sum(w.fan_in for w in self.weights):,} inputs per neuron, "
                f"accumulator limit {limit:,}); use a target with wider registers or fewer inputs per neuron"
            )
        return best

    def bias_exponent(self, unit: int) -> int:
        """The smallest exponent that brings every bias and input current into range at `unit` integers per v_th."""
        a = self.target.arithmetic.bias
        largest = self.bias_bound * unit
        limit = min(-a.mantissa_min, a.mantissa_max)
        exponent = a.exponent_min
        while exponent < a.exponent_max and largest / (1 << exponent) > limit - 0.5:
            exponent += 1
        return exponent

    def _synaptic_sum(self, scale: Scale) -> int:
        arriving = (
            sum_bound(w.synapse(scale.unit, r.exponent)) << r.exponent
            for w, r in zip(self.weights, scale.roundings, strict=True)
        )
        is_synaptic = self.target.arithmetic.bias.through == "synapses"
        bias = math.ceil(self.bias_bound * scale.unit) + 1 if is_synaptic and self.bias_bound else 0
        return sum(arriving) + bias + (scale.unit if self.feeds_back else 0)

    def _largest_unit(self) -> int:
        """Synaptic integers per v_th that threshold, bias and readout registers allow."""
        a = self.target.arithmetic
        reachable = min(a.threshold.mantissa_max << a.threshold.shift, a.membrane.limit - 1)
        shift = a.synaptic_shift - a.input_shift
        limits = [reachable >> shift]
        if self.bias_bound > 0:
            room = a.bias.limit - (1 << a.bias.exponent_max)  # rounding must not push the mantissa over its end
            limits.append(int(room / self.bias_bound) >> a.synaptic_shift)
        if not self.fires:
            per_step = max(_READOUT_MARGIN, self.bias_bound if self.driven else 0.0)
            limits.append(int(reachable / (self.n_steps * per_step)) >> shift)
        if min(limits) < self._grain:
            raise DoesNotFitError(
                f"layer '{self.name}': input currents and biases reach {self.bias_bound:.4g} thresholds per step over "
                f"{self.n_steps} steps, more than {self.target.name}'s bias or potential can hold; normalize the "
                f"inputs (--scale) or use fewer steps"
            )
        return min(limits)

    def _unit_of_currents(self, top: int) -> int:
        """Scale of a layer without synapses: room for n_steps of the largest current, unless that costs precision."""
        a = self.target.arithmetic
        largest = max(self.bias_bound, 1.0) * (1 << a.synaptic_shift)
        roomy = (a.membrane.limit << a.input_shift) / (self.n_steps * largest)
        precise = 2 * a.bias.mantissa_max / largest
        return self._aligned(min(top, int(max(roomy, precise))))

    def _units(self, top: int) -> Iterator[int]:
        """Scales to try: those at which a projection just fits, and a grid from twice the largest of them to 1."""
        for w, source in zip(self.weights, self.sources, strict=True):
            if not w.largest > 0:
                raise DoesNotFitError(
                    f"layer '{self.name}': all weights from '{source}' are 0, so nothing would arrive; "
                    f"check the trained weights"
                )
        fitting = [w.reach / w.largest for w in self.weights]
        start = 2.0 * max(fitting)
        grid = [start * 2 ** (-k / _STEPS_PER_OCTAVE) for k in range(64 * _STEPS_PER_OCTAVE)]
        yield from sorted({self._aligned(min(int(u), top)) for u in [*fitting, *grid] if u >= 1}, reverse=True)

    @property
    def _grain(self) -> int:
        """Units must be multiples of this for the threshold to be a whole mantissa."""
        a = self.target.arithmetic
        return 1 << max(0, a.threshold.shift - a.synaptic_shift + a.input_shift)

    def _aligned(self, unit: int) -> int:
        return max(self._grain, unit - unit % self._grain)

    @cached_property
    def _biases(self) -> tuple[FloatArray, FloatArray]:
        """The biases that occur, and the fraction of neurons with each."""
        values, counts = np.unique(self.bias, return_counts=True)
        return values, counts / max(1, self.bias.size)

    def _bias_error(self, unit: int) -> float:
        """Mean squared rounding error of a bias, or of an input current, in v_th."""
        values, fraction = self._biases
        full = unit << self.target.arithmetic.synaptic_shift
        exponent = self.bias_exponent(full)
        if self.driven:  # any number between two mantissas
            return ((1 << exponent) / full) ** 2 / 12
        exact = np.ldexp(values * full, -exponent)
        wrong = np.ldexp(np.rint(exact) - exact, exponent) / full
        return float((np.square(wrong) * fraction).sum())
