"""The core in torch, for devices made for matrix products: the same integers, one population after the other."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from neuroport.chip.core import spikes as bits
from neuroport.chip.core.layout import Layer
from neuroport.chip.core.results import Results, Tally
from neuroport.chip.core.storage import Storage
from neuroport.chip.inputs import IntInputs
from neuroport.chip.network import IntPopulation
from neuroport.chip.target import Register


class DeviceShard:
    """Some samples on their way through the network on a device; `run` takes populations in the network's order."""

    def __init__(self, results: Results, device: str, samples: slice, inputs: IntInputs) -> None:
        self.results, self.device = results, device
        self.samples, self.inputs, self.tally = samples, inputs, Tally()
        self.spikes: dict[str, torch.Tensor] = {}

    def start(self, source: IntPopulation, spikes: NDArray[np.uint8]) -> None:
        """Hand on the spikes [samples, T, *shape] of the spike source."""
        on_device = torch.from_numpy(np.ascontiguousarray(spikes)).to(self.device)
        self._emit(source, on_device.reshape(*spikes.shape[:2], -1))

    def run(self, layer: Layer) -> None:
        """One population over all steps of the samples."""
        p = layer.population
        if layer.gate is not None:
            self._emit(p, self._gate(layer))
            self.results.keep_potentials(p.name, self.samples, np.zeros((self._n_rows, p.n_neurons), np.int64))
        else:
            self._integrate(layer)
        for name in layer.pres:
            if self.results.layout.last_use[name] == p.name:
                self.spikes.pop(name, None)

    @property
    def _n_rows(self) -> int:
        return self.inputs.n_samples * self.inputs.n_steps

    def _emit(self, p: IntPopulation, spikes: torch.Tensor) -> None:
        """Count and keep the spikes [samples, T, N] of a population, and hand them on."""
        storage = self.results.layout.storages[p.name]
        counts = spikes.sum(1, dtype=torch.int32)
        self.spikes[p.name] = spikes
        self.tally.totals[p.name] = np.zeros(storage.size, np.int64)
        self.tally.totals[p.name][storage.place] = counts.sum(0, dtype=torch.int64).cpu().numpy()
        if self.results.is_counted(p.name):
            self.results.keep_counts(p.name, self.samples, counts.cpu().numpy())
        if p.name in self.results.words:
            self.results.keep_words(p.name, self.samples, self._words(p.name, storage))

    def _words(self, name: str, storage: Storage) -> NDArray[np.uint64]:
        places = np.zeros((self._n_rows, storage.size), np.uint8)
        places[:, storage.place] = self.spikes[name].reshape(self._n_rows, -1).cpu().numpy()
        words = np.empty((self._n_rows, storage.size // 64), np.uint64)
        bits.pack(places, words)
        return words

    def _gate(self, layer: Layer) -> torch.Tensor:
        """What passes a max-pool gate: looked up on the host."""
        (pre,), n_steps = layer.pres, self.inputs.n_steps
        before, storage = self.results.layout.storages[pre], layer.storage
        words = np.empty((self._n_rows, storage.size // 64), np.uint64)
        bits.pass_gate(self._words(pre, before), before.place, layer.gate, storage.place, n_steps, words)
        raster = np.empty((self._n_rows, layer.population.n_neurons), np.uint8)
        bits.unpack(words, storage.place, raster)
        return torch.from_numpy(raster).to(self.device).reshape(self.inputs.n_samples, n_steps, -1)

    def _sums(self, layer: Layer) -> torch.Tensor | int:
        """[samples, T, N] int64: what arrives, each accumulator held at its end."""
        p, a = layer.population, layer.arithmetic
        n_spikes = sum(int(self.spikes[name].sum()) for name in layer.pres)
        n_places = sum(self.spikes[name].numel() for name in layer.pres)
        self.tally.arrived[p.name] = (n_spikes, n_places, self._n_rows if layer.incoming else 0)
        if not layer.incoming:
            return 0
        rows = {j.pre: self.spikes[j.pre].reshape(self._n_rows, -1) for j in layer.incoming}
        sums = [x.to(torch.int64) for x in layer.products(self.device).sums(rows)]
        shape = (self.inputs.n_samples, self.inputs.n_steps, -1)
        if len(sums) == 1:
            return sums[0].reshape(shape)
        running = torch.arange(self.inputs.n_steps, device=self.device)[:, None] >= p.clamp_until
        for x in sums:
            self.tally.lost[p.name][0] += int(((x.reshape(shape) > a.accumulator_limit) & running).sum())
        held = [x.clamp_max(a.accumulator_limit) for x in sums]
        return (held[0] - held[1]).reshape(shape)

    def _integrate(self, layer: Layer) -> None:
        p, a, n_steps = layer.population, layer.arithmetic, self.inputs.n_steps
        lost = self.tally.lost[p.name] = np.zeros(2, np.int64)
        self.tally.widths[p.name] = 64
        sums = self._sums(layer)
        mantissa = self.inputs.currents[p.name] if p.driven else p.bias_mantissa[None]
        bias = torch.from_numpy(mantissa.reshape(len(mantissa), -1).astype(np.int64) << p.bias_exponent)
        bias = bias.to(self.device)
        threshold = p.threshold_mantissa << a.threshold.shift
        fires_at, whole = threshold + (a.threshold.compare == ">"), 1 << a.decay_bits
        current_keep = 0 if p.current_decay is None else whole - p.current_decay
        shape = (self.inputs.n_samples, p.n_neurons)
        v = torch.full(shape, p.v_init_int, dtype=torch.int64, device=self.device)
        u = torch.zeros_like(v)
        spikes = torch.zeros((shape[0], n_steps, shape[1]), dtype=torch.uint8, device=self.device)
        watch = torch.from_numpy(self.results.watched(p.name, self.samples)).to(self.device)
        potentials = torch.zeros((shape[0], n_steps, len(watch)), dtype=torch.int64, device=self.device)
        over = torch.zeros(2, dtype=torch.int64, device=self.device)
        for t in range(n_steps):
            if t >= p.clamp_until:
                exact = (sums[:, t] if isinstance(sums, torch.Tensor) else torch.zeros_like(v)) << a.synaptic_shift
                if current_keep:
                    exact = exact + _left(u, current_keep, a.decay_bits)
                u = _limited(exact, a.current)
                over[0] += (u != exact).sum()
                arriving = u + bias
                if a.leak == "closed-form":
                    exact = arriving - (((whole - p.decay) * (arriving - v)) >> a.decay_bits)
                else:
                    exact = (_left(v, whole - p.decay, a.decay_bits) if p.decay else v) + arriving
                v = _limited(exact, a.membrane)
                beyond = v != exact
                low = beyond & (exact < 0) if a.membrane.overflow == "saturate" else torch.zeros_like(beyond)
                over += torch.stack([(beyond & ~low).sum(), low.sum()])
                v = v if layer.floor is None else v.clamp_min(layer.floor)
                fired = v >= fires_at
                v = torch.where(fired, v - threshold if p.reset == "subtract" else torch.zeros_like(v), v)
                spikes[:, t] = fired
            potentials[:, t] = v[:, watch]
        lost += over.cpu().numpy()
        if self.results.reads.get(p.name) == "membrane":
            self.results.last[p.name][self.samples] = v.cpu().numpy()
        self.results.keep_potentials(p.name, self.samples, potentials.reshape(self._n_rows, -1).cpu().numpy())
        self._emit(p, spikes)


def _left(x: torch.Tensor, keep: int, bits: int) -> torch.Tensor:
    """What a step leaves of x, rounded towards 0."""
    return x.sign() * ((x.abs() * keep) >> bits)


def _limited(x: torch.Tensor, register: Register) -> torch.Tensor:
    """What a register keeps of x; the rule of chip/oracle.py `limit`."""
    half = 1 << (register.bits - 1)
    if register.overflow == "saturate":
        return x.clamp(-(half - 1), half - 1)
    return torch.where(x > half, x - 2 * half, torch.where(x <= -half, x + 2 * half, x))
