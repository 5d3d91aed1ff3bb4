"""Cuts a network into tiles and gives them to cores, so that no core holds more than it can."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from neuroport.chip.network import IntNetwork, IntPopulation, IntProjection
from neuroport.chip.synapses import IntDense, IntSparse, as_sparse
from neuroport.chip.target import Target
from neuroport.errors import DoesNotFitError
from neuroport.mapping.image import ImageWiring
from neuroport.mapping.limits import ADDED, AXONS_OUT, REMEDIES, Layer, image_shape, limits_of
from neuroport.mapping.matrix import MatrixWiring
from neuroport.mapping.network import Box, Core, Partition, Storage, Tile
from neuroport.mapping.pack import Placed, packed
from neuroport.mapping.processors import REMEDIES as PROCESSOR_REMEDIES
from neuroport.mapping.processors import processors
from neuroport.mapping.reach import ImageSynapse, images_of, weights_of
from neuroport.mapping.search import Burden, Cut, Refusal, best_cut, capacity
from neuroport.mapping.store import Format, format_of, store_of
from neuroport.mapping.wiring import Population, Senders, Wiring

_NEVER = 1 << 40  # cores: no number of them is enough


def partition(
    network: IntNetwork, target: Target, *, max_cores: int | None = None, weight_bits: int | None = None
) -> Partition:
    """Cores that hold the network, as few as the search finds, then with the fewest messages between them.

    Populations are cut from the last to the first, as a core's output axons depend on how those behind are cut.
    weight_bits: as if no weight needed more bits than so many (see precision.py).

    Raises:
        DoesNotFitError: a single neuron takes more than a core has, or more than max_cores are needed.
        UsageError: the target's datasheet knows no cores.
    """
    machine = target.geometry.machine
    found = processors(network, target, machine) if machine else _on_cores(network, target, weight_bits)
    if max_cores is not None and len(found.cores) > max_cores:
        raise DoesNotFitError(_too_many(found, max_cores))
    return found


def _on_cores(network: IntNetwork, target: Target, weight_bits: int | None) -> Partition:
    """For chips with axons (Loihi)."""
    cutter = _Cutter(network, target, weight_bits)
    layers = cutter.cut_all()
    alone = [
        Placed(tuple((p.name, box) for box in boxes), layers[p.name].together(boxes))
        for p in network.populations
        if p.name in cutter.cuts
        for boxes in cutter.cuts[p.name].cores
    ]
    cores = tuple(
        Core(tuple(_tile(network, name, box) for name, box in placed.tiles), cutter.limits.uses(placed.load))
        for placed in packed(layers, cutter.limits, alone)
    )
    return Partition(network, target, cores, cutter.storages, cutter.limits.unknown)


class _Cutter:
    """Cuts the populations of one network, from the last to the first."""

    def __init__(self, network: IntNetwork, target: Target, weight_bits: int | None) -> None:
        g = target.geometry
        self.network, self.target, self.store = network, target, store_of(g)
        self.limits = limits_of(target, self.store)
        self.shared = Population(g.population_axon_neurons, g.population_axon_slots or 1, g.axon_base_max)
        self.formats = {j: self._format(j, weight_bits) for j in network.projections}
        self.matrices: dict[IntProjection, IntDense | IntSparse] = {}
        self.capacities: dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
        self.cuts: dict[str, Cut] = {}
        self.senders: dict[IntProjection, Senders] = {}
        self.wirings: dict[IntProjection, Wiring] = {}

    def cut_all(self) -> Mapping[str, Layer]:
        """The populations as they are wired, once all are cut.

        Raises:
            DoesNotFitError: a neuron takes more than a core has.
        """
        layers = {}
        for p in reversed(self.network.populations):
            if p.role != "input":
                layers[p.name] = self._cut(p)
        return layers

    @property
    def storages(self) -> tuple[Storage, ...]:
        """Of each projection."""
        return tuple(self.wirings[j].storage for j in self.network.projections)

    def _cut(self, p: IntPopulation) -> Layer:
        incoming = self.network.incoming[p.name]
        outgoing = tuple(self.senders[j] for j in self.network.projections if j.pre == p.name)
        layers = [
            Layer(p, self.network.compartments_of(p), wirings, outgoing, self.store) for wirings in self._choices(p)
        ]
        tried = [best_cut(layer, self.limits, self._burden(p)) for layer in layers]
        found = [(cut, layer) for cut, layer in zip(tried, layers, strict=True) if isinstance(cut, Cut)]
        if not found:
            refusal = next(cut for cut in tried if isinstance(cut, Refusal))
            raise DoesNotFitError(self._message(p, refusal))
        least = min(cut.score for cut, _ in found)
        cut, layer = min((pair for pair in found if pair[0].score == least), key=lambda pair: self._fullness(*pair))
        self.cuts[p.name] = cut
        for j, wiring in zip(incoming, layer.incoming, strict=True):
            self.wirings[j], self.senders[j] = wiring, wiring.senders(cut.boxes)
        return layer

    def _fullness(self, cut: Cut, layer: Layer) -> float:
        """How full the cores are, by what each has most of: less leaves more room for others."""
        uses = (self.limits.uses(layer.together(boxes)) for boxes in cut.cores)
        return sum(max(use[name].fraction for name in ADDED if name in use) for use in uses)

    def _choices(self, p: IntPopulation) -> list[tuple[Wiring, ...]]:
        """Ways to store the synapses of all projections into a population; those of matrices alike."""
        incoming = self.network.incoming[p.name]
        found = [tuple(self._wiring(j, storage) for j in incoming) for storage in ("discrete", "population")]
        has_choice = self.store is not None and any(isinstance(w, MatrixWiring) for w in found[0])
        return found if has_choice else found[:1]

    def _wiring(self, j: IntProjection, storage: Storage) -> Wiring:
        pre, post = self.network.by_name[j.pre], self.network.by_name[j.post]
        before, behind = image_shape(pre), image_shape(post)
        if isinstance(j.synapse, ImageSynapse):
            images = images_of(j.synapse)
            if images[1] == behind and (images[0] == before or pre.role == "input"):
                return ImageWiring("population", self.formats[j], self.store, self.shared, j.synapse)
        if j not in self.matrices:
            weights = weights_of(j.synapse)
            self.matrices[j] = weights if isinstance(weights, IntDense) else as_sparse(weights)
        return MatrixWiring(storage, self.formats[j], self.store, self.shared, self.matrices[j], before, behind)

    def _format(self, j: IntProjection, weight_bits: int | None) -> Format:
        if self.store is None:
            return Format(0, "unknown", j.exponent, self.network.depth[j.post] - self.network.depth[j.pre] - 1)
        found = format_of(self.network, j, self.target.arithmetic.weights, self.store.weight_bits)
        return found if weight_bits is None else replace(found, weight_bits=min(found.weight_bits, weight_bits))

    def _burden(self, p: IntPopulation) -> Burden:
        """Cores that the populations before need at least, beyond those they would need anyway."""
        before = [self.network.by_name[j.pre] for j in self.network.incoming[p.name]]

        def burden(wirings: Sequence[Wiring], n_axons: Sequence[int]) -> int:
            shared, single = Counter[str](), Counter[str]()
            for source, wiring, n in zip(before, wirings, n_axons, strict=True):
                (single if wiring.storage == "discrete" else shared)[source.name] += n
            names = dict.fromkeys(source.name for source in before if source.role != "input")
            return sum(self._needed(self.network.by_name[name], shared[name], single[name]) for name in names)

        return burden

    def _needed(self, p: IntPopulation, shared: int, single: int) -> int:
        """Cores that a population needs at least to send by so many output axons, beyond those it would need anyway.

        shared: axons of pixels; single: of neurons. Both are taken as spread evenly.
        """
        axons = self.limits.of[AXONS_OUT]
        if axons is None:
            return 0
        n_pixels = image_shape(p)[1] * image_shape(p)[2]
        if shared / n_pixels + single / p.n_neurons > axons:
            return _NEVER
        pixels, neurons = self._capacity(p)
        per_core = axons * n_pixels // max(shared, 1)  # pixels whose axons one core can send
        largest = int(neurons[max(int(np.searchsorted(pixels, per_core, "right")) - 1, 0)])
        anyway = -(-p.n_neurons // int(neurons[-1]))
        return max(-(-(shared + single) // axons), -(-p.n_neurons // largest)) - anyway

    def _capacity(self, p: IntPopulation) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Most neurons of a box of so many pixels on a core; where matrices feed it, by its compartments alone."""
        if p.name not in self.capacities:
            wirings = self._choices(p)[0]
            feeding = wirings if all(isinstance(w, ImageWiring) for w in wirings) else ()
            layer = Layer(p, self.network.compartments_of(p), feeding, (), self.store)
            self.capacities[p.name] = capacity(layer, self.limits)
        return self.capacities[p.name]

    def _message(self, p: IntPopulation, refusal: Refusal) -> str:
        """Why a neuron does not fit a core of its own."""
        resource, used, limit = next(self.limits.broken(refusal.load))
        place = ", ".join(str(start) for (start, _), n in zip(refusal.box, image_shape(p), strict=True) if n > 1)
        return (
            f"layer '{p.name}': neuron [{place}] alone takes {used:,} {resource}, {self.target.name} has {limit:,} per "
            f"core; {REMEDIES[resource]}"
        )


def _tile(network: IntNetwork, name: str, box: Box) -> Tile:
    """The box on the population's own axes."""
    axes = {2: (0, 2), 3: (0, 1, 2)}.get(len(network.by_name[name].shape), (0,))
    return Tile(name, tuple(box[axis] for axis in axes))


def binding_of(found: Partition) -> Mapping[str, int]:
    """By resource, the cores of which it is used most; most cores first."""
    return dict(Counter(core.binding for core in found.cores).most_common())


def _too_many(found: Partition, max_cores: int) -> str:
    """Why the partition is refused."""
    resource, n_cores = next(iter(binding_of(found).items()))
    remedy = {**REMEDIES, **PROCESSOR_REMEDIES}[resource]
    widest = max(found.cores_of, key=lambda name: len(found.cores_of[name]))
    return (
        f"the network takes {len(found.cores):,} cores of {found.target.name}, {max_cores:,} are allowed; layer "
        f"'{widest}' takes most, {len(found.cores_of[widest]):,}, and on {n_cores:,} of all it is {resource} that end "
        f"first; {remedy}, or allow more cores"
    )
