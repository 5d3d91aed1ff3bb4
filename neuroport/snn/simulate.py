"""The float simulator: integrate-and-fire neurons in torch, layer-synchronous, one step after the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from neuroport.snn.encode import encode_spikes
from neuroport.snn.gate import GateState
from neuroport.snn.network import Gate, Neuron, Population, SpikingNetwork
from neuroport.snn.operators import Window, apply


@dataclass(frozen=True, eq=False)
class OverTime:
    """What the first output showed after each step.

    counts: spikes so far, [N, T, n_out] int32, None where the output does not fire; potentials: [N, T, n_out] in the
    simulation's dtype, of a firing output those it would have if it did not fire, None of a gate, which has none.
    """

    counts: NDArray[np.int32] | None
    potentials: NDArray[np.floating] | None


@dataclass(frozen=True, eq=False)
class FloatRun:
    """What a simulation returns.

    counts: spikes per neuron, [N, *shape] int32 for each population; readouts: for each output population
    [N, n_out] float64, spike counts or membrane potentials after the last step; potentials: of the outputs a spiking
    softmax reads, [N, T, n_out] after each step; rasters: [N, T, *shape] uint8 of the populations asked for;
    over_time: the first output after every step, if asked for.
    """

    counts: Mapping[str, NDArray[np.int32]]
    readouts: Mapping[str, NDArray[np.float64]]
    potentials: Mapping[str, NDArray[np.float64]]
    rasters: Mapping[str, NDArray[np.uint8]]
    output: str
    over_time: OverTime | None = None

    @property
    def readout(self) -> NDArray[np.float64]:
        """The first output's numbers: the class scores."""
        return self.readouts[self.output]


def simulate(
    network: SpikingNetwork,
    images: NDArray[np.generic],
    n_steps: int,
    *,
    record: tuple[str, ...] = (),
    over_time: bool = False,
    dtype: torch.dtype = torch.float32,
) -> FloatRun:
    """Run images [N, ...], or event data [N, T, ...], for n_steps.

    `record` keeps the spikes of populations at every step, `over_time` what the first output shows. Within step t a
    population sees the step-t spikes of its inputs. Spike counts of float32 runs can differ by one at the threshold
    with the order of summation; float64 and dyadic weights make them exact.
    """
    state = _State(network, np.asarray(images), n_steps, record, dtype)
    watch = _Watch(network, state, n_steps) if over_time else None
    with torch.no_grad():
        for t in range(n_steps):
            state.step(t)
            if watch is not None:
                watch.step(t)
    return replace(state.result(), over_time=None if watch is None else watch.result())


def fire(v: torch.Tensor, neuron: Neuron) -> tuple[torch.Tensor, torch.Tensor]:
    """(who fires, potentials after the reset) of potentials in v_th.

    Source: Rueckauer et al. 2016, eq. 4a (reset to zero) and 4b (reset by subtraction).
    """
    fired = v >= neuron.v_th
    return fired, v.masked_fill(fired, 0.0) if neuron.reset == "zero" else v - fired.to(v.dtype) * neuron.v_th


class _State:
    """Potentials, spikes of the current step and counts of one batch."""

    def __init__(
        self,
        network: SpikingNetwork,
        images: NDArray[np.generic],
        n_steps: int,
        record: tuple[str, ...],
        dtype: torch.dtype,
    ) -> None:
        self.network, self.n, self.dtype = network, len(images), dtype
        self.input_spikes: torch.Tensor | None = None
        if network.encoding != "current":
            self.input_spikes = torch.from_numpy(encode_spikes(network, images, n_steps))
        analog = torch.zeros(0, dtype=dtype)
        if network.encoding == "current":
            analog = torch.as_tensor(images, dtype=dtype).reshape(self.n, -1)
        self.v: dict[str, torch.Tensor] = {}
        self.counts: dict[str, torch.Tensor] = {}
        self.spikes: dict[str, torch.Tensor] = {}
        self.constant: dict[str, torch.Tensor] = {}
        self.gates: dict[str, GateState] = {}
        self.rasters = {name: np.zeros((self.n, n_steps, *network.by_name[name].shape), np.uint8) for name in record}
        self.sampled: dict[str, list[NDArray[np.float64]]] = {h.population: [] for h in network.outputs if h.is_sampled}
        for p in network.populations:
            self._prepare(p, analog)

    def _prepare(self, p: Population, analog: torch.Tensor) -> None:
        shape = (self.n, *p.shape)
        self.counts[p.name] = torch.zeros(shape, dtype=torch.int32)
        incoming = self.network.incoming[p.name]
        if isinstance(p.neuron, Gate):
            if isinstance(incoming[0].operator, Window):
                self.gates[p.name] = GateState(incoming[0].operator, self.n)
            return
        self.v[p.name] = torch.full(shape, p.neuron.v_init, dtype=self.dtype)
        constant = torch.as_tensor(p.bias, dtype=self.dtype).expand(shape)
        for j in incoming:
            if self.input_spikes is None and j.pre == self.network.input.name:
                constant = constant + apply(j.operator, analog).reshape(shape)
        self.constant[p.name] = constant

    def step(self, t: int) -> None:
        for p in self.network.populations:
            if p.role == "input":
                if self.input_spikes is not None:
                    self._emit(p, self.input_spikes[:, t].to(self.dtype), t)
            elif p.name in self.gates:
                self._emit(p, self.gates[p.name].step(t, self.spikes[self.network.incoming[p.name][0].pre]), t)
            elif t < p.clamp_until:
                self._emit(p, torch.zeros_like(self.v[p.name]), t)
            elif isinstance(p.neuron, Neuron):
                self._integrate(p, p.neuron, t)
            if p.name in self.sampled:
                self.sampled[p.name].append(self.v[p.name].reshape(self.n, -1).double().numpy().copy())

    def current(self, p: Population) -> torch.Tensor:
        """What arrives at a population in this step, its bias included."""
        current = self.constant[p.name]
        for j in self.network.incoming[p.name]:
            if j.pre in self.spikes:
                current = current + apply(j.operator, self.spikes[j.pre]).reshape(current.shape)
        return current

    def _integrate(self, p: Population, neuron: Neuron, t: int) -> None:
        v = self.v[p.name] * neuron.leak + self.current(p)
        if neuron.fires:
            fired, v = fire(v, neuron)
            self._emit(p, fired.to(self.dtype), t)
        self.v[p.name] = v

    def _emit(self, p: Population, spikes: torch.Tensor, t: int) -> None:
        self.spikes[p.name] = spikes
        self.counts[p.name] += spikes.to(torch.int32)
        if p.name in self.rasters:
            self.rasters[p.name][:, t] = spikes.to(torch.uint8).numpy()

    def result(self) -> FloatRun:
        readouts = {}
        for head in self.network.outputs:
            p = self.network.by_name[head.population]
            value = self.counts[p.name] if p.neuron.fires else self.v[p.name]
            readouts[p.name] = value.reshape(self.n, -1).to(torch.float64).numpy()
        counts = {name: value.numpy() for name, value in self.counts.items()}
        potentials = {name: np.stack(steps, 1) for name, steps in self.sampled.items()}
        return FloatRun(counts, readouts, potentials, self.rasters, self.network.output.name)


class _Watch:
    """The first output of a running simulation, looked at after every step."""

    def __init__(self, network: SpikingNetwork, state: _State, n_steps: int) -> None:
        self.state, self.output = state, network.output
        shape = (state.n, n_steps, self.output.n_neurons)
        self.counts = torch.zeros(shape, dtype=torch.int32) if self.output.neuron.fires else None
        self.potentials: torch.Tensor | None = None
        if isinstance(self.output.neuron, Neuron):
            self.potentials = torch.zeros(shape, dtype=state.dtype)
            self.unfired = state.v[self.output.name]

    def step(self, t: int) -> None:
        p, n = self.output, self.state.n
        if self.counts is not None:
            self.counts[:, t] = self.state.counts[p.name].reshape(n, -1)
        if self.potentials is None or not isinstance(p.neuron, Neuron):
            return
        if not p.neuron.fires:
            self.unfired = self.state.v[p.name]
        elif t >= p.clamp_until:
            self.unfired = self.unfired * p.neuron.leak + self.state.current(p)
        self.potentials[:, t] = self.unfired.reshape(n, -1)

    def result(self) -> OverTime:
        counts, potentials = self.counts, self.potentials
        return OverTime(None if counts is None else counts.numpy(), None if potentials is None else potentials.numpy())
