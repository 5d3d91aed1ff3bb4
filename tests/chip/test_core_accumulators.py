"""Sums in every number type the core adds up in, two accumulators per neuron, and the potential's floor."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroport.chip.core import run_core
from neuroport.chip.core.layout import layout_of
from neuroport.chip.inputs import IntInputs
from neuroport.chip.network import IntProjection
from neuroport.chip.synapses import IntConv2d
from neuroport.chip.target import Register, Threshold
from neuroport.snn.operators import ConvGeometry
from tests.chip.networks import (
    arithmetics,
    cases,
    currents_of,
    dense,
    network_of,
    networks,
    population,
    source,
    spikes_of,
    variant,
    with_arithmetic,
)
from tests.chip.test_core import SYNAPSES, assert_core_is_oracle, lost_of

_END = 2**40
_ALL = {
    sign: {"minimum": low, "maximum": high, "step": 1}
    for sign, (low, high) in {"mixed": (-_END, _END), "excitatory": (0, _END), "inhibitory": (-_END, 0)}.items()
}
BROAD = variant(
    "cpu",
    weights={**_ALL, "exponent_max": 16},
    accumulator_bits=40,
    synaptic_shift=0,
    current={"bits": 40, "overflow": "saturate"},
    membrane={"bits": 40, "overflow": "saturate"},
    threshold={"mantissa_max": 2**35, "shift": 0, "compare": ">="},
)
TOP = 2**35  # a threshold that nothing here reaches


def all_rows(rows, *, exponent=0, arithmetic=BROAD, n_steps=2, **neuron):
    """Neurons with these rows of weights, and inputs that all spike, or only those of one sign."""
    m = np.asarray(rows)
    parts = [source((m.shape[1],)), population(shape=(len(m),), **({"threshold_mantissa": TOP} | neuron))]
    network = network_of(arithmetic, parts, [dense(m, exponent=exponent)], readout="membrane")
    first = np.atleast_2d(m)[0]
    raster = np.stack([np.ones(m.shape[1]), first > 0, first < 0])
    return network, IntInputs(3, n_steps, raster[:, None].repeat(n_steps, 1).astype(np.uint8), {})


def summing_to(total, n):
    """One row of n weights that add up to exactly `total`."""
    row = np.full(n, total // n)
    row[: total - int(row.sum())] += 1
    return row


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("bound", "bits"), [(2**15 - 1, 16), (2**15, 32), (2**15 + 1, 32), (2**31 - 1, 32), (2**31, 64), (2**31 + 1, 64)]
)
def test_sums_are_added_up_in_the_narrowest_type_that_holds_them(bound, bits, sign):
    row = sign * summing_to(bound, 301)
    network, inputs = all_rows([row, -row])
    layer = layout_of(network).layers[0]
    assert (layer.bound, layer.power, 8 * np.dtype(layer.total_dtype).itemsize) == (bound, 0, bits)
    trace = assert_core_is_oracle(network, inputs)
    assert trace.potentials["out"][0, 0].tolist() == [sign * bound, -sign * bound]
    path = run_core(network, inputs).paths["out"]
    assert (path.accumulator, path.bound) == (bits, bound)


@pytest.mark.parametrize("exponent", [0, 3])
@pytest.mark.parametrize("power", [0, 1, 5])
@pytest.mark.parametrize(
    ("low", "high", "held"), [(-128, 127, np.int8), (-127, 128, np.int16), (-129, 127, np.int16), (-1, 255, np.int16)]
)
def test_weights_are_held_in_bytes_where_those_hold_them_without_their_common_power_of_two(
    low, high, held, power, exponent
):
    m = np.random.default_rng(0).integers(low, high, (70, 9), endpoint=True)
    m[0, 0], m[1, 1], m[2, 2] = low, high, 1
    network, inputs = all_rows(m << power, exponent=exponent)
    layer = layout_of(network).layers[0]
    assert (layer.power, layer.synapses.stamps.weight.dtype) == (power + exponent, held)
    assert_core_is_oracle(network, inputs)


def test_the_common_power_of_two_is_that_of_all_projections():
    """-127 << 2 and 127 << 3 have 4 in common, which leaves 254: no byte. -64 << 3 and 127 << 2 leave -128 and 127."""
    parts = [source((2,)), population(shape=(2,), threshold_mantissa=TOP)]
    for rows, held in [
        (((-127, 2), (127, 3)), np.int16),
        (((-64, 3), (127, 2)), np.int8),
        (((-4, 5), (3, 2)), np.int8),
    ]:
        links = [dense([[m, 0], [0, m]], exponent=e) for m, e in rows]
        network = network_of(BROAD, parts, links, readout="membrane")
        layer = layout_of(network).layers[0]
        assert (layer.power, layer.synapses.stamps.weight.dtype) == (2, held)
        assert_core_is_oracle(network, spikes_of([[1, 1], [0, 1]]))


def test_weights_beyond_the_type_of_the_sums_that_no_spike_brings():
    """Only the centre of the kernel reads the image of one pixel: the sums fit 16 bits, the other weights do not."""
    m = np.full((64, 2, 3, 3), 70_000)
    m[:, :, 1, 1] = np.arange(128).reshape(64, 2) - 60
    conv = IntProjection(
        "input", "out", IntConv2d(m.astype(np.int32), ConvGeometry((2, 1, 1), (64, 1, 1), (3, 3), (1, 1), (1, 1)))
    )
    parts = [source((2, 1, 1)), population(shape=(64, 1, 1), threshold_mantissa=TOP)]
    for arithmetic in (BROAD, BROAD.model_copy(update={"accumulators": "split", "accumulator_bits": 7})):
        network = with_arithmetic(network_of(BROAD, parts, [conv], readout="membrane"), arithmetic)
        assert layout_of(network).layers[0].total_dtype == np.int16
        assert_core_is_oracle(network, spikes_of([[[[1]], [[1]]], [[[0]], [[1]]]]))


@pytest.mark.parametrize(
    ("largest", "synapses"),
    [(n, how) for n in (2**24 - 1, 2**24, 2**29, 2**31 - 1) for how in ("event", "dense", "auto")],
)
def test_sums_beyond_31_bits_that_a_common_power_of_two_brings_back(largest, synapses):
    """largest << 7 needs up to 38 bits; without the common 2^7 it fits 32, and 24 where float32 is exact."""
    network, inputs = all_rows([[largest, 0, 0], [0, -largest, 1]], exponent=7)
    layer = layout_of(network).layers[0]
    assert (layer.power, layer.total_dtype) == (7, np.int32)
    assert_core_is_oracle(network, inputs, synapses)


@pytest.mark.parametrize(
    ("weight", "v_init", "n_steps", "bias", "bits"),
    [
        (2**31 - 2, 0, 1, 0, 32),
        (2**31 - 1, 0, 1, 0, 64),
        (-(2**31 - 2), 0, 1, 0, 32),
        (-(2**31 - 1), 0, 1, 0, 64),
        (2**30 - 1, 0, 2, 0, 32),
        (2**30 - 1, 1, 2, 0, 64),
        (2**30 - 1, -1, 2, 0, 64),
        (2**30 - 2, 0, 2, 1, 32),
        (2**30 - 2, 0, 2, -2, 64),
        (1, 2**31 - 3, 1, 0, 32),
        (1, 2**31 - 2, 1, 0, 64),
        (-1, -(2**31 - 3), 1, 0, 32),
    ],
)
def test_potentials_of_32_bits_end_where_those_of_64_begin(weight, v_init, n_steps, bias, bits):
    neuron = {"v_init_int": v_init, "bias_mantissa": np.array([bias], np.int32), "threshold_mantissa": 2**31 - 2}
    network, inputs = all_rows([[weight]], n_steps=n_steps, reset="subtract", **neuron)
    assert run_core(network, inputs).paths["out"].membrane == bits
    trace = assert_core_is_oracle(network, inputs)
    left = int(trace.potentials["out"][0, -1, 0]) + (2**31 - 2) * int(trace.spikes["out"][0, -1, 0])
    assert left == v_init + n_steps * (weight + bias)


@pytest.mark.parametrize("compare", [">", ">="])
@pytest.mark.parametrize("threshold", [2**31 - 3, 2**31 - 2, 2**31 - 1, 2**31, 2**31 + 1])
def test_thresholds_at_the_top_of_32_bits(threshold, compare):
    arithmetic = BROAD.model_copy(update={"threshold": Threshold(mantissa_max=TOP, shift=0, compare=compare)})
    for weight in (threshold - 1, threshold, threshold + 1):
        if weight < 2**31:
            network, inputs = all_rows([[weight]], arithmetic=arithmetic, n_steps=1, threshold_mantissa=threshold)
            trace = assert_core_is_oracle(network, inputs)
            assert trace.spikes["out"][0].item() == (weight > threshold or (weight == threshold and compare == ">="))


@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("bits", [8, 16, 31])
def test_32_bit_potentials_are_held_at_both_ends_of_their_register(bits, reset):
    end = 2 ** (bits - 1) - 1
    rng = np.random.default_rng(bits)
    m = rng.integers(-(end // 20), end // 20, (70, 20), endpoint=True)
    m[0], m[1] = end // 20, -(end // 20)
    narrow = BROAD.model_copy(update={"membrane": Register(bits=bits, overflow="saturate")})
    network, _ = all_rows(m, reset=reset, threshold_mantissa=end - 1)
    network = with_arithmetic(network, narrow)
    inputs = IntInputs(3, 40, (rng.random((3, 40, 20)) < 0.9).astype(np.uint8), {})
    trace = assert_core_is_oracle(network, inputs)
    run = run_core(network, inputs)
    assert run.paths["out"].membrane == 32
    assert min(lost_of(network, inputs, trace)["out"]) > 0


def test_driven_currents_choose_the_width_sample_by_sample():
    wide = variant(
        "cpu",
        bias={"mantissa_min": -(2**31), "mantissa_max": 2**31 - 1, "exponent_max": 4},
        membrane={"bits": 40, "overflow": "saturate"},
    )
    neurons = population(shape=(3,), driven=True, threshold_mantissa=2**25 - 1, bias_exponent=4)
    network = network_of(wide, [neurons], readout="membrane")
    rng = np.random.default_rng(0)
    small, large = rng.integers(-9, 9, (40, 3)), rng.integers(-(2**31), 2**31 - 1, (40, 3))
    for currents in (small, large, np.where(np.arange(40)[:, None] % 17 == 0, large, small)):
        assert_core_is_oracle(network, currents_of(currents, 7))


ACCUMULATORS = [
    {"accumulators": accumulators, "accumulator_bits": bits, "membrane_floor": floor}
    for accumulators, bits in (("split", 4), ("split", 7), ("split", 10), ("split", 24), ("joint", 24))
    for floor in (None, 0, -1, -300, -(2**20), 500)
]
REGISTERS = [
    {"current": Register(bits=u, overflow=current), "membrane": Register(bits=v, overflow=membrane)}
    for (u, v), current, membrane in product([(40, 40), (12, 14)], ("wrap", "saturate"), ("wrap", "saturate"))
]


@given(
    networks(arithmetics()),
    st.sampled_from(ACCUMULATORS),
    st.sampled_from(REGISTERS),
    st.sampled_from([">", ">="]),
    st.sampled_from([None, 1, 30]),
    SYNAPSES,
)
@cases(250)
def test_core_equals_oracle_with_two_accumulators_and_a_floor(
    case, accumulators, registers, compare, threshold, synapses
):
    network, inputs = case
    sheet = network.arithmetic.threshold.model_copy(update={"compare": compare})
    if threshold is not None:  # fires often
        sheet = sheet.model_copy(update={"shift": 0})
        low = tuple(replace(p, threshold_mantissa=threshold) for p in network.populations)
        network = replace(network, populations=low)
    changed = network.arithmetic.model_copy(update={**accumulators, **registers, "threshold": sheet})
    assert_core_is_oracle(with_arithmetic(network, changed), inputs, synapses)


@pytest.mark.parametrize(("bits", "is_split"), [(8, True), (9, False)])
def test_sums_are_kept_apart_only_where_one_may_reach_its_end(bits, is_split):
    """200 and -200: an accumulator of 9 bits holds both, one of 8 neither."""
    network, inputs = all_rows([[100, 100, -150, -50]], n_steps=3)
    split = with_arithmetic(network, BROAD.model_copy(update={"accumulators": "split", "accumulator_bits": bits}))
    assert bool(layout_of(split).layers[0].inhibitory) == is_split
    trace = assert_core_is_oracle(split, inputs)
    end = 127 if is_split else 200
    assert trace.potentials["out"][:, 0, 0].tolist() == [0, end, -end]
    run = run_core(split, inputs)
    # each of the two accumulators counts by itself: both in the first sample, one in each of the others, in 3 steps
    assert run.overflows["out"] == (4 * 3 if is_split else 0)


@pytest.mark.parametrize("weight", [-128, -127, 127, -(2**15), 2**15])
def test_magnitudes_of_inhibitory_weights_at_the_ends_of_their_types(weight):
    """-128 has no magnitude in a byte, -2^15 none in 16 bits."""
    network, inputs = all_rows([[weight, 1, -1], [1, weight, 1]], n_steps=3)
    split = with_arithmetic(network, BROAD.model_copy(update={"accumulators": "split", "accumulator_bits": 6}))
    assert layout_of(split).layers[0].inhibitory
    assert_core_is_oracle(split, inputs)


def test_a_floor_is_no_loss_and_holds_what_32_bits_could():
    network, inputs = all_rows([[5, -3], [-1, -1]], n_steps=6)
    floored = with_arithmetic(network, BROAD.model_copy(update={"membrane_floor": -4}))
    trace = assert_core_is_oracle(floored, inputs)
    assert trace.potentials["out"][2].tolist() == [[-3, -1], [-4, -2], [-4, -3], [-4, -4], [-4, -4], [-4, -4]]
    run = run_core(floored, inputs)
    assert (run.overflows["out"], run.floored["out"]) == (0, 0)
