"""The percentile search on noise, against a loss written down in closed form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import neuroport
from neuroport.ann.graph import AnnGraph, Input, Linear, Node, ReLU
from neuroport.errors import ConversionError, InvalidNetworkError, UsageError
from neuroport.normalize import convert as convert_module
from neuroport.normalize.convert import convert
from neuroport.normalize.recipe import NoiseSearch, Recipe
from neuroport.normalize.search import SearchResult, choose_percentile

PERCENTILES = (60.0, 98.0, 100.0)
N_SAMPLES, N_STEPS, SEED = 80, 16, 5


def recipe(percentiles: tuple[float, ...] = PERCENTILES, n: int = N_SAMPLES, **options: Any) -> Recipe:
    search = NoiseSearch(kind="noise", percentiles=percentiles, samples=n)
    options = {"v_init": 0.5} | options
    return Recipe(name="test", summary="", source="", search=search, **options)


def two_layers(w0: Any, b0: Any, w1: Any, b1: Any) -> AnnGraph:
    first, second = (np.array(w, np.float64) for w in (w0, w1))
    nodes = (
        Node("input", Input(), (), (first.shape[1],)),
        Node("l0", Linear(first, np.array(b0, np.float64)), ("input",), (len(first),)),
        Node("relu", ReLU(), ("l0",), (len(first),)),
        Node("l1", Linear(second, np.array(b1, np.float64)), ("relu",), (len(second),)),
    )
    return AnnGraph(nodes, ("l1",))


# h = (x, 2000 relu(x - 0.98)), scores (h0, 0): the second neuron moves no score, but stretches the layer's maximum.
RARE = ([[1.0], [2000.0]], [0.0, -1960.0], [[1.0, 0.0], [0.0, 0.0]])


def search(graph: AnnGraph, n_steps: int = N_STEPS, seed: int = SEED, **options: Any) -> SearchResult:
    return choose_percentile(graph, recipe(**options), graph.input_shape, (0.0, 1.0), n_steps, seed)


def closed_form(x: NDArray[np.float64], percentile: float, clamp: int = 0) -> NDArray[np.float64]:
    """Loss [T]: with threshold lam and half a charge, neuron 0 has fired n = min(t, floor(t x / lam + 1/2)) times.

    Class 0 is the one above the mean of x in the ANN, and that with lam n / t above it in the spiking network. With a
    clamp the output takes part after so many steps only.
    """
    activations = np.sort(np.concatenate([x, np.maximum(0, 2000 * x - 1960)]))
    lam = activations[int(np.ceil(percentile / 100 * len(activations))) - 1]
    t = np.arange(1, N_STEPS + 1)
    n = np.minimum(t, np.floor(t * x[:, None] / lam + 0.5))
    if clamp:
        n, t = np.maximum(n - n[:, [clamp - 1]], 0), np.maximum(t - clamp, 1)
    is_right = (lam * n / t >= x.mean()) == (x >= x.mean())[:, None]
    return 1 - is_right.mean(0)


@pytest.mark.parametrize("clamp", [0, 2])
def test_the_loss_of_a_network_by_hand(clamp: int) -> None:
    """60 clips what decides (half of all activations are 0), at 100 the rare neuron makes everything slow."""
    found = search(two_layers(*RARE, [0.0, 0.0]), clamp=clamp)
    x = np.random.default_rng(SEED).uniform(0, 1, (N_SAMPLES, 1)).astype(np.float32).astype(np.float64)[:, 0]
    assert x.max() > 0.985  # the rare neuron is active
    expected = np.stack([closed_form(x, p, clamp) for p in PERCENTILES])
    # float32 may put a spike at the threshold one step away: one sample of 80, now and then
    assert np.abs(found.loss - expected).max() <= 1 / N_SAMPLES + 1e-12
    assert np.abs(found.loss - expected).mean() < 1e-3
    assert found.percentile == 98
    assert found.mean_loss[1] < 0.15 < 0.2 < min(found.mean_loss[0], found.mean_loss[2])
    assert (found.percentiles, found.n_samples, found.seed) == (PERCENTILES, N_SAMPLES, SEED)


def test_a_class_that_always_wins_hides_nothing() -> None:
    """A bias of 100 on one class: every plain class is equal, whatever the percentile; the balanced ones are not."""
    even, uneven = (search(two_layers(*RARE, [0.0, bias])) for bias in (0.0, 100.0))
    assert uneven.percentile == 98
    np.testing.assert_allclose(uneven.loss, even.loss, atol=1 / N_SAMPLES + 1e-12)


def test_a_short_run_prefers_lower_percentiles_than_a_long_one() -> None:
    """At 100 a rate of 1 is an activation of 2, at 85 one of 0.7, at 60 one of 0.2, below the mean that decides."""
    graph = two_layers([[1.0], [100.0]], [0.0, -98.0], *RARE[2:], [0.0, 0.0])
    assert search(graph, 4, percentiles=(85.0, 100.0)).percentile == 85
    assert search(graph, 200, percentiles=(60.0, 100.0)).percentile == 100


def test_of_equal_losses_in_the_end_the_faster_one_is_taken() -> None:
    graph = two_layers([[1.0], [100.0]], [0.0, -98.0], *RARE[2:], [0.0, 0.0])
    found = search(graph, 64, percentiles=(85.0, 100.0), n=10)
    assert found.loss[0, -1] == found.loss[1, -1] == 0
    assert found.percentile == 85


def test_same_seed_same_result() -> None:
    graph = two_layers(*RARE, [0.0, 0.0])
    first, again, other = search(graph), search(graph), search(graph, seed=6)
    assert first.loss.tobytes() == again.loss.tobytes()
    assert first.loss.tobytes() != other.loss.tobytes()


@pytest.mark.parametrize("percentiles", [(99.9, 100.0), (100.0, 99.9)])
def test_of_equal_percentiles_the_largest_is_taken(percentiles: tuple[float, ...]) -> None:
    """Of 160 activations both are the largest one."""
    found = search(two_layers(*RARE, [0.0, 0.0]), percentiles=percentiles)
    assert found.mean_loss[0] == found.mean_loss[1]
    assert found.percentile == 100


@pytest.mark.parametrize("options", [{"leak": 0.5}, {"readout": "count"}, {"input": "poisson"}, {"clamp": 2}])
def test_every_kind_of_neuron_and_readout(options: dict[str, Any]) -> None:
    found = search(two_layers(*RARE, [0.0, 0.0]), **options)
    assert found.loss.shape == (3, N_STEPS)
    assert found.percentile in PERCENTILES
    assert 0 < found.mean_loss.min() < 0.5


@pytest.mark.parametrize("leak", [1.0, 0.9, 0.25])
def test_a_network_that_only_accumulates_has_no_loss_at_any_step(leak: float) -> None:
    """Its potential is the score times what a constant 1 would have left behind by then: leak or not.

    An output that counts may leak; its potential is that of one that does not fire.
    """
    weight, bias = np.random.default_rng(0).normal(size=(4, 3)), np.array([1.0, -2.0, 5.0, 0.0])
    graph = AnnGraph((Node("input", Input(), (), (3,)), Node("l", Linear(weight, bias), ("input",), (4,))), ("l",))
    for readout in ("membrane", "count"):
        assert not search(graph, leak=leak, readout=readout).loss.any()


def test_the_noise_fills_the_range_and_has_the_samples_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from neuroport.normalize import search as module

    seen: list[NDArray[np.float32]] = []

    def look(graph: AnnGraph, noise: NDArray[np.float32], *args: Any, **options: Any) -> Any:
        seen.append(noise)
        return convert_module.spiking_network(graph, noise, *args, **options)

    monkeypatch.setattr(module, "spiking_network", look)
    choose_percentile(two_layers(*RARE, [0.0, 0.0]), recipe(n=500), (1,), (-3.0, 2.0), 2, SEED)
    (noise,) = seen
    assert (noise.shape, noise.dtype) == ((500, 1), np.float32)
    assert -3 <= noise.min() < -2.9 < 1.9 < noise.max() <= 2
    assert abs(noise.mean() + 0.5) < 0.2


def test_a_recipe_with_a_search_converts_at_the_chosen_percentile() -> None:
    graph = two_layers(*RARE, [0.0, 0.0])
    images = np.linspace(0, 1, 50, dtype=np.float32)[:, None]
    options = recipe()
    chosen = choose_percentile(graph, options, (1,), (0.0, 1.0), N_STEPS, SEED)
    found = convert(graph, images, options, N_STEPS, seed=SEED)
    assert found.percentile == chosen.percentile == 98


def test_it_is_public() -> None:
    assert neuroport.choose_percentile is choose_percentile


def test_wrong_use() -> None:
    graph = two_layers(*RARE, [0.0, 0.0])
    plain = Recipe(name="plain", summary="", source="")
    with pytest.raises(UsageError, match=r"recipe 'plain' has no percentiles to choose from; give it search: \{kind"):
        choose_percentile(graph, plain, (1,), (0.0, 1.0), N_STEPS, SEED)
    for value_range in ((1.0, 1.0), (1.0, 0.0), (0.0, np.inf), (np.nan, 1.0)):
        with pytest.raises(UsageError, match="noise needs a range of input values from low to high, got"):
            choose_percentile(graph, recipe(), (1,), value_range, N_STEPS, SEED)


def test_networks_that_noise_says_nothing_about() -> None:
    message = "gives 80 noise inputs between 0 and 1 the same scores, so no percentile can be told"
    with pytest.raises(ConversionError, match=message):  # no weight behind the first layer
        search(two_layers([[1.0]], [0.0], [[0.0], [0.0]], [1.0, 2.0]))
    with pytest.raises(ConversionError, match=message):  # one class
        search(two_layers([[1.0]], [0.0], [[1.0]], [0.0]))
    with pytest.raises(ConversionError, match="clamped for 16 steps"):
        search(two_layers(*RARE, [0.0, 0.0]), clamp=16)


def test_noise_that_reaches_nothing_is_told_with_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    from neuroport.normalize import search as module

    def refuse(*_: Any) -> Any:
        raise InvalidNetworkError("layer 'l0': every activation is 0")

    monkeypatch.setattr(module, "normalize_each", refuse)
    with pytest.raises(InvalidNetworkError, match="recipe 'test' searches its percentile on noise: layer 'l0': every"):
        search(two_layers(*RARE, [0.0, 0.0]))
