"""Spike messages between cores: each spike goes once to every core that holds a synapse of its neuron."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array

from neuroport.chip.network import IntNetwork, IntProjection
from neuroport.mapping.activity import Activity
from neuroport.mapping.network import Partition, Tile
from neuroport.mapping.reach import ImageSynapse, halo_of, image_box, images_of, inputs_of
from neuroport.snn.operators import Shape, as_image

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
_CORES = np.int32  # a large network has tens of millions of pairs
_BLOCK = 1 << 20  # pairs that are looked at together


@dataclass(frozen=True, eq=False)
class Traffic:
    """Messages of one inference from core to core, its own included.

    sources, destinations, messages: [n_pairs], each pair once, ascending; from_outside: [n_cores] messages of spike
    sources, which lie on no core.
    """

    n_cores: int
    sources: NDArray[np.int32]
    destinations: NDArray[np.int32]
    messages: Floats
    from_outside: Floats

    def along(self, sites: Ints, count: Callable[[Ints, Ints], Sequence[NDArray[np.integer]]]) -> list[float]:
        """Messages times each number that `count` gives for the ways between the sites [n_cores] of their cores."""
        sums: list[float] = []
        for start in range(0, len(self.messages), _BLOCK):
            k = slice(start, start + _BLOCK)
            found = count(sites[self.sources[k]], sites[self.destinations[k]])
            added = [float(self.messages[k] @ numbers) for numbers in found]
            sums = [a + b for a, b in zip(sums, added, strict=True)] if sums else added
        return sums or [0.0] * len(count(np.empty(0, np.int64), np.empty(0, np.int64)))


def spike_traffic(partition: Partition, activity: Activity | None) -> Traffic:
    """The messages of one inference with the spikes of the activity; without one, as if each neuron fired once.

    Where a reset takes two compartments, each spike also goes to the neuron's own core.
    """
    network, n = partition.network, len(partition.cores)
    found, outside = _Found(), np.zeros(n)
    readers = _readers(partition)
    for p in network.populations:
        rate = np.ones(p.n_neurons) if activity is None else activity.rates(p.name)
        holders = _holders(partition, p.name, p.shape)
        if p.role != "input" and network.compartments_of(p) > 1:
            found.add(holders.cores, np.bincount(holders.of, rate, len(holders.cores)), None)
        for core, entries in readers[p.name].items():
            parts = [_read(network, j, tile) for j, tile in entries]
            where = parts[0] if len(parts) == 1 else np.unique(np.concatenate(parts))
            if len(holders.cores):
                found.add(holders.cores, np.bincount(holders.of[where], rate[where], len(holders.cores)), core)
            else:
                outside[core] += rate[where].sum()
    sources, destinations, messages = found.pairs(n)
    return Traffic(n, sources, destinations, messages, outside)


class _Found:
    """Messages from core to core as they are found."""

    def __init__(self) -> None:
        self.sources: list[NDArray[np.int32]] = []
        self.destinations: list[NDArray[np.int32]] = []
        self.messages: list[Floats] = []

    def add(self, cores: Ints, messages: NDArray[np.number], to: int | None) -> None:
        """Messages of each of the cores to a core, None: to itself; silent neurons send none."""
        loud = np.flatnonzero(messages)
        self.sources.append(cores[loud].astype(_CORES))
        self.destinations.append(self.sources[-1] if to is None else np.full(len(loud), to, _CORES))
        self.messages.append(messages[loud].astype(np.float64))

    def pairs(self, n: int) -> tuple[NDArray[np.int32], NDArray[np.int32], Floats]:
        """Each pair of n cores once, with all of its messages."""
        if not self.sources:
            return np.empty(0, _CORES), np.empty(0, _CORES), np.empty(0)
        ends = (np.concatenate(self.sources), np.concatenate(self.destinations))
        sums = coo_array((np.concatenate(self.messages), ends), shape=(n, n)).tocsr()
        sums.sort_indices()
        sources = np.repeat(np.arange(n, dtype=_CORES), np.diff(sums.indptr))
        return sources, sums.indices.astype(_CORES, copy=False), sums.data


@dataclass(frozen=True, eq=False)
class _Holders:
    """cores: [n] those that hold a population; of: [n_neurons] which of them holds each neuron."""

    cores: Ints
    of: Ints


def _holders(partition: Partition, name: str, shape: Shape) -> _Holders:
    cores = partition.cores_of[name]
    of = np.zeros(math.prod(shape), np.int64)
    for k, core in enumerate(cores):
        for tile in partition.cores[core].tiles:
            if tile.population == name:
                grid = of.reshape(shape) if len(tile.box) == len(shape) else of
                grid[tile.slices] = k
    return _Holders(np.array(cores, np.int64), of)


def _readers(partition: Partition) -> Mapping[str, dict[int, list[tuple[IntProjection, Tile]]]]:
    """For each population the cores that read it, with the projections and tiles they read it by."""
    network = partition.network
    found: dict[str, dict[int, list[tuple[IntProjection, Tile]]]] = {p.name: {} for p in network.populations}
    for k, core in enumerate(partition.cores):
        for tile in core.tiles:
            for j in network.incoming[tile.population]:
                found[j.pre].setdefault(k, []).append((j, tile))
    return found


def _read(network: IntNetwork, j: IntProjection, tile: Tile) -> Ints:
    """Indices of the neurons before that a tile reads; of an image only the part that it looks at is gone through."""
    shape = network.by_name[j.post].shape
    box = image_box(tile, shape)
    if isinstance(j.synapse, ImageSynapse) and box is not None and as_image(shape) == images_of(j.synapse)[1]:
        _, n_rows, n_columns = images_of(j.synapse)[0]
        halo = halo_of(j.synapse, box)
        channels, rows, columns = (np.flatnonzero(part) for part in (halo.channels, halo.rows, halo.cols))
        return np.asarray(((channels[:, None, None] * n_rows + rows[:, None]) * n_columns + columns).ravel())
    return np.flatnonzero(inputs_of(network, j, tile))
