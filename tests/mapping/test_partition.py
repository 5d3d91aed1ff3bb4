"""Every core within every limit, every neuron once, every use as the slow counter has it, on random networks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from neuroport.errors import DoesNotFitError
from neuroport.mapping.network import Partition
from neuroport.mapping.partition import partition
from neuroport.mapping.search import stretch
from tests.chip.networks import cases, networks, target, variant
from tests.chip.test_recalibrate import gated
from tests.chip.test_recalibrate import made as made_network
from tests.mapping.chips import chip
from tests.mapping.counter import Counter, neurons

SMALL = {
    "compartments_per_core": st.sampled_from([3, 8, 24, 1024]),
    "input_axons_per_core": st.sampled_from([12, 40, 4096]),
    "output_axons_per_core": st.sampled_from([12, 60, 4096]),
    "synapse_bits_per_core": st.sampled_from([640, 1500, 6000, 1 << 20]),
    "compartment_configs_per_core": st.sampled_from([1, 2, 32]),
    "threshold_configs_per_core": st.sampled_from([1, 2, 8]),
    "synapse_configs_per_core": st.sampled_from([3, 8]),
    "population_axon_neurons": st.sampled_from([2, 512]),
    "axon_base_max": st.sampled_from([3, 255]),
}


def check(found: Partition) -> None:
    """Against the counter."""
    network, counter = found.network, Counter(found)
    for core in found.cores:
        counted = counter.uses(core)
        assert counted == {name: use.used for name, use in core.uses.items()}
        for name, use in core.uses.items():
            assert use.limit is None or counted[name] <= use.limit
    held = {p.name: np.zeros(p.n_neurons, int) for p in network.populations if p.role != "input"}
    for core in found.cores:
        for tile in core.tiles:
            held[tile.population][neurons(network, tile)] += 1
    assert all((n == 1).all() for n in held.values())


GATED = variant("loihi1", gated_max_pool=True)


@cases(150)
@given(st.data(), networks([target("loihi1").arithmetic, GATED]))
def test_random_networks(data: Any, made: Any) -> None:
    network, _ = made
    sheet = chip(network.arithmetic, **{name: data.draw(values, name) for name, values in SMALL.items()})
    try:
        found = partition(network, sheet)
    except DoesNotFitError as error:
        assert any(f"layer '{p.name}'" in str(error) for p in network.populations)
        return
    check(found)


@cases(40)
@given(st.data(), networks([target("loihi1").arithmetic]))
def test_random_networks_of_two_compartments(data: Any, made: Any) -> None:
    network, _ = made
    thresholds = [data.draw(st.integers(1, 2)) for _ in network.populations]
    pairs = zip(network.populations, thresholds, strict=True)
    changed = tuple(replace(p, reset="subtract", threshold_mantissa=threshold) for p, threshold in pairs)
    try:
        network = replace(network, populations=changed)
    except DoesNotFitError:  # no room for the threshold among the weights
        assume(False)
    check(partition(network, chip(compartments_per_core=data.draw(st.sampled_from([8, 32])), axon_base_max=3)))


@given(st.tuples(*[st.integers(1, 5)] * 3), st.sampled_from([(0, 1, 2), (1, 2, 0)]), st.data())
def test_stretches_are_the_neurons_between(shape: Any, order: Any, data: Any) -> None:
    n = int(np.prod(shape))
    start = data.draw(st.integers(0, n - 1))
    end = data.draw(st.integers(start + 1, n))
    marked = np.zeros(shape, int)
    boxes = stretch(shape, order, start, end)
    for box in boxes:
        marked[tuple(slice(a, b) for a, b in box)] += 1
    np.testing.assert_array_equal(np.flatnonzero(marked.transpose(order).reshape(-1)), np.arange(start, end))
    assert marked.max() == 1
    assert len(boxes) <= 5


def test_neurons_of_an_expanded_max_pool_are_on_cores() -> None:
    """A 2x2 pool of 6 channels of 6x6: rectifiers for 6 * 6 * 3 pairs along the rows, for 6 * 3 * 3 along the columns.

    That is three for each of 6 * 3 * 3 outputs.
    """
    network = made_network("current", gated, target("loihi2"))[1].network
    found = partition(network, chip(compartments_per_core=16))
    neurons_on = {p.name: 0 for p in network.populations}
    for core in found.cores:
        for tile in core.tiles:
            neurons_on[tile.population] += tile.n_neurons
    assert list(neurons_on.values()) == [6 * 6 * 6, 6 * 6 * 3, 6 * 3 * 3, 6 * 3 * 3, 4]
    assert sum(core.uses["compartments"].used for core in found.cores) == network.n_compartments
    check(found)
