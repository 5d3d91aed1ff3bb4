"""The Poisson encoder: reproducible, the sample's own, and of the rate it is asked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from neuroport.errors import DataError
from neuroport.snn.encode import encode_spikes, poisson_spikes, rate_spikes
from neuroport.snn.network import SpikingNetwork
from neuroport.snn.simulate import simulate
from tests.normalize.nets import between, population

RATES = np.random.default_rng(0).random((5, 2, 3))


def network(n: int = 2, **options: object) -> SpikingNetwork:
    populations = (population("input", (n,), role="input"), population("out", (1,), role="readout"))
    made = SpikingNetwork(populations, (between(*populations, np.ones((1, n))),), "poisson")
    return replace(made, **options)  # type: ignore[arg-type]


def test_shapes_and_values() -> None:
    spikes = poisson_spikes(RATES, 7, 0)
    assert (spikes.shape, spikes.dtype) == ((5, 7, 2, 3), np.uint8)
    assert set(np.unique(spikes).tolist()) == {0, 1}


def test_the_same_seed_gives_the_same_spikes_and_another_gives_others() -> None:
    first = poisson_spikes(RATES, 50, 3)
    np.testing.assert_array_equal(first, poisson_spikes(RATES.copy(), 50, 3))
    for k, other in enumerate(poisson_spikes(RATES, 50, 4)):
        assert (first[k] != other).any()


def test_a_sample_has_its_spikes_wherever_it_stands_and_whatever_stands_beside_it() -> None:
    whole = poisson_spikes(RATES, 40, 1)
    order = np.array([3, 0, 4, 2, 1])
    np.testing.assert_array_equal(poisson_spikes(RATES[order], 40, 1), whole[order])
    for k in range(5):
        np.testing.assert_array_equal(poisson_spikes(RATES[k : k + 1], 40, 1), whole[k : k + 1])
    np.testing.assert_array_equal(poisson_spikes(RATES[:, ::-1, :][:, ::-1], 40, 1), whole)  # strides are no content


def test_samples_that_differ_in_one_number_share_no_noise() -> None:
    """The rate of neuron 0 differs by a hair; the trains of the others are drawn anew."""
    rates = np.full((2, 4), 0.5)
    rates[1, 0] += 1e-9
    one, other = poisson_spikes(rates, 100, 0)[:, :, 1:]
    assert 0.3 < (one != other).mean() < 0.7  # 300 coin pairs: 6 standard deviations are 0.17


def test_neurons_of_one_rate_and_steps_of_one_neuron_are_drawn_on_their_own() -> None:
    """Spikes of 8 neurons at 1/2 in 1000 steps: every pair, and every train with itself a step later, as coins agree.

    A fraction of agreement has the standard deviation sqrt(1/4 / 1000) = 0.016; six of them in 36 cases.
    """
    spikes = poisson_spikes(np.full((1, 8), 0.5), 1000, 2)[0]
    for i in range(8):
        assert abs((spikes[1:, i] == spikes[:-1, i]).mean() - 0.5) < 6 * 0.016
        for k in range(i):
            assert abs((spikes[:, i] == spikes[:, k]).mean() - 0.5) < 6 * 0.016


@pytest.mark.parametrize("n_steps", [1, 10, 39])
def test_fewer_steps_are_the_first_of_more(n_steps: int) -> None:
    np.testing.assert_array_equal(poisson_spikes(RATES, n_steps, 5), poisson_spikes(RATES, 40, 5)[:, :n_steps])


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_the_mean_rate_is_that_of_a_binomial(rate: float) -> None:
    """N neurons times T steps: the count has mean N T r and variance N T r (1 - r); six standard deviations."""
    n, n_steps = 400, 500
    count = int(poisson_spikes(np.full((1, n), rate), n_steps, 8).sum())
    assert abs(count - n * n_steps * rate) <= 6 * np.sqrt(n * n_steps * rate * (1 - rate))


def test_counts_spread_as_a_binomial_and_not_as_a_regular_train() -> None:
    """2000 trains of 100 steps at 0.3: variance 21, where the rate code has none.

    The variance of a sample variance of near-normal numbers is 2 sigma^4 / (n - 1): six standard deviations are 4.0.
    """
    count = poisson_spikes(np.full((1, 2000), 0.3), 100, 9)[0].sum(0, dtype=np.int64)
    assert abs(count.var(ddof=1) - 21) <= 6 * np.sqrt(2 / 1999) * 21
    assert rate_spikes(np.full((1, 2000), 0.3), 100)[0].sum(0, dtype=np.int64).var() == 0


def test_rates_of_0_never_and_rates_of_1_always_fire() -> None:
    spikes = poisson_spikes(np.array([[0.0, 1.0]]), 3000, 0)
    assert spikes.sum((0, 1)).tolist() == [0, 3000]


@pytest.mark.parametrize("value", [-0.001, 1.001, np.nan])
def test_what_no_rate_can_express_is_refused(value: float) -> None:
    for encode in (lambda x: poisson_spikes(x, 4, 0), lambda x: encode_spikes(network(), x, 4)):
        with pytest.raises(DataError, match="rate coding needs inputs between 0 and 1"):
            encode(np.array([[0.5, value]]))


def test_a_network_encodes_with_its_own_seed() -> None:
    samples = np.random.default_rng(1).random((4, 2))
    for seed in (0, 7):
        spikes = encode_spikes(network(seed=seed), samples, 30)
        np.testing.assert_array_equal(spikes, poisson_spikes(samples, 30, seed))
    assert (encode_spikes(network(seed=0), samples, 30) != encode_spikes(network(seed=7), samples, 30)).any()


def test_float32_and_float64_samples_of_the_same_numbers_have_the_same_spikes() -> None:
    samples = np.random.default_rng(1).random((4, 2), np.float32)
    wide = encode_spikes(network(), samples.astype(np.float64), 30)
    np.testing.assert_array_equal(encode_spikes(network(), samples, 30), wide)
    np.testing.assert_array_equal(poisson_spikes(samples, 30, 0), wide)


def test_on_and_off_channels_take_the_sign_and_the_scale() -> None:
    """-1, 1/2 of a scale of 2: the rates are 0, 1/4 (on) and 1/2, 0 (off)."""
    signed = network(4, n_signs=2, input_scale=np.array([2.0]))
    spikes = encode_spikes(signed, np.array([[-1.0, 0.5]]), 1000)
    np.testing.assert_array_equal(spikes, poisson_spikes(np.array([[0.0, 0.25, 0.5, 0.0]]), 1000, 0))


def test_the_simulator_is_shown_these_spikes() -> None:
    samples = np.random.default_rng(1).random((4, 2))
    run = simulate(network(seed=5), samples, 30, record=("input",))
    np.testing.assert_array_equal(run.rasters["input"], poisson_spikes(samples, 30, 5))
