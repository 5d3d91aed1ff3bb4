"""Planted faults are named: the population, the neuron, the rule; never another rule as the only one."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from neuroport.chip.inputs import IntInputs
from neuroport.chip.network import IntProjection
from neuroport.chip.oracle import run_oracle, run_population
from neuroport.chip.synapses import IntConv2d, IntSparse
from neuroport.chip.trace import Trace
from neuroport.snn.operators import conv_geometry
from neuroport.validation.diagnosis import diagnose
from tests.chip.networks import (
    dense,
    network_of,
    population,
    source,
    sparse,
    target,
    variant,
    with_arithmetic,
)
from tests.validation import planted

N_SAMPLES, N_STEPS = 6, 40
MIXED = {**target("loihi-sim").arithmetic.weights.model_dump(), "mixed": {"minimum": -256, "maximum": 255, "step": 1}}
A = variant("loihi-sim", weights=MIXED)


def neurons(rng, name, shape, **changes):
    """Hidden neurons with biases, an initial potential and a threshold that a few steps reach."""
    given = {
        "role": "hidden",
        "threshold_mantissa": 201,
        "bias_mantissa": rng.integers(-40, 120, shape).astype(np.int32),
        "bias_exponent": 3,
        "v_init_int": 3200,
        "reset": "subtract",
    }
    return population(name, shape, **(given | changes))


@pytest.fixture(scope="module")
def case():
    """Conv, conv, dense with a sparse skip over two levels; weights of mixed signs, odd ones among them."""
    rng = np.random.default_rng(3)

    def weights(*shape):
        return rng.integers(-80, 110, shape).astype(np.int32)

    g1 = conv_geometry((2, 6, 6), (3, 2, 3, 3), (1, 1), (1, 1), (1, 1), 1)
    g2 = conv_geometry((3, 6, 6), (4, 3, 3, 3), (2, 2), (1, 1), (1, 1), 1)
    held = rng.random((10, 72)) < 0.2
    rows = [{int(c): int(rng.integers(-60, 90)) * 2 + 1 for c in np.flatnonzero(row)} for row in held]
    populations = [
        source((2, 6, 6)),
        neurons(rng, "a", (3, 6, 6)),
        neurons(rng, "b", (4, 3, 3), threshold_mantissa=301, decay=60),
        neurons(rng, "c", (10,), threshold_mantissa=301),
        neurons(rng, "out", (5,), role="readout", v_init_int=0),
    ]
    projections = [
        IntProjection("input", "a", IntConv2d(weights(3, 2, 3, 3), g1)),
        IntProjection("a", "b", IntConv2d(weights(4, 3, 3, 3), g2)),
        dense(weights(10, 36), "b", "c"),
        sparse(rows, "input", "c"),
        dense(weights(5, 10), "c", "out"),
    ]
    network = network_of(A, populations, projections)
    raster = (rng.random((N_SAMPLES, N_STEPS, 2, 6, 6)) < 0.2).astype(np.uint8)
    inputs = IntInputs(N_SAMPLES, N_STEPS, raster, {})
    core = run_oracle(network, inputs)
    assert all(0.02 < core.spikes[p.name].mean() < 0.9 for p in populations)
    return network, inputs, core


def found_in(case, trace):
    network, inputs, core = case
    found = diagnose(network, inputs, core, trace)
    assert found is not None
    json.dumps(found.as_json(), allow_nan=False)
    return found


def only(found, name):
    """The one origin, which is that population; those behind it inherit."""
    assert [origin.population for origin in found.origins] == [name], found.verdict
    assert not found.missing and not found.untold
    return found.origins[0]


FAULTS = {
    "threshold one higher": ("threshold-off-by-one", lambda n, p: planted.with_population(
        n, p, threshold_mantissa=n.by_name[p].threshold_mantissa + 1)),
    "threshold one lower": ("threshold-off-by-one", lambda n, p: planted.with_population(
        n, p, threshold_mantissa=n.by_name[p].threshold_mantissa - 1)),
    "reset to zero": ("reset-kind", lambda n, p: planted.with_population(n, p, reset="zero")),
    "no bias": ("bias-dropped", planted.no_bias),
    "odd weights floored": ("odd-weights-floored", lambda n, p: planted.with_weights(n, p, planted.floored)),
    "v_init ignored": ("v-init-ignored", lambda n, p: planted.with_population(n, p, v_init_int=0)),
}  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "name"),  # the readout has no initial potential
    [(f, name) for f in FAULTS for name in ("a", "b", "c", "out") if (f, name) != ("v_init ignored", "out")],
)
def test_a_fault_of_one_population(case, fault, name):
    network, inputs, _core = case
    rule, plant = FAULTS[fault]
    origin = only(found_in(case, planted.run_with(network, inputs, name, plant(network, name))), name)
    assert [e.rule for e in origin.exact] == [rule], origin.sentence
    assert origin.is_complete and origin.n_samples == N_SAMPLES


@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.parametrize(("rule", "change"), [("axes-swapped", planted.transposed), ("kernel-flipped", planted.turned)])
def test_a_turned_kernel(case, name, rule, change):
    network, inputs, _core = case
    altered = planted.with_weights(network, name, change)
    origin = only(found_in(case, planted.run_with(network, inputs, name, altered)), name)
    assert [e.rule for e in origin.exact] == [rule], origin.sentence
    assert "kernel" in origin.sentence


@pytest.mark.parametrize("name", ["a", "b", "c", "out"])
def test_one_step_late(case, name):
    network, inputs, _core = case
    origin = only(found_in(case, planted.run_with(network, inputs, name, network, planted.late)), name)
    assert "one-step-late" in [e.rule for e in origin.exact], origin.sentence


@pytest.mark.parametrize("name", ["a", "b", "c", "out"])
@pytest.mark.parametrize("seed", range(4))
def test_one_bit_of_one_weight(case, name, seed):
    """The weight is named with the value that explains it; where others would do as well, it is among them."""
    network, inputs, core = case
    rng, trace = np.random.default_rng(seed), core
    while diagnose(network, inputs, core, trace) is None:  # the first bit that changes a spike
        altered = planted.one_bit(network, name, rng)
        trace = planted.run_with(network, inputs, name, altered)
    ours, theirs = (n.incoming[name] for n in (network, altered))
    (k,) = [k for k in range(len(ours)) if (ours[k].synapse.mantissa != theirs[k].synapse.mantissa).any()]
    synapse, other = ours[k].synapse, theirs[k].synapse
    (at,) = np.argwhere(synapse.mantissa != other.mantissa).tolist()
    old, new = int(synapse.mantissa[tuple(at)]), int(other.mantissa[tuple(at)])
    if isinstance(synapse, IntSparse):
        row = int(np.searchsorted(synapse.row_start, at[0], side="right")) - 1
        at = [row, int(synapse.columns[at[0]])]
    origin = only(found_in(case, trace), name)
    expected = f"has one weight wrong: weight {at} from '{ours[k].pre}' is {old}, {new} explains it"
    assert expected in [e.text for e in origin.exact], origin.sentence
    if isinstance(synapse, IntConv2d):  # seen by a whole channel: nothing else explains it
        assert len(origin.exact) == 1


def test_the_whole_chip(case):
    """A rule of the chip shows in every population, and is told once."""
    network, inputs, core = case
    strict = [replace(p, threshold_mantissa=200, v_init_int=0, decay=0, bias_exponent=6) for p in network.populations]
    network = planted.unchecked(network, populations=tuple(strict))
    core = run_oracle(network, inputs)
    other = planted.unchecked(network, arithmetic=planted.other_compare(network.arithmetic))
    found = found_in((network, inputs, core), run_oracle(other, inputs))
    assert len(found.origins) > 1
    assert all("threshold-compare" in [e.rule for e in o.exact] for o in found.origins), found.verdict
    assert "one rule explains them all" in found.verdict
    assert found.verdict.count("fires where v >= threshold, not >") == 1
    assert "(NEST and SpiNNaker fire at the threshold," in found.verdict


@pytest.mark.parametrize(("register", "rule"), [("current", "current-overflow"), ("membrane", "potential-overflow")])
def test_wrap_versus_saturate(case, register, rule):
    """With registers so narrow that they end."""
    network, inputs, _ = case
    bits = {"current": 15, "membrane": 16}
    narrow = {name: {"bits": n, "overflow": "saturate"} for name, n in bits.items()}
    network = with_arithmetic(
        network, A.model_copy(update={k: getattr(variant("loihi-sim", **narrow), k) for k in bits})
    )
    other = with_arithmetic(network, planted.other_overflow(network.arithmetic, register))
    core = run_oracle(network, inputs)
    for name in ("a", "c"):
        origin = only(found_in((network, inputs, core), planted.run_with(network, inputs, name, other)), name)
        assert [e.rule for e in origin.exact] == [rule], origin.sentence


def test_input_currents():
    """A driven population whose input starts a step late, and one that forgets it."""
    rng = np.random.default_rng(1)
    p = neurons(rng, "out", (3, 4), role="readout", driven=True)
    network = network_of(A, [p])
    inputs = IntInputs(4, 30, None, {"out": rng.integers(-200, 900, (4, 3, 4)).astype(np.int32)})
    core = run_oracle(network, inputs)
    silent = replace(inputs, currents={"out": np.zeros((4, 3, 4), np.int32)})
    origin = only(found_in((network, inputs, core), run_oracle(network, silent)), "out")
    assert [e.text for e in origin.exact] == ["has no input current"]
    without = replace(inputs, currents={"out": inputs.currents["out"] - p.bias_mantissa})
    origin = only(found_in((network, inputs, core), run_oracle(network, without)), "out")
    assert [e.text for e in origin.exact] == ["has no bias besides the input current"]


def test_a_skip_that_is_lost_or_too_early(case):
    network, inputs, core = case
    lost = planted.unchecked(
        network, projections=tuple(j for j in network.projections if (j.pre, j.post) != ("input", "c"))
    )
    origin = only(found_in(case, planted.run_with(network, inputs, "c", lost)), "c")
    assert [e.text for e in origin.exact] == ["gets nothing, from 'input'"]
    early = np.concatenate([inputs.spikes[:, 1:], inputs.spikes[:, :1]], axis=1)
    spikes, v = run_population(network, network.by_name["c"], {**core.spikes, "input": early}, inputs)
    behind = run_population(network, network.by_name["out"], {"c": spikes}, inputs)
    trace = Trace({**core.spikes, "c": spikes, "out": behind[0]}, {**core.potentials, "c": v, "out": behind[1]})
    origin = only(found_in(case, trace), "c")
    assert [e.text for e in origin.exact] == ["gets spikes one step early, from 'input'"]


def test_a_dense_layer_that_reads_channels_last(case):
    network, inputs, core = case
    last = core.spikes["b"].transpose(0, 1, 3, 4, 2).reshape(core.spikes["b"].shape)
    spikes, v = run_population(network, network.by_name["c"], {**core.spikes, "b": last}, inputs)
    behind = run_population(network, network.by_name["out"], {"c": spikes}, inputs)
    trace = Trace({**core.spikes, "c": spikes, "out": behind[0]}, {**core.potentials, "c": v, "out": behind[1]})
    origin = only(found_in(case, trace), "c")
    assert [e.text for e in origin.exact] == ["reads 'b' in the order HWC"]


def test_what_no_rule_explains(case):
    """One spike of a population that is right otherwise: where it is, both sides around it, and no rule."""
    network, inputs, core = case
    spikes = core.spikes["b"].copy()
    spikes[1, 7, 2, 1, 0] ^= 1
    behind, v = dict(core.spikes), dict(core.potentials)
    behind["b"] = spikes
    for name in ("c", "out"):
        behind[name], v[name] = run_population(network, network.by_name[name], behind, inputs)
    found = found_in(case, Trace(behind, v))
    origin = only(found, "b")
    assert found.inherited == ("c", "out")
    assert not origin.exact and "no known rule explains it" in found.verdict
    first = origin.first
    assert (first.sample, first.step, first.neuron, first.steps) == (1, 7, (2, 1, 0), (5, 6, 7, 8, 9))
    at = (1, slice(5, 10), 2, 1, 0)
    assert first.core_spikes == tuple(core.spikes["b"][at]) and first.backend_spikes == tuple(spikes[at])
    assert first.core_v == first.rule_v == tuple(core.potentials["b"][at]) and first.backend_v is None
    assert first.core_input == first.backend_input and any(first.core_input)


def test_two_faults_at_two_places(case):
    """Each is told by itself although the second sees nothing but wrong spikes."""
    network, inputs, _core = case
    both = planted.with_population(planted.no_bias(network, "a"), "c", reset="zero")
    found = found_in(case, run_oracle(both, inputs))
    assert [(o.population, [e.rule for e in o.exact]) for o in found.origins] == [
        ("a", ["bias-dropped"]), ("c", ["reset-kind"])]  # fmt: skip
    assert found.inherited == ("b", "out")
    assert (
        "population 'a' differs by itself: it has no bias; population 'c' differs by itself: it resets" in found.verdict
    )


def test_a_population_that_was_not_returned(case):
    _network, _inputs, core = case
    spikes = {name: x for name, x in core.spikes.items() if name != "b"}
    found = found_in(case, Trace(spikes, core.potentials))
    assert (found.missing, found.origins, found.untold) == (("b",), (), ())
    assert found.verdict == "population 'b' differs: not returned, or in another shape"


def test_no_time(case):
    """What was found by then is returned, and says so."""
    network, inputs, core = case
    trace = planted.run_with(network, inputs, "b", planted.no_bias(network, "b"))
    found = diagnose(network, inputs, core, trace, seconds=0)
    assert found is not None
    origin = found.origins[0]
    assert origin.population == "b" and not origin.is_complete
    assert "not everything could be tried" in found.verdict


def test_nothing_differs(case):
    network, inputs, core = case
    assert diagnose(network, inputs, core, core) is None
