"""The deterministic rate code: exact counts, evenly spread; on and off channels; recorded events."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neuroport.errors import DataError
from neuroport.snn.encode import encode_spikes, input_values, rate_options, rate_spikes
from neuroport.snn.network import Neuron, Population, Projection, SpikingNetwork
from neuroport.snn.operators import Dense


def network(shape: tuple[int, ...], **options: Any) -> SpikingNetwork:
    """One readout behind an input population of this shape."""
    n = int(np.prod(shape))
    populations = (
        Population("input", shape, np.zeros(shape), Neuron(v_init=0.5), "input"),
        Population("out", (1,), np.zeros(1), Neuron(fires=False), "readout"),
    )
    return SpikingNetwork(populations, (Projection("input", "out", Dense(np.ones((1, n)), shape, (1,))),), **options)


def test_spike_trains_by_hand() -> None:
    """x = 1/4: t/4 + 1/2 reaches 1, 2, 3 first at t = 2, 6, 10. x = 0.3: 0.3 t + 0.5 does at t = 2, 5, 9."""
    spikes = rate_spikes(np.array([[0.25, 0.3, 0.0, 1.0, 0.5]]), 10)
    assert spikes.shape == (1, 10, 5)
    assert spikes.dtype == np.uint8
    trains = [(np.flatnonzero(spikes[0, :, k]) + 1).tolist() for k in range(5)]
    assert trains == [[2, 6, 10], [2, 5, 9], [], list(range(1, 11)), [1, 3, 5, 7, 9]]


@given(
    x=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20),
    n_steps=st.integers(1, 300),
)
def test_every_prefix_has_the_rounded_count(x: list[float], n_steps: int) -> None:
    """After t steps floor(t x + 1/2) spikes: never more than half a spike from the rate, at any time."""
    images = np.array(x).reshape(1, -1)
    spikes = rate_spikes(images, n_steps)
    assert set(np.unique(spikes)) <= {0, 1}
    count = spikes.astype(np.int64).cumsum(1)
    t = np.arange(1, n_steps + 1).reshape(1, -1, 1)
    assert (np.abs(count - t * images[:, None]) <= 0.5).all()
    np.testing.assert_array_equal(count, np.floor(t * images[:, None] + 0.5))
    np.testing.assert_array_equal(spikes[:, : n_steps // 2], rate_spikes(images, n_steps // 2))


def test_shapes_and_precision() -> None:
    images = np.random.default_rng(0).random((3, 2, 4, 5), np.float32)
    spikes = rate_spikes(images, 7)
    assert spikes.shape == (3, 7, 2, 4, 5)
    np.testing.assert_array_equal(spikes, rate_spikes(images.astype(np.float64), 7))


@pytest.mark.parametrize("value", [-0.001, 1.001, np.nan])
def test_what_no_rate_can_express_is_refused(value: float) -> None:
    samples = np.array([[0.5, value]])
    for encode in (rate_spikes, lambda x, n: encode_spikes(network((2,), encoding="rate"), x, n)):
        with pytest.raises(DataError, match="rate coding needs inputs between 0 and 1"):
            encode(samples, 4)


@given(
    x=st.lists(st.floats(-5, 5, width=32), min_size=6, max_size=6),
    scale=st.sampled_from([1.0, 2.5, 10.0]),
    n_steps=st.integers(1, 60),
)
def test_on_and_off_channels_carry_the_value_up_to_half_a_spike(x: list[float], scale: float, n_steps: int) -> None:
    """Positive values first, then negative ones; what lies beyond the scale is one spike per step."""
    samples = np.array(x).reshape(1, 3, 2)
    signed = network((6, 2), encoding="rate", n_signs=2, input_scale=np.array([scale]))
    spikes = encode_spikes(signed, samples, n_steps)
    assert spikes.shape == (1, n_steps, 6, 2)
    count = spikes.astype(np.int64).sum(1)[0]
    on, off = count[:3], count[3:]
    assert (on * off == 0).all()
    wanted = np.clip(samples[0] / scale, -1, 1) * n_steps
    # 1e-12: x / scale rounds, and so does t times it, before the floor
    assert (np.abs(on - off - wanted) <= 0.5 + 1e-12).all()


def test_input_values_are_rates_and_the_analog_value_of_a_current() -> None:
    x = torch.tensor([[[0.5, -3.0]]], dtype=torch.float64)
    plain = network((1, 2), encoding="current")
    assert torch.equal(input_values(plain, x, clip=True), x)
    one = network((1, 2), encoding="rate", input_scale=np.array([2.0]))
    assert input_values(one, x, clip=False).tolist() == [[[0.25, -1.5]]]
    assert input_values(one, x, clip=True).tolist() == [[[0.25, 0.0]]]
    two = network((2, 2), encoding="rate", n_signs=2, input_scale=np.array([2.0]))
    assert input_values(two, x, clip=False).tolist() == [[[0.25, 0.0], [0.0, 1.5]]]
    assert input_values(two, x, clip=True).tolist() == [[[0.25, 0.0], [0.0, 1.0]]]
    flat = torch.arange(4.0).reshape(2, 2)
    assert torch.equal(input_values(network((1, 2)), flat, clip=True), flat.reshape(2, 1, 2))


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ([0.0, 0.5, 1.0], (1, 1.0)),
        ([0.0, 0.0], (1, 1.0)),
        ([0.0, 2.5], (1, 2.5)),
        ([0.0, np.nextafter(np.float32(1), np.float32(2))], (1, float(np.nextafter(np.float32(1), np.float32(2))))),
        ([-0.25, 0.5], (2, 1.0)),
        ([-3.0, 0.5], (2, 3.0)),
        ([], (1, 1.0)),
    ],
)
def test_rate_options_let_a_rate_code_express_every_calibration_image(
    images: list[float], expected: tuple[int, float]
) -> None:
    values = np.array(images, np.float32).reshape(1, -1)
    n_signs, scale = rate_options(values)
    assert (n_signs, scale) == expected
    if values.size:
        net = network((n_signs * values.shape[1],), encoding="rate", n_signs=n_signs, input_scale=scale)
        free = input_values(net, torch.from_numpy(values).double(), clip=False)
        assert torch.equal(free, free.clamp(0, 1))
        assert encode_spikes(net, values, 5).shape == (1, 5, n_signs * values.shape[1])


def test_events_are_taken_as_they_are_or_refused() -> None:
    net = network((2, 3), encoding="events")
    events = (np.random.default_rng(1).random((4, 5, 2, 3)) < 0.4).astype(np.float32)
    spikes = encode_spikes(net, events, 5)
    assert spikes.dtype == np.uint8
    np.testing.assert_array_equal(spikes, events)
    np.testing.assert_array_equal(encode_spikes(net, events.reshape(4, 5, 6).astype(bool), 5), events)
    for wrong, n_steps, words in (
        (events, 6, r"\[4, 5, 2, 3\], 6 steps of \[2, 3\] are read; give spikes as \[N, T, 2, 3\], and --steps 5"),
        (events[:, :, :1], 5, r"\[4, 5, 1, 3\], 5 steps of \[2, 3\]"),
        (events[0, 0, 0], 5, r"\[3\], 5 steps of \[2, 3\] are read; .* --steps T"),
    ):
        with pytest.raises(DataError, match=f"event data have shape {words}"):
            encode_spikes(net, wrong, n_steps)
    for value in (2, -1, 0.5, np.nan):
        with pytest.raises(DataError, match="a spike is 1, no spike is 0; bin them again"):
            encode_spikes(net, np.where(events > 0, value, 0), 5)
