"""Weights on a chip's grid: a pooled channel keeps its sum, whatever single weights are rounded to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroport.chip.rounding import Weights
from neuroport.chip.synapses import IntDense
from neuroport.chip.target import load_target
from neuroport.snn.operators import Dense


def pooled(per_channel: Any, n: int) -> Weights:
    """A linear layer [n_out, C] behind the mean over n pixels of each channel."""
    weight = np.repeat(np.asarray(per_channel, np.float64) / n, n, axis=1)
    op = Dense(weight, (weight.shape[1] // n, 1, n), (len(weight),))
    return Weights(op, np.ones((1, weight.shape[1])), load_target("loihi-sim").arithmetic)


def mantissa(weights: Weights, unit: int, exponent: int = 0) -> Any:
    synapse = weights.synapse(unit, exponent)
    assert isinstance(synapse, IntDense)
    return synapse.mantissa


@given(st.integers(0, 2**32 - 1), st.integers(8, 64), st.integers(1, 4000))
def test_the_sum_over_a_channel_is_the_nearest_there_is(seed: int, n: int, unit: int) -> None:
    """Mixed signs lie on even mantissas: each sum is a multiple of 2 within 1 of the exact one."""
    rng = np.random.default_rng(seed)
    per_channel = rng.normal(size=(3, 4))
    found = mantissa(pooled(per_channel, n), unit).reshape(3, 4, n)
    exact = per_channel * unit
    fits = np.abs(exact / n) < 250
    assert (np.abs(found.sum(2) - exact)[fits] <= 1 + 1e-9 * np.abs(exact)[fits]).all()
    assert (found % 2 == 0).all()
    spread = found.max(2) - found.min(2)
    assert (spread[fits] <= 2).all(), "two neighbouring mantissas in turn"


def test_small_weights_by_hand() -> None:
    """0.25 steps of 2 per pixel: every fourth pixel carries one step."""
    found = mantissa(pooled([[4.0, -4.0]], 8), 1)
    assert found.reshape(2, 8)[0].sum() == 4 and found.reshape(2, 8)[1].sum() == -4
    assert sorted(found[0, :8]) == [0] * 6 + [2, 2]


def test_the_error_told_is_that_of_the_sums() -> None:
    fine = pooled([[100.0, -60.0]], 16).rounded(1)
    assert fine.error == pytest.approx(0, abs=1e-12), "both sums are even: nothing is lost"
    coarse = pooled([[101.0, -60.0]], 16).rounded(1)
    assert coarse.error == pytest.approx(1 / 16), "the sum is wrong by 1, shared by 16 pixels: 16 (1 / 16)^2"
    assert fine.n_left > 0


def test_weights_that_differ_are_rounded_one_by_one() -> None:
    weight = np.array([[0.25, 0.25, 0.75, -0.25] * 4])
    op = Dense(weight, (1, 4, 4), (1,))
    found = mantissa(Weights(op, np.ones((1, 16)), load_target("loihi-sim").arithmetic), 4)
    np.testing.assert_array_equal(found[0, :4], [0, 0, 4, 0])


def test_few_pixels_are_rounded_one_by_one() -> None:
    assert pooled([[1.0, 2.0]], 7).run == 1
    assert pooled([[1.0, 2.0]], 8).run == 8
