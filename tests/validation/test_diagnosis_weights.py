"""One wrong weight among hundreds that one neuron leaves possible; what no rule comes near; a core that is wrong."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from neuroport.chip.inputs import IntInputs
from neuroport.chip.network import IntProjection
from neuroport.chip.oracle import run_oracle
from neuroport.chip.synapses import IntConv2d
from neuroport.chip.trace import Trace
from neuroport.snn.operators import conv_geometry
from neuroport.validation.diagnosis import diagnose
from tests.chip.networks import dense, network_of, population, source, target
from tests.validation import planted


def conv_network(rng, side, kernel, padding):
    """One convolution of an image with 16 channels into 2, and a dense readout."""
    shape = (2, 16, kernel, kernel)
    geometry = conv_geometry((16, side, side), shape, (1, 1), (padding, padding), (1, 1), 1)
    weights = 2 * rng.integers(-60, 70, shape).astype(np.int32)
    populations = [
        source((16, side, side)),
        population("conv", geometry.out_shape, role="hidden", threshold_mantissa=701),
        population("out", (2,)),
    ]
    last = dense(2 * rng.integers(-60, 64, (2, math.prod(geometry.out_shape))).astype(np.int32), "conv", "out")
    projections = [IntProjection("input", "conv", IntConv2d(weights, geometry)), last]
    return network_of(target("loihi-sim").arithmetic, populations, projections)


@pytest.fixture(scope="module")
def case():
    """A kernel of 16 x 5 x 5 weights, few steps, few spikes: each neuron says little of its weights."""
    rng = np.random.default_rng(5)
    network = conv_network(rng, 10, 5, 2)
    inputs = IntInputs(1, 40, (rng.random((1, 40, 16, 10, 10)) < 0.1).astype(np.uint8), {})
    core = run_oracle(network, inputs)
    assert 0.02 < core.spikes["conv"].mean() < 0.9
    return network, inputs, core


@pytest.mark.parametrize("seed", range(6))
def test_one_weight_of_many(case, seed):
    network, inputs, core = case
    rng = np.random.default_rng(seed)
    m = network.projections[0].synapse.mantissa
    at = tuple(int(rng.integers(n)) for n in m.shape)
    old, new = int(m[at]), int(m[at]) ^ 32

    def change(synapse):
        changed = m.copy()
        changed[at] = new
        return IntConv2d(changed, synapse.geometry)

    trace = planted.run_with(network, inputs, "conv", planted.with_weights(network, "conv", change))
    found = diagnose(network, inputs, core, trace)
    (origin,) = found.origins
    expected = f"has one weight wrong: weight {list(at)} from 'input' is {old}, {new} explains it"
    assert expected in [e.text for e in origin.exact], origin.sentence
    assert origin.is_complete


def test_a_rule_that_explains_little_is_not_named(case):
    """Two output channels swapped: no rule says that, and those that mend a few spikes would mislead."""
    network, inputs, core = case
    altered = planted.with_weights(network, "conv", lambda s: IntConv2d(s.mantissa[::-1].copy(), s.geometry))
    found = diagnose(network, inputs, core, planted.run_with(network, inputs, "conv", altered))
    (origin,) = found.origins
    assert origin.explanations == ()
    assert origin.sentence == "no known rule explains it"


def test_a_core_that_is_wrong(case):
    """One spike of the core is not what the chip's rule gives; the backend's is, and is not blamed."""
    network, inputs, right = case
    spikes = {**right.spikes, "conv": right.spikes["conv"].copy()}
    spikes["conv"][0, 7, 1, 2, 3] ^= 1
    found = diagnose(network, inputs, Trace(spikes, right.potentials), right)
    assert found.core_wrong == ("conv",) and not found.origins
    assert "population 'conv' differs, and it is the core's side that breaks the chip's rule" in found.verdict
    assert json.loads(json.dumps(found.as_json()))["core_wrong"] == ["conv"]


def test_one_weight_of_a_kernel_with_neurons_that_have_no_inputs():
    """A kernel of one pixel, padded: nothing reaches the border, which says nothing of the weights."""
    rng = np.random.default_rng(0)
    network = conv_network(rng, 6, 1, 1)
    inputs = IntInputs(1, 6, (rng.random((1, 6, 16, 6, 6)) < 0.3).astype(np.uint8), {})
    weights = network.projections[0].synapse.mantissa
    changed = weights.copy()
    changed[0, 5] ^= 32
    altered = planted.with_weights(network, "conv", lambda s: IntConv2d(changed, s.geometry))
    found = diagnose(network, inputs, run_oracle(network, inputs), planted.run_with(network, inputs, "conv", altered))
    (origin,) = found.origins
    expected = f"weight [0, 5, 0, 0] from 'input' is {weights[0, 5, 0, 0]}, {changed[0, 5, 0, 0]} explains it"
    assert any(expected in e.text for e in origin.exact), origin.sentence
