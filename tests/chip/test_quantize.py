"""Quantization: every range respected, rounding as small as the range allows, one scale per population."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroport.chip.core import run_core
from neuroport.chip.inputs import encode_inputs
from neuroport.chip.quantize import quantize
from neuroport.chip.synapses import IntDense, sum_bound
from neuroport.errors import DoesNotFitError
from neuroport.snn.network import Neuron, Projection, SpikingNetwork
from neuroport.snn.operators import (
    Conv2d,
    Sparse,
    conv_geometry,
)
from neuroport.snn.sparse import materialize
from tests.chip.float_networks import MEMBRANE, float_dense, float_networks, float_population, one_layer
from tests.chip.networks import NEURONS, TARGETS, target, weight_range

ONES = np.ones((4, 1), np.float32)


def sign_of(weight):
    return "excitatory" if weight.min() >= 0 else "inhibitory" if weight.max() <= 0 else "mixed"


def two_projections(from_input, from_copy):
    """A readout that reads the input by one matrix, and a population that copies the input by another."""
    n_out, n_in = from_input.shape
    populations = (
        float_population("input", (n_in,), role="input"),
        float_population("a", (n_in,)),
        float_population("out", (n_out,), role="readout"),
    )
    projections = (float_dense(np.eye(n_in), post="a"), float_dense(from_input), float_dense(from_copy, pre="a"))
    return SpikingNetwork(populations, projections, "rate")


def unit_of(population, arithmetic):
    """Synaptic integers per v_th."""
    of_inputs = population.unit << arithmetic.input_shift
    assert of_inputs % (1 << arithmetic.synaptic_shift) == 0
    return of_inputs >> arithmetic.synaptic_shift


def weights_into(network, name):
    """The weights of the projections into a population that become synapses, in order."""
    analog = network.encoding == "current"
    synaptic = [j.operator for j in network.incoming[name] if not (analog and j.pre == network.input.name)]
    return [op.matrix.data if isinstance(op, Sparse) else op.weight for op in map(materialize, synaptic)]


def quantize_one(weight, target_name="loihi-sim", bias=None, n_steps=32, images=None, **network):
    """The only population and its projection, and the account, of one rate-coded layer."""
    images = np.ones((4, np.shape(weight)[1]), np.float32) if images is None else images
    made = quantize(one_layer(weight, bias, **network), target(target_name), n_steps, images=images)
    return made.network.output, made.network.projections[0], made.layers[0]


@pytest.mark.parametrize("name", NEURONS)
@given(data=st.data())
@settings(max_examples=40)
def test_quantized_integers_respect_every_range(name, data):
    network, images = data.draw(float_networks(name))
    a = target(name).arithmetic
    made = quantize(network, target(name), 16, images=images).network
    for p in made.populations:
        if p.role == "input":
            continue
        neuron = network.by_name[p.name].neuron
        assert 1 <= p.threshold_mantissa <= a.threshold.mantissa_max
        if neuron.fires:  # the threshold is the unit itself, or what is reached just before it
            is_lower = a.threshold.compare == ">" and p.reset == "zero" and not (p.driven or p.bias_mantissa.any())
            below = p.unit - (p.threshold_mantissa << a.threshold.shift)
            assert below in ((0, 1 << a.threshold.shift) if is_lower else (0,))
        assert a.bias.mantissa_min <= p.bias_mantissa.min()
        assert p.bias_mantissa.max() <= a.bias.mantissa_max
        assert 0 <= p.bias_exponent <= a.bias.exponent_max
        assert abs(p.v_init_int) <= a.membrane.limit
        assert p.v_init_int == 0 or a.v_init
        assert p.reset in a.resets
        assert p.decay == round((1 - neuron.leak) * 2**a.decay_bits)
        total = 0
        for j, weight in zip(made.incoming[p.name], weights_into(network, p.name), strict=True):
            sheet = weight_range(a, sign_of(weight))
            m = j.synapse.mantissa
            assert m.dtype == np.int32
            assert m.shape == weight.shape
            assert sheet.minimum <= m.min()
            assert m.max() <= sheet.maximum
            assert not (m % sheet.step).any()
            assert (m * weight >= 0).all()  # no sign is lost
            assert m.any()
            assert 0 <= j.exponent <= a.weights.exponent_max
            total += sum_bound(j.synapse) << j.exponent
        if a.bias.through == "synapses":
            assert p.bias_exponent == a.synaptic_shift
            total += int(np.abs(p.bias_mantissa).max(initial=0))
        assert total <= a.synaptic_limit


@pytest.mark.parametrize("name", NEURONS)
@given(data=st.data())
@settings(max_examples=40)
def test_rounding_errors_are_at_most_half_a_unit(name, data):
    network, images = data.draw(float_networks(name))
    a = target(name).arithmetic
    made = quantize(network, target(name), 16, images=images)
    for account, p in zip(made.layers, (p for p in made.network.populations if p.role != "input"), strict=True):
        unit = unit_of(p, a)
        n_clipped = n_weights = 0
        for j, weight in zip(made.network.incoming[p.name], weights_into(network, p.name), strict=True):
            sheet = weight_range(a, sign_of(weight))
            exact = weight * unit / 2**j.exponent
            inside = (exact >= sheet.minimum - sheet.step / 2) & (exact <= sheet.maximum + sheet.step / 2)
            error = np.abs(j.synapse.mantissa - exact)
            assert error[inside].max(initial=0) <= sheet.step / 2 * (1 + 1e-12)
            ends = np.where(exact > 0, sheet.maximum, sheet.minimum)
            np.testing.assert_array_equal(j.synapse.mantissa[~inside], ends[~inside])
            n_clipped, n_weights = n_clipped + int((~inside).sum()), n_weights + exact.size
        assert account.clipped == (n_clipped / n_weights if n_weights else 0)
        # bias: the mantissa is the nearest one, and the exponent no larger than it must be
        bias = network.by_name[p.name].bias
        if p.driven:  # its bias is part of each sample's current
            assert not p.bias_mantissa.any()
            continue
        input_unit = p.unit << a.input_shift
        error = np.abs(p.bias_mantissa * 2.0**p.bias_exponent - bias * input_unit)
        assert error.max() <= 2**p.bias_exponent / 2
        assert account.bias_error == pytest.approx(error.max() / input_unit, rel=1e-9, abs=1e-15)
        if p.bias_exponent > a.bias.exponent_min:
            assert np.abs(bias).max() * input_unit / 2 ** (p.bias_exponent - 1) > a.bias.mantissa_max - 1


def max_abs_error(weights, a, power):
    """Squared error, weighted by `power`, of the textbook scale: the largest weight becomes the largest mantissa."""
    sheets = [weight_range(a, sign_of(weight)) for weight in weights]
    reach = [min(end for end in (s.maximum, -s.minimum) if end > 0) for s in sheets]
    unit = min(int(r / np.abs(weight).max()) for r, weight in zip(reach, weights, strict=True))
    error = total = 0.0
    for weight, s in zip(weights, sheets, strict=True):
        mantissa = np.rint(weight * unit / s.step) * s.step
        error += float(((mantissa / unit - weight) ** 2 * power).sum())
        total += max(np.maximum(mantissa, 0).sum(1).max(), np.maximum(-mantissa, 0).sum(1).max())
    return error if total <= a.synaptic_limit else np.inf


def weighted_error(weight, p, j, a, power):
    return float(((j.synapse.mantissa * 2.0**j.exponent / unit_of(p, a) - weight) ** 2 * power).sum())


def power_of(images):
    """Mean square of each input, and the thousandth of their mean that lets silent inputs count a little."""
    square = (images.astype(np.float64) ** 2).mean(0)
    return square + 1e-3 * square.mean()


@pytest.mark.parametrize("name", TARGETS)
@given(data=st.data())
@settings(max_examples=40)
def test_search_is_at_least_as_good_as_max_abs(name, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    weight = rng.normal(0, data.draw(st.sampled_from([0.02, 0.3])), (rng.integers(1, 9), rng.integers(2, 40)))
    kind = data.draw(st.sampled_from(["mixed", "excitatory", "inhibitory"]))
    weight = {"mixed": weight, "excitatory": np.abs(weight), "inhibitory": -np.abs(weight)}[kind]
    images = (rng.random((6, weight.shape[1])) * (rng.random(weight.shape[1]) < 0.7)).astype(np.float32)
    images[0, 0] = 1.0
    a, power = target(name).arithmetic, power_of(images)
    p, j, account = quantize_one(weight, name, images=images)
    error = weighted_error(weight, p, j, a, power)
    naive = max_abs_error([weight], a, power)
    assert error <= naive * (1 + 1e-9)
    if account.clipped:
        assert error < naive
    assert account.weight_error == pytest.approx(np.sqrt(error / (weight**2 * power).sum()), rel=1e-6)


@pytest.mark.parametrize("name", TARGETS)
@given(seed=st.integers(0, 2**32 - 1), ratio=st.sampled_from([1.0, 1.3, 3.0]))
@settings(max_examples=25)
def test_search_over_two_projections_is_at_least_as_good_as_max_abs_over_both(name, seed, ratio):
    rng = np.random.default_rng(seed)
    weights = [rng.normal(0, 0.3, (3, 4)), ratio * rng.normal(0, 0.3, (3, 4))]
    images = rng.random((6, 4)).astype(np.float32)
    network = two_projections(*weights)
    made = quantize(network, target(name), 16, images=images).network
    a, power = target(name).arithmetic, power_of(images)
    incoming = zip(made.incoming["out"], weights, strict=True)
    error = sum(weighted_error(weight, made.output, j, a, power) for j, weight in incoming)
    assert error <= max_abs_error(weights, a, power) * (1 + 1e-6)  # images are float32


def test_a_large_weight_of_a_silent_input_is_clipped():
    rng = np.random.default_rng(0)
    weight = rng.uniform(-0.2, 0.2, (10, 50))
    weight[:, 7] = 0.3
    images = np.ones((4, 50), np.float32)
    loud = quantize_one(weight, images=images)[2]
    assert loud.clipped == 0
    images[:, 7] = 0
    p, j, account = quantize_one(weight, images=images)
    assert account.clipped > 0
    assert (j.synapse.mantissa[:, 7] == 254).any()
    power = power_of(images)
    a = target("loihi-sim").arithmetic
    assert weighted_error(weight, p, j, a, power) < max_abs_error([weight], a, power)


@pytest.mark.parametrize("name", ["loihi-sim", "loihi1", "loihi2"])
def test_mixed_weights_are_even_on_loihi(name):
    m = quantize_one(np.linspace(-0.5, 0.5, 200).reshape(4, 50), name)[1].synapse.mantissa
    assert m.min() < 0 < m.max()
    assert not (m % 2).any()


@pytest.mark.parametrize(("sign", "ends"), [(1, (128, 255)), (-1, (-255, -128))])
def test_weights_of_one_sign_use_their_own_range(sign, ends):
    m = quantize_one(sign * np.linspace(0.01, 1, 100).reshape(4, 25))[1].synapse.mantissa
    assert (m % 2).any()
    assert ends[0] <= sign * np.abs(m).max() <= ends[1]


def test_projections_of_different_magnitude_share_one_scale_through_exponents():
    rng = np.random.default_rng(3)
    large, small = rng.uniform(-1, 1, (5, 4)), rng.uniform(-0.02, 0.02, (5, 4))
    made = quantize(two_projections(large, small), target("loihi-sim"), 16, images=np.ones((3, 4), np.float32))
    p, (j_large, j_small) = made.network.output, made.network.incoming["out"]
    assert j_large.exponent > j_small.exponent
    unit = unit_of(p, target("loihi-sim").arithmetic)
    for j, weight in ((j_large, large), (j_small, small)):
        assert np.abs(j.synapse.mantissa).max() > 60  # bits are kept: one scale alone would leave 254 / 50 = 5
        values = j.synapse.mantissa * 2.0**j.exponent / unit
        assert np.abs(values - weight).max() <= 2**j.exponent / unit
    assert made.layers[-1].exponents == (j_large.exponent, j_small.exponent)


# spinnaker2 has no exponents: its seven bits of magnitude do not hold such ratios
@pytest.mark.parametrize("name", [name for name in TARGETS if name != "spinnaker2"])
@pytest.mark.parametrize("ratio", [100, 400, 1000, 5000])
def test_exponents_stay_in_range_whatever_the_ratio_of_two_projections(name, ratio):
    """Beyond 2^7 the smaller one loses bits; it must not ask for an exponent the chip does not have."""
    large, small = np.array([[1.0, -0.7, 0.2]]), np.array([[1.0, 0.3, -0.9]]) / ratio
    made = quantize(two_projections(large, small), target(name), 16, images=np.ones((3, 3), np.float32))
    assert max(made.layers[-1].exponents) <= 7
    assert made.layers[-1].weight_error < 0.01


def test_threshold_stays_within_17_bits_with_tiny_weights():
    """Max-abs scaling would ask for a threshold of 254 / 1e-4: two million and a half."""
    p, j, _ = quantize_one(np.array([[2e-5, 1e-4, -1e-4]]))
    assert 131071 / 2 < p.threshold_mantissa <= 131071
    assert (np.sign(j.synapse.mantissa) == [[1, 1, -1]]).all()
    assert quantize_one([[2.0**-17]])[0].threshold_mantissa == 131070


@pytest.mark.parametrize(
    ("name", "neuron", "plus"),
    [
        ("loihi-sim", Neuron("subtract", v_init=0.5), 1),
        ("loihi-sim", Neuron("subtract"), 1),
        ("loihi-sim", Neuron("zero", v_init=0.5), 0),  # its threshold is a mantissa lower instead
        ("loihi-sim", Neuron("zero"), 0),  # Lava's own LIF starts at 0
        ("loihi1", Neuron("zero"), 0),
        ("cpu", Neuron("subtract", v_init=0.5), 0),
        ("cpu", Neuron("subtract"), 0),
    ],
)
def test_v_init_makes_up_for_a_strict_comparison(name, neuron, plus):
    p = quantize_one([[0.5, -0.25]], name, neuron=neuron)[0]
    assert p.v_init_int == round(neuron.v_init * p.unit) + plus


@pytest.mark.parametrize("name", ["loihi-sim", "cpu"])
def test_soft_reset_fires_at_exactly_the_threshold(name):
    """Input of 1/4 v_th per step: a spike at every fourth step, as in the float network, on either comparison."""
    network = one_layer([[0.25]], neuron=Neuron("subtract"))
    made = quantize(network, target(name), 16, images=ONES).network
    run = run_core(made, encode_inputs(network, made, ONES[:1], 16), record="spikes")
    assert run.trace.spikes["out"].ravel().tolist() == [0, 0, 0, 1] * 4


def test_leak_becomes_a_decay():
    assert quantize_one([[0.5]], neuron=Neuron("zero", leak=0.75))[0].decay == 1024
    assert quantize_one([[0.5]], neuron=Neuron("zero", leak=1.0))[0].decay == 0


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("n_steps", [4, 64, 1000])
def test_membrane_readout_of_normalized_sums_stays_in_its_register(name, n_steps):
    """Rows of |w| and bias that add up to 1, as normalization leaves them: no spikes whatever reach the end."""
    rng = np.random.default_rng(n_steps)
    weight = rng.uniform(-1, 1, (20, 9))
    weight[0], weight[1] = 1, -1
    weight /= np.abs(weight).sum(1, keepdims=True) / 0.75
    bias = np.full(20, 0.25) * np.sign(weight[:, 0])
    network = one_layer(weight, bias, neuron=MEMBRANE)
    images = np.concatenate([np.ones((1, 9)), weight > 0, weight < 0]).astype(np.float32)
    made = quantize(network, target(name), n_steps, images=images).network
    run = run_core(made, encode_inputs(network, made, images, n_steps))
    assert (run.overflows["out"], run.floored["out"]) == (0, 0)
    assert not run.totals["out"].any()
    reached = np.abs(run.readout).max() / made.output.unit
    assert reached == pytest.approx(n_steps, rel=0.05)  # the worst case was tried


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("n_steps", [16, 256, 4000])
def test_driven_readout_stays_in_its_register_for_every_input_in_the_range(name, n_steps):
    rng = np.random.default_rng(n_steps)
    weight = rng.uniform(-1, 1, (6, 10))  # sums of up to 10 thresholds per step
    network = one_layer(weight, encoding="current", neuron=MEMBRANE)
    calibration = rng.random((5, 10)).astype(np.float32) * 0.1
    made = quantize(network, target(name), n_steps, images=calibration, input_range=(0.0, 1.0)).network
    worst = np.concatenate([weight > 0, weight < 0]).astype(np.float32)
    run = run_core(made, encode_inputs(network, made, worst, n_steps))
    assert (run.overflows["out"], run.floored["out"]) == (0, 0)
    assert not run.totals["out"].any()
    assert np.abs(run.readout).max() > made.arithmetic.membrane.limit / 100


@pytest.mark.parametrize("name", TARGETS)
def test_input_currents_at_a_padded_border_fit(name):
    """Inputs between 0.9 and 1: inside, +w and -w nearly cancel; at the border one of them is missing."""
    weight = np.array([[[[100.0, -100.0, 0.0]]]])
    geometry = conv_geometry((1, 1, 4), weight.shape, (1, 1), (0, 1), (1, 1), 1)
    populations = (
        float_population("input", (1, 1, 4), role="input"),
        float_population("out", (1, 1, 4), role="readout"),
    )
    network = SpikingNetwork(populations, (Projection("input", "out", Conv2d(weight, geometry)),), "current")
    images = np.random.default_rng(0).uniform(0.9, 1, (20, 1, 1, 4)).astype(np.float32)
    made = quantize(network, target(name), 16, images=images).network
    encode_inputs(network, made, images, 16)


@pytest.mark.parametrize("name", NEURONS)
@given(data=st.data())
@settings(max_examples=25)
def test_inputs_in_the_calibration_range_always_fit(name, data):
    network, images = data.draw(float_networks(name))
    network = replace(network, encoding="current")
    made = quantize(network, target(name), 16, images=images).network
    inputs = encode_inputs(network, made, images, 16)
    assert inputs.spikes is None
    assert set(inputs.currents) == {p.name for p in made.populations if p.driven}


def test_merged_pool_is_quantized_as_one_synapse():
    network = one_layer(np.full((2, 3), 0.3))
    made = quantize(network, target("cpu"), 8, images=np.ones((1, 3), np.float32)).network
    assert isinstance(made.projections[0].synapse, IntDense)
    assert made.readout == "count"
    assert quantize(one_layer([[0.5]], neuron=MEMBRANE), target("cpu"), 8, images=ONES).network.readout == "membrane"


@pytest.mark.parametrize(
    ("weight", "bias", "n_steps", "problem"),
    [
        ([[1.0]], [1e9], 16, "input currents and biases reach 1e+09 thresholds per step"),
        ([[1.0]], None, 10**7, "over 10000000 steps"),
        ([[1e-9, -1e-9]], None, 16, "rounding all of them to 0"),
        ([[0.0, 0.0]], None, 16, "all weights from 'input' are 0"),
    ],
)
def test_what_no_scale_brings_inside_is_refused(weight, bias, n_steps, problem):
    neuron = MEMBRANE if n_steps > 100 else None
    with pytest.raises(DoesNotFitError) as caught:
        quantize_one(weight, bias=bias, n_steps=n_steps, neuron=neuron)
    assert "layer 'out'" in str(caught.value)
    assert problem in str(caught.value)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("name", ["loihi-sim", "cpu"])
def test_a_weight_of_exactly_one_threshold_fires_at_every_spike(name):
    """Reset to zero on a chip that fires strictly above its threshold: v = theta must not wait for a second spike."""
    network = one_layer(np.eye(3), neuron=Neuron("zero"))
    images = np.array([[0.2, 0.5, 1.0]], np.float32)
    made = quantize(network, target(name), 20, images=images).network
    run = run_core(made, encode_inputs(network, made, images, 20), record="counts")
    np.testing.assert_array_equal(run.counts["out"], run.counts["input"])
