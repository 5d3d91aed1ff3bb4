"""The exact comparison finds one planted difference, where it is, and nothing where there is none."""

from __future__ import annotations

import json

import numpy as np
import pytest

from neuroport.chip.core import run_core
from neuroport.chip.inputs import IntInputs
from neuroport.chip.oracle import run_oracle
from neuroport.chip.trace import Trace
from neuroport.validation.divergence import compare
from tests.chip.networks import dense, network_of, population, source, target

N_SAMPLES, N_STEPS = 3, 6


@pytest.fixture(scope="module")
def case():
    """A network of a hidden population [2, 1, 3] and a readout of 4, its inputs, and what the core did."""
    rng = np.random.default_rng(5)
    hidden = population("a", (2, 1, 3), role="hidden", threshold_mantissa=100, reset="subtract")
    network = network_of(
        target("loihi-sim").arithmetic,
        [source((5,)), hidden, population("out", (4,), threshold_mantissa=131071)],
        [dense(rng.integers(-20, 100, (6, 5)) * 2, post="a"), dense(rng.integers(-100, 100, (4, 6)) * 2, pre="a")],
        readout="membrane",
    )
    inputs = IntInputs(N_SAMPLES, N_STEPS, rng.integers(0, 2, (N_SAMPLES, N_STEPS, 5)).astype(np.uint8), {})
    return network, inputs, run_core(network, inputs, record="spikes").trace


def changed(trace, population, what, at, value=None):
    """The trace with one number changed."""
    spikes, potentials = dict(trace.spikes), dict(trace.potentials)
    table = spikes if what == "spike" else potentials
    table[population] = table[population].copy()
    table[population][at] = 1 - table[population][at] if value is None else value
    return Trace(spikes, potentials)


def test_equal_traces(case):
    network, inputs, core = case
    found = compare(network, inputs, core, run_oracle(network, inputs))
    assert (found.samples, found.populations, found.mismatches, found.first_mismatch) == (3, 2, 0, None)
    assert found.compared_spikes == core.spikes["a"].sum() + core.spikes["out"].sum() > 0
    assert found.compared_values == N_SAMPLES * N_STEPS * (6 + 4 + 4)


@pytest.mark.parametrize("at", [(0, 0, 0, 0, 0), (1, 3, 1, 0, 2), (2, 5, 0, 0, 1)])
def test_one_spike(case, at):
    network, inputs, core = case
    found = compare(network, inputs, core, changed(core, "a", "spike", at))
    assert found.mismatches == 1
    first = found.first_mismatch
    assert (first.population, first.what, first.sample, first.step, first.neuron) == ("a", "spike", *at[:2], at[2:])
    assert first.core == core.spikes["a"][at]
    assert first.backend == 1 - first.core
    sample, step, *neuron = at
    v = run_oracle(network, inputs).potentials["a"][sample][(slice(max(0, step - 1), step + 2), *neuron)]
    assert first.core_v == tuple(v.tolist())
    assert len(first.core_v) == (2 if step in (0, N_STEPS - 1) else 3)


def test_one_potential(case):
    network, inputs, core = case
    value = int(core.potentials["out"][1, 4, 2]) - 1
    found = compare(network, inputs, core, changed(core, "out", "potential", (1, 4, 2), value))
    assert found.mismatches == 1
    first = found.first_mismatch
    assert (first.population, first.what, first.sample, first.step, first.neuron) == ("out", "potential", 1, 4, (2,))
    assert (first.core, first.backend) == (value + 1, value)
    assert str(first) == (
        f"population 'out', neuron [2], sample 1, step 4: potential is {value} on the backend, {value + 1} in the core "
        f"(v around it: {core.potentials['out'][1, 3:6, 2].tolist()})"
    )


def test_a_spike_that_is_not_0_or_1_is_a_difference(case):
    network, inputs, core = case
    at = tuple(np.argwhere(core.spikes["a"])[0])
    assert compare(network, inputs, core, changed(core, "a", "spike", at, 2)).mismatches == 1


def test_the_first_is_the_earliest_sample_then_step_then_population(case):
    network, inputs, core = case
    late = changed(core, "a", "spike", (2, 0, 0, 0, 0))
    early = changed(late, "out", "spike", (1, 4, 3))
    both = changed(early, "a", "spike", (1, 5, 0, 0, 0))
    found = compare(network, inputs, core, both)
    assert found.mismatches == 3
    first = found.first_mismatch
    assert (first.population, first.sample, first.step) == ("out", 1, 4)
    same_step = changed(both, "a", "spike", (1, 4, 1, 0, 1))
    assert compare(network, inputs, core, same_step).first_mismatch.population == "a"


@pytest.mark.parametrize("name", ["a", "out"])
def test_missing_population_is_wrong_everywhere(case, name):
    network, inputs, core = case
    spikes = {n: x for n, x in core.spikes.items() if n != name}
    found = compare(network, inputs, core, Trace(spikes, core.potentials))
    assert found.mismatches == core.spikes[name].size
    first = found.first_mismatch
    assert (first.population, first.sample, first.step, first.backend) == (name, 0, 0, -1)
    assert found.populations == 2


def test_missing_potentials_of_the_readout_are_wrong_everywhere(case):
    network, inputs, core = case
    found = compare(network, inputs, core, Trace(core.spikes, {}))
    assert found.mismatches == core.potentials["out"].size
    assert found.first_mismatch.what == "potential"


@pytest.mark.parametrize("cut", [np.s_[:2], np.s_[:, :5], np.s_[..., :3], np.s_[:, :, None]])
def test_another_shape_is_wrong_everywhere(case, cut):
    network, inputs, core = case
    spikes = {**core.spikes, "out": core.spikes["out"][cut]}
    assert compare(network, inputs, core, Trace(spikes, core.potentials)).mismatches == core.spikes["out"].size


def test_json_is_plain_data(case):
    network, inputs, core = case
    found = compare(network, inputs, core, changed(core, "a", "spike", (1, 3, 1, 0, 2)))
    plain = json.loads(json.dumps(found.as_json()))
    assert plain["mismatches"] == 1
    assert plain["first_mismatch"]["neuron"] == [1, 0, 2]
