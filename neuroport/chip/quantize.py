"""From the normalized float network to the integers of a chip, one scale per population, every range respected."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from neuroport.ann.graph import FloatArray
from neuroport.chip.bounds import value_range
from neuroport.chip.network import IntHead, IntNetwork, IntPopulation, IntProjection
from neuroport.chip.rounding import Weights, input_power
from neuroport.chip.scale_search import Scale, ScaleSearch
from neuroport.chip.synapses import IntWindow
from neuroport.chip.target import Arithmetic, Target
from neuroport.errors import DataError, DoesNotFitError
from neuroport.snn.network import Gate, Neuron, Population, Projection, SpikingNetwork
from neuroport.snn.operators import Window
from neuroport.snn.rates import forward_rates
from neuroport.snn.sparse import materialize

_BATCH = 250
_BATCH_ELEMENTS = 1 << 24


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
    if network.encoding == "events" and images.ndim > len(network.input.shape) + 1:
        images = images.mean(1, dtype=np.float32)  # spikes [N, T, ...]: their rates
    if not np.issubdtype(images.dtype, np.floating):
        raise DataError(f"calibration images are {images.dtype}; give them as float32, scaled as in training")
    images = images.astype(np.float32, copy=False)
    low_high = input_range or (float(images.min()), float(images.max()))
    return _Quantizer(network, target, n_steps, images, low_high).run()


def _mean_square(network: SpikingNetwork, images: NDArray[np.float32]) -> Mapping[str, FloatArray]:
    total: dict[str, FloatArray] = {}
    size = max(1, min(_BATCH, _BATCH_ELEMENTS // max(p.n_neurons for p in network.populations)))
    for start in range(0, len(images), size):
        batch = torch.from_numpy(images[start : start + size])
        for name, value in forward_rates(network, batch, clip=True):
            square = value.double().square().sum(0).numpy()
            total[name] = total.get(name, np.zeros_like(square)) + square
    # a floor, so that weights of inputs that are silent here still count a little
    return {n: s / len(images) + 1e-3 * max(float(s.mean()) / len(images), 1e-12) for n, s in total.items()}


def _without_neurons(population: Population, *, gate: bool) -> IntPopulation:
    """A spike source or a max-pool gate: nothing of it is rounded."""
    return IntPopulation(
        name=population.name,
        shape=population.shape,
        role=population.role,
        threshold_mantissa=1,
        bias_mantissa=np.zeros(population.shape, np.int32),
        bias_exponent=0,
        v_init_int=0,
        reset="subtract",
        decay=0,
        clamp_until=0,
        driven=False,
        unit=1,
        gate=gate,
    )


class _Quantizer:
    """Rounds one population after the other."""

    def __init__(
        self,
        network: SpikingNetwork,
        target: Target,
        n_steps: int,
        images: NDArray[np.float32],
        input_range: tuple[float, float],
    ) -> None:
        self.network, self.target, self.n_steps = network, target, n_steps
        self.images, self.input_range = images, input_range
        self.power = _mean_square(network, images)
        self.populations: list[IntPopulation] = []
        self.projections: list[IntProjection] = []
        self.layers: list[LayerQuantization] = []

    def run(self) -> Quantized:
        for p in self.network.populations:
            if p.role == "input":
                if self.network.encoding != "current":
                    self.populations.append(_without_neurons(p, gate=False))
            elif isinstance(p.neuron, Gate):
                self._add_gate(p)
            else:
                self._add(p, p.neuron)
        heads = tuple(
            IntHead(head.population, "count" if self.network.by_name[head.population].neuron.fires else "membrane")
            for head in self.network.outputs
        )
        made = IntNetwork(
            self.target.name, self.target.arithmetic, tuple(self.populations), tuple(self.projections), heads
        )
        return Quantized(made, tuple(self.layers))

    def _is_current(self, projection: Projection) -> bool:
        return self.network.encoding == "current" and projection.pre == self.network.input.name

    def _add_gate(self, p: Population) -> None:
        (j,) = self.network.incoming[p.name]
        if self._is_current(j) or not isinstance(j.operator, Window):
            raise DoesNotFitError(
                f"layer '{p.name}' is a max-pool gate over the input's analog values; gates pass spikes; use a recipe "
                f"with `input: rate`, or with `max_pool: expand`"
            )
        window = IntWindow(j.operator.op, j.operator.in_shape, j.operator.out_shape)
        self.populations.append(_without_neurons(p, gate=True))
        self.projections.append(IntProjection(j.pre, j.post, window))
        self.layers.append(LayerQuantization(p.name, 1, (0,), 0.0, 0.0, 0.0, 0, self.target.arithmetic.synaptic_limit))

    def _add(self, p: Population, neuron: Neuron) -> None:
        a = self.target.arithmetic
        incoming = self.network.incoming[p.name]
        synaptic = [j for j in incoming if not self._is_current(j)]
        driven = len(synaptic) < len(incoming)
        weights = [self._weights(j) for j in synaptic]
        bound = self._largest_bias(p)
        sources = [j.pre for j in synaptic]
        feeds_back = neuron.fires and neuron.reset in a.two_compartments
        search = ScaleSearch(
            p.name, self.target, self.n_steps, weights, sources, p.bias, bound, driven, neuron.fires, feeds_back
        )
        best = search.best()
        input_unit = best.unit << a.synaptic_shift
        unit = input_unit >> a.input_shift
        exponent = search.bias_exponent(input_unit)
        exact = p.bias * input_unit
        mantissa = np.rint(np.ldexp(exact, -exponent)).astype(np.int32)
        shift = a.threshold.shift
        # v > unit never holds for a sum of exactly one threshold; without bias v moves in steps of a mantissa
        is_strict = a.threshold.compare == ">" and neuron.reset == "zero" and not (driven or p.bias.any())
        unreachable = min(a.threshold.mantissa_max, (a.membrane.limit - 1) >> shift)
        self.populations.append(
            IntPopulation(
                name=p.name,
                shape=p.shape,
                role=p.role,
                threshold_mantissa=max(1, (unit >> shift) - is_strict) if neuron.fires else unreachable,
                # a driven layer's bias is part of its currents
                bias_mantissa=np.zeros_like(mantissa) if driven else mantissa,
                bias_exponent=exponent,
                v_init_int=round(neuron.v_init * unit / (1 << shift)) << shift
                if is_strict
                else self._v_init(neuron, unit),
                reset=neuron.reset if neuron.fires else a.resets[0],
                decay=round((1.0 - neuron.leak) * (1 << a.decay_bits)),
                clamp_until=p.clamp_until,
                driven=driven,
                unit=unit,
            )
        )
        for j, w, r in zip(synaptic, weights, best.roundings, strict=True):
            self.projections.append(IntProjection(j.pre, j.post, w.synapse(best.unit, r.exponent), r.exponent))
        wrong = np.abs(np.ldexp(mantissa.astype(np.float64), exponent) - exact)
        self.layers.append(_account(p.name, unit, weights, best, float(wrong.max(initial=0.0)) / input_unit, a))

    def _weights(self, j: Projection) -> Weights:
        op = materialize(j.operator, j.post)
        return Weights(op, input_power(op, self.power[j.pre]), self.target.arithmetic)

    def _v_init(self, neuron: Neuron, unit: int) -> int:
        """v_init in membrane integers.

        Where the chip fires strictly above the threshold, one integer more makes a neuron that is reset by
        subtraction fire at v >= v_th, as the float one does. Lava's own LIF, reset to zero, starts at 0.
        """
        a = self.target.arithmetic
        if not neuron.fires or (neuron.reset == "zero" and neuron.v_init == 0) or not a.v_init:
            return round(neuron.v_init * unit) if neuron.fires else 0
        return round(neuron.v_init * unit) + (1 if a.threshold.compare == ">" else 0)

    def _largest_bias(self, p: Population) -> float:
        """Largest |bias + input current| any input within the range can ask for, in v_th per step."""
        high = low = p.bias.reshape(-1).astype(np.float64)
        for j in self.network.incoming[p.name]:
            if self._is_current(j):
                ends = value_range(j.operator, self.input_range, self.images)
                low, high = low + ends[0], high + ends[1]
        return float(max(np.abs(low).max(), np.abs(high).max()))


def _account(
    name: str, unit: int, weights: Sequence[Weights], best: Scale, bias_error: float, a: Arithmetic
) -> LayerQuantization:
    square = sum(w.square for w in weights)
    n_weights = sum(w.values.size for w in weights)
    return LayerQuantization(
        name,
        unit,
        tuple(r.exponent for r in best.roundings),
        math.sqrt(best.weight_error / square) if square else 0.0,
        sum(r.n_clipped for r in best.roundings) / n_weights if n_weights else 0.0,
        bias_error,
        best.synaptic_sum,
        a.synaptic_limit,
    )
