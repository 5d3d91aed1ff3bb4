"""What tiles take of a core of a chip with axons (Loihi), resource by resource, and what the core has."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from neuroport.chip.network import IntPopulation
from neuroport.chip.target import Target
from neuroport.errors import UsageError
from neuroport.mapping.network import Box, Use
from neuroport.mapping.store import Format, SynapseStore
from neuroport.mapping.wiring import Senders, Wiring
from neuroport.snn.operators import Image, as_image

# Resources whose use by tiles on one core adds up, the others are counted once for all that are alike.
COMPARTMENTS, AXONS_IN, AXONS_OUT, BITS = "compartments", "input axons", "output axons", "synapse bits"
INDEX, DELAY = "synapse index bits", "delay"
COMPARTMENT_CONFIGS, THRESHOLD_CONFIGS, SYNAPSE_CONFIGS = (
    f"{x} configurations" for x in ("compartment", "threshold", "synapse")
)
ADDED = (COMPARTMENTS, AXONS_IN, AXONS_OUT, BITS)

# What a user can do where a core has too little of a resource.
REMEDIES: Mapping[str, str] = {
    COMPARTMENTS: "choose a chip with more compartments per core, or a reset that takes one per neuron",
    AXONS_IN: "split the layer, or use a smaller kernel or fewer channels before it",
    AXONS_OUT: "make the layers behind it smaller, so that fewer cores read each neuron",
    BITS: "split the layer, use a smaller kernel, or quantize to fewer weight bits",
    INDEX: "choose a chip whose synapses reach all compartments of a core",
    COMPARTMENT_CONFIGS: "give its neurons one decay, or choose a chip with more configurations",
    THRESHOLD_CONFIGS: "use a reset that takes one threshold, or choose a chip with more configurations",
    SYNAPSE_CONFIGS: "let fewer layers feed it (join them by a layer of their own)",
    DELAY: "shorten the skip connection (put layers of one neuron per value on it)",
}

Configs = tuple[frozenset[object], frozenset[object], frozenset[object]]


@dataclass(frozen=True)
class Load:
    """What one tile, or several, take of a core. configs: of compartments, thresholds and synapses."""

    compartments: int
    axons_in: int
    axons_out: int
    bits: int
    index_bits: int
    delay: int
    configs: Configs

    def __add__(self, other: Load) -> Load:
        """Both on one core."""
        return Load(
            self.compartments + other.compartments,
            self.axons_in + other.axons_in,
            self.axons_out + other.axons_out,
            self.bits + other.bits,
            max(self.index_bits, other.index_bits),
            max(self.delay, other.delay),
            (
                self.configs[0] | other.configs[0],
                self.configs[1] | other.configs[1],
                self.configs[2] | other.configs[2],
            ),
        )

    @property
    def used(self) -> dict[str, int]:
        """By resource."""
        return {
            COMPARTMENTS: self.compartments,
            AXONS_IN: self.axons_in,
            AXONS_OUT: self.axons_out,
            BITS: self.bits,
            INDEX: self.index_bits,
            COMPARTMENT_CONFIGS: len(self.configs[0]),
            THRESHOLD_CONFIGS: len(self.configs[1]),
            SYNAPSE_CONFIGS: len(self.configs[2]),
            DELAY: self.delay,
        }


@dataclass(frozen=True)
class Limits:
    """By resource, what a core has; None: not known."""

    of: Mapping[str, int | None]

    def uses(self, load: Load) -> dict[str, Use]:
        """Use against limit; synapse bits only where the chip's formula is known.

        Not the width of an index: the narrowest that reaches is chosen.
        """
        hidden = {BITS, INDEX} if self.of[BITS] is None else {INDEX}
        return {name: Use(n, self.of[name]) for name, n in load.used.items() if name not in hidden}

    def broken(self, load: Load) -> Iterator[tuple[str, int, int]]:
        """Resource, use and limit where the core has less."""
        for name, used in load.used.items():
            limit = self.of[name]
            if limit is not None and used > limit:
                yield name, used, limit

    def holds(self, load: Load) -> bool:
        """Whether the core has enough of everything."""
        return next(self.broken(load), None) is None

    @property
    def unknown(self) -> tuple[str, ...]:
        """Resources that nothing is held to."""
        return tuple(name for name, limit in self.of.items() if limit is None and name != INDEX)


def limits_of(target: Target, store: SynapseStore | None) -> Limits:
    """The limits of a core.

    Raises:
        UsageError: the target has no cores.
    """
    g = target.geometry
    if g.compartments_per_core is None:
        raise UsageError(
            f"target '{target.name}' has no compartments_per_core in its datasheet, so nothing can be mapped onto it; "
            f"choose a chip, such as loihi1"
        )
    return Limits(
        {
            COMPARTMENTS: g.compartments_per_core,
            AXONS_IN: g.input_axons_per_core,
            AXONS_OUT: g.output_axons_per_core,
            BITS: g.synapse_bits_per_core if store else None,
            INDEX: max(store.index_bits) if store else None,
            COMPARTMENT_CONFIGS: g.compartment_configs_per_core,
            THRESHOLD_CONFIGS: g.threshold_configs_per_core,
            SYNAPSE_CONFIGS: g.synapse_configs_per_core,
            DELAY: g.delay_max,
        }
    )


def image_shape(population: IntPopulation) -> Image:
    """The shape as [C, H, W], on which its tiles are boxes; more than three axes are read flat."""
    shape = population.shape
    return as_image(shape) if 1 <= len(shape) <= 3 else (population.n_neurons, 1, 1)


@dataclass(frozen=True, eq=False)
class Layer:
    """One population with what it takes of cores: wirings into it, and senders out of it as others are cut."""

    population: IntPopulation
    compartments: int
    incoming: tuple[Wiring, ...]
    outgoing: tuple[Senders, ...]
    store: SynapseStore | None

    @property
    def shape(self) -> Image:
        """[C, H, W]."""
        return image_shape(self.population)

    def load(self, box: Box, first: int = 0) -> Load:
        """What a box takes of a core on which its compartments begin at `first`.

        Of a neuron with two compartments the first are all before the second; each feeds its threshold back to itself:
        an axon out, an axon in, a synapse.
        """
        n = math.prod(end - start for start, end in box)
        stored = [wiring.stored(box, first) for wiring in self.incoming]
        formats = {(w.format, w.storage, s.index_bits) for w, s in zip(self.incoming, stored, strict=True)}
        axons_in = sum(wiring.axons_in(box) for wiring in self.incoming)
        axons_out = sum(senders.axons_out(box) for senders in self.outgoing)
        bits, widths = sum(s.bits for s in stored), [s.index_bits for s in stored]
        p = self.population
        decays = {(p.decay, p.current_decay, k) for k in range(self.compartments)}
        thresholds: set[object] = {p.threshold_mantissa}
        if self.compartments > 1:
            thresholds.add(None)  # the first compartment never fires
            formats.add((_FEEDBACK, "discrete", -1))
            axons_in, axons_out = axons_in + n, axons_out + n
            if self.store:
                widths.append(self.store.index_width(first + n - 1))
                bits += n * self.store.bits(1, max(self.store.weight_bits) + widths[-1])
        return Load(
            n * self.compartments,
            axons_in,
            axons_out,
            bits,
            max(0, *widths, 0),
            max((wiring.format.delay for wiring in self.incoming), default=0),
            (frozenset(decays), frozenset(thresholds), frozenset(formats)),
        )

    def together(self, boxes: Sequence[Box]) -> Load:
        """What boxes take, one after the other on one core."""
        found, *rest = boxes
        load = self.load(found)
        for box in rest:
            load += self.load(box, load.compartments)
        return load


_FEEDBACK = Format(0, "feedback", 0, 0)


def total_load(layers: Mapping[str, Layer], tiles: Sequence[tuple[str, Box]]) -> Load:
    """What tiles take together, one after the other on one core."""
    loads, first = [], 0
    for name, box in tiles:
        loads.append(layers[name].load(box, first))
        first += loads[-1].compartments
    return sum(loads[1:], loads[0])
