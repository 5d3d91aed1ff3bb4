"""The reference core: bit-accurate integer simulation, event-driven, sample by sample, sharded over threads.

One sample runs through the network layer by layer over all steps. The oracle (chip/oracle.py) is its judge.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from neuroport.chip import kernels
from neuroport.chip.inputs import IntInputs, check_inputs
from neuroport.chip.network import IntConv2d, IntDense, IntNetwork, IntPopulation, IntProjection, sum_bound
from neuroport.chip.trace import Trace

Record = Literal["none", "spikes", "all"]
_SHARD = 8


@dataclass(frozen=True, eq=False)
class CoreRun:
    """What a run returns.

    counts: spikes per neuron [S, *shape] int32 of each population; readout: [S, n_out] int64, spike counts or
    potentials after the last step; overflows: neuron-steps in which a current left its register, or a
    potential at the upper end; floored: those in which a potential was held at the lower end; trace: what was recorded.
    """

    counts: Mapping[str, NDArray[np.int32]]
    readout: NDArray[np.int64]
    overflows: Mapping[str, int]
    floored: Mapping[str, int]
    trace: Trace


def run_core(
    network: IntNetwork,
    inputs: IntInputs,
    *,
    record: Record = "none",
    n_threads: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> CoreRun:
    """Run every sample for inputs.n_steps.

    Args:
        record: 'spikes' of every neuron at every step and potentials of the readout, or 'all' potentials too.
        n_threads: threads that share the samples; all processors if None.
        on_progress: told the number of samples finished since it was told last.

    Raises:
        DataError: the inputs are not those of this network.
    """
    check_inputs(network, inputs)
    state = _Run(network, inputs, record)
    shards = [range(start, min(start + _SHARD, inputs.n_samples)) for start in range(0, inputs.n_samples, _SHARD)]
    executor = ThreadPoolExecutor(n_threads or os.cpu_count() or 1)
    try:
        for n_done in executor.map(state.run_shard, shards):
            if on_progress is not None:
                on_progress(n_done)
    finally:  # an interrupt must not wait for shards that have not begun
        executor.shutdown(wait=True, cancel_futures=True)
    return state.result()


@dataclass(frozen=True, eq=False)
class _Synapses:
    """A projection laid out for its kernel: weights with the output channel last."""

    projection: IntProjection
    weight: NDArray[np.signedinteger]

    def add(self, spikes: NDArray[np.uint8], total: NDArray[np.signedinteger]) -> None:
        synapse = self.projection.synapse
        if isinstance(synapse, IntDense):
            kernels.add_dense(spikes, self.weight, total)
            return
        g = synapse.geometry
        kernels.add_conv(spikes, self.weight, g.in_shape, g.out_shape, g.stride, g.padding, g.dilation, g.groups, total)


@dataclass(frozen=True, eq=False)
class _Layer:
    """A population ready to run: its synapses, the dtype of exact sums, and where each neuron's sum stands."""

    population: IntPopulation
    channels_last: tuple[_Synapses, ...]
    in_order: tuple[_Synapses, ...]
    dtype: type[np.signedinteger]
    order: NDArray[np.int64] = field(repr=False)


def _prepare(network: IntNetwork, population: IntPopulation) -> _Layer:
    incoming = network.incoming[population.name]
    bound = sum(sum_bound(j.synapse) << j.exponent for j in incoming)
    dtype = np.int32 if bound < 2**31 else np.int64  # holds each weight too: none is larger than the sums
    conv, dense = [], []
    for j in incoming:
        scaled = np.left_shift(j.synapse.mantissa, j.exponent, dtype=dtype)
        if isinstance(j.synapse, IntConv2d):
            conv.append(_Synapses(j, np.ascontiguousarray(_by_input_channel(scaled, j.synapse))))
        else:
            dense.append(_Synapses(j, np.ascontiguousarray(scaled.T)))
    n = population.n_neurons
    order = np.arange(n, dtype=np.int64)
    if conv:
        order = order.reshape(*population.shape[1:], population.shape[0]).transpose(2, 0, 1).reshape(n).copy()
    return _Layer(population, tuple(conv), tuple(dense), dtype, order)


def _by_input_channel(weight: NDArray[np.signedinteger], synapse: IntConv2d) -> NDArray[np.signedinteger]:
    """[C_out, C_in / groups, kH, kW] as [C_in, kH, kW, C_out / groups]."""
    g = synapse.geometry
    split = weight.reshape(g.groups, g.out_shape[0] // g.groups, -1, *g.kernel)
    return split.transpose(0, 2, 3, 4, 1).reshape(g.in_shape[0], *g.kernel, -1)


class _Run:
    """Results of one run, written by several threads, each to its own samples."""

    def __init__(self, network: IntNetwork, inputs: IntInputs, record: Record) -> None:
        self.network, self.inputs = network, inputs
        self.layers = [_prepare(network, p) for p in network.populations if p.role != "input"]
        s, t = inputs.n_samples, inputs.n_steps
        populations = network.populations
        self.counts = {p.name: np.zeros((s, *p.shape), np.int32) for p in populations}
        self.lost = {p.name: np.zeros((s, 2), np.int64) for p in populations}
        self.last = np.zeros((s, network.output.n_neurons), np.int64)
        kept = [p for p in populations if record == "all" or (record == "spikes" and p.role == "readout")]
        self.spikes = {p.name: np.zeros((s, t, *p.shape), np.uint8) for p in populations if record != "none"}
        self.potentials = {p.name: np.zeros((s, t, *p.shape), np.int64) for p in kept if p.role != "input"}

    def run_shard(self, samples: range) -> int:
        for s in samples:
            self._run_sample(s)
        return len(samples)

    def _run_sample(self, s: int) -> None:
        t = self.inputs.n_steps
        spikes: dict[str, NDArray[np.uint8]] = {}
        source = self.network.input
        if source is not None and self.inputs.spikes is not None:
            spikes[source.name] = np.ascontiguousarray(self.inputs.spikes[s].reshape(t, -1))
            self._keep(source, s, spikes[source.name])
        for layer in self.layers:
            p = layer.population
            total = np.zeros((t, p.n_neurons), layer.dtype)
            for synapses in layer.channels_last:
                synapses.add(spikes[synapses.projection.pre], total)
            order = layer.order
            if layer.in_order and layer.channels_last:  # mixed: bring the convolutions into C, H, W order first
                total, order = np.ascontiguousarray(total[:, order]), np.arange(p.n_neurons)
            for synapses in layer.in_order:
                synapses.add(spikes[synapses.projection.pre], total)
            spikes[p.name] = self._update(layer, s, total, order)

    def _update(
        self, layer: _Layer, s: int, total: NDArray[np.signedinteger], order: NDArray[np.int64]
    ) -> NDArray[np.uint8]:
        p, a, t = layer.population, self.network.arithmetic, self.inputs.n_steps
        mantissa = self.inputs.currents[p.name][s] if p.driven else p.bias_mantissa
        out = np.zeros((t, p.n_neurons), np.uint8)
        keep_all = p.name in self.potentials or p.role == "readout"
        potentials = np.zeros((t, p.n_neurons) if keep_all else (0, 0), np.int64)
        kernels.update_neurons(
            total,
            order,
            mantissa.reshape(-1).astype(np.int64) << p.bias_exponent,
            p.v_init_int,
            p.threshold_mantissa << a.threshold.shift,
            a.threshold.compare == ">=",
            p.reset == "subtract",
            (1 << a.decay_bits) - p.decay,
            a.decay_bits,
            a.synaptic_shift,
            1 << (a.current.bits - 1),
            a.current.overflow == "wrap",
            1 << (a.membrane.bits - 1),
            a.membrane.overflow == "wrap",
            p.clamp_until,
            out,
            potentials,
            self.lost[p.name][s],
        )
        self._keep(p, s, out)
        if p.name in self.potentials:
            self.potentials[p.name][s] = potentials.reshape(t, *p.shape)
        if p is self.network.output:
            self.last[s] = out.sum(0) if self.network.readout == "count" else potentials[-1]
        return out

    def _keep(self, p: IntPopulation, s: int, spikes: NDArray[np.uint8]) -> None:
        self.counts[p.name][s] = spikes.sum(0, dtype=np.int32).reshape(p.shape)
        if p.name in self.spikes:
            self.spikes[p.name][s] = spikes.reshape(len(spikes), *p.shape)

    def result(self) -> CoreRun:
        overflows = {name: int(lost[:, 0].sum()) for name, lost in self.lost.items()}
        floored = {name: int(lost[:, 1].sum()) for name, lost in self.lost.items()}
        return CoreRun(self.counts, self.last, overflows, floored, Trace(self.spikes, self.potentials))
