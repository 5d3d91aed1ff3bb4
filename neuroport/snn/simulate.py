"""The float simulator: integrate-and-fire neurons in torch, layer-synchronous, one step after the other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from neuroport.snn.encode import encode_spikes
from neuroport.snn.gate import GateState
from neuroport.snn.network import Gate, Neuron, Population, SpikingNetwork
from neuroport.snn.neuron import integrate
from neuroport.snn.operators import Window, prepared
from neuroport.snn.settled import Settling

_BATCH_NEURONS = 1 << 20  # of the largest population, that are simulated at a time; larger batches are slower
_MIN_BATCH, _MAX_BATCH = 8, 128


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
    over_time: the first output after every step, if asked for; n_steps: how many were run.
    """

    counts: Mapping[str, NDArray[np.int32]]
    readouts: Mapping[str, NDArray[np.float64]]
    potentials: Mapping[str, NDArray[np.float64]]
    rasters: Mapping[str, NDArray[np.uint8]]
    output: str
    over_time: OverTime | None = None
    n_steps: int = 0

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
    stop_when_settled: bool = False,
    dtype: torch.dtype = torch.float32,
) -> FloatRun:
    """Run images [N, ...], or event data [N, T, ...], for n_steps.

    `record` keeps the spikes of populations at every step, `over_time` what the first output shows. Within step t a
    population sees the step-t spikes of its inputs. Spike counts of float32 runs can differ by one at the threshold
    with the order of summation; float64 and dyadic weights make them exact. `dtype` is one of these two.

    With `stop_when_settled` the run ends after the first step at which the argmax of the first output provably is that
    of the full run, for every sample: no neuron that counts its spikes can catch up in the steps left, one spike per
    step, and no potential can with the worst spikes possible (snn/settled.py). All that is returned is of the steps
    until then, `n_steps` of them.

    Raises:
        DataError: samples that the encoding cannot express.
        UsageError: stop_when_settled of an output that is a max-pool gate or read by a spiking softmax.
    """
    samples = np.asarray(images)
    settling = Settling.of(network) if stop_when_settled else None
    plan = _Plan(network, n_steps, over_time, dtype)
    inputs = samples if network.encoding == "current" else encode_spikes(network, samples, n_steps)
    rasters = {name: np.zeros((len(samples), n_steps, *network.by_name[name].shape), np.uint8) for name in record}
    states = (_State(plan, inputs[k], {name: x[k] for name, x in rasters.items()}) for k in _batches(network, samples))
    with torch.no_grad():
        if settling is None:
            runs = [state.run(n_steps).result() for state in states]  # one after the other; only results are kept
        else:
            settled = [state.run(n_steps, settling) for state in states]
            last = max(state.t for state in settled)
            runs = [state.run(last).result() for state in settled]
    return _joined(runs, rasters)


def _batches(network: SpikingNetwork, samples: NDArray[np.generic]) -> list[slice]:
    """Samples that are simulated together, batches of nearly equal size."""
    largest = max(p.n_neurons for p in network.populations)
    n = len(samples)
    n_batches = max(1, math.ceil(n / min(max(_BATCH_NEURONS // largest, _MIN_BATCH), _MAX_BATCH)))
    edges = [n * k // n_batches for k in range(n_batches + 1)]
    return [slice(*pair) for pair in pairwise(edges)]


def _joined(runs: Sequence[FloatRun], rasters: Mapping[str, NDArray[np.uint8]]) -> FloatRun:
    """One run of all batches, which ran for as many steps."""
    first = runs[0]
    counts, readouts, potentials = (
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for parts in zip(*((run.counts, run.readouts, run.potentials) for run in runs), strict=True)
    )
    shown = [run.over_time for run in runs if run.over_time is not None]
    over_time = None
    if shown:
        fired, held = (
            [x.counts for x in shown if x.counts is not None],
            [x.potentials for x in shown if x.potentials is not None],
        )
        over_time = OverTime(np.concatenate(fired) if fired else None, np.concatenate(held) if held else None)
    kept = {name: raster[:, : first.n_steps] for name, raster in rasters.items()}
    return FloatRun(counts, readouts, potentials, kept, first.output, over_time, first.n_steps)


class _Plan:
    """What all batches of one run share: the network, its operators prepared, its biases as tensors."""

    def __init__(self, network: SpikingNetwork, n_steps: int, over_time: bool, dtype: torch.dtype) -> None:
        self.network, self.n_steps, self.over_time, self.dtype = network, n_steps, over_time, dtype
        self.bias = {p.name: self.ordered(torch.as_tensor(p.bias, dtype=dtype)[None]) for p in network.populations}
        self.synapses = {
            name: [(j.pre, prepared(j.operator, dtype)) for j in incoming]
            for name, incoming in network.incoming.items()
        }

    def ordered(self, x: torch.Tensor) -> torch.Tensor:
        """A tensor [N, *shape] in the order of memory of this run's.

        Images of float32 lie channels last, where convolutions are fastest (those of float64 are not), all else in C
        order.
        """
        is_image = x.ndim == 4 and self.dtype == torch.float32
        return x.contiguous(memory_format=torch.channels_last if is_image else torch.contiguous_format)


class _State:
    """Potentials, spikes of the current step and counts of one batch."""

    def __init__(self, plan: _Plan, inputs: NDArray[np.generic], rasters: Mapping[str, NDArray[np.uint8]]) -> None:
        self.plan, self.n, self.t, self.rasters = plan, len(inputs), 0, rasters
        network = plan.network
        self.input_spikes = None if network.encoding == "current" else torch.from_numpy(inputs)
        analog: torch.Tensor | None = None
        if network.encoding == "current":
            analog = torch.as_tensor(inputs, dtype=plan.dtype).reshape(self.n, -1)
        self.v: dict[str, torch.Tensor] = {}
        self.counts: dict[str, torch.Tensor] = {}
        self.spikes: dict[str, torch.Tensor] = {}
        self.constant: dict[str, torch.Tensor] = {}
        self.gates: dict[str, GateState] = {}
        self.sampled: dict[str, list[NDArray[np.float64]]] = {h.population: [] for h in network.outputs if h.is_sampled}
        for p in network.populations:
            self._prepare(p, analog)
        self.watch = _Watch(self) if plan.over_time else None

    def _prepare(self, p: Population, analog: torch.Tensor | None) -> None:
        shape = (self.n, *p.shape)
        self.counts[p.name] = self.plan.ordered(torch.zeros(shape, dtype=torch.int32))
        if isinstance(p.neuron, Gate):
            operator = self.plan.network.incoming[p.name][0].operator
            if isinstance(operator, Window):
                self.gates[p.name] = GateState(operator, self.n)
            return
        self.v[p.name] = self.plan.ordered(torch.full(shape, p.neuron.v_init, dtype=self.plan.dtype))
        constant = self.plan.bias[p.name]
        for pre, function in self.plan.synapses[p.name]:
            if analog is not None and pre == self.plan.network.input.name:
                constant = constant + function(analog).reshape(shape)
        self.constant[p.name] = self.plan.ordered(constant)

    def run(self, n_steps: int, settling: Settling | None = None) -> _State:
        """Itself, moved on to step n_steps, or to the first at which its answers are settled."""
        while self.t < n_steps and not (settling is not None and self.t and self._is_settled(settling)):
            self.step()
        return self

    def _is_settled(self, settling: Settling) -> bool:
        p = self.plan.network.output
        found = self.counts[p.name] if p.neuron.fires else self.v[p.name]
        scores, constant = (x.expand(found.shape).reshape(self.n, -1).numpy() for x in (found, self.constant[p.name]))
        n_left = self.plan.n_steps - max(self.t, p.clamp_until)
        return settling.is_reached(scores, constant, n_left, torch.finfo(self.plan.dtype).eps)

    def step(self) -> None:
        """Move all populations on by one step."""
        for p in self.plan.network.populations:
            if p.role == "input":
                if self.input_spikes is not None:
                    self._emit(p, self.input_spikes[:, self.t].to(self.plan.dtype))
            elif p.name in self.gates:
                before = self.spikes[self.plan.network.incoming[p.name][0].pre]
                self._emit(p, self.gates[p.name].step(self.t, before))
            elif self.t < p.clamp_until:
                self.spikes[p.name] = torch.zeros_like(self.v[p.name])
            elif isinstance(p.neuron, Neuron):
                self._integrate(p, p.neuron)
            if p.name in self.rasters and p.name in self.spikes:
                self.rasters[p.name][:, self.t] = self.spikes[p.name].to(torch.uint8).numpy()
            if p.name in self.sampled:
                self.sampled[p.name].append(self.v[p.name].reshape(self.n, -1).double().numpy().copy())
        if self.watch is not None:
            self.watch.step(self.t)
        self.t += 1

    def _emit(self, p: Population, spikes: torch.Tensor) -> None:
        self.spikes[p.name] = self.plan.ordered(spikes.reshape(self.n, *p.shape))
        self.counts[p.name] += self.spikes[p.name].to(torch.int32)

    def _integrate(self, p: Population, neuron: Neuron) -> None:
        current, v = self.current(p), self.v[p.name]
        if neuron.fires:
            integrate(v, current, neuron, self.counts[p.name])
            self.spikes[p.name] = current
        else:
            v.mul_(neuron.leak).add_(current)

    def current(self, p: Population) -> torch.Tensor:
        """What arrives at a population in this step, its bias included, in memory of its own."""
        current: torch.Tensor | None = None
        for pre, function in self.plan.synapses[p.name]:
            if pre in self.spikes:
                arriving = self.plan.ordered(function(self.spikes[pre]).reshape(self.n, *p.shape))
                current = arriving.add_(self.constant[p.name] if current is None else current)
        if current is None:
            return self.constant[p.name].expand(self.n, *p.shape).clone()
        return current

    def result(self) -> FloatRun:
        """What the run has come to."""
        readouts = {}
        for head in self.plan.network.outputs:
            p = self.plan.network.by_name[head.population]
            value = self.counts[p.name] if p.neuron.fires else self.v[p.name]
            readouts[p.name] = value.reshape(self.n, -1).to(torch.float64).numpy()
        counts = {name: value.contiguous().numpy() for name, value in self.counts.items()}
        potentials = {name: np.stack(steps, 1) for name, steps in self.sampled.items()}
        shown = None if self.watch is None else self.watch.result()
        return FloatRun(counts, readouts, potentials, self.rasters, self.plan.network.output.name, shown, self.t)


class _Watch:
    """The first output of a running simulation, looked at after every step."""

    def __init__(self, state: _State) -> None:
        self.state, self.output = state, state.plan.network.output
        shape = (state.n, state.plan.n_steps, self.output.n_neurons)
        self.counts = torch.zeros(shape, dtype=torch.int32) if self.output.neuron.fires else None
        self.potentials: torch.Tensor | None = None
        if isinstance(self.output.neuron, Neuron):
            self.potentials = torch.zeros(shape, dtype=state.plan.dtype)
            self.unfired = state.v[self.output.name].clone()

    def step(self, t: int) -> None:
        """Note the counts and potentials of step t."""
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
        """Of the steps that were run."""
        counts, potentials = (
            None if x is None else x[:, : self.state.t].numpy() for x in (self.counts, self.potentials)
        )
        return OverTime(counts, potentials)
