"""The results of a run of the core, as its shards write them."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from neuroport.chip.core.layout import Layer, layout_of
from neuroport.chip.core.record import CoreRun, Path, Raster, Record, positions
from neuroport.chip.core.work import Words
from neuroport.chip.network import IntNetwork


@dataclass
class Tally:
    """What one shard counted.

    totals: spikes by place of each population; lost: see work.Run; arrived: [spikes that arrived, neurons times steps
    they came from, steps whose sums were matrix products] of each population; widths: bits of its potentials.
    """

    totals: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    lost: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    arrived: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    widths: dict[str, int] = field(default_factory=dict)


_NONE = np.zeros(0, np.int64)


class Results:
    """Sums over all samples, and for each sample what is read or recorded; several threads write to it."""

    def __init__(self, network: IntNetwork, record: Record, n_samples: int, n_steps: int) -> None:
        self.network, self.record, self.n_samples, self.n_steps = network, record, n_samples, n_steps
        self.layout, self.lock = layout_of(network), threading.Lock()
        storages, size = self.layout.storages, {p.name: p.n_neurons for p in network.populations}
        self.position = positions(record.samples, n_samples)
        n_kept = n_samples if record.samples is None else len(record.samples)
        self.totals = {name: np.zeros(storage.size, np.int64) for name, storage in storages.items()}
        self.lost = {p.name: np.zeros(2, np.int64) for p in network.populations}
        self.arrived = {layer.population.name: np.zeros(3, np.int64) for layer in self.layout.layers}
        self.widths: dict[str, int] = {}
        self.reads = {head.population: head.read for head in network.heads}
        self.last = {name: np.zeros((n_samples, size[name]), np.int64) for name in self.reads}
        self.counts = {name: np.zeros((n_samples, size[name]), np.int32) for name in record.counts}
        self.words: dict[str, Words] = {
            name: np.zeros((n_kept, n_steps, storages[name].size // 64), np.uint64) for name in record.spikes
        }
        self.watch = {  # neurons in C order
            name: np.arange(size[name]) if neurons is None else np.array(neurons, np.int64)
            for name, neurons in record.potentials.items()
        }
        self.potentials = {
            name: np.zeros((n_kept, n_steps, len(neurons)), np.int64) for name, neurons in self.watch.items()
        }

    def is_counted(self, name: str) -> bool:
        """Whether the spikes of each sample are asked for."""
        return name in self.counts or self.reads.get(name) == "count"

    def keep_counts(self, name: str, samples: slice, counts: NDArray[np.int32]) -> None:
        """Keep counts [samples, N] where they are asked for."""
        if name in self.counts:
            self.counts[name][samples] = counts
        if self.reads.get(name) == "count":
            self.last[name][samples] = counts

    def keep_words(self, name: str, samples: slice, words: Words) -> None:
        """Keep words [samples * T, n] where they are asked for."""
        if name in self.words:
            kept, at = self.kept(samples)
            self.words[name][at] = words.reshape(len(self.position[samples]), self.n_steps, -1)[kept]

    def keep_potentials(self, name: str, samples: slice, potentials: NDArray[np.int64]) -> None:
        """Keep potentials [samples * T, watched] where they are asked for."""
        kept, at = self.kept(samples)
        if name in self.potentials and len(kept):
            self.potentials[name][at] = potentials.reshape(len(self.position[samples]), self.n_steps, -1)[kept]

    def kept(self, samples: slice) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(which of these samples are recorded, where)."""
        at = self.position[samples]
        kept = np.flatnonzero(at >= 0)
        return kept, at[kept]

    def watched(self, name: str, samples: slice) -> NDArray[np.int64]:
        """Neurons whose potentials are recorded in these samples."""
        found = self.watch.get(name)
        return _NONE if found is None or not len(self.kept(samples)[0]) else found

    def add(self, tally: Tally) -> None:
        """Add what a shard counted."""
        with self.lock:
            for name, n in tally.totals.items():
                self.totals[name] += n
            for name, lost in tally.lost.items():
                self.lost[name] += lost
            for name, arrived in tally.arrived.items():
                self.arrived[name] += arrived
            for name, width in tally.widths.items():
                self.widths[name] = max(width, self.widths.get(name, 0))

    def run(self) -> CoreRun:
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

    def _path(self, layer: Layer) -> Path:
        name = layer.population.name
        n_spikes, n_places, n_dense = (int(n) for n in self.arrived[name])
        return Path(
            n_dense / max(self.n_samples * self.n_steps, 1),
            8 * np.dtype(layer.total_dtype).itemsize,
            layer.bound,
            self.widths.get(name, 0),
            n_spikes / max(n_places, 1),
        )
