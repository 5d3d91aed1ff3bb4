"""The float simulator turned round: one population after the other, each over all steps, as calibration needs it.

The neurons are those of snn/neuron.py. A population's input does not change while its own constants are looked for,
so it is computed once and integrated as often as needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from neuroport.ann.graph import FloatArray
from neuroport.snn.encode import encode_spikes
from neuroport.snn.gate import GateState
from neuroport.snn.network import Gate, Neuron, Population, SpikingNetwork
from neuroport.snn.neuron import integrate
from neuroport.snn.operators import Linear, Operator, Window, prepared

_MAX_HELD = 1 << 28  # numbers of one population's input that are held at a time; beyond it they are computed anew


@dataclass(frozen=True, eq=False)
class Drive:
    """What arrives at one population of a batch.

    constant: [N, *shape], its bias and input currents; steps: what the spikes of each step add, [N, *shape], None
    where there are none.
    """

    constant: torch.Tensor
    steps: Steps

    def at(self, t: int) -> torch.Tensor:
        """The input of step t, [N, *shape], in v_th."""
        arriving = self.steps.at(t)
        return self.constant if arriving is None else self.constant + arriving


class Steps:
    """Synaptic input of each step, held where it is small enough."""

    def __init__(self, run: Layerwise, p: Population) -> None:
        self.run, self.p = run, p
        size = run.n_samples * run.n_steps * p.n_neurons
        self.held: dict[int, torch.Tensor | None] | None = {} if size <= _MAX_HELD else None

    def at(self, t: int) -> torch.Tensor | None:
        """Of step t, [N, *shape]; None where no spikes can arrive."""
        if self.held is None:
            return self.run.arriving(self.p, t)
        if t not in self.held:
            self.held[t] = self.run.arriving(self.p, t)
        return self.held[t]


class Layerwise:
    """One batch on its way through a network.

    Populations are asked for in the network's order: `drive` says what arrives at one, `integrate` what it would fire
    with an offset, `fire` sets its spikes, which those behind it then receive. `network` may be exchanged between
    populations for one that differs in constants of those still to come.
    """

    def __init__(self, network: SpikingNetwork, samples: NDArray[np.generic], n_steps: int) -> None:
        self.network, self.n_samples, self.n_steps = network, len(samples), n_steps
        self.analog: torch.Tensor | None = None
        self.spikes: dict[str, torch.Tensor] = {}
        self.functions: dict[Operator, Linear] = {}
        self.last_use = {j.pre: j.post for p in network.populations for j in network.incoming[p.name]}
        if network.encoding == "current":
            self.analog = torch.as_tensor(samples, dtype=torch.float32).reshape(self.n_samples, -1)
        else:
            spikes = encode_spikes(network, samples, n_steps)
            self.spikes[network.input.name] = torch.from_numpy(np.ascontiguousarray(spikes.swapaxes(0, 1)))

    def arriving(self, p: Population, t: int) -> torch.Tensor | None:
        """What the spikes of step t add to a population, [N, *shape]; None without spiking inputs."""
        total: torch.Tensor | None = None
        for j in self.network.incoming[p.name]:
            if j.pre in self.spikes:
                one = self.applied(j.operator, self.spikes[j.pre][t].to(torch.float32), p)
                total = one if total is None else total.add_(one)
        return total

    def applied(self, op: Operator, x: torch.Tensor, p: Population) -> torch.Tensor:
        """What an operator hands a population, [N, *shape]; prepared at its first use."""
        if op not in self.functions:
            self.functions[op] = prepared(op, torch.float32)
        return self.functions[op](x).reshape(self.n_samples, *p.shape)

    def drive(self, p: Population) -> Drive:
        """What arrives at a population whose inputs have fired."""
        shape = (self.n_samples, *p.shape)
        constant = torch.as_tensor(p.bias, dtype=torch.float32).expand(shape)
        for j in self.network.incoming[p.name]:
            if self.analog is not None and j.pre == self.network.input.name:
                constant = constant + self.applied(j.operator, self.analog, p)
        return Drive(constant, Steps(self, p))

    def integrate(self, p: Population, drive: Drive, gain: FloatArray, offset: FloatArray) -> torch.Tensor:
        """Spikes [T, N, *shape] uint8 of a population that receives gain [C] times the drive plus offset [C]."""
        neuron = p.neuron
        if not isinstance(neuron, Neuron):
            raise TypeError(f"gate '{p.name}' does not integrate")
        v = torch.full(drive.constant.shape, neuron.v_init, dtype=drive.constant.dtype)
        factor, shift = (
            torch.as_tensor(x, dtype=v.dtype).reshape(-1, *[1] * (len(p.shape) - 1)) for x in (gain, offset)
        )
        spikes = torch.zeros((self.n_steps, *v.shape), dtype=torch.uint8)
        for t in range(p.clamp_until, self.n_steps):
            integrate(v, (drive.at(t) * factor).add_(shift).contiguous(), neuron, spikes[t])
        return spikes

    def fire(self, p: Population, spikes: torch.Tensor) -> None:
        """Hand on a population's spikes, and forget those nobody needs any more."""
        self.spikes[p.name] = spikes
        for j in self.network.incoming[p.name]:
            if self.last_use[j.pre] == p.name:
                self.spikes.pop(j.pre, None)

    def gate(self, p: Population) -> torch.Tensor:
        """Spikes [T, N, *shape] that pass a max-pool gate."""
        (j,) = self.network.incoming[p.name]
        if not (isinstance(p.neuron, Gate) and isinstance(j.operator, Window)):
            raise TypeError(f"population '{p.name}' is no max-pool gate")
        state = GateState(j.operator, self.n_samples)
        passed = [state.step(t, self.spikes[j.pre][t]) for t in range(self.n_steps)]
        return torch.stack(passed).reshape(self.n_steps, self.n_samples, *p.shape)
