"""Cutting a network for chips of processors with memory (SpiNNaker), as sPyNNaker does it.

SPYN: the package `spynnaker` of sPyNNaker 1!7.4.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuroport.chip.network import IntNetwork, IntPopulation, IntProjection
from neuroport.chip.synapses import IntDense, as_sparse, n_synapses
from neuroport.chip.target import Machine, Target
from neuroport.errors import DoesNotFitError
from neuroport.mapping.network import Core, Partition, Tile, Use
from neuroport.mapping.reach import weights_of

NEURONS, ROW, DELAY = "neurons", "synapses in a row", "delay"
BUFFERS, DTCM, SDRAM = "ring buffer entries", "DTCM bytes", "SDRAM bytes"

_WORD = 4
_ROW_MAX = 256  # SPYN/pyNN/utilities/constants.py l.73, POP_TABLE_MAX_ROW_LENGTH
_ROW_HEADER = 3  # words; SPYN/pyNN/models/neuron/synapse_io.py, _N_HEADER_WORDS
_TABLE, _TABLE_VERTEX, _TABLE_ROWS = 8, 20, 4  # bytes; SPYN/pyNN/models/neuron/master_pop_table.py l.78-143
_ALIGNED = 16  # bytes that a list's address is a multiple of; master_pop_table.py l.41
_FILTER, _FILTERS = 9, 2  # words; SPYN/pyNN/utilities/bit_field_utilities.py l.31-116: 4 for delays, never used, 1 key
_RECEPTORS = 2  # excitatory and inhibitory sums are apart
_COUNTED = 1 << 26  # synapses of a kernel up to which its rows are counted

_REMEDIES: Mapping[str, str] = {
    ROW: "let its datasheet put fewer neurons on a core (neurons_per_core)",
    BUFFERS: "shorten the skip connection (put layers on it)",
    DELAY: "shorten the skip connection (put layers on it)",
    DTCM: "let fewer layers feed it",
    SDRAM: "split the layer before it, as every core has a row for each of its neurons",
}


def processors(network: IntNetwork, target: Target, machine: Machine) -> Partition:
    """Populations in C order, so many neurons to a core; each core runs neurons of one population only.

    The data memory counted is that of the sums and of the table of populations before; programs and neurons come on
    top. SDRAM is one core's; those of a chip share it (cores_with_memory).

    Raises:
        DoesNotFitError: a core's share of a population takes more memory than there is.
    """
    cores = [
        core for p in network.populations if p.role != "input" for core in _Vertex(network, target, machine, p).cores()
    ]
    return Partition(network, target, tuple(cores), tuple("rows" for _ in network.projections))


@dataclass(frozen=True, eq=False)
class _Vertex:
    """One population on its cores."""

    network: IntNetwork
    target: Target
    machine: Machine
    population: IntPopulation

    def cores(self) -> Iterator[Core]:
        """Slices of equal size, and what each takes; where a datasheet has no size, halved until the sums find room."""
        n = self.population.n_neurons
        size = self.machine.neurons_per_core or n
        uses = self._uses(min(n, size))
        while self.machine.neurons_per_core is None and size > 1 and _is_beyond(uses[DTCM]):
            size = -(-size // 2)
            uses = self._uses(size)
        for name, use in uses.items():
            if _is_beyond(use):
                raise DoesNotFitError(
                    f"layer '{self.population.name}': a core with {min(n, size)} of its neurons takes {use.used:,} "
                    f"{name}, {self.target.name} has {use.limit:,}; {_REMEDIES[name]}"
                )
        for start in range(0, n, size):
            tile = Tile(self.population.name, ((start, min(start + size, n)),))
            yield Core((tile,), {**uses, NEURONS: Use(tile.n_neurons, self.machine.neurons_per_core)})

    def _uses(self, n_neurons: int) -> Mapping[str, Use]:
        """Of every core alike: sPyNNaker gives the last slice, with fewer neurons, the memory of the others."""
        m, incoming = self.machine, self.network.incoming[self.population.name]
        rows = [self._rows(j, n_neurons) for j in incoming]
        delay = max((self.network.depth[j.post] - self.network.depth[j.pre] - 1 for j in incoming), default=0)
        # a slot for each delay from 0 to the longest; each factor is rounded up to a power of two
        # (SPYN/pyNN/models/neuron/population_vertex.py l.794-797)
        slots = 1 << (delay + 1).bit_length()
        buffers = _power(n_neurons) * _power(_RECEPTORS) * slots
        n_lists = sum(map(len, rows))
        before = [self.network.by_name[name] for name in {j.pre for j in incoming}]
        table = _TABLE + _TABLE_VERTEX * len(before) + _TABLE_ROWS * n_lists
        matrices = sum(
            list_bytes(self._n_rows(j.pre), longest)
            for j, found in zip(incoming, rows, strict=True)
            for longest in found
        )
        filters = sum(filter_bytes(p.n_neurons) for p in before) + _FILTERS * _WORD
        return {
            NEURONS: Use(n_neurons, m.neurons_per_core),
            BUFFERS: Use(buffers, m.ring_buffer_entries_per_core),
            DTCM: Use(2 * buffers + table, m.dtcm_bytes_per_core),
            SDRAM: Use(matrices + table + filters, m.sdram_bytes_per_chip),
            ROW: Use(
                max((longest for found in rows for longest in found), default=0),
                None if m.neurons_per_core is None else _ROW_MAX,  # sPyNNaker's own
            ),
            DELAY: Use(delay, self.target.geometry.delay_max),
        }

    def _n_rows(self, name: str) -> int:
        """Rows in the matrices of what comes from a population: each of its cores counts as full.

        A source of spikes is on one core, whatever its size.
        """
        p, size = self.network.by_name[name], self.machine.neurons_per_core
        if size is None or p.role == "input" or p.n_neurons <= size:
            return p.n_neurons
        return -(-p.n_neurons // size) * size

    def _rows(self, j: IntProjection, size: int) -> tuple[int, ...]:
        """Of the excitatory and of the inhibitory synapses, where there are any: most that a neuron has on one core.

        Every neuron before has a row as long in each core's matrix
        (SPYN/pyNN/models/neural_projections/connectors/from_list_connector.py l.225-270, synaptic_matrix_app.py l.150).
        """
        weights = weights_of(j.synapse)
        if not isinstance(weights, IntDense) and n_synapses(j.synapse) > _COUNTED:
            return tuple(size for sign in _signs(weights.mantissa) if sign.any())
        if isinstance(weights, IntDense):
            parts = [weights.mantissa[k : k + size] for k in range(0, self.population.n_neurons, size)]
            each = [[int(sign.sum(0).max(initial=0)) for sign in _signs(part)] for part in parts]
            found = [max(longest) for longest in zip(*each, strict=True)]
        else:
            flat = as_sparse(weights)
            core = np.repeat(np.arange(self.population.n_neurons) // size, np.diff(flat.row_start))
            pair = core * self.network.by_name[j.pre].n_neurons + flat.columns
            found = [_most(pair[sign]) for sign in _signs(flat.mantissa)]
        return tuple(n for n in found if n)


def cores_with_memory(cut: Partition) -> int | None:
    """How many of its cores, whichever they are, find room in the memory of one chip; None: there is no limit."""
    machine = cut.target.geometry.machine
    if machine is None or machine.sdram_bytes_per_chip is None:
        return None
    largest = sorted((core.uses[SDRAM].used for core in cut.cores), reverse=True)
    return int(np.searchsorted(np.cumsum(largest), machine.sdram_bytes_per_chip, side="right"))


def list_bytes(n_rows: int, longest: int) -> int:
    """SDRAM of one list of connections on each core: a row as long as the longest for each neuron before.

    Source: SPYN/pyNN/models/neuron/population_vertex.py l.1500-1548 (add_matrix_size).
    """
    return -(-n_rows * (longest + _ROW_HEADER) * _WORD // _ALIGNED) * _ALIGNED


def entry_bytes(n_lists: int) -> int:
    """SDRAM of one population before in the table that finds its lists, on each core."""
    return _TABLE_VERTEX + _TABLE_ROWS * n_lists


def filter_bytes(n_neurons: int) -> int:
    """SDRAM of the filter on each core that knows which neurons of a population before have synapses there."""
    return (_FILTER + -(-n_neurons // 32)) * _WORD


def _is_beyond(use: Use) -> bool:
    return use.limit is not None and use.used > use.limit


def _signs(weights: NDArray[np.int32]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Where excitatory weights are, and inhibitory ones."""
    return weights > 0, weights < 0


def _most(keys: NDArray[np.integer]) -> int:
    """How often the commonest key occurs."""
    return int(np.bincount(keys).max(initial=0))


def _power(n: int) -> int:
    """The power of two from n on, 2 at least (SPYN/pyNN/utilities/utility_calls.py l.382, get_n_bits)."""
    return 1 << max(n - 1, 1).bit_length()
