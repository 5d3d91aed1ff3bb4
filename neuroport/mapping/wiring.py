"""What one projection takes of a core: axons in, bits of synapses, and of the cores before it: axons out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from neuroport.mapping.network import Box, Storage
from neuroport.mapping.store import Format, SynapseStore

Interval = tuple[int, int]


@dataclass(frozen=True)
class Population:
    """Axons shared by neurons of one pixel: at most `neurons` each, with `slots` output axons; see Geometry."""

    neurons: int | None
    slots: int
    base_max: int | None

    def n_chunks(self, start: int, end: int) -> int:
        """Axons of a pixel that its channels from start to end use."""
        return 1 if self.neurons is None else (end - 1) // self.neurons - start // self.neurons + 1


@dataclass(frozen=True)
class Stored:
    """Bits that the synapses of a tile take, and those of the index in each of them; -1: a whole tile needs none."""

    bits: int
    index_bits: int


class Senders(ABC):
    """Output axons into one population behind, once that is cut into tiles."""

    @abstractmethod
    def axons_out(self, box: Box) -> int:
        """Output axons of a box of the image [C, H, W] before."""


@dataclass(frozen=True, eq=False)
class Wiring(ABC):
    """One projection, as it is stored. Boxes are of the image [C, H, W] of the population behind.

    store: None where the chip's formula is not known; then synapses take 0 bits.
    """

    storage: Storage
    format: Format
    store: SynapseStore | None
    population: Population

    @property
    def slots(self) -> int:
        """Output axons that each axon takes of the core before."""
        return 1 if self.storage == "discrete" else self.population.slots

    @abstractmethod
    def axons_in(self, box: Box) -> int:
        """Input axons of the core with these neurons."""

    @abstractmethod
    def stored(self, box: Box, first: int) -> Stored:
        """The synapses of these neurons, whose compartments begin at `first`."""

    @abstractmethod
    def senders(self, boxes: Sequence[Box]) -> Senders:
        """What the population before sends into these boxes, which are all of the population."""

    def total_in(self, boxes: Sequence[Box]) -> int:
        """Input axons of all boxes together."""
        return sum(map(self.axons_in, boxes))

    @abstractmethod
    def pairs(self, boxes: Sequence[Box]) -> int:
        """Neurons before times the boxes that each reaches: messages, where all fire once."""
