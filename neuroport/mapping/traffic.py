"""Spike messages between cores: each spike goes once to every core that holds a synapse of its neuron."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuroport.chip.network import IntProjection
from neuroport.mapping.activity import Activity
from neuroport.mapping.network import Partition, Tile
from neuroport.mapping.reach import inputs_of, neurons_of

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Traffic:
    """Messages of one inference from core to core, its own included.

    sources, destinations, messages: [n_pairs], each pair once, ascending; from_outside: [n_cores] messages of spike
    sources, which lie on no core.
    """

    n_cores: int
    sources: Ints
    destinations: Ints
    messages: Floats
    from_outside: Floats


def spike_traffic(partition: Partition, activity: Activity | None) -> Traffic:
    """The messages of one inference with the spikes of the activity; without one, as if each neuron fired once.

    Where a reset takes two compartments, each spike also goes to the neuron's own core.
    """
    network, n = partition.network, len(partition.cores)
    found: dict[tuple[int, int], float] = {}
    outside = np.zeros(n)
    readers = _readers(partition)
    for p in network.populations:
        rate = np.ones(p.n_neurons) if activity is None else activity.rates(p.name)
        holders = _holders(partition, p.name, p.shape)
        per_holder = _sums(holders.of, rate, len(holders.cores))
        if p.role != "input" and network.compartments_of(p) > 1:
            _add(found, holders.cores, per_holder, None)
        for core, entries in readers[p.name].items():
            read = np.logical_or.reduce([inputs_of(network, j, tile) for j, tile in entries])
            where = None if read.all() else np.flatnonzero(read)
            if p.role == "input":
                outside[core] += rate.sum() if where is None else rate[where].sum()
            elif where is None:
                _add(found, holders.cores, per_holder, core)
            else:
                _add(found, holders.cores, _sums(holders.of[where], rate[where], len(holders.cores)), core)
    pairs = sorted(found)
    ends = np.array(pairs, np.int64).reshape(-1, 2)
    return Traffic(n, ends[:, 0], ends[:, 1], np.array([found[pair] for pair in pairs]), outside)


@dataclass(frozen=True, eq=False)
class _Holders:
    """cores: those that hold a population; of: [n_neurons] which of them holds each neuron."""

    cores: tuple[int, ...]
    of: Ints


def _holders(partition: Partition, name: str, shape: tuple[int, ...]) -> _Holders:
    cores = partition.cores_of[name]
    of = np.zeros(math.prod(shape), np.int64)
    for k, core in enumerate(cores):
        for tile in partition.cores[core].tiles:
            if tile.population == name:
                of[neurons_of(tile, shape)] = k
    return _Holders(cores, of)


def _readers(partition: Partition) -> Mapping[str, dict[int, list[tuple[IntProjection, Tile]]]]:
    """For each population the cores that read it, with the projections and tiles they read it by."""
    network = partition.network
    found: dict[str, dict[int, list[tuple[IntProjection, Tile]]]] = {p.name: {} for p in network.populations}
    for k, core in enumerate(partition.cores):
        for tile in core.tiles:
            for j in network.incoming[tile.population]:
                found[j.pre].setdefault(k, []).append((j, tile))
    return found


def _sums(of: Ints, rate: Floats, n: int) -> Floats:
    """[n]: the rates of each holder's neurons together."""
    return np.bincount(of, rate, n).astype(np.float64)


def _add(found: dict[tuple[int, int], float], cores: tuple[int, ...], messages: Floats, to: int | None) -> None:
    """Add messages of each of the cores to a core, None: to itself; silent neurons send none."""
    for k in np.flatnonzero(messages):
        pair = (cores[k], cores[k] if to is None else to)
        found[pair] = found.get(pair, 0.0) + float(messages[k])
