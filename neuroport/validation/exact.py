"""One population of the integer network computed exactly, all others as the chip computes them.

What it hands on is then an analog value in every step, its activation for the mean rates that arrive: the populations
behind receive it as a current. Or, with its float weights and neuron, spikes. Either way the core does the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from neuroport.ann.graph import FloatArray
from neuroport.chip.core import run_core
from neuroport.chip.core.dense import operator_of
from neuroport.chip.core.record import CoreRun, Record
from neuroport.chip.inputs import IntInputs
from neuroport.chip.network import IntNetwork
from neuroport.chip.synapses import IntWindow
from neuroport.normalize.scales import Normalized
from neuroport.snn.encode import rate_spikes
from neuroport.snn.layerwise import Layerwise
from neuroport.snn.network import Gate, Population
from neuroport.snn.operators import apply

Values = NDArray[np.float64]


def all_driven(network: IntNetwork) -> IntNetwork:
    """The same network with every bias handed to it with the inputs, so that samples can have currents of their own."""
    finest = network.arithmetic.bias.exponent_min
    populations = tuple(
        p
        if p.role == "input" or p.gate
        else replace(p, driven=True, bias_exponent=finest, bias_mantissa=np.zeros_like(p.bias_mantissa))
        for p in network.populations
    )
    return replace(network, populations=populations)


@dataclass(frozen=True, eq=False)
class Bench:
    """A batch of samples on the integer network, ready to have one population exchanged.

    normalized: the float network that `network` was rounded from; driven: all_driven(network); inputs: of `network`;
    samples: what the float network is shown, [N, ...] images or [N, T, ...] spikes.
    """

    normalized: Normalized
    network: IntNetwork
    driven: IntNetwork
    inputs: IntInputs
    samples: NDArray[np.generic]

    @property
    def _finest(self) -> int:
        """The smallest exponent of a bias on the chip."""
        return self.network.arithmetic.bias.exponent_min

    @cached_property
    def currents(self) -> dict[str, NDArray[np.int32]]:
        """What each neuron receives besides spikes in every step, [N, *shape], mantissas of the finest exponent."""
        found = {}
        for p in self.driven.populations:
            if p.driven:
                own = self.network.by_name[p.name]
                mantissa = self.inputs.currents[p.name] if own.driven else own.bias_mantissa[None]
                shift = max(0, own.bias_exponent - self._finest)  # what has no bias may have a smaller one
                found[p.name] = np.broadcast_to(mantissa << shift, (self.inputs.n_samples, *p.shape))
        return found

    @cached_property
    def base(self) -> CoreRun:
        """The network as it is, all spikes kept."""
        every = [p.name for p in self.network.populations]
        return run_core(self.driven, replace(self.inputs, currents=self.currents), record=Record(every, every))

    def rates(self, name: str) -> Values:
        """Mean rate of each neuron while its population runs, [N, *shape]."""
        n_steps = max(1, self.inputs.n_steps - self.network.by_name[name].clamp_until)
        found: Values = self.base.counts[name] / n_steps
        return found

    def with_spikes(self, p: Population) -> CoreRun:
        """The run in which a population's spikes are those of its float weights and neuron."""
        run = Layerwise(self.normalized.network, self.samples, self.inputs.n_steps)
        for j in self.normalized.network.incoming[p.name]:
            if j.pre in self.base.rasters:
                raster = self.base.rasters[j.pre].unpack().swapaxes(0, 1)
                run.spikes[j.pre] = torch.from_numpy(np.ascontiguousarray(raster))
        n_channels = p.shape[0]
        spikes = run.integrate(p, run.drive(p), np.ones(n_channels), np.zeros(n_channels))
        return self._run({}, {p.name: np.ascontiguousarray(spikes.numpy().swapaxes(0, 1))})

    def with_values(self, p: Population, values: Values) -> CoreRun:
        """The run in which a population hands on analog values [N, *shape], in spikes per step."""
        behind = [j for j in self.driven.projections if j.pre == p.name]
        if any(isinstance(j.synapse, IntWindow) for j in behind):  # a gate passes spikes
            return self._run({}, {p.name: rate_spikes(values.clip(0, 1), self.inputs.n_steps)})
        silent = np.broadcast_to(np.uint8(0), (self.inputs.n_samples, self.inputs.n_steps, *p.shape))
        changed: dict[str, NDArray[np.int32]] = {}
        for j in behind:
            arriving = apply(operator_of(j, p.n_neurons), torch.from_numpy(values)).numpy()
            current = np.rint(np.ldexp(arriving, self.network.arithmetic.synaptic_shift - self._finest))
            before = changed.get(j.post, self.currents[j.post])
            total = before + current.reshape(before.shape)  # above what spikes can bring, where rates are above 1
            end = self.network.arithmetic.current.limit >> self._finest
            changed[j.post] = total.clip(-end, end).astype(np.int32)
        return self._run(changed, {p.name: silent})

    def _run(self, currents: dict[str, NDArray[np.int32]], forced: dict[str, NDArray[np.uint8]]) -> CoreRun:
        return run_core(self.driven, replace(self.inputs, currents={**self.currents, **currents}), forced=forced)

    def activation(self, p: Population, *, clip: bool) -> Values:
        """What a population would hand on for the rates that arrive, [N, *shape], in spikes per step.

        With `clip` it ends at one spike per step; without, at nothing but a ceiling the layer was trained with.
        """
        exact = self.normalized.exact
        own = exact.network.by_name[p.name]
        total = torch.as_tensor(own.bias, dtype=torch.float64).expand(self.inputs.n_samples, *p.shape)
        for j in exact.network.incoming[p.name]:
            arriving = apply(j.operator, torch.from_numpy(self._signal(j.pre)))
            total = arriving if isinstance(p.neuron, Gate) else total + arriving.reshape(total.shape)
        value: Values = total.reshape(-1, *p.shape).numpy() / self._to_exact(p)
        if not p.neuron.fires or (p.is_linear and not clip):
            return value
        ceiling: float | FloatArray = 1.0 if clip else np.inf
        if own.saturation is not None:
            ceiling = np.minimum(ceiling, _as_axes(own.saturation.ceiling, p) / self._to_exact(p))
        return np.clip(value, 0.0, ceiling)

    def _signal(self, name: str) -> Values:
        """What a population hands on in the run as it is, in units of the exact network; of the input what is shown."""
        network = self.normalized.network
        if name == network.input.name and network.encoding == "current":
            return self.samples.astype(np.float64).reshape(-1, *network.input.shape)
        return self.rates(name) * self._to_exact(network.by_name[name])

    def _to_exact(self, p: Population) -> FloatArray:
        """Rates of the exact network per rate of this one: a correction may have made spikes larger."""
        ratio = self.normalized.scales[p.name] / self.normalized.exact.scales[p.name]
        return _as_axes(ratio, p)


def _as_axes(values: FloatArray, p: Population) -> FloatArray:
    return values.reshape(-1, *[1] * (len(p.shape) - 1))
