"""The reference core: bit-accurate integer simulation, event-driven, sharded over threads.

A few samples at a time run through the network layer by layer over all steps, so that what is at work stays in the
cache. The oracle (chip/oracle.py) is its judge.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from neuroport.chip import kernels
from neuroport.chip import spikes as bits
from neuroport.chip.dense import exact_products
from neuroport.chip.inputs import Inputs, IntInputs, check_inputs
from neuroport.chip.layout import Layer, layout_of
from neuroport.chip.network import IntNetwork, IntPopulation
from neuroport.chip.record import CoreRun, Keep, Path, Raster, Record, check_memory, positions, record_of
from neuroport.chip.stamps import aligned
from neuroport.chip.work import Events, Run, Spikes, Words

Synapses = Literal["auto", "event", "dense"]
_AT_WORK = 1 << 22  # neuron-steps of one population that a thread holds at a time
_MAX_SHARD = 16
_NOTHING = np.zeros(0, np.int64)
_NO_SPIKES = Spikes(
    np.zeros(0, np.uint32), np.zeros((0, 1), np.int64), np.zeros(0, np.uint64), _NOTHING, _NOTHING, _NOTHING
)
_NOT_GIVEN = np.zeros((0, 0), np.int32)


def run_core(
    network: IntNetwork,
    inputs: Inputs,
    *,
    record: Keep | Record = "none",
    n_threads: int | None = None,
    memory_mb: int = 2048,
    synapses: Synapses = "auto",
    on_progress: Callable[[int], None] | None = None,
) -> CoreRun:
    """Run every sample for inputs.n_steps.

    Args:
        inputs: IntInputs, or EncodedInputs, which are encoded as they are needed.
        record: what to keep besides readouts and totals; see Record, and record_of for the words.
        n_threads: threads that share the samples; all processors if None.
        memory_mb: what a record may take; what is at work does not grow with the number of samples.
        synapses: 'event' adds up the weights of arriving spikes, 'dense' multiplies matrices where that is exact here,
            'auto' chooses for each population by how many spikes arrive. The results are the same.
        on_progress: told the number of samples finished since it was told last.

    Raises:
        DataError: the inputs are not those of this network.
        UsageError: the record names what there is not, or takes too much memory.
    """
    if isinstance(inputs, IntInputs):
        check_inputs(network, inputs)
    kept = record_of(record, network)
    check_memory(kept, network, inputs.n_samples, inputs.n_steps, memory_mb)
    state = _Run(network, inputs, kept, synapses)
    largest = max(storage.size for storage in state.layout.storages.values())
    size = max(1, min(_MAX_SHARD, _AT_WORK // (largest * inputs.n_steps)))
    shards = [slice(start, min(start + size, inputs.n_samples)) for start in range(0, inputs.n_samples, size)]
    executor = ThreadPoolExecutor(n_threads or os.cpu_count() or 1)
    with exact_products():
        try:
            for n_done in executor.map(state.run_shard, shards):
                if on_progress is not None:
                    on_progress(n_done)
        except BaseException:
            state.stop[0] = 1
            raise
        finally:  # an interrupt waits for a step, not for a sample
            executor.shutdown(wait=True, cancel_futures=True)
    return state.result()


class _Run:
    """Results of one run, written by several threads."""

    def __init__(self, network: IntNetwork, inputs: Inputs, record: Record, synapses: Synapses) -> None:
        self.network, self.inputs, self.record, self.synapses = network, inputs, record, synapses
        self.layout = layout_of(network)
        self.stop, self.lock, self.local = np.zeros(1, np.uint8), threading.Lock(), threading.local()
        self.n_steps, s = inputs.n_steps, inputs.n_samples
        storages = self.layout.storages
        self.position = positions(record.samples, s)
        n_kept = s if record.samples is None else len(record.samples)
        self.totals = {name: np.zeros(storage.size, np.int64) for name, storage in storages.items()}
        self.lost = {p.name: np.zeros(2, np.int64) for p in network.populations}
        self.reads = {head.population: head.read for head in network.heads}
        self.last = {name: np.zeros((s, network.by_name[name].n_neurons), np.int64) for name in self.reads}
        self.counts = {name: np.zeros((s, network.by_name[name].n_neurons), np.int32) for name in record.counts}
        self.words = {
            name: np.zeros((n_kept, self.n_steps, storages[name].size // 64), np.uint64) for name in record.spikes
        }
        self.watch = {
            name: storages[name].place if neurons is None else storages[name].place[list(neurons)]
            for name, neurons in record.potentials.items()
        }
        self.potentials = {
            name: np.zeros((n_kept, self.n_steps, len(places)), np.int64) for name, places in self.watch.items()
        }
        self.arrived = {layer.population.name: np.zeros(3, np.int64) for layer in self.layout.layers}
        self.widths: dict[str, int] = {}

    def room(self) -> _Room:
        """What the running thread works in."""
        if not hasattr(self.local, "room"):
            self.local.room = _Room()
        found: _Room = self.local.room
        return found

    def run_shard(self, samples: slice) -> int:
        """Run these samples; returns how many they are."""
        inputs = self.inputs.part(samples)
        if not isinstance(self.inputs, IntInputs):
            check_inputs(self.network, inputs)
        shard = _Shard(self, samples, inputs)
        source = self.network.input
        if source is not None and inputs.spikes is not None:
            raster = np.ascontiguousarray(inputs.spikes.reshape(shard.n_rows, -1))
            words = np.empty((shard.n_rows, self.layout.storages[source.name].size // 64), np.uint64)
            bits.pack(raster, words)
            shard.emit(source, words)
        for layer in self.layout.layers:
            if self.stop[0]:
                break
            shard.run(layer)
        with self.lock:
            shard.hand_in()
        return inputs.n_samples

    def result(self) -> CoreRun:
        """What came of it."""
        network, storages = self.network, self.layout.storages
        shapes = {p.name: p.shape for p in network.populations}
        potentials = {
            name: v.reshape(*v.shape[:2], *(shapes[name] if self.record.potentials[name] is None else v.shape[2:]))
            for name, v in self.potentials.items()
        }
        return CoreRun(
            readouts=self.last,
            readout=self.last[network.output.name],
            totals={name: n[storages[name].place].reshape(shapes[name]) for name, n in self.totals.items()},
            overflows={name: int(lost[0]) for name, lost in self.lost.items()},
            floored={name: int(lost[1]) for name, lost in self.lost.items()},
            paths={layer.population.name: self._path(layer) for layer in self.layout.layers},
            counts={name: n.reshape(len(n), *shapes[name]) for name, n in self.counts.items()},
            rasters={name: Raster(w, storages[name].place, shapes[name]) for name, w in self.words.items()},
            potentials=potentials,
        )

    def is_dense(self, layer: Layer, density: float) -> bool:
        """Whether a population's sums are matrix products."""
        if self.synapses == "auto":
            return density > layer.dense_from
        return self.synapses == "dense" and layer.can_be_dense

    def _path(self, layer: Layer) -> Path:
        name = layer.population.name
        n_spikes, n_places, n_dense = (int(n) for n in self.arrived[name])
        return Path(
            n_dense / (self.inputs.n_samples * self.n_steps) if layer.pres else 0.0,
            8 * np.dtype(layer.total_dtype).itemsize,
            layer.bound,
            self.widths.get(name, 0),
            n_spikes / max(n_places, 1),
        )


class _Room:
    """Arrays of one thread, used again by its next shard: fresh ones cost more than what is written to them."""

    def __init__(self) -> None:
        self.held: dict[tuple[str, str], NDArray[Any]] = {}

    def take(self, key: tuple[str, str], n: int, dtype: type[np.integer]) -> NDArray[Any]:
        """n numbers, whose contents are arbitrary."""
        found = self.held.get(key)
        if found is None or len(found) < n:
            found = self.held[key] = aligned(n + n // 4, dtype)
        return found[:n]


class _Shard:
    """Some samples on their way through the network, in one thread."""

    def __init__(self, run: _Run, samples: slice, inputs: IntInputs) -> None:
        self.of, self.samples, self.inputs = run, samples, inputs
        self.room = run.room()
        self.n_rows = inputs.n_samples * inputs.n_steps
        self.words: dict[str, Words] = {}
        self.events: dict[str, tuple[Events, NDArray[np.int64]]] = {}
        self.totals: dict[str, NDArray[np.int64]] = {}
        self.lost: dict[str, NDArray[np.int64]] = {}
        self.arrived: dict[str, tuple[int, int, int]] = {}

    def run(self, layer: Layer) -> None:
        """One population over all steps of the samples."""
        p, run = layer.population, self.of
        n_words = layer.storage.size // 64
        words = self.room.take((p.name, "words"), self.n_rows * n_words, np.uint64).reshape(self.n_rows, n_words)
        if layer.gate is not None:
            pre = run.layout.storages[layer.pres[0]].place
            bits.pass_gate(self.words[layer.pres[0]], pre, layer.gate, layer.storage.place, self.inputs.n_steps, words)
        else:
            self._integrate(layer, words)
        self.emit(p, words)
        for name in layer.pres:
            if run.layout.last_use[name] == p.name:
                self.events.pop(name, None)
                self.words.pop(name, None)

    def emit(self, p: IntPopulation, words: Words) -> None:
        """Count and keep what a population fired, and hand it on."""
        run, n = self.of, self.inputs.n_samples
        place = run.layout.storages[p.name].place
        size = 64 * words.shape[1]
        totals = self.totals[p.name] = np.zeros(size, np.int64)
        is_counted = p.name in run.counts or run.reads.get(p.name) == "count"
        counts = np.zeros((n, size) if is_counted else (0, 0), np.int32)
        start = np.empty(self.n_rows + 1, np.int64)
        bits.count_rows(words, start)
        events = self.room.take((p.name, "events"), int(start[-1]) + 8, np.uint32)
        bits.list_events(words, events)
        events = events[: start[-1]]
        bits.add_up(events, start, self.inputs.n_steps, totals, counts)
        self.events[p.name] = (events, start)
        self.words[p.name] = words
        if p.name in run.counts:
            run.counts[p.name][self.samples] = counts[:, place]
        if run.reads.get(p.name) == "count":
            run.last[p.name][self.samples] = counts[:, place]
        if p.name in run.words:
            kept, at = self._kept()
            run.words[p.name][at] = words.reshape(n, self.inputs.n_steps, -1)[kept]

    def _kept(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(which of these samples are recorded, where)."""
        at = self.of.position[self.samples]
        kept = np.flatnonzero(at >= 0)
        return kept, at[kept]

    def _integrate(self, layer: Layer, words: Words) -> None:
        p, run, n = layer.population, self.of, self.inputs.n_samples
        if p.driven:
            wide = layer.bias(self.inputs.currents[p.name])
            is_narrow = layer.is_narrow(self.inputs.n_steps, int(np.abs(wide).max(initial=0)))
            bias = wide.astype(np.int32) if is_narrow else wide
        else:
            wide, narrow, largest = layer.constant_bias
            is_narrow = layer.is_narrow(self.inputs.n_steps, largest)
            bias = narrow if is_narrow else wide
        watch = run.watch.get(p.name, np.zeros(0, np.int64))
        record = Run(
            words=words,
            valid=layer.storage.valid,
            watch=watch,
            potentials=np.empty((self.n_rows, len(watch)), np.int64),
            last=np.empty((n, layer.storage.size) if run.reads.get(p.name) == "membrane" else (0, 0), np.int64),
            lost=np.zeros(2, np.int64),
            stop=run.stop,
        )
        total = self.room.take((p.name, "sums"), layer.n_sums, layer.total_dtype)
        spikes, given = self._spikes(layer)
        neurons = layer.neurons(self.inputs.n_steps, is_narrow=is_narrow)
        kernel = kernels.run_narrow if is_narrow else kernels.run_wide
        kernel(spikes, layer.synapses.stamps, given, total, neurons, bias, record)
        self.lost[p.name] = record.lost
        run.widths[p.name] = 32 if is_narrow else 64
        if len(record.last):
            run.last[p.name][self.samples] = record.last[:, layer.storage.place]
        if len(watch):
            kept, at = self._kept()
            run.potentials[p.name][at] = record.potentials.reshape(n, self.inputs.n_steps, -1)[kept]

    def _spikes(self, layer: Layer) -> tuple[Spikes, NDArray[np.int32]]:
        """What arrives at a population: the events of all projections, or where those are many, their sums."""
        arriving = [self.events[name] for name in layer.pres]
        n_events = sum(len(events) for events, _ in arriving)
        n_places = sum(self.of.network.by_name[name].n_neurons for name in layer.pres) * self.n_rows
        is_dense = self.of.is_dense(layer, n_events / max(n_places, 1))
        self.arrived[layer.population.name] = (n_events, n_places, self.n_rows * is_dense)
        if is_dense:
            return _NO_SPIKES, self._products(layer)
        j = layer.synapses
        if len(arriving) == 1:
            events, start = arriving[0]
            return Spikes(events, start[None], j.key, j.unit, j.at, j.width), _NOT_GIVEN
        joined = np.concatenate([_NO_SPIKES.events, *(events for events, _ in arriving)])
        start = np.zeros((len(arriving), self.n_rows + 1), np.int64)
        before = 0
        for row, (events, of_one) in zip(start, arriving, strict=True):
            np.add(of_one, before, out=row)
            before += len(events)
        return Spikes(joined, start, j.key, j.unit, j.at, j.width), _NOT_GIVEN

    def _products(self, layer: Layer) -> NDArray[np.int32]:
        """[rows, places]: the same sums by matrix products."""
        spread = {}
        for name in dict.fromkeys(layer.pres):
            words = self.words[name]
            spread[name] = np.empty((self.n_rows, 64 * words.shape[1]), np.int8)
            bits.spread(words, spread[name])
        if layer.byte_weights is not None:
            rows = np.concatenate([spread[name] for name in layer.pres], 1)
            return torch._int_mm(torch.from_numpy(rows), layer.byte_weights).numpy()
        storages = self.of.layout.storages
        (sums,) = layer.products.sums({n: torch.from_numpy(x[:, storages[n].place]) for n, x in spread.items()})
        given = np.zeros((self.n_rows, layer.storage.size), np.int32)
        given[:, layer.storage.place] = sums.numpy().astype(np.int32) >> layer.power
        return given

    def hand_in(self) -> None:
        """Add what this shard counted to the run's sums."""
        for name, n in self.totals.items():
            self.of.totals[name] += n
        for name, lost in self.lost.items():
            self.of.lost[name] += lost
        for name, arrived in self.arrived.items():
            self.of.arrived[name] += arrived
