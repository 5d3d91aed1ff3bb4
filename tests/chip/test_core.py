"""The fast core equals the oracle bit for bit: over random networks, and at the limits of every register."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroport.chip.core import run_core
from neuroport.chip.inputs import IntInputs
from neuroport.chip.network import IntHead, IntProjection
from neuroport.chip.oracle import limit, run_oracle, weigh
from neuroport.chip.synapses import IntConv2d, sum_bound
from neuroport.chip.target import Register
from neuroport.snn.operators import conv_geometry
from tests.chip.networks import (
    TARGETS,
    currents_of,
    dense,
    network_of,
    networks,
    population,
    source,
    spikes_of,
    target,
    variant,
    weight_range,
    with_arithmetic,
)

ARITHMETICS = [target(name).arithmetic for name in TARGETS]
REGISTERS = [
    (Register(bits=current_bits, overflow=current), Register(bits=membrane_bits, overflow=membrane))
    for current_bits, membrane_bits in ((12, 14), (8, 8), (14, 10))
    for current in ("wrap", "saturate")
    for membrane in ("wrap", "saturate")
]


def lost_of(network, inputs, trace):
    """(overflows, floored) of each population, from the oracle's potentials and the rule of chip/oracle.py."""
    a, found = network.arithmetic, {}
    for p in network.populations:
        if p.role == "input" or p.gate:
            found[p.name] = (0, 0)
            continue
        v = trace.potentials[p.name]
        before = np.concatenate([np.full_like(v[:, :1], p.v_init_int), v[:, :-1]], axis=1)
        total = np.zeros_like(v)
        for j in network.incoming[p.name]:
            total += weigh(j.synapse, trace.spikes[j.pre]).reshape(v.shape) * 2**j.exponent
        mantissa = inputs.currents[p.name][:, None] if p.driven else p.bias_mantissa
        exact_u = total * 2**a.synaptic_shift
        u = limit(exact_u, a.current)
        scale = 2**a.decay_bits
        kept = np.trunc(before.astype(object) * (scale - p.decay) / scale).astype(np.int64) if p.decay else before
        exact_v = kept + u + mantissa.astype(np.int64) * 2**p.bias_exponent
        beyond = limit(exact_v, a.membrane) != exact_v
        low = beyond & (exact_v < 0) & (a.membrane.overflow == "saturate")
        running = np.arange(inputs.n_steps).reshape(1, -1, *[1] * len(p.shape)) >= p.clamp_until
        found[p.name] = (
            int(((exact_u != u) & running).sum() + (beyond & ~low & running).sum()),
            int((low & running).sum()),
        )
    return found


def assert_core_is_oracle(network, inputs):
    """Every spike, every potential, and everything the core derives from them; returns the oracle's trace."""
    oracle = run_oracle(network, inputs)
    run = run_core(network, inputs, record="all", n_threads=1)
    assert run.trace.spikes.keys() == oracle.spikes.keys()
    assert run.trace.potentials.keys() == oracle.potentials.keys()
    for name, spikes in oracle.spikes.items():
        np.testing.assert_array_equal(run.trace.spikes[name], spikes, err_msg=name)
        np.testing.assert_array_equal(run.counts[name], spikes.sum(1, dtype=np.int64), err_msg=name)
    for name, v in oracle.potentials.items():
        assert run.trace.potentials[name].dtype == np.int64
        np.testing.assert_array_equal(run.trace.potentials[name], v, err_msg=name)
    assert run.readouts.keys() == {head.population for head in network.heads}
    for head in network.heads:
        name = head.population
        read = oracle.spikes[name].sum(1) if head.read == "count" else oracle.potentials[name][:, -1]
        np.testing.assert_array_equal(run.readouts[name], read.reshape(inputs.n_samples, -1))
    np.testing.assert_array_equal(run.readout, run.readouts[network.output.name])
    lost = lost_of(network, inputs, oracle)
    assert {name: (run.overflows[name], run.floored[name]) for name in lost} == lost
    return oracle


@given(networks(ARITHMETICS))
@settings(max_examples=200)
def test_core_equals_oracle(case):
    assert_core_is_oracle(*case)


@given(networks(ARITHMETICS), st.sampled_from(REGISTERS), st.integers(1, 40))
@settings(max_examples=150)
def test_core_equals_oracle_where_registers_are_too_narrow(case, registers, threshold):
    network, inputs = case
    current, membrane = registers
    narrow = network.arithmetic.model_copy(update={"current": current, "membrane": membrane})
    assert_core_is_oracle(with_arithmetic(network, narrow), inputs)
    low = tuple(replace(p, threshold_mantissa=threshold) for p in network.populations)
    assert_core_is_oracle(with_arithmetic(replace(network, populations=low), narrow), inputs)


@pytest.mark.parametrize("membrane", ["wrap", "saturate"])
@pytest.mark.parametrize("current", ["wrap", "saturate"])
def test_every_register_end_is_reached(current, membrane):
    """Sums of +-(600 * 254) << 6 and potentials past both ends, in 24 bits: nothing here is in range."""
    wide = variant("loihi-sim", accumulator_bits=30, current={"bits": 40, "overflow": "wrap"})
    rng = np.random.default_rng(4)
    m = rng.choice([-256, 254], (40, 600))
    m[0], m[1] = 254, -256
    neurons = population(shape=(40,), reset="subtract", threshold_mantissa=131071)
    network = network_of(wide, [source((600,)), neurons], [dense(m)], readout="membrane")
    narrow = wide.model_copy(
        update={
            "current": Register(bits=24, overflow=current),
            "membrane": Register(bits=24, overflow=membrane),
        }
    )
    inputs = IntInputs(2, 50, (rng.random((2, 50, 600)) < [[[0.9]], [[0.4]]]).astype(np.uint8), {})
    inputs.spikes[0, 0] = 1
    small = with_arithmetic(network, narrow)
    trace = assert_core_is_oracle(small, inputs)
    overflows, floored = lost_of(small, inputs, trace)["out"]
    assert overflows > 100
    assert (floored > 100) == (membrane == "saturate")
    if current == "wrap":
        assert trace.potentials["out"][0, 0, 0] == -7023616  # 600 * 254 << 6 wrapped, as measured in Lava
    if membrane == "saturate":
        assert trace.potentials["out"].min() == 1 - 2**23


def test_current_at_exactly_2_to_the_23_is_left_alone():
    wide = variant("loihi-sim", accumulator_bits=30, current={"bits": 40, "overflow": "wrap"})
    m = np.full((4, 1025), 128)
    m[0, 1024:], m[1, 1024:] = 0, 2  # 2^17, 2^17 + 2; the others their negatives
    m[2:] = -m[:2]
    neurons = population(shape=(4,), threshold_mantissa=131071)
    network = network_of(wide, [source((1025,)), neurons], [dense(m)], readout="membrane")
    registers = {"current": Register(bits=24, overflow="wrap"), "membrane": Register(bits=32, overflow="saturate")}
    narrow = wide.model_copy(update=registers)
    trace = assert_core_is_oracle(with_arithmetic(network, narrow), spikes_of(np.ones((1, 1025))))
    # 2^23 stays, and -2^23 becomes it: above the threshold of 2^23 - 64. The other two come back at the other end.
    assert trace.spikes["out"].ravel().tolist() == [1, 0, 1, 0]
    assert trace.potentials["out"].ravel().tolist() == [0, 128 - 2**23, 0, 2**23 - 128]


def rows_with_sum(total, sheet):
    """One row of weights of one sign that add up to exactly `total`, as many at the end of the range as possible."""
    end = sheet.maximum if total > 0 else sheet.minimum
    n, rest = divmod(abs(total), abs(end))
    return [end] * n + [rest if total > 0 else -rest] * (rest > 0)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("sign", ["excitatory", "inhibitory"])
def test_sums_exactly_at_the_accumulators_limit(name, sign):
    a = target(name).arithmetic
    total = a.synaptic_limit * (1 if sign == "excitatory" else -1)
    row = rows_with_sum(total, weight_range(a, sign))
    neurons = population(threshold_mantissa=a.threshold.mantissa_max)
    network = network_of(a, [source((len(row),)), neurons], [dense([row])], readout="membrane")
    assert sum_bound(network.projections[0].synapse) == a.synaptic_limit
    trace = assert_core_is_oracle(network, spikes_of(np.ones((1, len(row)))))
    assert trace.potentials["out"].item() == total << a.synaptic_shift
    run = run_core(network, spikes_of(np.ones((1, len(row)))))
    assert run.overflows == {"input": 0, "out": 0}


HUGE = variant(
    "cpu",
    weights={
        "mixed": {"minimum": -(2**30), "maximum": 2**30, "step": 1},
        "excitatory": {"minimum": 0, "maximum": 2**31 - 1, "step": 1},
        "inhibitory": {"minimum": -(2**31 - 1), "maximum": 0, "step": 1},
        "exponent_max": 7,
    },
    accumulator_bits=40,
    synaptic_shift=0,
    current={"bits": 40, "overflow": "saturate"},
    membrane={"bits": 40, "overflow": "saturate"},
)


@given(networks([HUGE]))
@settings(max_examples=60)
def test_core_equals_oracle_where_sums_need_64_bits(case):
    assert_core_is_oracle(*case)


@pytest.mark.parametrize("weight", [2**31 - 1, -(2**31 - 1)])
@pytest.mark.parametrize("exponent", [0, 4])
def test_sums_beyond_32_bits(weight, exponent):
    network = network_of(
        HUGE,
        [source((3,)), population(threshold_mantissa=2**23, reset="subtract")],
        [dense([[weight] * 3], exponent=exponent)],
        readout="membrane",
    )
    trace = assert_core_is_oracle(network, spikes_of([[1, 1, 1], [1, 0, 0]]))
    threshold = 2**29 if weight > 0 else 0
    first = 3 * (weight << exponent) - threshold
    assert trace.potentials["out"].ravel().tolist() == [first, first + (weight << exponent) - threshold]


@pytest.mark.parametrize("conv_first", [True, False])
def test_dense_and_convolution_into_one_population(conv_first):
    """The convolution writes channels last, the dense projection C, H, W: mixed up, neurons would swap sums."""
    rng = np.random.default_rng(1)
    geometry = conv_geometry((2, 4, 3), (3, 2, 2, 2), (1, 1), (0, 1), (1, 1), 1)
    n = int(np.prod(geometry.out_shape))
    conv = IntProjection("input", "out", IntConv2d(rng.integers(-50, 50, (3, 2, 2, 2)).astype(np.int32) * 2, geometry))
    full = dense(rng.integers(-50, 50, (n, 24)) * 2)
    neurons = population(shape=geometry.out_shape, threshold_mantissa=100)
    order = [conv, full] if conv_first else [full, conv]
    network = network_of(target("loihi-sim").arithmetic, [source((2, 4, 3)), neurons], order, readout="membrane")
    trace = assert_core_is_oracle(network, IntInputs(3, 8, rng.integers(0, 2, (3, 8, 2, 4, 3)).astype(np.uint8), {}))
    assert trace.spikes["out"].any(axis=(0, 1)).sum() > n // 2


@pytest.fixture
def many():
    """A conv network and inputs of 20 samples: several shards of the core."""
    rng = np.random.default_rng(7)
    geometry = conv_geometry((1, 6, 6), (4, 1, 3, 3), (1, 1), (1, 1), (1, 1), 1)
    conv = IntProjection("input", "a", IntConv2d(rng.integers(-60, 100, (4, 1, 3, 3)).astype(np.int32) * 2, geometry))
    network = network_of(
        target("loihi-sim").arithmetic,
        [
            source((1, 6, 6)),
            population("a", (4, 6, 6), role="hidden", threshold_mantissa=150, reset="subtract"),
            population("out", (10,), threshold_mantissa=131071),
        ],
        [conv, dense(rng.integers(-100, 100, (10, 144)) * 2, pre="a")],
        readout="membrane",
    )
    return network, IntInputs(20, 10, rng.integers(0, 2, (20, 10, 1, 6, 6)).astype(np.uint8), {})


def test_number_of_threads_changes_nothing(many):
    assert_core_is_oracle(*many)
    one, two = (run_core(*many, record="all", n_threads=n) for n in (1, 2))
    np.testing.assert_array_equal(one.readout, two.readout)
    assert one.overflows == two.overflows
    assert one.floored == two.floored
    for name in one.counts:
        np.testing.assert_array_equal(one.counts[name], two.counts[name])
        np.testing.assert_array_equal(one.trace.spikes[name], two.trace.spikes[name])
    for name, v in one.trace.potentials.items():
        np.testing.assert_array_equal(v, two.trace.potentials[name])


def test_record_modes_differ_only_in_what_they_keep(many):
    network, inputs = many
    none, spikes, everything = (run_core(network, inputs, record=mode) for mode in ("none", "spikes", "all"))
    assert (none.trace.spikes, none.trace.potentials) == ({}, {})
    assert set(spikes.trace.spikes) == {"input", "a", "out"}
    assert set(spikes.trace.potentials) == {"out"}
    assert set(everything.trace.potentials) == {"a", "out"}
    assert everything.counts["a"].any()
    for run in (none, spikes):
        np.testing.assert_array_equal(run.readout, everything.readout)
        assert (run.overflows, run.floored) == (everything.overflows, everything.floored)
        for name, counts in run.counts.items():
            np.testing.assert_array_equal(counts, everything.counts[name])
    for name, raster in spikes.trace.spikes.items():
        np.testing.assert_array_equal(raster, everything.trace.spikes[name])
    np.testing.assert_array_equal(spikes.trace.potentials["out"], everything.trace.potentials["out"])


def test_readout_mode_keeps_the_potentials_of_membrane_heads_alone(many):
    network, inputs = many
    parts = tuple(replace(p, role="readout") if p.name == "a" else p for p in network.populations)
    two = replace(network, populations=parts, heads=(IntHead("out", "membrane"), IntHead("a", "count")))
    run, everything = run_core(two, inputs, record="readout"), run_core(two, inputs, record="all")
    assert (run.trace.spikes, set(run.trace.potentials)) == ({}, {"out"})
    np.testing.assert_array_equal(run.trace.potentials["out"], everything.trace.potentials["out"])
    assert run.readouts.keys() == {"out", "a"}
    np.testing.assert_array_equal(run.readouts["a"], everything.counts["a"].reshape(20, -1))
    np.testing.assert_array_equal(run.readout, everything.trace.potentials["out"][:, -1])
    assert set(run_core(two, inputs, record="spikes").trace.potentials) == {"a", "out"}


def test_progress_adds_up_to_the_number_of_samples(many):
    told = []
    run_core(*many, on_progress=told.append)
    assert sum(told) == 20
    assert len(told) > 1


def test_samples_do_not_touch_each_other(many):
    network, inputs = many
    whole = run_core(network, inputs, record="all")
    for s in (0, 13, 19):
        alone = run_core(network, inputs.sample(s), record="all")
        np.testing.assert_array_equal(alone.readout[0], whole.readout[s])
        np.testing.assert_array_equal(alone.trace.potentials["a"][0], whole.trace.potentials["a"][s])


def test_driven_currents_of_each_sample():
    neurons = population(shape=(2,), driven=True, bias_exponent=7, threshold_mantissa=131071)
    network = network_of(target("loihi-sim").arithmetic, [neurons], readout="membrane")
    inputs = currents_of([[4095, -4096], [1, 0]], n_steps=20)
    assert_core_is_oracle(network, inputs)
    run = run_core(network, inputs)
    # 17 times 4095 << 7 is above 2^23: held at the end, it fires and starts from 0. 16 times -4096 << 7 is -2^23,
    # one below the end, where it is held for the last five steps.
    assert run.readout.tolist() == [[3 * (4095 << 7), 1 - 2**23], [20 << 7, 0]]
    assert (run.overflows["out"], run.floored["out"]) == (1, 5)
