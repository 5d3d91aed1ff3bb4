"""The spiking softmax: reproducible, independent of batches, and distributed as the softmax of the potentials."""

from __future__ import annotations

import numpy as np
import pytest

from neuroport.snn.readout import RATE, softmax_counts

POTENTIALS = np.random.default_rng(3).normal(size=(7, 40, 5)) * 3


def test_the_same_seed_gives_the_same_spikes_and_another_gives_others() -> None:
    first = softmax_counts(POTENTIALS, 11)
    assert first.shape == (7, 5)
    assert first.dtype == np.int64
    np.testing.assert_array_equal(first, softmax_counts(POTENTIALS.copy(), 11))
    assert (first != softmax_counts(POTENTIALS, 12)).any()
    assert len({tuple(row) for row in softmax_counts(np.zeros((20, 40, 5)), 11).tolist()}) > 10  # each sample its own


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_batches_do_not_change_what_is_drawn(size: int) -> None:
    whole = softmax_counts(POTENTIALS, 11, first_sample=100)
    parts = [
        softmax_counts(POTENTIALS[k : k + size], 11, first_sample=100 + k) for k in range(0, len(POTENTIALS), size)
    ]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_the_spikes_are_distributed_as_the_softmax() -> None:
    """With weights p over N spikes a count has the variance N p (1 - p); six standard deviations in all 5 cells.

    Six are missed once in 10^8; the number of spikes is Poisson with mean and variance T times the rate.
    """
    scores = np.array([0.0, 1.0, 2.0, -1.0, 0.5])
    p = np.exp(scores) / np.exp(scores).sum()
    n_steps = 4000
    for rate in (RATE, 2.5):
        counts = softmax_counts(np.tile(scores, (1, n_steps, 1)), 5, rate=rate)[0]
        total = counts.sum()
        assert abs(total - rate * n_steps) <= 6 * np.sqrt(rate * n_steps)
        assert (np.abs(counts - total * p) <= 6 * np.sqrt(total * p * (1 - p))).all()


def test_the_potential_of_the_moment_counts_and_not_the_last_one() -> None:
    """Class 0 leads in the first half, class 1 in the second, by so much that no other is ever drawn."""
    potentials = np.zeros((1, 1000, 3))
    potentials[0, :500, 0] = potentials[0, 500:, 1] = 1000.0
    counts = softmax_counts(potentials, 0)[0]
    assert counts[2] == 0
    assert (np.abs(counts[:2] - 500) <= 6 * np.sqrt(500)).all()


def test_large_potentials_do_not_overflow_and_a_constant_changes_nothing() -> None:
    shifted = np.ldexp(np.rint(np.ldexp(POTENTIALS, 20)), -20)  # whole multiples of 2^-20: the shift is exact
    np.testing.assert_array_equal(softmax_counts(shifted, 4), softmax_counts(shifted + 2.0**20, 4))
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        huge = softmax_counts(np.array([[[700.0, 1e4, -0.0]] * 50]), 4)
    assert huge[0, [0, 2]].tolist() == [0, 0]
    assert huge.sum() > 0


def test_no_rate_gives_no_spikes() -> None:
    assert softmax_counts(POTENTIALS, 1, rate=0.0).sum() == 0
    assert softmax_counts(POTENTIALS[:, :0], 1).tolist() == [[0] * 5] * 7
