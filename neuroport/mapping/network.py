"""The mapped network: which core holds which neurons, what that takes of the core, and where the core lies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from neuroport.chip.network import IntNetwork
from neuroport.chip.target import Target

Box = tuple[tuple[int, int], ...]

# discrete: an axon for each neuron before. population: an axon for each of its pixels (all channels; of a flat
# population for all its neurons), which says with each spike whose it was, so that its weights are found.
# rows: a row of synapses for each neuron before, in the memory of the chip (SpiNNaker).
Storage = Literal["discrete", "population", "rows"]


@dataclass(frozen=True)
class Tile:
    """Part of one population: a box of its neurons, from `start` up to, not including, `end` on each axis.

    A box of one axis lies on the population read in C order, whatever its shape (reach.neurons_of).
    """

    population: str
    box: Box

    @property
    def n_neurons(self) -> int:
        """Neurons in it."""
        return math.prod(end - start for start, end in self.box)

    @property
    def slices(self) -> tuple[slice, ...]:
        """The box as an index into arrays of the population's shape, or, of one axis, into the raveled ones."""
        return tuple(slice(start, end) for start, end in self.box)


@dataclass(frozen=True)
class Use:
    """What is used of one resource ('compartments', 'input axons', ...), and the most there is; None: not limited."""

    used: int
    limit: int | None

    @property
    def fraction(self) -> float:
        """Used part of the limit; 0 where there is none."""
        return self.used / self.limit if self.limit else 0.0


@dataclass(frozen=True)
class Core:
    """One core: its tiles, and by resource what they take of it."""

    tiles: tuple[Tile, ...]
    uses: Mapping[str, Use] = field(hash=False)

    @property
    def binding(self) -> str:
        """The resource that is used most."""
        return max(self.uses, key=lambda name: self.uses[name].fraction)


@dataclass(frozen=True, eq=False)
class Partition:
    """Cores that hold every neuron of the network (but those of spike sources) exactly once, none of them overfull.

    storages: of each projection, in the network's order, how its synapses are stored. unknown: limits of the
    chip that its datasheet does not know, so that nothing was held to them.
    """

    network: IntNetwork
    target: Target
    cores: tuple[Core, ...]
    storages: tuple[Storage, ...] = ()
    unknown: tuple[str, ...] = ()

    @cached_property
    def cores_of(self) -> Mapping[str, tuple[int, ...]]:
        """Indices of the cores that hold a part of each population."""
        found: dict[str, list[int]] = {p.name: [] for p in self.network.populations}
        for k, core in enumerate(self.cores):
            for name in dict.fromkeys(tile.population for tile in core.tiles):
                found[name].append(k)
        return {name: tuple(indices) for name, indices in found.items()}


@dataclass(frozen=True)
class Site:
    """Where a core lies: the chip by its place on the board's grid, the core's router by its place on the chip's mesh.

    core: number of the core on its chip.
    """

    chip: int
    core: int
    x: int
    y: int


@dataclass(frozen=True, eq=False)
class MappedNetwork:
    """A partition with a site for each of its cores, in the same order."""

    partition: Partition
    sites: tuple[Site, ...]

    @property
    def n_chips(self) -> int:
        """Chips that hold at least one core of the network."""
        return len({site.chip for site in self.sites})
