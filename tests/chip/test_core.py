"""The fast core equals the oracle bit for bit: over random networks, and at the limits of every register."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroport.chip.core import run as core
from neuroport.chip.core import run_core
from neuroport.chip.inputs import IntInputs
from neuroport.chip.network import IntProjection
from neuroport.chip.oracle import limit, run_oracle, weigh
from neuroport.chip.synapses import IntConv2d, sum_bound
from neuroport.chip.target import Register
from neuroport.errors import DataError
from neuroport.snn.operators import conv_geometry
from tests.chip.networks import (
    TARGETS,
    arithmetics,
    cases,
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

ARITHMETICS = arithmetics()
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
        positive, negative = np.zeros_like(v), np.zeros_like(v)
        for j in network.incoming[p.name]:
            for signed, end in ((positive, np.maximum), (negative, np.minimum)):
                part = replace(j.synapse, mantissa=end(j.synapse.mantissa, 0))
                signed += weigh(part, trace.spikes[j.pre]).reshape(v.shape) * 2**j.exponent
        held = np.zeros(v.shape, np.int64)  # accumulators at their end: none, one or two of a neuron
        if a.accumulators == "split":
            end = 2 ** (a.accumulator_bits - 1) - 1
            held = (positive > end).astype(np.int64) + (negative < -end)
            positive, negative = np.clip(positive, None, end), np.clip(negative, -end, None)
        total = positive + negative
        mantissa = inputs.currents[p.name][:, None] if p.driven else p.bias_mantissa
        exact_u = total * 2**a.synaptic_shift
        u = limit(exact_u, a.current)
        scale = 2**a.decay_bits
        kept = np.trunc(before.astype(object) * (scale - p.decay) / scale).astype(np.int64) if p.decay else before
        arriving = u + mantissa.astype(np.int64) * 2**p.bias_exponent
        exact_v = kept + arriving
        if a.leak == "closed-form":  # the part of the way that decay says, rounded up
            exact_v = before - (arriving - before) * -p.decay // scale
        beyond = limit(exact_v, a.membrane) != exact_v
        low = beyond & (exact_v < 0) & (a.membrane.overflow == "saturate")
        running = np.arange(inputs.n_steps).reshape(1, -1, *[1] * len(p.shape)) >= p.clamp_until
        found[p.name] = (
            int((held * running).sum() + ((exact_u != u) & running).sum() + (beyond & ~low & running).sum()),
            int((low & running).sum()),
        )
    return found


SYNAPSES = st.sampled_from(["event", "dense", "auto"])


def assert_core_is_oracle(network, inputs, synapses="event", device="cpu"):
    """Every spike, every potential, and everything the core derives from them; returns the oracle's trace."""
    oracle = run_oracle(network, inputs)
    run = run_core(network, inputs, record="all", n_threads=1, synapses=synapses, device=device)
    assert run.trace.spikes.keys() == oracle.spikes.keys()
    assert run.trace.potentials.keys() == oracle.potentials.keys()
    for name, spikes in oracle.spikes.items():
        np.testing.assert_array_equal(run.trace.spikes[name], spikes, err_msg=name)
        np.testing.assert_array_equal(run.counts[name], spikes.sum(1, dtype=np.int64), err_msg=name)
        np.testing.assert_array_equal(run.totals[name], spikes.sum((0, 1), dtype=np.int64), err_msg=name)
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


@given(networks(ARITHMETICS), SYNAPSES)
@cases(200)
def test_core_equals_oracle(case, synapses):
    assert_core_is_oracle(*case, synapses)


@given(networks(ARITHMETICS), st.sampled_from(REGISTERS), st.integers(1, 40))
@cases(150)
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


@given(networks([HUGE]), SYNAPSES)
@cases(60)
def test_core_equals_oracle_where_sums_need_64_bits(case, synapses):
    assert_core_is_oracle(*case, synapses)


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


def test_progress_adds_up_to_the_number_of_samples(many):
    assert_core_is_oracle(*many)
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


class Slow:
    """Inputs that take their time; begun: the first sample of each shard."""

    def __init__(self, n_samples, n_steps, part):
        self.n_samples, self.n_steps, self.begun, self._part = n_samples, n_steps, [], part

    def part(self, samples):
        self.begun.append(samples.start)
        time.sleep(0.01)
        return self._part(samples)


def ended(network, inputs, error, **options):
    """Seconds until the run of one-sample shards raises exactly this error; no thread of it is left."""
    threads, start = threading.active_count(), time.monotonic()
    with pytest.raises(type(error)) as caught:
        run_core(network, inputs, n_threads=2, **options)
    assert caught.value is error
    assert threading.active_count() == threads
    return time.monotonic() - start


def test_an_error_in_on_progress_ends_the_run(many, monkeypatch):
    monkeypatch.setattr(core, "_MAX_SHARD", 1)
    network, few = many
    inputs, error, told = Slow(500, 10, lambda samples: few.sample(samples.start % 20)), RuntimeError("enough"), []

    def on_progress(n):
        told.append(n)
        if len(told) == 3:
            raise error

    ended(network, inputs, error, on_progress=on_progress)
    assert told == [1, 1, 1]
    assert len(inputs.begun) < 250  # of 500


def test_an_error_in_a_thread_ends_the_run(many, monkeypatch):
    monkeypatch.setattr(core, "_MAX_SHARD", 1)
    network, few = many
    error = DataError("sample 7 is damaged")

    def part(samples):
        if samples.start == 7:
            raise error
        return few.sample(samples.start % 20)

    inputs = Slow(500, 10, part)
    ended(network, inputs, error)
    assert len(inputs.begun) < 250


def long_run(n_steps):
    """A network without inputs whose one sample of so many steps takes long: 4096 leaky neurons."""
    neurons = population(shape=(4096,), driven=True, decay=1, threshold_mantissa=131071)
    return network_of(target("loihi-sim").arithmetic, [neurons]), currents_of(np.ones((1, 4096)), n_steps)


def test_an_error_in_one_thread_ends_a_long_sample_in_another(monkeypatch):
    monkeypatch.setattr(core, "_MAX_SHARD", 1)
    network, inputs = long_run(100_000)
    run_core(*long_run(2))  # compiled
    start = time.monotonic()
    run_core(*long_run(5000))
    whole = 20 * (time.monotonic() - start)
    error = DataError("the other sample is damaged")

    def part(samples):
        if samples.start:
            time.sleep(0.1)
            raise error
        return inputs

    assert ended(network, Slow(2, 100_000, part), error) < max(0.5, whole / 2)


INTERRUPTED = """
import signal, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with it ignored
import numpy as np
from neuroport.chip.core import run as core
from neuroport.chip.core import run_core
from neuroport.chip.inputs import IntInputs
from tests.chip.test_core import long_run

network, inputs = long_run({n_steps})
run_core(*long_run(2))
many = IntInputs({n_samples}, {n_steps}, None, {{"out": np.broadcast_to(np.int32(1), ({n_samples}, 4096))}})
print("running", flush=True)
try:
    run_core(network, many)
except KeyboardInterrupt:
    print("interrupted with", threading.active_count(), "thread", flush=True)
"""


@pytest.mark.parametrize(("n_samples", "n_steps"), [(2, 200_000), (100_000, 200)])
def test_an_interrupt_ends_a_long_run_within_two_seconds(n_samples, n_steps):
    code = INTERRUPTED.format(n_samples=n_samples, n_steps=n_steps)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()) as process:
        try:
            assert process.stdout.readline() == "running\n"
            time.sleep(0.5)
            assert process.poll() is None, "ended before it was interrupted"
            start = time.monotonic()
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == "interrupted with 1 thread\n"
            assert time.monotonic() - start < 2
            assert process.wait(30) == 0
        finally:
            process.kill()
