"""Loihi 1 resets by subtraction with two compartments: the construction, step by step, against the formal neuron."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroport.chip.inputs import IntInputs
from neuroport.chip.network import IntHead
from neuroport.chip.oracle import run_oracle
from neuroport.chip.quantize import quantize
from neuroport.errors import DoesNotFitError
from neuroport.snn.network import Neuron
from tests.chip.networks import dense, network_of, population, source, target
from tests.chip.test_quantize import one_layer

LOIHI1 = target("loihi1").arithmetic


def layer(mantissa, threshold, **changes):
    n_out, n_in = np.shape(mantissa)
    fields = {"role": "hidden", "reset": "subtract", "threshold_mantissa": threshold, **changes}
    neurons = population("a", (n_out,), **fields)
    out = population("out", (1,), threshold_mantissa=100)
    made = [source((n_in,)), neurons, out]
    return network_of(LOIHI1, made, [dense(mantissa, post="a"), dense([[2] * n_out], pre="a")], readout="membrane")


def two_compartments(mantissa, threshold, bias, spikes):
    """The first compartment adds up and is never reset; the second fires on its potential; the synapse acts one step
    later, among the weights that arrive."""
    potential = np.zeros(len(mantissa), np.int64)
    fired = np.zeros(len(mantissa), bool)
    out = []
    for row in spikes:
        arriving = mantissa @ row.astype(np.int64) - threshold * fired
        assert np.abs(arriving).max() < 2**15  # what the accumulator holds
        potential = np.clip(potential + (arriving << 6) + bias, 1 - 2**23, 2**23 - 1)
        fired = potential > threshold << 6
        out.append(fired)
    return np.array(out)


@given(st.integers(0, 2**32 - 1))
def test_the_construction_is_a_reset_by_subtraction(seed):
    rng = np.random.default_rng(seed)
    mantissa = 2 * rng.integers(-100, 120, (6, 20))
    mantissa[0, :2] = [-2, 2]  # both signs: even weights
    threshold, bias = int(rng.integers(1, 3000)), rng.integers(-4095, 4096, 6)
    spikes = (rng.random((1, 40, 20)) < 0.4).astype(np.uint8)
    network = layer(mantissa, threshold, bias_mantissa=bias.astype(np.int32))
    found = run_oracle(network, IntInputs(1, 40, spikes, {})).spikes["a"][0]
    np.testing.assert_array_equal(found, two_compartments(mantissa, threshold, bias, spikes[0]))


def test_compartments_are_counted():
    network = layer([[2, -2]] * 7, 100)
    assert (network.n_neurons, network.n_compartments) == (8, 15)  # the output only accumulates
    counted = replace(network, heads=(IntHead("out", "count"),))
    assert counted.n_compartments == 15  # its reset is to zero
    hard = replace(network, populations=tuple(replace(p, reset="zero") for p in network.populations))
    assert hard.n_compartments == 8
    assert replace(network, arithmetic=target("loihi2").arithmetic).n_compartments == 8


def test_the_threshold_counts_among_what_arrives():
    """100 * 254 + 7367 is the accumulator's end; one more does not fit, but under a reset to zero it does."""
    row = [[254] * 100 + [-2]]
    assert layer(row, 2**15 - 1 - 25400).n_compartments == 3
    with pytest.raises(DoesNotFitError, match="layer 'a': one step can add weights up to 32768"):
        layer(row, 2**15 - 25400)
    network = layer(row, 1)
    parts = tuple(replace(p, reset="zero", threshold_mantissa=2**15 - 25400) for p in network.populations)
    assert replace(network, populations=parts).n_compartments == 2


def test_quantization_leaves_room_for_the_threshold():
    """Eight weights of one threshold: nine thresholds arrive, not eight."""
    images = np.ones((4, 8), np.float32)
    made = quantize(one_layer(np.ones((3, 8)), neuron=Neuron("subtract")), target("loihi1"), 8, images=images)
    (quantized,) = made.layers
    threshold = made.network.output.threshold_mantissa
    assert quantized.synaptic_sum == 8 * threshold + threshold
    assert quantized.synaptic_sum <= 2**15 - 1
    loihi2 = quantize(one_layer(np.ones((3, 8)), neuron=Neuron("subtract")), target("loihi2"), 8, images=images)
    assert loihi2.layers[0].synaptic_sum == 8 * loihi2.network.output.threshold_mantissa
