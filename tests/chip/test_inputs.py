"""Inputs in chip integers: currents of driven populations by hand, spikes of the rate encoder, one sample of many."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from neuroport.chip.core import run_core
from neuroport.chip.inputs import encode_inputs
from neuroport.chip.quantize import quantize
from neuroport.errors import DataError, DoesNotFitError
from neuroport.snn.network import Neuron, Projection, SpikingNetwork
from neuroport.snn.operators import Conv2d, conv_geometry
from tests.chip.float_networks import float_dense, float_population, one_layer
from tests.chip.networks import network_of, population, target

LOIHI = target("loihi-sim").arithmetic


def test_current_is_weight_times_pixel_plus_bias_in_units_of_the_bias_mantissa():
    network = one_layer([[0.5, -1.0], [0.25, 0.25]], bias=[0.125, -0.5], encoding="current")
    made = network_of(LOIHI, [population(shape=(2,), driven=True, unit=6400, bias_exponent=3)])
    images = np.array([[1.0, 0.0], [0.5, 0.25], [0.0, 1.0]], np.float32)
    inputs = encode_inputs(network, made, images, 7)
    assert (inputs.n_samples, inputs.n_steps, inputs.spikes) == (3, 7, None)
    # 6400 / 8 = 800 mantissas per v_th
    assert inputs.currents["out"].dtype == np.int32
    assert inputs.currents["out"].tolist() == [[500, -200], [100, -250], [-700, -200]]


def test_current_is_rounded_to_the_nearest_mantissa():
    network = one_layer([[1.0]], encoding="current")
    made = network_of(LOIHI, [population(driven=True, unit=100)])
    images = np.array([[0.016], [0.014], [-0.016]], np.float32)
    assert encode_inputs(network, made, images, 1).currents["out"].ravel().tolist() == [2, 1, -2]


@pytest.mark.parametrize(("pixel", "fits"), [(40.95, True), (40.96, False), (-40.96, True), (-40.97, False)])
def test_current_beyond_the_bias_range_names_layer_sample_value_and_limit(pixel, fits):
    network = one_layer([[1.0], [0.0]], encoding="current")
    made = network_of(LOIHI, [population(shape=(2,), driven=True, unit=100)], name="loihi-sim")
    images = np.array([[0.0], [pixel], [99.0]], np.float32)
    if fits:
        assert encode_inputs(network, made, images[:2], 1).currents["out"][1, 0] == round(pixel * 100)
        return
    with pytest.raises(DoesNotFitError) as caught:
        encode_inputs(network, made, images, 1)
    assert caught.value.exit_code == 3
    for word in ("layer 'out'", "sample 1", f"mantissa {pixel * 100:.0f},", "loihi-sim", "-4096 to 4095"):
        assert word in str(caught.value)


def test_convolution_of_the_image_and_several_driven_populations():
    rng = np.random.default_rng(2)
    kernel, matrix = rng.uniform(-1, 1, (3, 1, 2, 2)), rng.uniform(-1, 1, (4, 9))
    geometry = conv_geometry((1, 3, 3), kernel.shape, (1, 1), (0, 0), (1, 1), 1)
    populations = (
        float_population("input", (1, 3, 3), role="input"),
        float_population("a", (3, 2, 2), bias=np.full((3, 2, 2), 0.25)),
        float_population("b", (4,)),
        float_population("out", (2,), role="readout"),
    )
    projections = (
        Projection("input", "a", Conv2d(kernel, geometry)),
        float_dense(matrix, post="b"),
        float_dense(rng.uniform(-1, 1, (2, 12)), pre="a"),
        float_dense(rng.uniform(-1, 1, (2, 4)), pre="b"),
    )
    network = SpikingNetwork(populations, projections, "current")
    images = rng.random((5, 1, 3, 3)).astype(np.float32)
    made = quantize(network, target("loihi-sim"), 8, images=images).network
    currents = encode_inputs(network, made, images, 8).currents
    exact = torch.from_numpy(images).double()
    expected = {
        "a": torch.nn.functional.conv2d(exact, torch.from_numpy(kernel)).numpy() + 0.25,
        "b": exact.reshape(5, 9).numpy() @ matrix.T,
    }
    assert currents.keys() == expected.keys()
    for name, value in expected.items():
        p = made.by_name[name]
        assert np.abs(currents[name] * 2.0**p.bias_exponent / p.unit - value).max() <= 2**p.bias_exponent / p.unit / 2


def test_rate_code_gives_spikes_and_no_currents():
    network = one_layer([[1.0, 0.5, 1.0]])
    made = quantize(network, target("cpu"), 4, images=np.ones((1, 3), np.float32)).network
    inputs = encode_inputs(network, made, np.array([[0.0, 0.5, 1.0]], np.float32), 4)
    assert inputs.currents == {}
    # spike k at the first step t with t x + 1/2 >= k: of x = 1/2 at steps 1 and 3
    assert inputs.spikes.tolist() == [[[0, 1, 1], [0, 0, 1], [0, 1, 1], [0, 0, 1]]]
    assert inputs.spikes.dtype == np.uint8


@pytest.mark.parametrize("pixel", [-0.01, 1.01])
def test_rate_code_of_values_outside_0_to_1_is_refused(pixel):
    network = one_layer([[1.0]])
    made = quantize(network, target("cpu"), 4, images=np.ones((1, 1), np.float32)).network
    with pytest.raises(DataError, match="between 0 and 1") as caught:
        encode_inputs(network, made, np.array([[pixel]], np.float32), 4)
    assert caught.value.exit_code == 2


def test_on_and_off_channels_carry_both_signs():
    n = 2
    network = replace(one_layer(np.ones((1, 2 * n)).reshape(1, -1)), n_signs=2, input_scale=np.array([2.0]))
    made = quantize(network, target("cpu"), 4, images=np.ones((1, n), np.float32)).network
    inputs = encode_inputs(network, made, np.array([[2.0, -1.0]], np.float32), 4)
    # |x| / 2: a spike at every step of the first on channel, at every other of the second off channel
    assert inputs.spikes.sum(1).tolist() == [[4, 0, 0, 2]]


def events(n_samples=2, n_steps=6, shape=(2, 3)):
    """A network that reads recorded spikes, and recordings for it."""
    rng = np.random.default_rng(0)
    network = replace(one_layer(rng.uniform(-1, 1, (2, 6))), encoding="events")
    network = replace(network, populations=(float_population("input", shape, role="input"), network.output))
    return network, rng.integers(0, 2, (n_samples, n_steps, *shape)).astype(np.uint8)


def test_events_go_in_as_they_are():
    network, recorded = events()
    made = quantize(network, target("loihi-sim"), 6, images=recorded).network
    assert made.input.shape == (2, 3)
    inputs = encode_inputs(network, made, recorded, 6)
    assert (inputs.n_samples, inputs.n_steps, inputs.currents) == (2, 6, {})
    np.testing.assert_array_equal(inputs.spikes, recorded)
    assert run_core(made, inputs, record="counts").counts["input"].tolist() == recorded.sum(1).tolist()


def test_events_are_weighted_by_their_rates():
    """Recordings, or their mean over time: the same integers."""
    network, recorded = events(n_samples=5)
    one = quantize(network, target("loihi-sim"), 6, images=recorded).network
    two = quantize(network, target("loihi-sim"), 6, images=recorded.mean(1, dtype=np.float32)).network
    assert one.output.unit == two.output.unit
    np.testing.assert_array_equal(one.projections[0].synapse.mantissa, two.projections[0].synapse.mantissa)


@pytest.mark.parametrize(
    ("change", "n_steps"), [(lambda x: x, 7), (lambda x: x * 2, 6), (lambda x: x[:, :, :1], 6), (lambda x: x[0], 6)]
)
def test_events_of_another_length_shape_or_value_are_refused(change, n_steps):
    network, recorded = events()
    made = quantize(network, target("loihi-sim"), 6, images=recorded).network
    with pytest.raises(DataError, match="event data h") as caught:
        encode_inputs(network, made, change(recorded), n_steps)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("encoding", ["rate", "current"])
def test_one_sample_of_many(encoding):
    rng = np.random.default_rng(3)
    network = one_layer(rng.uniform(-1, 1, (2, 4)), encoding=encoding, neuron=Neuron("subtract"))
    images = rng.random((5, 4)).astype(np.float32)
    made = quantize(network, target("loihi-sim"), 6, images=images).network
    whole = encode_inputs(network, made, images, 6)
    for s in range(5):
        one, alone = whole.sample(s), encode_inputs(network, made, images[s : s + 1], 6)
        assert (one.n_samples, one.n_steps) == (1, 6)
        assert one.currents.keys() == alone.currents.keys()
        for name, x in alone.currents.items():
            np.testing.assert_array_equal(one.currents[name], x)
        if encoding == "rate":
            np.testing.assert_array_equal(one.spikes, alone.spikes)
        else:
            assert one.spikes is None
