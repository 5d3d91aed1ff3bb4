"""What an export will take of SpiNNaker, before sPyNNaker is asked: cores, chips and SDRAM, sources of spikes included.

SPYN: the package `spynnaker` of sPyNNaker 1!7.4.1; SFEC: `spinn_front_end_common` of SpiNNFrontEndCommon 1!7.4.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroport.backends.spinnaker.export import SpikeSource, bias_weights, current_of, sources
from neuroport.backends.spinnaker.placer import Vertex, chips_used, room_for_core
from neuroport.chip.inputs import IntInputs
from neuroport.chip.network import IntNetwork, IntPopulation
from neuroport.chip.target import Target
from neuroport.errors import DoesNotFitError
from neuroport.mapping.partition import partition
from neuroport.mapping.processors import SDRAM, entry_bytes, filter_bytes, list_bytes

# Bytes of a core's program: by neuron, as often as there are recordable variables (4) in two places, and once. Counted
# by sPyNNaker for 1 to 256 neurons (SPYN/pyNN/extra_algorithms/splitter_components/splitter_population_vertex_fixed.py,
# get_sdram_used_by_atoms); the empty tables are the partition's, and 16 bytes lie before the first list.
_NEURON: Mapping[str, tuple[int, int]] = {"if-trunc-delta": (412, 1188), "if-curr-delta": (444, 1196)}
_RECORDED_INDEX = 16  # bytes, for an even number of neurons
_RECORDING = 8  # of each variable; SPYN/pyNN/models/common/neuron_recorder.py l.979-1009
_SOURCE = 512  # SFEC/utility_models/reverse_ip_tag_multicast_source_machine_vertex.py l.376-398
_KEY, _HEADER, _KEYS = 4, 6, 61  # SFEC/interface/buffer_management/storage_objects/buffered_sending_region.py l.23-46
_PLANNED_STEPS = 1000  # that sPyNNaker keeps room for (SFEC/interface/spinnaker.cfg l.338)
TOLERANCE = 0.1  # differences beyond are said


@dataclass(frozen=True)
class Part:
    """One population or source: its cores, and SDRAM of each by bytes that stay and bytes for each step."""

    name: str
    n_cores: int
    fixed_bytes: int
    step_bytes: int

    def sdram_bytes(self, n_steps: int) -> int:
        """Of one core."""
        return self.fixed_bytes + self.step_bytes * n_steps


@dataclass(frozen=True)
class Prediction:
    """Parts in the order in which sPyNNaker sees them, and the chips that they lie on."""

    parts: tuple[Part, ...]
    n_chips: int

    @property
    def n_cores(self) -> int:
        """Without those of the system."""
        return sum(part.n_cores for part in self.parts)

    def sdram_bytes(self, n_steps: int) -> int:
        """On all chips, for a run of n_steps."""
        return sum(part.n_cores * part.sdram_bytes(n_steps) for part in self.parts)

    def compared(self, used: Mapping[str, Any], n_steps: int) -> list[dict[str, Any]]:
        """Rows with what was predicted beside what sPyNNaker used; used: cores, chips and SDRAM bytes by name."""
        predicted = {"cores": self.n_cores, "chips": self.n_chips, "SDRAM bytes": self.sdram_bytes(n_steps)}
        return [
            {"what": what, "predicted": n, "used": used[what], "difference": n / used[what] - 1}
            for what, n in predicted.items()
        ]


def predict(network: IntNetwork, inputs: IntInputs, target: Target) -> Prediction:
    """Cores, chips and SDRAM of the export of a network and its inputs.

    Raises:
        DoesNotFitError: a core takes more than a chip has, layer and remedy are named.
    """
    geometry, neuron = target.geometry, _NEURON.get(network.arithmetic.neuron or "")
    machine = geometry.machine
    if neuron is None or machine is None or not (machine.sdram_bytes_per_chip and geometry.cores_per_chip):
        raise DoesNotFitError(
            f"target '{target.name}': its datasheet has no `geometry: machine:` with SDRAM and cores, or no neuron of "
            f"{', '.join(_NEURON)}, so nothing is known of what an export takes; use --target spinnaker1"
        )
    made = sources(network, inputs)
    parts = (*map(_source, made), *_populations(network, inputs, target, made, neuron))
    vertices = [Vertex(part.n_cores, part.sdram_bytes(_PLANNED_STEPS)) for part in parts]
    room = room_for_core(machine.sdram_bytes_per_chip)
    for k, (part, v) in enumerate(zip(parts, vertices, strict=True)):
        if v.sdram_bytes > room:
            raise DoesNotFitError(_too_big(part.name, v.sdram_bytes, room, target, is_source=k < len(made)))
    cores = geometry.cores_per_chip - (machine.monitor_cores_per_chip or 0)
    return Prediction(parts, chips_used(vertices, cores_per_chip=cores, sdram_bytes=machine.sdram_bytes_per_chip))


def _too_big(name: str, n_bytes: int, room: int, target: Target, *, is_source: bool) -> str:
    has = f"a chip of {target.name} has {room:,} beside sPyNNaker's own"
    if is_source:
        return (
            f"input '{name}': its core takes {n_bytes:,} bytes of SDRAM for spikes of {_PLANNED_STEPS} steps, {has}; "
            f"use fewer inputs, or a recipe with `input: current`"
        )
    return (
        f"layer '{name}': a core takes {n_bytes:,} bytes of SDRAM with what {_PLANNED_STEPS} steps record, {has}; "
        f"split the layer before it, as every core has a row for each of its neurons"
    )


def _source(s: SpikeSource) -> Part:
    """On one core, whatever its size; what it sends in its busiest step is kept for every step, and once more."""
    busiest = int(s.raster.sum(2, dtype=np.int64).max(initial=0))
    sent = busiest * _KEY + -(-busiest // _KEYS) * _HEADER
    return Part(s.name, 1, _SOURCE + sent, sent)


def _populations(
    network: IntNetwork, inputs: IntInputs, target: Target, made: list[SpikeSource], neuron: tuple[int, int]
) -> Iterator[Part]:
    cut, sizes = partition(network, target), {s.name: s.raster.shape[2] for s in made}
    per_neuron, once = neuron
    for p in network.populations:
        cores = [cut.cores[k] for k in cut.cores_of[p.name]]
        if not cores:
            continue
        n = cores[0].tiles[0].n_neurons  # the last core is given the memory of the others
        fixed = once + per_neuron * n + _RECORDED_INDEX * (n + n % 2) + cores[0].uses[SDRAM].used + _RECORDING
        step = _KEY + 4 * -(-n // 32)
        if p.role == "readout":  # its potentials
            fixed, step = fixed + _RECORDING, step + _KEY + 4 * n
        if current_of(p) in sizes:
            fixed += _fed(network, inputs, p, n, sizes[current_of(p)])
        yield Part(p.name, len(cores), fixed, step)


def _fed(network: IntNetwork, inputs: IntInputs, p: IntPopulation, size: int, n_rows: int) -> int:
    """SDRAM on each core of the lists from the source of biases or currents."""
    weight = bias_weights(network, inputs, p)
    longest = [_longest(sign, size) for sign in (weight > 0, weight < 0)]
    lists = [list_bytes(n_rows, n) for n in longest if n]
    return sum(lists) + (entry_bytes(len(lists)) + filter_bytes(n_rows) if lists else 0)


def _longest(mask: NDArray[np.bool_], size: int) -> int:
    """Most that are set in a row within one core's neurons; mask: [n_rows, n_neurons]."""
    starts = np.arange(0, mask.shape[1], size)
    return int(np.add.reduceat(mask, starts, axis=1, dtype=np.int64).max(initial=0))
