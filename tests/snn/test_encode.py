"""The deterministic rate code: exact counts, evenly spread."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroport.errors import DataError
from neuroport.snn.encode import rate_spikes


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
    with pytest.raises(DataError, match="rate coding needs inputs between 0 and 1"):
        rate_spikes(np.array([[0.5, value]]), 4)
