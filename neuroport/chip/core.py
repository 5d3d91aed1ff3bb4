"""The reference core: bit-accurate integer simulation, event-driven, sample by sample, sharded over threads.

One sample runs through the network layer by layer over all steps. The oracle (chip/oracle.py) is its judge.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from neuroport.chip import kernels
from neuroport.chip.inputs import IntInputs, check_inputs
from neuroport.chip.layout import Layer, prepare
from neuroport.chip.network import IntNetwork, IntPopulation
from neuroport.chip.trace import Trace

Record = Literal["none", "readout", "spikes", "all"]
_SHARD = 8


@dataclass(frozen=True, eq=False)
class CoreRun:
    """What a run returns.

    counts: spikes per neuron [S, *shape] int32 of each population; readouts: [S, n] int64 of each head's population,
    spike counts or potentials after the last step; readout: those of the first head; overflows: neuron-steps in which
    a current left its register, or a potential at the upper end; floored: those in which a potential was held at the
    lower end; trace: what was recorded.
    """

    counts: Mapping[str, NDArray[np.int32]]
    readouts: Mapping[str, NDArray[np.int64]]
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
        record: 'readout': potentials at every step of the heads that are read by them; 'spikes': of every neuron at
            every step, and potentials of the readout populations; 'all': all potentials too.
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


class _Run:
    """Results of one run, written by several threads, each to its own samples."""

    def __init__(self, network: IntNetwork, inputs: IntInputs, record: Record) -> None:
        self.network, self.inputs = network, inputs
        self.layers = [prepare(network, p) for p in network.populations if p.role != "input"]
        s, t = inputs.n_samples, inputs.n_steps
        populations = network.populations
        self.counts = {p.name: np.zeros((s, *p.shape), np.int32) for p in populations}
        self.lost = {p.name: np.zeros((s, 2), np.int64) for p in populations}
        self.reads = {head.population: head.read for head in network.heads}
        self.last = {name: np.zeros((s, network.by_name[name].n_neurons), np.int64) for name in self.reads}
        keeps_spikes = record in ("spikes", "all")
        kept = {
            "none": (),
            "readout": [p for p in populations if self.reads.get(p.name) == "membrane"],
            "spikes": [p for p in populations if p.role == "readout"],
            "all": [p for p in populations if p.role != "input"],
        }[record]
        self.spikes = {p.name: np.zeros((s, t, *p.shape), np.uint8) for p in populations if keeps_spikes}
        self.potentials = {p.name: np.zeros((s, t, *p.shape), np.int64) for p in kept}

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
            if layer.gate is not None:
                out = np.zeros((t, p.n_neurons), np.uint8)
                kernels.pass_gate(spikes[layer.gate.pre], layer.gate.index, out)
                self._keep(p, s, out, np.zeros((t, p.n_neurons), np.int64))
            else:
                out = self._update(layer, s, layer.total(spikes, t))
            spikes[p.name] = out

    def _update(self, layer: Layer, s: int, total: NDArray[np.signedinteger]) -> NDArray[np.uint8]:
        p, a, t = layer.population, self.network.arithmetic, self.inputs.n_steps
        mantissa = self.inputs.currents[p.name][s] if p.driven else p.bias_mantissa
        out = np.zeros((t, p.n_neurons), np.uint8)
        needs_potentials = p.name in self.potentials or self.reads.get(p.name) == "membrane"
        potentials = np.zeros((t, p.n_neurons) if needs_potentials else (0, 0), np.int64)
        kernels.update_neurons(
            total,
            layer.order,
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
        self._keep(p, s, out, potentials)
        return out

    def _keep(
        self, p: IntPopulation, s: int, spikes: NDArray[np.uint8], potentials: NDArray[np.int64] | None = None
    ) -> None:
        counts = spikes.sum(0, dtype=np.int32)
        self.counts[p.name][s] = counts.reshape(p.shape)
        if p.name in self.spikes:
            self.spikes[p.name][s] = spikes.reshape(len(spikes), *p.shape)
        if potentials is None:
            return
        if p.name in self.potentials:
            self.potentials[p.name][s] = potentials.reshape(len(spikes), *p.shape)
        if p.name in self.last:
            self.last[p.name][s] = counts if self.reads[p.name] == "count" else potentials[-1]

    def result(self) -> CoreRun:
        overflows = {name: int(lost[:, 0].sum()) for name, lost in self.lost.items()}
        floored = {name: int(lost[:, 1].sum()) for name, lost in self.lost.items()}
        first = self.last[self.network.output.name]
        return CoreRun(self.counts, self.last, first, overflows, floored, Trace(self.spikes, self.potentials))
