"""From the normalized float network to the integers of a chip, one scale per population, every range respected."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from neuroport.ann.graph import FloatArray
from neuroport.chip.network import IntConv2d, IntDense, IntNetwork, IntPopulation, IntProjection, IntSynapse, sum_bound
from neuroport.chip.target import Arithmetic, Target, WeightRange
from neuroport.errors import DataError, DoesNotFitError
from neuroport.snn.network import Population, SpikingNetwork
from neuroport.snn.operators import Conv2d, Dense, Synapse, merge
from neuroport.snn.rates import forward_rates

_STEPS_PER_OCTAVE = 8
_SEARCH_DEPTH = 8
_READOUT_MARGIN = 1.5  # beyond the largest sums seen in calibration


@dataclass(frozen=True)
class LayerQuantization:
    """What rounding cost one population.

    unit: membrane integers per v_th; weight_error: ||w - w_int / scale|| / ||w||, weighted by the mean square input;
    clipped: fraction of weights beyond the range; bias_error: largest rounding error of a bias, in v_th per step.
    """

    name: str
    unit: int
    exponents: tuple[int, ...]
    weight_error: float
    clipped: float
    bias_error: float
    synaptic_sum: int
    synaptic_limit: int


@dataclass(frozen=True, eq=False)
class Quantized:
    """The integer network and the account of each layer."""

    network: IntNetwork
    layers: tuple[LayerQuantization, ...]


def quantize(
    network: SpikingNetwork,
    target: Target,
    n_steps: int,
    *,
    images: NDArray[np.float32],
    input_range: tuple[float, float] | None = None,
) -> Quantized:
    """The network in the integers of `target`.

    Each population has one scale, membrane integers per v_th, chosen by the smallest rounding error over a grid of an
    eighth octave; clipping the largest weights by up to a factor of two is allowed where it lowers the error. Errors of
    weights are weighted by the mean square of what each input channel carries over `images` [N, ...], and errors of
    biases count as they are: together the mean square error of one step's input.

    Args:
        network: normalized; thresholds of 1.
        n_steps: steps per sample; a membrane readout must not reach its register's end within them.
        images: calibration samples.
        input_range: (smallest, largest) input value that input currents must hold; of `images` if None.

    Raises:
        DoesNotFitError: no scale brings a layer inside the ranges; layer, value, limit, chip and remedy are named.
    """
    if not np.issubdtype(images.dtype, np.floating):
        raise DataError(f"calibration images are {images.dtype}; give them as float32, scaled as in training")
    images = images.astype(np.float32, copy=False)
    power = _mean_square(network, images)
    low_high = input_range or (float(images.min()), float(images.max()))
    populations: list[IntPopulation] = []
    projections: list[IntProjection] = []
    layers: list[LayerQuantization] = []
    for population in network.populations:
        if population.role == "input":
            if network.encoding == "rate":
                populations.append(_spike_source(population))
            continue
        quantizer = _LayerQuantizer(network, population, target, n_steps, power, low_high)
        made, incoming, account = quantizer.run()
        populations.append(made)
        projections.extend(incoming)
        layers.append(account)
    readout = "count" if network.output.neuron.fires else "membrane"
    made_network = IntNetwork(
        target.name,
        target.arithmetic,
        tuple(populations),
        tuple(projections),
        "count" if readout == "count" else "membrane",
    )
    return Quantized(made_network, tuple(layers))


def _mean_square(network: SpikingNetwork, images: NDArray[np.float32]) -> Mapping[str, FloatArray]:
    total: dict[str, FloatArray] = {}
    for start in range(0, len(images), 250):
        batch = torch.from_numpy(images[start : start + 250])
        for name, value in forward_rates(network, batch, clip=True):
            square = value.double().square().sum(0).numpy()
            total[name] = total.get(name, np.zeros_like(square)) + square
    # a floor, so that weights of inputs that are silent here still count a little
    return {n: s / len(images) + 1e-3 * max(float(s.mean()) / len(images), 1e-12) for n, s in total.items()}


def _spike_source(population: Population) -> IntPopulation:
    zeros = np.zeros(population.shape, np.int32)
    return IntPopulation(population.name, population.shape, "input", 1, zeros, 0, 0, "subtract", 0, 0, False, 1)


@dataclass(frozen=True)
class _Candidate:
    """One scale tried: synaptic integers per v_th, mantissas and exponents, squared errors, clipped weights."""

    unit: int
    weights: tuple[tuple[NDArray[np.int32], int], ...]
    weight_error: float
    bias_error: float
    n_clipped: int
    synaptic_sum: int

    @property
    def error(self) -> float:
        """Mean square error of one step's input, summed over the rows of weights."""
        return self.weight_error + self.bias_error


class _LayerQuantizer:
    """Finds the scale of one population and rounds everything that belongs to it."""

    def __init__(
        self,
        network: SpikingNetwork,
        population: Population,
        target: Target,
        n_steps: int,
        power: Mapping[str, FloatArray],
        input_range: tuple[float, float],
    ) -> None:
        self.population, self.target, self.n_steps = population, target, n_steps
        self.arithmetic: Arithmetic = target.arithmetic
        self.name, self.fires = population.name, population.neuron.fires
        incoming = network.incoming[population.name]
        analog = network.encoding == "current"
        self.driven = any(analog and j.pre == network.input.name for j in incoming)
        self.synaptic = [j for j in incoming if not (analog and j.pre == network.input.name)]
        self.operators: list[Synapse] = [merge(j.operator) for j in self.synaptic]
        self.power = [_input_power(op, power[j.pre]) for op, j in zip(self.operators, self.synaptic, strict=True)]
        self.bias_bound = self._largest_bias(network, input_range)

    def run(self) -> tuple[IntPopulation, tuple[IntProjection, ...], LayerQuantization]:
        best = self._best_candidate()
        shift, a = self.arithmetic.threshold.shift, self.arithmetic
        unit = best.unit << a.synaptic_shift
        threshold = unit >> shift if self.fires else min(a.threshold.mantissa_max, (a.membrane.limit - 1) >> shift)
        exponent = self._bias_exponent(unit)
        exact = self.population.bias * unit
        mantissa = np.rint(np.ldexp(exact, -exponent)).astype(np.int32)
        neuron = self.population.neuron
        made = IntPopulation(
            self.name,
            self.population.shape,
            self.population.role,
            threshold,
            np.zeros_like(mantissa) if self.driven else mantissa,  # a driven layer's bias is part of its currents
            exponent,
            self._v_init(unit),
            neuron.reset if self.fires else a.resets[0],
            round((1.0 - neuron.leak) * (1 << a.decay_bits)),
            self.population.clamp_until,
            self.driven,
            unit,
        )
        incoming = tuple(
            IntProjection(j.pre, j.post, _synapse(op, m), e)
            for j, op, (m, e) in zip(self.synaptic, self.operators, best.weights, strict=True)
        )
        scale = sum(float((_rows(op.weight) ** 2 * p).sum()) for op, p in zip(self.operators, self.power, strict=True))
        n_weights = sum(op.weight.size for op in self.operators)
        account = LayerQuantization(
            self.name,
            unit,
            tuple(e for _, e in best.weights),
            math.sqrt(best.weight_error / scale) if scale else 0.0,
            best.n_clipped / n_weights if n_weights else 0.0,
            float(np.abs(np.ldexp(mantissa.astype(np.float64), exponent) - exact).max(initial=0.0)) / unit,
            best.synaptic_sum,
            a.synaptic_limit,
        )
        return made, incoming, account

    def _v_init(self, unit: int) -> int:
        """v_init in membrane integers.

        Where the chip fires strictly above the threshold, one integer more makes a neuron that is reset by
        subtraction fire at v >= v_th, as the float one does. Lava's own LIF, reset to zero, starts at 0.
        """
        neuron, a = self.population.neuron, self.arithmetic
        if not self.fires or (neuron.reset == "zero" and neuron.v_init == 0) or not a.v_init:
            return round(neuron.v_init * unit) if self.fires else 0
        return round(neuron.v_init * unit) + (1 if a.threshold.compare == ">" else 0)

    def _largest_bias(self, network: SpikingNetwork, input_range: tuple[float, float]) -> float:
        """Largest |bias + input current| any input within the range can ask for, in v_th per step."""
        high = low = self.population.bias.reshape(-1).astype(np.float64)
        for j in network.incoming[self.name]:
            if j.pre == network.input.name and self.driven:
                op = merge(j.operator)
                weights = _rows(op.weight)
                is_padded = isinstance(op, Conv2d) and op.geometry.padding != (0, 0)
                inputs = np.array([*input_range, 0.0] if is_padded else input_range)  # a border reads zeros
                ends = np.sort([weights * inputs.min(), weights * inputs.max()], axis=0).sum(2)
                per_neuron = len(high) // len(weights)
                low, high = low + np.repeat(ends[0], per_neuron), high + np.repeat(ends[1], per_neuron)
        return float(max(np.abs(low).max(), np.abs(high).max()))

    def _bias_exponent(self, unit: int) -> int:
        a = self.arithmetic.bias
        largest = self.bias_bound * unit
        limit = min(-a.mantissa_min, a.mantissa_max)
        exponent = 0
        while exponent < a.exponent_max and largest / (1 << exponent) > limit - 0.5:
            exponent += 1
        return exponent

    def _largest_unit(self) -> int:
        """Synaptic integers per v_th that threshold, bias and readout registers allow."""
        a = self.arithmetic
        reachable = min(a.threshold.mantissa_max << a.threshold.shift, a.membrane.limit - 1)
        limits = [reachable >> a.synaptic_shift]
        if self.bias_bound > 0:
            room = a.bias.limit - (1 << a.bias.exponent_max)  # rounding must not push the mantissa over its end
            limits.append(int(room / self.bias_bound) >> a.synaptic_shift)
        if not self.fires:
            per_step = max(_READOUT_MARGIN, self.bias_bound if self.driven else 0.0)
            limits.append(int(reachable / (self.n_steps * per_step)) >> a.synaptic_shift)
        if min(limits) < self._grain:
            raise DoesNotFitError(
                f"layer '{self.name}': input currents and biases reach {self.bias_bound:.4g} thresholds per step over "
                f"{self.n_steps} steps, more than {self.target.name}'s bias or potential can hold; normalize the "
                f"inputs (--scale) or use fewer steps"
            )
        return min(limits)

    def _best_candidate(self) -> _Candidate:
        top = self._largest_unit()
        if not self.operators:
            return _Candidate(self._unit_of_currents(top), (), 0.0, 0.0, 0, 0)
        best: _Candidate | None = None
        for unit in self._units(top):
            candidate = self._try(unit)
            is_silent = not all(m.any() for m, _ in candidate.weights)
            if is_silent or candidate.synaptic_sum > self.arithmetic.synaptic_limit:
                continue
            if best is None or candidate.error <= best.error:  # among equals the smallest: most room in v
                best = candidate
            elif unit * _SEARCH_DEPTH < best.unit:  # coarser scales only get worse
                break
        if best is None:
            raise DoesNotFitError(
                f"layer '{self.name}': no scale brings its weights into {self.target.name}'s range without an overflow "
                f"or without rounding all of them to 0 ({self._fan_in():,} inputs per neuron, accumulator limit "
                f"{self.arithmetic.synaptic_limit:,}); use a target with wider registers or fewer inputs per neuron"
            )
        return best

    def _unit_of_currents(self, top: int) -> int:
        """Scale of a layer without synapses: room for n_steps of the largest current, unless that costs precision."""
        a = self.arithmetic
        largest = max(self.bias_bound, 1.0) * (1 << a.synaptic_shift)
        roomy = a.membrane.limit / (self.n_steps * largest)
        precise = 2 * a.bias.mantissa_max / largest
        return self._aligned(min(top, int(max(roomy, precise))))

    def _units(self, top: int) -> Iterator[int]:
        """Scales to try: those at which a projection just fits, and a grid from twice the largest of them to 1."""
        largest = [float(np.abs(op.weight).max()) for op in self.operators]
        for op, magnitude in zip(self.synaptic, largest, strict=True):
            if not magnitude > 0:
                raise DoesNotFitError(
                    f"layer '{self.name}': all weights from '{op.pre}' are 0, so nothing would arrive; "
                    f"check the trained weights"
                )
        sheets = [_weight_range(op.weight, self.arithmetic) for op in self.operators]
        reach = [min(end for end in (s.maximum, -s.minimum) if end > 0) for s in sheets]
        fitting = [r / magnitude for r, magnitude in zip(reach, largest, strict=True)]
        start = 2.0 * max(fitting)
        grid = [start * 2 ** (-k / _STEPS_PER_OCTAVE) for k in range(64 * _STEPS_PER_OCTAVE)]
        yield from sorted({self._aligned(min(int(u), top)) for u in [*fitting, *grid] if u >= 1}, reverse=True)

    @property
    def _grain(self) -> int:
        """Units must be multiples of this for the threshold to be a whole mantissa."""
        return 1 << max(0, self.arithmetic.threshold.shift - self.arithmetic.synaptic_shift)

    def _aligned(self, unit: int) -> int:
        return max(self._grain, unit - unit % self._grain)

    def _try(self, unit: int) -> _Candidate:
        weights, error, n_clipped, total = [], 0.0, 0, 0
        for op, power in zip(self.operators, self.power, strict=True):
            mantissa, exponent, squared, clipped = self._round(op, unit, power)
            weights.append((mantissa, exponent))
            error += squared
            n_clipped += clipped
            total += sum_bound(_synapse(op, mantissa)) << exponent
        return _Candidate(unit, tuple(weights), error, self._bias_error(unit), n_clipped, total)

    def _bias_error(self, unit: int) -> float:
        """Mean squared rounding error of a bias in v_th, times the rows of weights it is added to."""
        full = unit << self.arithmetic.synaptic_shift
        exact = np.ldexp(self.population.bias * full, -self._bias_exponent(full))
        wrong = np.ldexp(np.rint(exact) - exact, self._bias_exponent(full)) / full
        return float(np.square(wrong).mean()) * len(self.operators[0].weight)

    def _round(self, op: Synapse, unit: int, power: FloatArray) -> tuple[NDArray[np.int32], int, float, int]:
        """Mantissas, exponent, weighted squared error in v_th, and clipped weights at this scale."""
        sheet = _weight_range(op.weight, self.arithmetic)
        reach = max(sheet.maximum, -sheet.minimum)
        needed = max(0, math.ceil(math.log2(max(float(np.abs(op.weight).max()) * unit / reach, 1.0))))
        found: tuple[NDArray[np.int32], int, float, int] | None = None
        for exponent in {min(max(e, 0), self.arithmetic.weights.exponent_max) for e in (needed, needed - 1)}:
            exact = op.weight * (unit / (1 << exponent))
            rounded = np.rint(exact / sheet.step) * sheet.step
            mantissa = np.clip(rounded, sheet.minimum, sheet.maximum)
            wrong = (mantissa - exact) * ((1 << exponent) / unit)
            squared = float((_rows(wrong) ** 2 * power).sum())
            if found is None or squared < found[2]:
                found = (mantissa.astype(np.int32), exponent, squared, int((rounded != mantissa).sum()))
        return cast("tuple[NDArray[np.int32], int, float, int]", found)

    def _fan_in(self) -> int:
        return sum(op.weight[0].size for op in self.operators)


def _weight_range(weight: FloatArray, arithmetic: Arithmetic) -> WeightRange:
    if weight.min() >= 0:
        return arithmetic.weights.excitatory
    return arithmetic.weights.inhibitory if weight.max() <= 0 else arithmetic.weights.mixed


def _rows(weight: FloatArray) -> FloatArray:
    return weight.reshape(len(weight), -1)


def _input_power(op: Synapse, power: FloatArray) -> FloatArray:
    """Mean square input of each weight of a row: [n_in], or [C_out, C_in / groups * kH * kW] from channel means."""
    if isinstance(op, Dense):
        return power.reshape(1, -1)
    per_group = op.weight.shape[1]
    group = np.arange(len(op.weight)) // (len(op.weight) // op.geometry.groups)
    channels = power.reshape(op.in_shape[0], -1).mean(1)[group[:, None] * per_group + np.arange(per_group)[None, :]]
    return np.repeat(channels, math.prod(op.geometry.kernel), axis=1)


def _synapse(op: Synapse, mantissa: NDArray[np.int32]) -> IntSynapse:
    return IntConv2d(mantissa, op.geometry) if isinstance(op, Conv2d) else IntDense(mantissa)
