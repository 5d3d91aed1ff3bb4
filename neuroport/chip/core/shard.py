"""Some samples on their way through the core, population by population over all steps, in one thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from neuroport.chip.core import kernels
from neuroport.chip.core import spikes as bits
from neuroport.chip.core.layout import Layer
from neuroport.chip.core.results import Results, Tally
from neuroport.chip.core.stamps import aligned
from neuroport.chip.core.work import Events, Run, Spikes, Words
from neuroport.chip.inputs import IntInputs
from neuroport.chip.network import IntPopulation

Synapses = Literal["auto", "event", "dense"]
_NOTHING = np.zeros(0, np.int64)
_NO_SPIKES = Spikes(
    np.zeros(0, np.uint32), np.zeros((0, 1), np.int64), np.zeros(0, np.uint64), _NOTHING, _NOTHING, _NOTHING
)
_NOT_GIVEN = np.zeros((0, 0), np.int32)


@dataclass(frozen=True, eq=False)
class Job:
    """What all shards of a run share.

    stop: ends them where not 0; check: called with the number types of kernels before they are used.
    """

    results: Results
    synapses: Synapses
    stop: NDArray[np.uint8]
    check: Callable[[tuple[str, str, bool]], None]

    def is_dense(self, layer: Layer, density: float) -> bool:
        """Whether a population's sums are matrix products."""
        if self.synapses == "auto":
            return density > layer.dense_from
        return self.synapses == "dense" and layer.can_be_dense


class Room:
    """Arrays of one thread, used again by its next shard: fresh ones cost more than what is written to them."""

    def __init__(self) -> None:
        self.held: dict[tuple[str, str], NDArray[Any]] = {}

    def take(self, key: tuple[str, str], n: int, dtype: type[np.integer]) -> NDArray[Any]:
        """n numbers, whose contents are arbitrary."""
        found = self.held.get(key)
        if found is None or len(found) < n:
            found = self.held[key] = aligned(n + n // 4, dtype)
        return found[:n]


class Shard:
    """The samples' spikes so far; `run` takes populations in the network's order."""

    def __init__(self, job: Job, room: Room, samples: slice, inputs: IntInputs) -> None:
        self.job, self.results, self.room = job, job.results, room
        self.samples, self.inputs, self.tally = samples, inputs, Tally()
        self.storages = job.results.layout.storages
        self.n_rows = inputs.n_samples * inputs.n_steps
        self.words: dict[str, Words] = {}
        self.events: dict[str, tuple[Events, NDArray[np.int64]]] = {}

    def start(self, source: IntPopulation, spikes: NDArray[np.uint8]) -> None:
        """Hand on spikes [samples, T, *shape] of a spike source, or of a population whose spikes are given."""
        words, storage = self._take_words(source.name), self.storages[source.name]
        raster = spikes.reshape(self.n_rows, -1)
        if storage.image is not None:  # not in C order
            places = np.zeros((self.n_rows, storage.size), np.uint8)
            places[:, storage.place] = raster
            raster = places
        bits.pack(np.ascontiguousarray(raster, np.uint8), words)
        self._emit(source, words)

    def run(self, layer: Layer) -> None:
        """One population over all steps of the samples."""
        p, words = layer.population, self._take_words(layer.population.name)
        if layer.gate is not None:
            pre = layer.pres[0]
            place = self.storages[pre].place
            bits.pass_gate(self.words[pre], place, layer.gate, layer.storage.place, self.inputs.n_steps, words)
        else:
            self._integrate(layer, words)
        if self.job.stop[0]:  # the words are half-written
            return
        self._emit(p, words)
        for name in layer.pres:
            if self.results.layout.last_use[name] == p.name:
                self.events.pop(name, None)
                self.words.pop(name, None)

    def _take_words(self, name: str) -> Words:
        n_words = self.storages[name].size // 64
        words: Words = self.room.take((name, "words"), self.n_rows * n_words, np.uint64)
        return words.reshape(self.n_rows, n_words)

    def _emit(self, p: IntPopulation, words: Words) -> None:
        """Count and keep what a population fired, and hand it on."""
        size = 64 * words.shape[1]
        totals = self.tally.totals[p.name] = np.zeros(size, np.int64)
        is_counted = self.results.is_counted(p.name)
        counts = np.zeros((self.inputs.n_samples, size) if is_counted else (0, 0), np.int32)
        start = np.empty(self.n_rows + 1, np.int64)
        bits.count_rows(words, start)
        events = self.room.take((p.name, "events"), int(start[-1]) + 8, np.uint32)
        bits.list_events(words, events)
        events = events[: start[-1]]
        bits.add_up(events, start, self.inputs.n_steps, totals, counts)
        self.events[p.name], self.words[p.name] = (events, start), words
        if is_counted:
            self.results.keep_counts(p.name, self.samples, counts[:, self.storages[p.name].place])
        self.results.keep_words(p.name, self.samples, words)

    def _integrate(self, layer: Layer, words: Words) -> None:
        p, n, n_steps = layer.population, self.inputs.n_samples, self.inputs.n_steps
        bias, is_narrow = layer.biases(self.inputs)
        stamps = layer.synapses.stamps
        self.job.check((stamps.weight.dtype.name, np.dtype(layer.total_dtype).name, is_narrow))
        watch = layer.storage.place[self.results.watched(p.name, self.samples)]
        is_read = self.results.reads.get(p.name) == "membrane"
        run = Run(
            words=words,
            valid=layer.storage.valid,
            watch=watch,
            potentials=np.empty((self.n_rows, len(watch)), np.int64),
            last=np.empty((n, layer.storage.size) if is_read else (0, 0), np.int64),
            lost=np.zeros(2, np.int64),
            stop=self.job.stop,
        )
        total = self.room.take((p.name, "sums"), layer.n_sums, layer.total_dtype)
        spikes, given = self._arriving(layer)
        kernel = kernels.run_narrow if is_narrow else kernels.run_wide
        kernel(spikes, stamps, given, total, layer.neurons(n_steps, is_narrow=is_narrow), bias, run)
        self.tally.lost[p.name], self.tally.widths[p.name] = run.lost, 32 if is_narrow else 64
        if is_read:
            self.results.last[p.name][self.samples] = run.last[:, layer.storage.place]
        self.results.keep_potentials(p.name, self.samples, run.potentials)

    def _arriving(self, layer: Layer) -> tuple[Spikes, NDArray[np.int32]]:
        """The events of all projections into a population, or where those are many, their sums."""
        arriving = [self.events[name] for name in layer.pres]
        n_events = sum(len(events) for events, _ in arriving)
        n_places = sum(len(self.storages[name].place) for name in layer.pres) * self.n_rows
        is_dense = self.job.is_dense(layer, n_events / max(n_places, 1))
        self.tally.arrived[layer.population.name] = (n_events, n_places, self.n_rows * is_dense)
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
        spread: dict[str, NDArray[np.int8]] = {}
        for name in dict.fromkeys(layer.pres):
            words = self.words[name]
            spread[name] = np.empty((self.n_rows, 64 * words.shape[1]), np.int8)
            bits.spread(words, spread[name])
        if layer.byte_weights is not None:
            rows = torch.from_numpy(np.concatenate([spread[name] for name in layer.pres], 1))
            found: NDArray[np.int32] = torch._int_mm(rows, layer.byte_weights).numpy()
            return found
        in_order = {name: torch.from_numpy(x[:, self.storages[name].place]) for name, x in spread.items()}
        (sums,) = layer.products().sums(in_order)
        given = np.zeros((self.n_rows, layer.storage.size), np.int32)
        given[:, layer.storage.place] = sums.numpy().astype(np.int64) >> layer.power
        return given
