"""brian2-loihi, nengo-loihi's emulator and Lava's models against our core: what all of them compute alike.

Alike are: even mixed weights and one-signed ones up to +-255 with exponents from 0; decays of current and potential,
rounded toward zero; a strict threshold, reset to zero; one step per projection. nengo-loihi and Lava have biases and
ends of the potential, brian2-loihi has delays. Where they differ: the file beside this one.
"""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given

from neuroport.chip.core import run_core
from neuroport.chip.inputs import IntInputs
from neuroport.chip.oracle import run_oracle
from neuroport.validation.divergence import compare
from tests.backends.lava_networks import conv_net, driven_net, residual_net
from tests.chip.networks import cases, dense, network_of, population, source, spikes_of
from tests.oracles.harness import case_of
from tests.oracles.networks import COMMON, layered


def agree(oracle, network, inputs, counts):
    """Every spike and every potential of every neuron is the core's, or the emulator's registers overflow (False).

    What was compared is added to `counts`.
    """
    core, trace = run_core(network, inputs, record="all").trace, oracle.run(network, inputs)
    if "Overflow in current" in oracle.warnings or "Overflow in u2" in oracle.warnings:
        return False  # nengo-loihi wraps the sum of current and bias, too, where Lava does not
    result = compare(network, inputs, core, trace)
    assert result.mismatches == 0, f"{oracle.name}: {result.first_mismatch}"
    for name, v in trace.potentials.items():  # compare looks at those of the readouts
        np.testing.assert_array_equal(v, core.potentials[name])
    counts["networks"] += 1
    counts["spikes"] += result.compared_spikes
    counts["values"] += sum(2 * v.size for v in trace.potentials.values())
    return True


def test_random_networks_on_nengo_loihi(nengo):
    """Biases, input currents, several populations per level, and potentials that saturate."""
    counts = Counter()

    @cases(150)
    @given(layered(has_biases=True, has_skips=False))
    def check(case):
        assume(agree(nengo, *case, counts))

    check()
    assert counts["spikes"] > 5000


def test_random_networks_on_brian2_loihi(brian2):
    """No biases, but synapses that skip levels, with brian2-loihi's own delays; nothing beyond 24 bits."""
    counts = Counter()

    @cases(30)
    @given(layered(has_biases=False, has_skips=True, n_steps=(20, 60)))
    def check(case):
        run = run_core(*case)
        assume(not any(run.overflows.values()) and not any(run.floored.values()))
        agree(brian2, *case, counts)

    check()
    assert counts["spikes"] > 1000


@pytest.mark.lava
def test_random_networks_on_the_models_of_lava(lava_models):
    """As with nengo-loihi, but also synapses that skip levels and currents that wrap."""
    counts = Counter()

    @cases(150)
    @given(layered(has_biases=True, has_skips=True))
    def check(case):
        agree(lava_models, *case, counts)

    check()
    assert counts["spikes"] > 5000


def without_biases(network, inputs):
    """The same network for brian2-loihi."""
    zero = [replace(p, bias_mantissa=np.zeros(p.shape, np.int32), bias_exponent=0) for p in network.populations]
    return replace(network, populations=tuple(zero)), inputs


@pytest.mark.parametrize("decay", [0, 200])
def test_convolutions_on_nengo_loihi(nengo, decay):
    counts = Counter()
    assert agree(nengo, *conv_net(3, decay=decay), counts)
    assert agree(nengo, *driven_net(5, decay=decay), counts)
    assert counts["spikes"] > 400


def test_convolutions_and_delays_on_brian2_loihi(brian2):
    counts = Counter()
    agree(brian2, *without_biases(*conv_net(3, decay=200)), counts)
    agree(brian2, *without_biases(*residual_net(1, decay=100)), counts)
    assert counts["spikes"] > 5000


ORACLES = ["nengo", "brian2", pytest.param("lava_models", marks=pytest.mark.lava)]


@pytest.mark.parametrize("name", ORACLES)
def test_the_threshold_is_strict_and_decay_rounds_toward_zero(request, name):
    """A potential equal to the threshold stays; 64 more fires and resets to zero; -129 of decay 1 becomes -128."""
    threshold = population("out", (3,), threshold_mantissa=10, decay=1)
    network = network_of(COMMON, [source(), threshold], [dense([[10], [-2], [12]])])
    inputs = spikes_of([[1], [0], [1], [0], [0], [1]])
    trace = request.getfixturevalue(name).run(network, inputs)
    np.testing.assert_array_equal(trace.potentials["out"][0, :2], [[640, -128, 0], [639, -127, 0]])
    assert trace.spikes["out"][0].tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 1], [0, 0, 0], [0, 0, 0], [0, 0, 1]]
    assert compare(network, inputs, run_oracle(network, inputs), trace).mismatches == 0


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("current_decay", [1, 2, 100, 2049, 4095, 4096])
def test_currents_that_outlast_a_step(request, name, current_decay):
    """Our current_decay is brian2-loihi's decay_I, and the du of Lava and nengo-loihi plus 1."""
    rng = np.random.default_rng(current_decay)
    neurons = population("out", (6,), threshold_mantissa=90, decay=37, current_decay=current_decay)
    network = network_of(COMMON, [source((9,)), neurons], [dense(2 * rng.integers(-30, 40, (6, 9)))])
    counts = Counter()
    assert agree(request.getfixturevalue(name), network, spikes_of(rng.random((40, 9)) < 0.4), counts)
    assert counts["spikes"] > 20


@pytest.mark.parametrize("name", ORACLES)
def test_each_projection_adds_one_step(request, name):
    """One spike goes down a chain, and each emulator has it in its own time: LAGS in tests/oracles/harness.py."""
    oracle = request.getfixturevalue(name)
    chain = [source(), *(population(f"p{k}", role="readout") for k in range(3))]
    network = network_of(
        COMMON, chain, [dense([[254]], pre, post) for pre, post in [("input", "p0"), ("p0", "p1"), ("p1", "p2")]]
    )
    inputs = spikes_of([[0], [1], [0], [0]])
    raw = oracle.run_case(*case_of(network, inputs))
    steps = [int(np.flatnonzero(raw[f"spikes.{k}"][0, :, 0])[0]) for k in (1, 2, 3)]
    assert steps == {"nengo": [2, 3, 4], "brian2": [1, 2, 3], "lava": [1, 1, 1]}[oracle.name]


@pytest.mark.parametrize("name", ORACLES)
def test_a_planted_difference_is_found(request, name):
    """The comparison is not vacuous: one weight of 50 changed on the emulator's side shows."""
    rng = np.random.default_rng(0)
    weights = 2 * rng.integers(-60, 90, (5, 10))
    changed = weights.copy()
    changed[3, 7] += 2
    inputs = IntInputs(1, 30, (rng.random((1, 30, 10)) < 0.5).astype(np.uint8), {})
    ours, theirs = (
        network_of(COMMON, [source((10,)), population("out", (5,), threshold_mantissa=200)], [dense(w)])
        for w in (weights, changed)
    )
    trace = request.getfixturevalue(name).run(theirs, inputs)
    result = compare(ours, inputs, run_core(ours, inputs, record="all").trace, trace)
    assert result.first_mismatch is not None
    assert result.first_mismatch.neuron == (3,)
