"""Chips of processors: slices as sPyNNaker cuts them, and memory, against counting."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroport.chip.network import IntProjection
from neuroport.chip.synapses import IntConv2d
from neuroport.chip.target import Target
from neuroport.errors import DoesNotFitError
from neuroport.mapping.mapped import map_to_cores
from neuroport.mapping.partition import partition
from neuroport.mapping.processors import cores_with_memory, processors
from neuroport.snn.operators import conv_geometry
from tests.chip.networks import cases, dense, network_of, networks, population, source, target
from tests.mapping.counter import Counter, neurons

SPINNAKER1 = target("spinnaker1")


def chip(**machine: Any) -> Target:
    """SpiNNaker 1 with other limits."""
    g = SPINNAKER1.geometry
    changed = g.machine.model_copy(update=machine) if g.machine else None
    return SPINNAKER1.model_copy(update={"geometry": g.model_copy(update={"machine": changed})})


def mlp() -> Any:
    """784-300-100-10 of both signs."""
    sizes = [784, 300, 100, 10]
    pops = [source((784,)), *(population(f"fc{k}", (n,), role="hidden") for k, n in enumerate(sizes[1:], 1))]
    pops[-1] = population("fc3", (10,))
    m = [np.where(np.arange(a * b).reshape(a, b) % 3, 1, -1) for b, a in pairwise(sizes)]
    names = [p.name for p in pops]
    return network_of(
        SPINNAKER1.arithmetic,
        pops,
        [dense(w, *pair) for w, pair in zip(m, pairwise(names), strict=True)],
    )


def test_slices_of_256_as_a_virtual_board_places_them() -> None:
    # Mapped by sPyNNaker 1!7.4.1 on a virtual board: fc1 on 2 cores (0 to 255, 256 to 299), fc2 and fc3 on one each.
    found = partition(mlp(), SPINNAKER1)
    assert [core.tiles[0].box for core in found.cores] == [((0, 256),), ((256, 300),), ((0, 100),), ((0, 10),)]
    assert set(found.storages) == {"rows"}
    # fc1: 256 neurons, 2 receptors, 2 slots (delays 0 and 1): 1024 sums of 2 bytes; 784 inputs have rows of excitatory
    # and of inhibitory synapses. Every third weight is inhibitory; as 784 = 1 mod 3, of 256 below each other 85 or 86,
    # and 170 or 171 excitatory: 784 * (171 + 3 + 86 + 3) words of 4 bytes. The table: 8 + 20 + 2 * 4 bytes.
    # Filters: 2 words, and 9 and a bit for each of 784 neurons in words of 32.
    assert {name: use.used for name, use in found.cores[0].uses.items()} == {
        "neurons": 256,
        "ring buffer entries": 1024,
        "DTCM bytes": 2048 + 36,
        "SDRAM bytes": 784 * (171 + 3 + 86 + 3) * 4 + 36 + (2 + 9 + 25) * 4,
        "synapses in a row": 171,
        "delay": 0,
    }
    # fc2: the cores of fc1 count as full, 512 rows; of its neurons every third has 100 inhibitory synapses, others none
    assert found.cores[2].uses["SDRAM bytes"].used == 512 * (100 + 3 + 100 + 3) * 4 + 36 + (2 + 9 + 10) * 4


def test_cores_that_share_the_memory_of_a_chip() -> None:
    network = mlp()
    largest = max(core.uses["SDRAM bytes"].used for core in partition(network, SPINNAKER1).cores)
    assert cores_with_memory(partition(network, SPINNAKER1)) == 4
    assert map_to_cores(network, SPINNAKER1).n_chips == 1
    for limit in (largest, 2 * largest - 1, 2 * largest):
        mapped = map_to_cores(network, chip(sdram_bytes_per_chip=limit))
        used: dict[int, int] = {}
        for core, site in zip(mapped.partition.cores, mapped.mapped.sites, strict=True):
            used[site.chip] = used.get(site.chip, 0) + core.uses["SDRAM bytes"].used
        assert max(used.values()) <= limit
        assert len(used) >= 2
    assert cores_with_memory(partition(network, chip(sdram_bytes_per_chip=None))) is None


@cases(40)
@given(networks([SPINNAKER1.arithmetic]), st.sampled_from([2, 7, 256]))
def test_random_networks(made: Any, size: int) -> None:
    network, _ = made
    machine = chip(neurons_per_core=size).geometry.machine
    if machine is None:
        pytest.fail("spinnaker1 is a machine")
    found = processors(network, chip(neurons_per_core=size), machine)
    held = {p.name: np.zeros(p.n_neurons, int) for p in network.populations if p.role != "input"}
    counter, longest = Counter(found), dict.fromkeys(held, 0)
    for core in found.cores:
        (tile,) = core.tiles
        rows = neurons(network, tile)
        held[tile.population][rows] += 1
        for j in network.incoming[tile.population]:
            part = values(counter, j)[rows]
            longest[tile.population] = max(longest[tile.population], (part > 0).sum(0).max(), (part < 0).sum(0).max())
        assert len(rows) == core.uses["neurons"].used <= size
    for core in found.cores:
        assert core.uses["synapses in a row"].used == longest[core.tiles[0].population]
    assert all((n == 1).all() for n in held.values())


def values(counter: Counter, j: IntProjection) -> np.ndarray:
    """[n_post, n_pre]: the weights."""
    ids, is_kernel = counter.ids[j]
    if not is_kernel:
        return ids
    return np.concatenate([[0], j.synapse.mantissa.reshape(-1)])[ids]


def test_memory_that_ends() -> None:
    network = mlp()
    with pytest.raises(DoesNotFitError, match=r"layer 'fc1': a core with 256 of its neurons takes 824,\d+ SDRAM"):
        partition(network, chip(sdram_bytes_per_chip=100_000))
    with pytest.raises(DoesNotFitError, match="takes 2,084 DTCM bytes, spinnaker1 has 2,000; let fewer layers feed it"):
        partition(network, chip(dtcm_bytes_per_core=2000))
    with pytest.raises(DoesNotFitError, match="takes 1,024 ring buffer entries, spinnaker1 has 512; shorten the skip"):
        partition(network, chip(ring_buffer_entries_per_core=512))


def test_a_row_is_no_longer_than_spynnakers_tables_hold() -> None:
    message = r"layer 'out': a core with 300 of its neurons takes 300 synapses in a row, spinnaker1 has 256; let its"
    ones = network_of(
        SPINNAKER1.arithmetic,
        [source((4,)), population("out", (300,))],
        [dense(np.ones((300, 4), int))],
    )
    with pytest.raises(DoesNotFitError, match=message):
        partition(ones, chip(neurons_per_core=512))


def test_where_no_size_is_known_a_population_is_halved_until_its_sums_find_room() -> None:
    """SpiNNaker 2 tells neither neurons of a core nor the length of rows; sPyNNaker's limits are not its own."""
    ones = network_of(
        target("spinnaker2").arithmetic,
        [source((4,)), population("out", (40_000,))],
        [dense(np.ones((40_000, 4), int))],
    )
    found = partition(ones, target("spinnaker2")).cores
    # 10,000 neurons: 2^14 x 2 receptors x 2 slots x 2 bytes are all of its 131,072 bytes, the table does not go in
    assert [core.tiles[0].n_neurons for core in found] == [5000] * 8
    assert found[0].uses["synapses in a row"].used == 5000
    assert found[0].uses["synapses in a row"].limit is None
    assert found[0].uses["neurons"].limit is None


def test_rows_of_a_kernel_too_large_to_count_are_as_long_as_can_be() -> None:
    # 64 channels of 256x256 pixels, 9 * 64 inputs each: 2.4 * 10^9 synapses
    kernel = np.ones((64, 64, 3, 3), np.int32)
    geometry = conv_geometry((64, 256, 256), kernel.shape, (1, 1), (1, 1), (1, 1), 1)
    projection = IntProjection("input", "out", IntConv2d(kernel, geometry))
    network = network_of(
        SPINNAKER1.arithmetic, [source((64, 256, 256)), population("out", (64, 256, 256))], [projection]
    )
    with pytest.raises(DoesNotFitError, match=r"SDRAM bytes, .*; split the layer before it, as every core has a row"):
        partition(network, SPINNAKER1)
