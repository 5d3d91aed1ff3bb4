"""Intel's Lava against the core: every spike of every population, for every kind of neuron and connection."""

import numpy as np
import pytest

from neuroport.backends.base import Job
from neuroport.backends.loihi.backend import LavaBackend
from neuroport.chip.core import run_core
from neuroport.chip.network import IntNetwork, IntProjection
from neuroport.chip.synapses import IntDense
from neuroport.errors import DoesNotFitError
from neuroport.validation.divergence import compare
from tests.backends.lava_networks import TARGET, conv_net, dense, driven_net, network, population, source, spikes

pytestmark = pytest.mark.lava

NEURONS = {
    "lif": {},
    "leaky-lif": {"decay": 200},
    "subtract": {"reset": "subtract", "v_init_int": 9601},
    "zero-v-init": {"reset": "zero", "v_init_int": 9600, "decay": 37},
    "clamp": {"reset": "subtract", "v_init_int": 5000, "clamp_until": 5},
}


def on_lava(net, inputs, tmp_path):
    seen = []
    job = Job(TARGET, net, inputs, tmp_path, on_progress=seen.append)
    backend = LavaBackend()
    backend.check(job)
    trace = backend.run(job)
    core = run_core(net, inputs, record="spikes").trace
    assert seen[-1] == inputs.n_samples
    # a silent network would agree without proving anything
    assert all(core.spikes[p.name].any() for p in net.populations if p.role == "hidden")
    return compare(net, inputs, core, trace)


@pytest.mark.parametrize("kind", NEURONS)
def test_spikes_through_convolutions_and_dense_layers(lava, tmp_path, kind):
    result = on_lava(*conv_net(3, **NEURONS[kind]), tmp_path)
    assert result.mismatches == 0, result.first_mismatch


@pytest.mark.parametrize("kind", NEURONS)
def test_input_currents_and_populations_that_meet(lava, tmp_path, kind):
    result = on_lava(*driven_net(5, **NEURONS[kind]), tmp_path)
    assert result.mismatches == 0, result.first_mismatch


def test_registers_driven_to_their_ends(lava, tmp_path):
    """Potentials saturate at both ends of 24 bits, and sums reach the accumulator's limit, as Lava computes it."""
    rng = np.random.default_rng(0)
    weights = np.full((2, 514), 254, np.int32)  # 514 * 254 = 130,556: the accumulator holds 131,071
    weights[1] = -254
    populations = [
        source((514,)),
        population(rng, "a", (2,), threshold_mantissa=131071),
        population(rng, "b", (2,), role="readout", threshold_mantissa=131071),
    ]
    joint = dense(rng, 2, 2)
    net = network(populations, [IntProjection("input", "a", IntDense(weights)), IntProjection("a", "b", joint)])
    inputs = spikes(rng, 2, 12, (514,), rate=1.0)
    result = on_lava(net, inputs, tmp_path)
    assert result.mismatches == 0, result.first_mismatch
    run = run_core(net, inputs)
    assert run.overflows["a"] > 0
    assert run.floored["a"] > 0


def test_a_planted_difference_is_found(lava, tmp_path):
    """The comparison is not vacuous: one weight changed on the backend's side shows."""
    net, inputs = driven_net(5)
    other = net.projections[2].synapse.mantissa.copy()
    other[0, :] = np.where(other[0] > 100, other[0] - 60, other[0] + 60)
    changed = network(net.populations, [*net.projections[:2], IntProjection("join", "out", IntDense(other))])
    trace = LavaBackend().run(Job(TARGET, changed, inputs, tmp_path))
    result = compare(net, inputs, run_core(net, inputs, record="spikes").trace, trace)
    assert result.mismatches > 0
    assert result.first_mismatch.population == "out"


def test_refuses_other_arithmetic(tmp_path):
    net, inputs = driven_net(5)
    threshold = TARGET.arithmetic.threshold.model_copy(update={"compare": ">="})
    arithmetic = TARGET.arithmetic.model_copy(update={"threshold": threshold})
    foreign = IntNetwork("mine", arithmetic, net.populations, net.projections, net.heads)
    with pytest.raises(DoesNotFitError, match=r"computes differently from Lava.s .* --backend cpu"):
        LavaBackend().check(Job(TARGET, foreign, inputs, tmp_path))
