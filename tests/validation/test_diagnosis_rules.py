"""The rarer rules, each planted in its own words into one population, and what the diagnosis says of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from neuroport.chip.inputs import IntInputs
from neuroport.chip.network import IntProjection
from neuroport.chip.oracle import run_oracle, run_population
from neuroport.chip.synapses import IntConv2d, IntConvTranspose2d
from neuroport.chip.trace import Trace
from neuroport.snn.operators import ConvGeometry, conv_geometry
from neuroport.validation.diagnosis import diagnose
from tests.chip.networks import dense, gate, network_of, population, source, target, variant, windows
from tests.validation import planted

_SHEET = target("loihi-sim").arithmetic.weights.model_dump() | {
    "mixed": {"minimum": -1000, "maximum": 1000, "step": 1},
    "excitatory": {"minimum": 0, "maximum": 1000, "step": 1},
}
A = variant("loihi-sim", weights=_SHEET)
SPLIT = variant("loihi-sim", weights=_SHEET, accumulators="split", accumulator_bits=12, membrane_floor=-3000)


def case_of(arithmetic, seed=0):
    """Spikes into a convolution of uneven stride and padding, and into a dense population; wide weights, exponents."""
    rng = np.random.default_rng(seed)
    neurons = {
        "threshold_mantissa": 900,
        "decay": 300,
        "current_decay": 2000,
        "clamp_until": 2,
        "bias_exponent": 4,
        "v_init_int": 900,
        "reset": "subtract",
    }
    shape = (3, 6, 3)
    geometry = conv_geometry((2, 6, 6), (3, 2, 3, 3), (1, 2), (1, 1), (1, 1), 1)
    weights = rng.integers(-250, 350, (3, 2, 3, 3)).astype(np.int32)
    populations = [
        source((2, 6, 6)),
        population("a", shape, role="hidden", bias_mantissa=rng.integers(0, 900, shape).astype(np.int32), **neurons),
        population("b", (9,), bias_mantissa=rng.integers(-300, 900, 9).astype(np.int32), **neurons),
    ]
    projections = [
        IntProjection("input", "a", IntConv2d(weights, geometry), 1),
        dense(rng.integers(-200, 300, (9, 54)), "a", "b"),
        dense(rng.integers(0, 60, (9, 72)), "input", "b", 2),
    ]
    network = network_of(A, populations, projections)
    network = planted.unchecked(network, arithmetic=arithmetic)  # sums may leave an accumulator of 12 bits
    inputs = IntInputs(4, 40, (rng.random((4, 40, 2, 6, 6)) < 0.15).astype(np.uint8), {})
    core = run_oracle(network, inputs)
    assert all(0.02 < core.spikes[name].mean() < 0.95 for name in "ab")
    return network, inputs, core


@pytest.fixture(scope="module", params=[A, SPLIT], ids=["joint", "split"])
def case(request):
    return case_of(request.param)


def weights(change):
    def plant(network, name):
        return planted.with_weights(network, name, lambda s: replace(s, mantissa=change(s.mantissa).astype(np.int32)))

    return plant


def field(**values):
    return lambda network, name: planted.with_population(network, name, **values)


def chip(**values):
    return lambda network, name: planted.unchecked(
        network, arithmetic=network.arithmetic.model_copy(update=values)
    )  # fmt: skip


def exponent_0(network, name):
    changed = tuple(replace(j, exponent=0) if j.post == name else j for j in network.projections)
    return planted.unchecked(network, projections=changed)


def biases(change):
    def plant(network, name):
        p = network.by_name[name]
        scaled = change(p.bias_mantissa.astype(np.int64) << p.bias_exponent)
        return planted.with_population(network, name, bias_mantissa=scaled, bias_exponent=0)

    return plant


FAULTS = {
    "clips weights to 8 bits and a sign": weights(
        lambda m: np.minimum(m, 255) if m.min() >= 0 else np.clip(m, -256, 255)
    ),
    "clips weights to -128 to 127": weights(lambda m: np.clip(m, -128, 127)),
    "wraps weights into 8 bits": weights(lambda m: (m + 128) % 256 - 128),
    "adds the magnitudes of negative weights": weights(abs),
    "cuts odd weights of mixed signs toward zero": weights(
        lambda m: np.trunc(m / 2) * 2 if (m < 0).any() else m
    ),
    "rounds odd weights of mixed signs": weights(lambda m: np.round(m / 2) * 2 if (m < 0).any() else m),
    "ignores the weights' exponent": exponent_0,
    "ignores the bias's exponent 4": biases(lambda b: b >> 4),
    "shifts the bias by 6": biases(lambda b: b << 6),
    "runs from step 3, not 2": field(clamp_until=3),
    "runs from the first step, not from step 2": field(clamp_until=0),
    "has potential decay 301, not 300": field(decay=301),
    "has current decay 1999, not 2000": field(current_decay=1999),
    "does not decay the potential": field(decay=0),
    "keeps nothing of the current": field(current_decay=None),
    "has no bias": planted.no_bias,
}  # fmt: skip


@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.parametrize("text", FAULTS)
def test_a_rule_is_named(case, text, name):
    network, inputs, core = case
    trace = planted.run_with(network, inputs, name, FAULTS[text](network, name))
    found = diagnose(network, inputs, core, trace)
    if found is None:
        assert network.arithmetic is SPLIT  # whose small accumulators hide what weights do
        return
    assert [origin.population for origin in found.origins] == [name]
    assert any(e.text.startswith(text) for e in found.origins[0].exact), found.verdict


@pytest.mark.parametrize(
    ("arithmetic", "text", "plant"),
    [
        (A, "holds potentials at 0 from below", chip(membrane_floor=0)),
        (SPLIT, "lets potentials fall below -3000", chip(membrane_floor=None)),
        (SPLIT, "adds weights of both signs in one accumulator", chip(accumulators="joint")),
        (A, "holds the sums of each sign at 131071", chip(accumulators="split", accumulator_bits=18)),
    ],
)
def test_a_rule_of_the_chip_is_named(arithmetic, text, plant):
    network, inputs, _ = case_of(arithmetic)
    if "sums" in text:  # reached by weights that no 18 bits hold
        network = planted.with_weights(network, "b", lambda s: replace(s, mantissa=s.mantissa * 4000))
    if "potentials" in text:  # reached by weights that pull down as often as up
        network = planted.with_weights(network, "b", lambda s: replace(s, mantissa=s.mantissa - s.mantissa.max() // 2))
    core = run_oracle(network, inputs)
    found = diagnose(network, inputs, core, planted.run_with(network, inputs, "b", plant(network, "b")))
    assert found is not None
    assert any(e.text.startswith(text) for e in found.origins[0].exact), found.verdict


def test_swapped_stride(case):
    network, inputs, core = case
    old = network.projections[0].synapse.geometry
    turned = ConvGeometry(old.in_shape, old.out_shape, old.kernel, (2, 1), old.padding, old.dilation, old.groups)
    altered = planted.with_weights(network, "a", lambda s: replace(s, geometry=turned))
    found = diagnose(network, inputs, core, planted.run_with(network, inputs, "a", altered))
    assert found is not None
    assert "it swaps rows and columns of stride, padding and dilation" in found.verdict


def test_its_own_spikes_in_another_order(case):
    """Read back wrongly: those behind get the right ones, so what they say is odd too."""
    network, inputs, core = case
    shape = core.spikes["a"].shape
    mixed = core.spikes["a"].transpose(0, 1, 3, 4, 2).reshape(shape)
    found = diagnose(network, inputs, core, Trace({**core.spikes, "a": mixed}, core.potentials))
    assert found is not None
    assert [o.population for o in found.origins] == ["a", "b"]
    assert "it gives its own spikes in the order HWC" in found.origins[0].sentence
    assert "reads 'a' in the order" in found.origins[1].sentence


def test_a_late_population_behind_a_late_one(case):
    """All that a backend gives, one step later than it should: nothing is wrong but the alignment."""
    network, inputs, core = case
    spikes = {n: x if n == "input" else planted.late(x, 0) for n, x in core.spikes.items()}
    v = {p.name: planted.late(core.potentials[p.name], p.v_init_int) for p in network.populations[1:]}
    only_b = tuple(j for j in network.projections if (j.pre, j.post) != ("input", "b"))
    network = planted.unchecked(network, projections=only_b)
    core = run_oracle(network, inputs)
    spikes["b"], v["b"] = (
        planted.late(x, before)
        for x, before in zip(run_population(network, network.by_name["b"], core.spikes, inputs), (0, 900), strict=True)
    )
    found = diagnose(network, inputs, core, Trace(spikes, v))
    assert found is not None
    texts = [[e.text for e in o.exact if e.rule == "one-step-late"] for o in found.origins]
    assert texts == [["runs one step late"], ["runs one step late, as what it reads does"]], found.verdict


def test_one_weight_of_a_transposed_convolution():
    rng = np.random.default_rng(1)
    geometry = ConvGeometry((2, 3, 3), (3, 6, 6), (3, 3), (2, 2), (1, 1), (1, 1))
    m = rng.integers(-100, 140, (2, 3, 3, 3)).astype(np.int32)
    out = population("out", (3, 6, 6), threshold_mantissa=150, reset="subtract")
    network = network_of(A, [source((2, 3, 3)), out], [IntProjection("input", "out", IntConvTranspose2d(m, geometry))])
    inputs = IntInputs(2, 30, (rng.random((2, 30, 2, 3, 3)) < 0.3).astype(np.uint8), {})
    m = m.copy()
    m[1, 2, 0, 1] ^= 16
    altered = planted.with_weights(network, "out", lambda s: replace(s, mantissa=m))
    found = diagnose(network, inputs, run_oracle(network, inputs), run_oracle(altered, inputs))
    assert found is not None
    old, new = network.projections[0].synapse.mantissa[1, 2, 0, 1], m[1, 2, 0, 1]
    assert [e.text for e in found.origins[0].exact] == [
        f"has one weight wrong: weight [1, 2, 0, 1] from 'input' is {old}, {new} explains it"
    ]


def test_a_late_gate():
    rng = np.random.default_rng(1)
    hidden = population("a", (2, 4, 4), role="hidden", driven=True, threshold_mantissa=200)
    pooled = gate("pool", (2, 2, 2))
    arithmetic = variant("loihi-sim", gated_max_pool=True)
    network = network_of(
        arithmetic,
        [hidden, pooled, population("out", (3,), threshold_mantissa=100)],
        [windows((2, 4, 4), (2, 2, 2), pre="a", post="pool"), dense(2 * rng.integers(0, 60, (3, 8)), "pool", "out")],
    )
    inputs = IntInputs(2, 30, None, {"a": rng.integers(-500, 4000, (2, 2, 4, 4)).astype(np.int32)})
    core = run_oracle(network, inputs)
    found = diagnose(network, inputs, core, planted.run_with(network, inputs, "pool", network, planted.late))
    assert found is not None
    (origin,) = found.origins
    assert origin.population == "pool"
    assert "runs one step late" in [e.text for e in origin.exact], found.verdict
