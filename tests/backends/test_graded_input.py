"""Input currents as graded spikes on Lava: the same integers as biases, for every population that is driven."""

from dataclasses import replace

import numpy as np
import pytest

from neuroport.backends.base import Job
from neuroport.backends.loihi.graded_backend import GradedLavaBackend
from neuroport.chip.core import run_core
from neuroport.chip.inputs import IntInputs
from neuroport.chip.network import IntHead, IntProjection
from neuroport.chip.oracle import run_oracle
from neuroport.chip.target import load_target
from neuroport.errors import DoesNotFitError
from neuroport.validation.divergence import compare
from neuroport.verbs.deployment import deploy
from neuroport.verbs.options import DeployOptions
from tests.backends.lava_networks import TARGET, conv, dense, driven_net, network, population, source, spikes

NEURONS = {
    "lif": {},
    "leaky-lif": {"decay": 200},
    "subtract": {"reset": "subtract", "v_init_int": 9601},
    "clamp": {"reset": "subtract", "v_init_int": 5000, "clamp_until": 5},
}


def mixed_net(seed, **neuron):
    """An image and a vector that currents drive, a convolution, a skip, and late populations that are driven, too."""
    rng = np.random.default_rng(seed)
    neuron = {"bias_exponent": 6, **neuron}
    made = conv(rng, (2, 6, 5), 3, (3, 2), stride=(2, 1), padding=(1, 0))
    n = made.geometry.out_shape
    populations = [
        population(rng, "image", (2, 6, 5), driven=True, **neuron),
        population(rng, "line", (7,), driven=True, **(neuron | {"bias_exponent": 7})),
        population(rng, "conv", n, **neuron),
        population(rng, "join", (6,), driven=True, **neuron),
        population(rng, "alone", (3,), role="readout", driven=True, **neuron),
        population(rng, "out", (4,), role="readout", driven=True, bias_exponent=6, threshold_mantissa=131071),
    ]
    projections = [
        IntProjection("image", "conv", made),
        IntProjection("conv", "join", dense(rng, int(np.prod(n)), 6)),
        IntProjection("line", "join", dense(rng, 7, 6, 1, 60, 1), 1),  # skips one level
        IntProjection("join", "out", dense(rng, 6, 4)),
        IntProjection("line", "out", dense(rng, 7, 4)),
    ]
    heads = [IntHead("out", "membrane"), IntHead("alone", "count")]
    currents = {p.name: rng.integers(-60, 140, (4, *p.shape)).astype(np.int32) for p in populations if p.driven}
    return network(populations, projections, heads), IntInputs(4, 18, None, currents)


def on_lava(net, inputs, tmp_path, target=TARGET):
    job, backend = Job(target, net, inputs, tmp_path, n_workers=1), GradedLavaBackend()
    backend.check(job)
    core = run_core(net, inputs, record="spikes").trace
    assert all(core.spikes[p.name].any() for p in net.populations if p.threshold_mantissa < 131071)
    assert compare(net, inputs, core, run_oracle(net, inputs)).mismatches == 0
    return compare(net, inputs, core, backend.run(job))


@pytest.mark.lava
@pytest.mark.parametrize("kind", NEURONS)
def test_every_spike_is_that_of_biases(lava, tmp_path, kind):
    result = on_lava(*mixed_net(3, **NEURONS[kind]), tmp_path)
    assert result.mismatches == 0, result.first_mismatch
    assert result.compared_spikes > 500


@pytest.mark.lava
@pytest.mark.parametrize("n_steps", [1, 2])
def test_samples_of_fewer_steps_than_levels_do_not_mix(lava, tmp_path, n_steps):
    net, inputs = mixed_net(4)
    strong = {name: 6 * x for name, x in inputs.currents.items()}
    job = Job(TARGET, net, replace(inputs, n_steps=n_steps, currents=strong), tmp_path, n_workers=1)
    core = run_core(net, job.inputs, record="spikes").trace
    result = compare(net, job.inputs, core, GradedLavaBackend().run(job))
    assert core.spikes["image"].any()
    assert result.mismatches == 0, result.first_mismatch


@pytest.mark.lava
def test_beside_a_source_of_binary_spikes(lava, tmp_path):
    """The source keeps its place in time, its spikes wait one step for the payloads."""
    rng = np.random.default_rng(0)
    populations = [
        source((5,)),
        population(rng, "a", (6,), driven=True, bias_exponent=6),
        population(rng, "out", (3,), role="readout", driven=True, bias_exponent=6),
    ]
    net = network(
        populations,
        [
            IntProjection("input", "a", dense(rng, 5, 6)),
            IntProjection("a", "out", dense(rng, 6, 3)),
            IntProjection("input", "out", dense(rng, 5, 3)),
        ],
    )
    currents = {p.name: rng.integers(-60, 140, (4, *p.shape)).astype(np.int32) for p in populations if p.driven}
    result = on_lava(net, replace(spikes(rng, 4, 15, (5,)), currents=currents), tmp_path)
    assert result.mismatches == 0, result.first_mismatch


@pytest.mark.lava
def test_payloads_are_what_drives_the_network(lava, tmp_path):
    """Currents changed on Lava's side alone show in the comparison."""
    net, inputs = mixed_net(3)
    other = {name: x + 8 * (name == "line") for name, x in inputs.currents.items()}
    trace = GradedLavaBackend().run(Job(TARGET, net, replace(inputs, currents=other), tmp_path))
    result = compare(net, inputs, run_core(net, inputs, record="spikes").trace, trace)
    assert result.first_mismatch.population == "line"


@pytest.mark.lava
@pytest.mark.parametrize("target", ["loihi2", "loihi-sim"])
def test_digits_with_graded_input(lava, tmp_path, target):
    options = DeployOptions(
        target=target, backend="lava-graded", samples=3, eval_samples=60, steps=32, out=tmp_path / "b"
    )
    done = deploy(options)
    assert done.is_equal
    assert done.report["backend"]["name"] == "lava-graded"
    assert done.comparison.compared_spikes > 5000
    assert done.rungs[-2].accuracy > 0.9


def refused(job):
    with pytest.raises(DoesNotFitError) as caught:
        GradedLavaBackend().check(job)
    assert "--backend lava" in str(caught.value)
    return str(caught.value)


def test_targets_with_binary_spikes_are_refused(tmp_path):
    net, inputs = mixed_net(3)
    assert "target 'loihi1' has binary spikes (geometry.spike_payload_bits)" in refused(
        Job(load_target("loihi1"), net, inputs, tmp_path)
    )
    assert "target 'cpu' does not say how many bits a spike carries" in refused(
        Job(load_target("cpu"), net, inputs, tmp_path)
    )
    with pytest.raises(DoesNotFitError, match="target 'loihi1' has binary spikes"):
        deploy(DeployOptions(target="loihi1", backend="lava-graded"))


def test_what_no_payload_carries_is_refused(tmp_path):
    net, inputs = mixed_net(3)
    low, currents = driven_net(5)  # exponent 3
    assert "layer 'left': input currents such as" in refused(Job(TARGET, low, currents, tmp_path))
    rng = np.random.default_rng(0)
    out = population(rng, "out", (4,), role="readout")
    rate = network([source((4,)), out], [IntProjection("input", "out", dense(rng, 4, 4))])
    message = refused(Job(TARGET, rate, spikes(rng, 2, 3, (4,)), tmp_path))
    assert "this network has none: its input is binary spikes; use a recipe with `input: current`" in message
    narrow = TARGET.model_copy(update={"geometry": TARGET.geometry.model_copy(update={"spike_payload_bits": 8})})
    assert "payload of " in refused(Job(narrow, net, inputs, tmp_path))
    assert "spikes of 8 bits carry up to 127" in refused(Job(narrow, net, inputs, tmp_path))
    slow = replace(net, populations=(replace(net.populations[0], current_decay=400), *net.populations[1:]))
    assert "layer 'image': current decay 400" in refused(Job(TARGET, slow, inputs, tmp_path))


def test_sums_beyond_the_accumulator_are_refused(tmp_path):
    """A bias by-passes the accumulator, a payload does not."""
    rng = np.random.default_rng(0)
    full = replace(dense(rng, 128, 1), mantissa=np.full((1, 128), 255, np.int32))
    populations = [
        population(rng, "a", (128,), driven=True, bias_exponent=6),
        population(rng, "out", (1,), role="readout", driven=True, bias_exponent=6),
    ]
    net = replace(
        network(populations, [IntProjection("a", "out", full)]),
        target="loihi2",
        arithmetic=load_target("loihi2").arithmetic,
    )
    currents = {"a": np.ones((1, 128), np.int32), "out": np.full((1, 1), 128, np.int32)}
    message = refused(Job(load_target("loihi2"), net, IntInputs(1, 4, None, currents), tmp_path))
    assert "layer 'out': payloads up to 128 and weights up to 32640 can add up in one step" in message
    assert "accumulator holds 32767" in message
    currents["out"][:] = 127
    GradedLavaBackend().check(Job(load_target("loihi2"), net, IntInputs(1, 4, None, currents), tmp_path))
