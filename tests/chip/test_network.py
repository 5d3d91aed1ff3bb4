"""The integer network refuses shapes that do not meet: the kernels of the core check no bounds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from neuroport.chip.core import run_core
from neuroport.chip.inputs import IntInputs
from neuroport.chip.network import IntHead, IntProjection
from neuroport.chip.synapses import IntConv2d, sum_bound
from neuroport.errors import DataError, InvalidNetworkError
from neuroport.snn.operators import conv_geometry
from tests.chip.networks import dense, network_of, population, source, spikes_of, target

LOIHI = target("loihi-sim").arithmetic


def build(*projections, populations=()):
    """Input of two neurons, hidden population 'a' of three, readout of one."""
    parts = populations or [source((2,)), population("a", (3,), role="hidden"), population()]
    return network_of(LOIHI, parts, projections)


def test_depth_neurons_and_synapses():
    network = build(dense([[2, -2]] * 3, post="a"), dense([[2, 4, 6]], pre="a"), dense([[2, 2]]))
    assert network.depth == {"input": 0, "a": 1, "out": 2}
    assert (network.n_neurons, network.n_synapses) == (4, 6 + 3 + 2)
    assert network.input.name == "input"
    assert network.output.name == "out"
    assert [j.pre for j in network.incoming["out"]] == ["a", "input"]


def test_sum_bound_takes_the_worst_row_and_sign():
    assert sum_bound(dense([[5, 6, -20], [3, 4, 5], [-9, -10, 25]]).synapse) == 25
    assert sum_bound(dense([[-5, 6, -20], [3, 4, 5]]).synapse) == 25
    assert sum_bound(dense([[-128] * 3]).synapse) == 384


@pytest.mark.parametrize(
    "projection",
    [
        dense([[2, 2]], pre="out", post="a"),
        dense([[2, 2, 2]] * 3, pre="a", post="a"),
        dense([[2, 2, 2]], pre="nosuch"),
        dense([[2, 2, 2]], post="nosuch"),
    ],
)
def test_projection_that_does_not_run_forward(projection):
    with pytest.raises(InvalidNetworkError, match="does not run forward") as caught:
        build(projection)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("mantissa", [[[2, 2, 2]], [[2, 2]] * 4, [[2], [2], [2]]])
def test_dense_weights_of_another_shape(mantissa):
    with pytest.raises(InvalidNetworkError, match="layer 'a': weights from 'input' have shape"):
        build(dense(mantissa, post="a"))


GEOMETRY = conv_geometry((2, 4, 4), (4, 2, 3, 3), (1, 1), (0, 0), (1, 1), 1)


@pytest.mark.parametrize(
    ("changes", "shape", "post"),
    [
        ({}, (4, 2, 3, 2), (4, 2, 2)),
        ({}, (4, 1, 3, 3), (4, 2, 2)),
        ({"groups": 2}, (4, 2, 3, 3), (4, 2, 2)),
        ({}, (4, 2, 3, 3), (15,)),
        ({"in_shape": (2, 4, 5)}, (4, 2, 3, 3), (4, 2, 2)),
        ({"out_shape": (4, 3, 3)}, (4, 2, 3, 3), (4, 2, 2)),
        ({"groups": 3}, (4, 0, 3, 3), (4, 2, 2)),
    ],
)
def test_convolution_of_another_geometry(changes, shape, post):
    synapse = IntConv2d(np.full(shape, 2, np.int32), replace(GEOMETRY, **changes))
    with pytest.raises(InvalidNetworkError, match="layer 'out'"):
        network_of(LOIHI, [source((2, 4, 4)), population("out", post)], [IntProjection("input", "out", synapse)])


def test_groups_that_do_not_divide_the_channels():
    geometry = conv_geometry((3, 1, 1), (2, 1, 1, 1), (1, 1), (0, 0), (1, 1), 2)
    synapse = IntConv2d(np.full((2, 1, 1, 1), 2, np.int32), geometry)
    with pytest.raises(InvalidNetworkError, match="layer 'out'"):
        network_of(LOIHI, [source((3, 1, 1)), population("out", (2, 1, 1))], [IntProjection("input", "out", synapse)])


def test_synapses_onto_a_spike_source():
    with pytest.raises(InvalidNetworkError, match="layer 'late'"):
        network_of(LOIHI, [source(), source(name="late"), population()], [dense([[2]], post="late")])


@pytest.mark.parametrize(
    ("changes", "post"),
    [
        ({}, (4, 2, 2)),
        ({}, (16,)),
        ({}, (2, 8)),
        ({"padding": (1, -1)}, (4, 2, 2)),
        ({"padding": (-1, 0), "out_shape": (4, 3, 3)}, (4, 3, 3)),
    ],
)
def test_matching_convolution_is_accepted(changes, post):
    """Padding may be negative or of one side only, and the population's shape another one of as many neurons."""
    synapse = IntConv2d(np.full((4, 2, 3, 3), 2, np.int32), replace(GEOMETRY, **changes))
    network = network_of(LOIHI, [source((2, 4, 4)), population("out", post)], [IntProjection("input", "out", synapse)])
    if not changes:
        assert network.n_synapses == 4 * 2 * 3 * 3 * 4


def test_biases_of_another_shape():
    with pytest.raises(InvalidNetworkError, match=r"layer 'out': \[2\] biases for \[1\] neurons"):
        build(populations=[population(bias_mantissa=np.zeros(2, np.int32))])


RATE = build(dense([[2, 2]]))
DRIVEN = build(populations=[population(shape=(3,), driven=True)])


@pytest.mark.parametrize(
    ("network", "inputs"),
    [
        (RATE, spikes_of(np.ones((4, 3)))),
        (RATE, IntInputs(1, 5, np.ones((1, 4, 2), np.uint8), {})),
        (RATE, IntInputs(2, 4, np.ones((1, 4, 2), np.uint8), {})),
        (RATE, IntInputs(1, 0, np.ones((1, 0, 2), np.uint8), {})),
        (RATE, IntInputs(1, 4, None, {})),
        (DRIVEN, IntInputs(1, 4, None, {})),
        (DRIVEN, IntInputs(1, 4, None, {"out": np.ones((1, 2), np.int32)})),
        (DRIVEN, IntInputs(2, 4, None, {"out": np.ones((1, 3), np.int32)})),
        (DRIVEN, IntInputs(1, 4, None, {"other": np.ones((1, 3), np.int32)})),
    ],
)
def test_inputs_of_another_network(network, inputs):
    with pytest.raises(DataError, match="encode the inputs for this network") as caught:
        run_core(network, inputs)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("heads", "problem"),
    [
        ([], "no readout population"),
        ([IntHead("nosuch", "count")], "output 'nosuch' is not a readout population"),
        ([IntHead("hidden", "count")], "output 'hidden' is not a readout population"),
        ([IntHead("a", "count"), IntHead("a", "membrane")], "output 'a' is read by 'membrane'; one of"),
        ([IntHead("a", "loudness")], "output 'a' is read by 'loudness'; one of 'membrane' and 'count' is possible"),
    ],
)
def test_outputs_that_cannot_be_read(heads, problem):
    parts = [population("hidden", role="hidden", driven=True), population("a"), population("b")]
    links = [dense([[2]], "hidden", "a"), dense([[2]], "a", "b")]
    with pytest.raises(InvalidNetworkError, match=problem):
        network_of(LOIHI, parts, links, heads=heads)
    network = network_of(LOIHI, parts, links, heads=[IntHead("a", "count"), IntHead("b", "membrane")])
    assert (network.output.name, network.readout) == ("a", "count")


def test_populations_of_one_name():
    with pytest.raises(InvalidNetworkError, match="two populations of the integer network share a name"):
        network_of(LOIHI, [source((2,)), population("a", (3,)), population("a", (4,))], [])
