"""What Lava or a chip does silently wrong, we refuse or handle: one test per entry of facts/loihi.md.

Where a network is built by hand, its numbers are refused before anything runs; where it comes from a float network,
quantization chooses integers that avoid the failure.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from neuroport.chip.core import run_core
from neuroport.chip.files import read_network, write_network
from neuroport.chip.inputs import encode_inputs
from neuroport.chip.network import IntNetwork, IntProjection
from neuroport.chip.quantize import quantize
from neuroport.chip.synapses import IntConv2d
from neuroport.errors import ConversionError, DoesNotFitError
from neuroport.snn.network import Neuron
from neuroport.snn.operators import conv_geometry
from tests.chip.float_networks import MEMBRANE, one_layer
from tests.chip.networks import dense, network_of, population, source, spikes_of, target, with_arithmetic

LOIHI = target("loihi-sim").arithmetic
LOIHI1 = target("loihi1").arithmetic


def refuses(build, *words):
    """Run `build`, which must be refused with exit code 3 and a message that holds all of `words`."""
    with pytest.raises(DoesNotFitError) as caught:
        build()
    assert isinstance(caught.value, ConversionError)
    assert caught.value.exit_code == 3
    for word in words:
        assert str(word) in str(caught.value)


def layer(weights=((2, -2),), arithmetic=LOIHI, exponent=0, name="loihi-sim", **neuron):
    """One population 'fc' behind a dense projection of these mantissas."""
    weights = np.asarray(weights)
    return network_of(
        arithmetic,
        [source((weights.shape[1],)), population("fc", (weights.shape[0],), **neuron)],
        [dense(weights, post="fc", exponent=exponent)],
        name=name,
    )


def quantized(weight, target_name="loihi-sim", n_steps=32, bias=None, **network):
    """The integer network of one rate-coded float layer."""
    images = np.ones((2, np.shape(weight)[1]), np.float32)
    return quantize(one_layer(weight, bias, **network), target(target_name), n_steps, images=images).network


def test_layer_within_every_range_is_accepted():
    assert layer([[-256, 254], [0, 2]]).n_synapses == 4


# 1.2: mixed weights are floored to even values


def test_odd_mixed_weights_are_refused():
    refuses(lambda: layer([[3, -2]]), "layer 'fc'", "'input'", "-2 to 3", "loihi-sim", "multiples of 2", "-256", "254")
    refuses(lambda: layer([[2, -3]]), "-3 to 2", "multiples of 2")


def test_odd_weights_of_one_sign_are_exact_on_the_chip_and_stay():
    assert layer([[3, 1]]).projections[0].synapse.mantissa.tolist() == [[3, 1]]
    assert layer([[-3, -1]]).projections[0].synapse.mantissa.tolist() == [[-3, -1]]


def test_quantized_mixed_weights_are_rounded_to_even_not_floored():
    weight = np.array([[1.0, 5.0, 3.2, -3.2, -1.0]]) / 254
    weight[0, 1] = 1.0  # the scale: exactly 254 integers per v_th
    made = quantized(np.repeat(weight, 2, 0))
    m = made.projections[0].synapse.mantissa
    assert not (m % 2).any()
    unit = made.output.unit >> 6
    assert np.abs(m - weight * unit).max() <= 1  # half a step of 2; flooring alone would reach 2


# 1.2: weights beyond 8 bits are clipped, or a whole layer becomes zero


@pytest.mark.parametrize(
    ("weights", "found", "limits"),
    [
        ([[256, 0]], "0 to 256", "from 0 to 255"),
        ([[-256, 0]], "-256 to 0", "from -255 to 0"),
        ([[256, -2]], "-2 to 256", "from -256 to 254"),
        ([[2, -258]], "-258 to 2", "from -256 to 254"),
        ([[300, 2]], "0 to 300", "from 0 to 255"),
    ],
)
def test_weights_beyond_8_bits_are_refused(weights, found, limits):
    refuses(lambda: layer(weights), "layer 'fc'", found, "loihi-sim", limits)


@pytest.mark.parametrize("scale", [1.0, 3.0, 100.0])
def test_large_float_weights_keep_their_ratio(scale):
    """[300, 2] comes out of netx as [0, 0]."""
    made = quantized(scale * np.array([[3.0, 0.02]]))
    m, unit = made.projections[0].synapse.mantissa << made.projections[0].exponent, made.output.unit >> 6
    assert m[0, 0] / unit == pytest.approx(3 * scale, rel=1 / 128)
    assert m[0, 0] > 0


# 1.2: convolution weights are neither clipped nor rounded by Lava


@pytest.mark.parametrize("weight", [1000, 256, -300])
def test_convolution_weights_are_checked_like_dense_ones(weight):
    def build() -> IntNetwork:
        mantissa = np.full((2, 1, 3, 3), weight, np.int32)
        geometry = conv_geometry((1, 4, 4), mantissa.shape, (1, 1), (0, 0), (1, 1), 1)
        projection = IntProjection("input", "conv1", IntConv2d(mantissa, geometry))
        return network_of(LOIHI, [source((1, 4, 4)), population("conv1", (2, 2, 2))], [projection], name="loihi-sim")

    refuses(build, "layer 'conv1'", weight, "loihi-sim", "255")


def test_odd_mixed_convolution_weights_are_refused():
    mantissa = np.array([[[[3, -2]]]], np.int32)
    geometry = conv_geometry((1, 1, 2), mantissa.shape, (1, 1), (0, 0), (1, 1), 1)
    projection = IntProjection("input", "conv1", IntConv2d(mantissa, geometry))
    parts = [source((1, 1, 2)), population("conv1", (1, 1, 1))]
    refuses(lambda: network_of(LOIHI, parts, [projection], name="loihi-sim"), "'conv1'", "multiples of 2")


# 1.1: u wraps at 24 bits: 600 inputs of weight 254 turn negative


def test_sums_beyond_the_accumulator_are_refused():
    refuses(lambda: layer([[254] * 600]), "layer 'fc'", 600 * 254, "loihi-sim", 131071, "smaller weights")
    refuses(lambda: layer([[-254] * 600]), 600 * 254, 131071)
    assert layer([[254] * 516]).n_synapses == 516  # 131064


def test_such_sums_would_turn_negative():
    """The reason for the refusal, shown on the core past its checks."""
    wide = LOIHI.model_copy(update={"accumulator_bits": 30, "current": LOIHI.membrane.model_copy(update={"bits": 40})})
    network = with_arithmetic(layer([[254] * 600], wide, threshold_mantissa=131071), LOIHI)
    run = run_core(network, spikes_of(np.ones((1, 600))), record="all")
    assert run.trace.potentials["fc"].item() == -7023616
    assert run.overflows["fc"] == 1


def test_sums_of_a_16_bit_accumulator_are_refused_earlier():
    refuses(lambda: layer([[254] * 130], LOIHI1, name="loihi1"), 130 * 254, "loihi1", 32767)
    assert layer([[254] * 129], LOIHI1).n_synapses == 129


def test_sums_of_several_projections_and_exponents_count_together():
    def build(n_inputs: int, exponent: int) -> IntNetwork:
        parts = [source((n_inputs,)), population("a", (1,), role="hidden"), population("fc")]
        row = [[255] * n_inputs]
        projections = [dense(row, post="a"), dense(row, post="fc"), dense([[255]], "a", "fc", exponent)]
        return network_of(LOIHI, parts, projections, name="loihi-sim")

    refuses(lambda: build(400, 7), "layer 'fc'", 400 * 255 + (255 << 7), 131071)
    assert build(400, 6).depth["fc"] == 2


@pytest.mark.parametrize("name", ["loihi-sim", "loihi1", "loihi2"])
def test_quantization_avoids_such_sums_by_a_smaller_scale(name):
    weight = np.full((3, 600), 0.01)
    made = quantized(weight, name)
    m, limit = made.projections[0].synapse.mantissa.astype(np.int64), target(name).arithmetic.synaptic_limit
    assert 0.5 * limit < m.sum(1).max() << made.projections[0].exponent <= limit
    spikes = spikes_of(np.ones((4, 600)))
    run = run_core(made, spikes)
    assert run.overflows["out"] == 0
    assert run.totals["out"].tolist() == [4, 4, 4]  # a current of 6 thresholds fires at every step


def test_inputs_too_many_for_any_scale_are_refused():
    refuses(
        lambda: quantized(np.ones((1, 140_000))),
        "layer 'out'",
        "140,000 inputs",
        "131,071",
        "loihi-sim",
        "fewer inputs",
    )


# 1.1: a threshold above 2^17 - 1 never fires


@pytest.mark.parametrize("threshold", [131072, 200000, 0, -5])
def test_threshold_beyond_17_bits_is_refused(threshold):
    refuses(
        lambda: layer(threshold_mantissa=threshold),
        "layer 'fc'",
        f"threshold mantissa {threshold}",
        "loihi-sim",
        "1 to 131071",
    )
    assert layer(threshold_mantissa=131071).output.threshold_mantissa == 131071


def test_quantized_threshold_stays_within_17_bits():
    assert quantized([[1e-5, -1e-5]]).output.threshold_mantissa <= 131071


# 1.1: bias mantissa of 13 bits, exponent of 3


@pytest.mark.parametrize(("mantissa", "exponent"), [(4096, 0), (5000, 0), (-4097, 0), (100, 8), (100, -1)])
def test_bias_beyond_13_bits_or_its_exponent_beyond_3_is_refused(mantissa, exponent):
    bias = np.array([mantissa], np.int32)
    refuses(
        lambda: layer(bias_mantissa=bias, bias_exponent=exponent),
        "layer 'fc'",
        f"{min(mantissa, 0)} to {max(mantissa, 0)} with exponent {exponent}",
        "loihi-sim",
        "-4096 to 4095 with exponent 0 to 7",
    )


def test_loihi1_has_no_bias_of_minus_4096():
    bias = np.array([-4096], np.int32)
    refuses(lambda: layer(arithmetic=LOIHI1, name="loihi1", bias_mantissa=bias), "loihi1", "-4095 to 4095")
    assert layer(bias_mantissa=bias).output.bias_mantissa.item() == -4096


@pytest.mark.parametrize("bias", [0.3, -7.0, 60.0])
def test_large_float_bias_gets_an_exponent_and_if_need_be_a_smaller_scale(bias):
    p = quantized([[0.5, -0.123, 0.0871]], bias=[bias]).output
    assert -4096 <= p.bias_mantissa.item() <= 4095
    assert 0 <= p.bias_exponent <= 7
    assert abs((p.bias_mantissa.item() << p.bias_exponent) - bias * p.unit) <= 2**p.bias_exponent / 2
    assert 2**p.bias_exponent / 2 < 0.01 * abs(bias) * p.unit


def test_input_current_beyond_the_bias_range_is_refused_with_its_sample():
    network = one_layer([[1.0]], encoding="current")
    made = quantize(network, target("loihi-sim"), 16, images=np.array([[1.0]], np.float32)).network
    images = np.array([[0.5], [1.0], [900.0]], np.float32)
    refuses(lambda: encode_inputs(network, made, images, 16), "layer 'out'", "sample 2", "loihi-sim", "4095")
    assert encode_inputs(network, made, images[:2], 16).n_samples == 2


# 2, trap 1: an all-zero layer


def test_all_zero_weights_are_refused():
    refuses(lambda: layer([[0, 0]]), "layer 'fc'", "all weights from 'input' are 0", "loihi-sim")
    refuses(lambda: quantized([[0.0, 0.0]]), "layer 'out'", "all weights from 'input' are 0")


def test_weights_that_would_all_round_to_zero_are_refused():
    refuses(lambda: quantized([[1e-8, -1e-8]]), "layer 'out'", "rounding all of them to 0", "loihi-sim")


def test_one_weight_that_survives_is_enough():
    assert np.count_nonzero(quantized([[0.5, 1e-8]]).projections[0].synapse.mantissa) == 1


# 2: float weights are truncated by astype(int) (2.9 -> 2)


def test_float_weights_are_rounded_not_truncated():
    weight = np.random.default_rng(0).random((2, 50))
    made = quantized(weight)
    m, unit = made.projections[0].synapse.mantissa << made.projections[0].exponent, made.output.unit >> 6
    exact = weight * unit
    assert np.abs(m - exact).max() <= 0.5
    assert (m > exact).any()  # truncation never rounds up


def test_float_biases_are_rounded_not_truncated():
    bias = np.linspace(-0.9, 0.9, 31)
    p = quantized(np.full((31, 1), 0.5), bias=bias).output
    exact = bias * p.unit / 2**p.bias_exponent
    assert np.abs(p.bias_mantissa - exact).max() <= 0.5
    assert (np.abs(p.bias_mantissa) > np.abs(exact)).any()


# 1.1: no initial potential, no soft reset on Lava's LIF (Loihi 1); leaks and potentials in their registers


def test_initial_potential_on_a_chip_without_one_is_refused():
    words = "layer 'fc'", "an initial potential", "loihi1", "starts at 0", "another recipe or target"
    refuses(lambda: layer(arithmetic=LOIHI1, name="loihi1", v_init_int=5), *words)
    neuron = Neuron("zero", v_init=0.5)
    refuses(lambda: quantized([[0.5]], "loihi1", neuron=neuron), "layer 'out'", "an initial potential", "loihi1")


def test_reset_that_is_not_offered_is_refused():
    hard = LOIHI1.model_copy(update={"resets": ("zero",), "two_compartments": ()})
    words = ("reset 'subtract'", "loihi1", "zero")
    refuses(lambda: layer(arithmetic=hard, name="loihi1", reset="subtract"), "layer 'fc'", *words)
    chip = target("loihi1").model_copy(update={"arithmetic": hard})
    images = np.ones((1, 1), np.float32)
    network = one_layer(np.array([[0.5]]), neuron=Neuron("subtract"))
    refuses(lambda: quantize(network, chip, 8, images=images), "layer 'out'", *words)
    assert layer(reset="subtract").output.reset == "subtract"


@pytest.mark.parametrize("v_init", [2**23, -(2**23)])
def test_initial_potential_beyond_24_bits_is_refused(v_init):
    refuses(lambda: layer(v_init_int=v_init), "layer 'fc'", v_init, "loihi-sim", 8388607)


@pytest.mark.parametrize("decay", [-1, 4097])
def test_decay_out_of_range_is_refused(decay):
    refuses(lambda: layer(decay=decay), "layer 'fc'", f"voltage decay {decay}", "loihi-sim", "0 to 4096")
    assert layer(decay=4096).output.decay == 4096


# 1.2: a negative exponent shifts the sum in Lava, each weight elsewhere


@pytest.mark.parametrize("exponent", [-1, 8])
def test_weight_exponent_out_of_range_is_refused(exponent):
    refuses(
        lambda: layer(exponent=exponent), "layer 'fc'", f"weight exponent {exponent}", "'input'", "loihi-sim", "0 to 7"
    )


# 1.1: v saturates: a membrane readout that gets there has no meaning


def test_readout_that_cannot_hold_its_steps_is_refused():
    refuses(lambda: quantized([[0.5]], n_steps=200_000, neuron=MEMBRANE), "layer 'out'", "200000 steps", "loihi-sim")


# numbers that are changed in the file of a bundle


def test_ranges_are_checked_again_when_a_network_is_read(tmp_path):
    network = layer()
    broken = replace(network.projections[0], exponent=9)
    object.__setattr__(network, "projections", (broken,))
    write_network(tmp_path / "network.h5", network)
    refuses(lambda: read_network(tmp_path / "network.h5"), "layer 'fc'", "weight exponent 9", "loihi-sim")
