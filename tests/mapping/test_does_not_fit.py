"""What partition refuses: which layer, what it takes, what the chip has, what to do."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from neuroport.errors import DoesNotFitError, UsageError
from neuroport.mapping.limits import REMEDIES
from neuroport.mapping.partition import partition
from tests.chip.networks import dense, network_of, population, source, target
from tests.mapping.chips import chip
from tests.mapping.test_hand_counts import conv, weights

LOIHI1 = target("loihi1").arithmetic


def refused(network: Any, sheet: Any = None, **options: Any) -> str:
    with pytest.raises(DoesNotFitError) as error:
        partition(network, sheet or target("loihi1"), **options)
    return str(error.value)


def test_a_neuron_with_too_many_inputs() -> None:
    # 3x3 pixels and 600 channels are 9 * 2 axons of at most 512 neurons
    message = refused(
        network_of(LOIHI1, [source((600, 4, 4)), population("out", (8, 4, 4))], [conv(600, 8, 4)]),
        chip(input_axons_per_core=17),
    )
    assert message == (
        "layer 'out': neuron [0, 1, 1] alone takes 18 input axons, loihi1 has 17 per core; split the layer, or use a "
        "smaller kernel or fewer channels before it"
    )


def test_a_neuron_with_too_many_synapses() -> None:
    # a word for each of 40 axons
    message = refused(
        network_of(LOIHI1, [source((40,)), population("out", (8,))], [dense(weights(8, 40))]),
        chip(synapse_bits_per_core=39 * 64, population_axon_neurons=1),
    )
    assert "layer 'out': neuron [0] alone takes 2,560 synapse bits, loihi1 has 2,496 per core; split the lay" in message


def test_a_neuron_that_too_many_cores_read() -> None:
    network = network_of(
        LOIHI1,
        [source((3,)), population("h", (5,), role="hidden"), population("out", (30,))],
        [dense(weights(5, 3), post="h"), dense(weights(30, 5), "h", "out")],
    )
    # 30 neurons are on 5 cores at least
    message = refused(network, chip(compartments_per_core=6, output_axons_per_core=4))
    assert message == (
        "layer 'h': neuron [0] alone takes 5 output axons, loihi1 has 4 per core; make the layers behind it smaller, "
        "so that fewer cores read each neuron"
    )


def test_axons_that_cannot_be_shared_are_not() -> None:
    """An axon that 5 neurons share takes two slots on each of 5 cores, and one core holds all 5 neurons or one."""
    network = network_of(
        LOIHI1,
        [source((3,)), population("h", (5,), role="hidden"), population("out", (30,))],
        [dense(weights(5, 3), post="h"), dense(weights(30, 5), "h", "out")],
    )
    found = partition(network, chip(compartments_per_core=6, output_axons_per_core=9))
    assert {name: len(cores) for name, cores in found.cores_of.items()} == {"input": 0, "h": 5, "out": 5}
    assert found.storages[1] == "discrete"


def test_too_many_configurations() -> None:
    two = population("out", (3,), reset="subtract")
    network = network_of(LOIHI1, [source((2,)), two], [dense(weights(3, 2))])
    assert "2 threshold configurations, loihi1 has 1 per core" in refused(network, chip(threshold_configs_per_core=1))
    assert "2 compartment configurations, loihi1 has 1" in refused(network, chip(compartment_configs_per_core=1))
    assert "2 synapse configurations, loihi1 has 1" in refused(network, chip(synapse_configs_per_core=1))
    assert "2 compartments, loihi1 has 1" in refused(network, chip(compartments_per_core=1))


def test_a_skip_that_is_too_long() -> None:
    names = ["input", "a", "b", "out"]
    network = network_of(
        LOIHI1,
        [source((2,)), *(population(name, (2,), role="hidden") for name in "ab"), population("out", (2,))],
        [*(dense(weights(2, 2), *pair) for pair in pairwise(names)), dense(weights(2, 2))],
    )
    assert "layer 'out': neuron [0] alone takes 2 delay, loihi1 has 1 per core; shorten the skip" in refused(
        network, chip(delay_max=1)
    )


def test_an_index_that_does_not_reach() -> None:
    network = network_of(LOIHI1, [source((70,)), population("out", (2,))], [dense(weights(2, 70))])
    sheet = chip(synapse_index_bits=[0], compartments_per_core=1, axon_base_max=None, population_axon_neurons=None)
    assert len(partition(network, sheet).cores) == 2  # compartment 0 needs no index
    two = network_of(LOIHI1, [source((2,)), population("out", (2,), reset="subtract")], [dense(weights(2, 2))])
    assert len(partition(two, chip(synapse_index_bits=[0], compartments_per_core=2)).cores) == 2


def test_more_cores_than_allowed() -> None:
    network = network_of(LOIHI1, [source((2000,)), population("out", (1200,))], [dense(weights(1200, 2000))])
    assert len(partition(network, target("loihi1"), max_cores=20).cores) == 20
    assert refused(network, max_cores=19) == (
        "the network takes 20 cores of loihi1, 19 are allowed; layer 'out' takes most, 20, and on 20 of all it is "
        "synapse bits that end first; split the layer, use a smaller kernel, or quantize to fewer weight bits, or "
        "allow more cores"
    )


def test_a_target_without_cores() -> None:
    network = network_of(target("cpu").arithmetic, [source((2,)), population("out", (2,))], [dense(np.ones((2, 2)))])
    with pytest.raises(UsageError, match=r"target 'cpu' has no compartments_per_core in its datasheet.* loihi1"):
        partition(network, target("cpu"))


def test_every_resource_has_a_remedy() -> None:
    network = network_of(LOIHI1, [source((2,)), population("out", (2,))], [dense(weights(2, 2))])
    uses = partition(network, target("loihi1")).cores[0].uses
    assert set(uses) <= set(REMEDIES)
