"""Projections that are matrices, dense or sparse: what they take of cores, counted from the weights themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from neuroport.chip.synapses import IntDense, IntSparse
from neuroport.mapping.network import Box
from neuroport.mapping.reach import columns_of
from neuroport.mapping.store import SynapseStore
from neuroport.mapping.wiring import Senders, Stored, Wiring
from neuroport.snn.operators import Image

Histogram = tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class MatrixWiring(Wiring):
    """A matrix from the image `before` to the image `behind`; its weights of 0 are no synapses.

    discrete: each neuron before has an axon of its own; its synapses have an index each, or none where the whole tile
    is stored, zeros too, whichever takes less. population: a row of weights for each neuron of the axon, all as long
    as the longest.
    """

    synapse: IntDense | IntSparse
    before: Image
    behind: Image
    _seen: dict[Box, tuple[int, Histogram]] = field(default_factory=dict)

    def axons_in(self, box: Box) -> int:
        """Axons with at least one synapse in the tile."""
        return sum(n_axons for _, n_axons in self._sizes(box)[1])

    def pairs(self, boxes: Sequence[Box]) -> int:
        """Neurons before times the boxes that each reaches."""
        return sum(self._sizes(box)[0] for box in boxes)

    def stored(self, box: Box, first: int) -> Stored:
        """All axons of the tile."""
        if self.store is None:
            return Stored(0, 0)
        n = math.prod(end - start for start, end in box)
        width = self.store.index_width(first + n - 1)
        found = [Stored(self._total(self.store, self._sizes(box)[1], self.format.bits + width), width)]
        if self.storage == "discrete" and first <= (self.population.base_max or 0):
            found.append(Stored(self._total(self.store, ((n, self.axons_in(box)),), self.format.bits), -1))
        return min(found, key=lambda stored: stored.bits)

    def _total(self, store: SynapseStore, sizes: Histogram, bits_each: int) -> int:
        """Bits of so many axons with so many synapses each."""
        return sum(n_axons * store.bits(n, bits_each) for n, n_axons in sizes)

    def senders(self, boxes: Sequence[Box]) -> MatrixSenders:
        """Tiles that each axon reaches."""
        fan = np.zeros(self._n_axons, np.int64)
        for box in boxes:
            columns, _ = self._columns(box)
            fan[np.unique(self._axon_of[columns])] += 1
        if self.storage == "discrete":
            return MatrixSenders(fan.reshape(self.before), 1, self.slots)
        size = self.population.neurons or self.before[0]
        return MatrixSenders(fan.reshape(-1, *self.before[1:]), size, self.slots)

    @cached_property
    def _axon_of(self) -> NDArray[np.int64]:
        """[n_in]: the axon of each neuron before."""
        if self.storage == "discrete":
            return np.arange(math.prod(self.before))
        n_pixels = self.before[1] * self.before[2]
        channel, pixel = np.divmod(np.arange(math.prod(self.before)), n_pixels)
        axon: NDArray[np.int64] = channel // (self.population.neurons or self.before[0]) * n_pixels + pixel
        return axon

    @cached_property
    def _axon_sizes(self) -> NDArray[np.int64]:
        """[n_axons]: neurons that share each axon."""
        return np.bincount(self._axon_of)

    @property
    def _n_axons(self) -> int:
        return int(self._axon_of[-1]) + 1

    def _sizes(self, box: Box) -> tuple[int, Histogram]:
        """Neurons before that reach the tile; (synapses, axons with so many in it), padding of rows too."""
        if box not in self._seen:
            columns, n = self._columns(box)
            if self.storage == "population":
                longest = np.zeros(self._n_axons, np.int64)
                np.maximum.at(longest, self._axon_of[columns], n)
                n = (longest * self._axon_sizes)[longest > 0]
            values, n_axons = np.unique(n, return_counts=True)
            self._seen[box] = len(columns), tuple(zip(values.tolist(), n_axons.tolist(), strict=True))
        return self._seen[box]

    def _columns(self, box: Box) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Neurons before that reach the tile, and how many synapses each has in it."""
        if isinstance(self.synapse, IntDense):
            grid = self.synapse.mantissa.reshape(*self.behind, -1)
            n = np.count_nonzero(grid[tuple(slice(a, b) for a, b in box)], axis=(0, 1, 2))
            columns = np.flatnonzero(n)
            return columns, n[columns]
        rows = np.arange(math.prod(self.behind)).reshape(self.behind)[tuple(slice(a, b) for a, b in box)].ravel()
        columns, n = np.unique(columns_of(self.synapse, rows), return_counts=True)
        return columns.astype(np.int64), n


@dataclass(frozen=True, eq=False)
class MatrixSenders(Senders):
    """fan: [C / size, H, W], tiles that each axon reaches; `size` channels share one."""

    fan: NDArray[np.int64]
    size: int
    slots: int

    def axons_out(self, box: Box) -> int:
        """One for each axon and each tile that it reaches."""
        (c0, c1), (h0, h1), (w0, w1) = box
        part = self.fan[c0 // self.size : (c1 - 1) // self.size + 1, h0:h1, w0:w1]
        return int(part.sum()) * self.slots
