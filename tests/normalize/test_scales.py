"""Normalization: every rate is the activation divided by its scale, and the scales are those of the papers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from neuroport.ann.graph import AnnGraph, Input, Linear, Node, ReLU
from neuroport.ann.interpret import run_graph
from neuroport.ann.simplify import simplify
from neuroport.errors import DataError, InvalidNetworkError
from neuroport.normalize import rules
from neuroport.normalize.convert import convert
from neuroport.normalize.recipe import Recipe
from neuroport.normalize.scales import Normalized, normalize
from neuroport.snn.build import BuildOptions, build_network
from neuroport.snn.network import SpikingNetwork
from neuroport.snn.operators import Dense
from neuroport.snn.rates import forward_rates
from tests.snn.graphs import Sketch, draw

Images = NDArray[np.float32]


def recipe(**options: Any) -> Recipe:
    return Recipe(name="test", summary="", source="", **options)


def dense(*layers: tuple[Any, Any]) -> AnnGraph:
    """Linear layers (weight, bias) named l0, l1, ... with ReLU between them."""
    nodes = [Node("input", Input(), (), (len(layers[0][0][0]),))]
    for k, (weight, bias) in enumerate(layers):
        w, b = np.array(weight, np.float64), np.array(bias, np.float64)
        nodes.append(Node(f"l{k}", Linear(w, b), (nodes[-1].name,), b.shape))
        if k < len(layers) - 1:
            nodes.append(Node(f"relu{k}", ReLU(), (nodes[-1].name,), b.shape))
    return AnnGraph(tuple(nodes), (nodes[-1].name,))


# Activations on the four images below, worked out by hand:
#   l0: (3, 0) (1, 2) (3, 2) (2, 1/2)     sorted 0 1/2 1 2 2 2 3 3
#   l1: (7/2, 0) (7/2, 3) (11/2, 1) (3, 0)     sorted 0 0 1 3 3 7/2 7/2 11/2
#   l2: (11/2, 1) (5/2, -11) (13/2, -3) (5, 1)     largest magnitude 11
W0, B0 = np.array([[2.0, 0.0], [0.0, 3.0]]), np.array([1.0, -1.0])
W1, B1 = np.array([[1.0, 1.0], [-1.0, 2.0]]), np.array([0.5, 0.0])
W2, B2 = np.array([[1.0, -1.0], [0.0, -4.0]]), np.array([2.0, 1.0])
TINY_NET = dense((W0, B0), (W1, B1), (W2, B2))
TINY_IMAGES = np.array([[1, 0], [0, 1], [1, 1], [0.5, 0.5]], np.float32)


def layers_of(network: SpikingNetwork) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    found = []
    for population, projection in zip(network.populations[1:], network.projections, strict=True):
        assert isinstance(projection.operator, Dense)
        found.append((projection.operator.weight, population.bias))
    return found


@pytest.mark.parametrize(
    ("options", "lambda_0", "lambda_1"),
    [
        ({"percentile": 100}, [3, 3], [5.5, 5.5]),
        ({"percentile": 50}, [2, 2], [3, 3]),
        ({"percentile": 100, "granularity": "channel"}, [3, 2], [5.5, 3]),
        ({"percentile": 50, "granularity": "channel"}, [2, 0.5], [3.5, 3]),
    ],
)
def test_weights_and_biases_by_hand(options: dict[str, Any], lambda_0: list[float], lambda_1: list[float]) -> None:
    """W <- W lambda_in / lambda_out and b <- b / lambda_out, Rueckauer 2016, 3.2.1; the readout has one scale, 11.

    In the last case channel 1 of l1 is 0, 3, 1, 0, whose median is 0: it is sparse, not silent, and takes its maximum.
    """
    found = convert(TINY_NET, TINY_IMAGES, recipe(**options))
    first, second = np.array(lambda_0), np.array(lambda_1)
    expected = [
        (W0 / first[:, None], B0 / first),
        (W1 * first / second[:, None], B1 / second),
        (W2 * second / 11, B2 / 11),
    ]
    for (weight, bias), (w, b) in zip(layers_of(found.network), expected, strict=True):
        np.testing.assert_allclose(weight, w, rtol=1e-15)
        np.testing.assert_allclose(bias, b, rtol=1e-15)
    assert [found.scales[name].tolist() for name in ("input", "l0", "l1", "l2")] == [
        [1, 1],
        lambda_0,
        lambda_1,
        [11, 11],
    ]
    assert set(found.n_silent_channels.values()) == {0}
    assert found.input_range == (0.0, 1.0)


def assert_rates_are_activations_over_lambda(network: SpikingNetwork, found: Normalized, images: Images) -> None:
    """Float64 on both sides; scaling rounds each weight three times, so some hundred eps of the largest sum."""
    x = torch.from_numpy(images).double()
    before = dict(forward_rates(network, x, clip=False))
    after = dict(forward_rates(found.network, x, clip=False))
    assert before.keys() == after.keys()
    for name, value in before.items():
        expected = value / torch.from_numpy(found.scales[name]).reshape(-1, *[1] * (value.ndim - 2))
        assert (after[name] - expected).abs().max() <= 1e-12 * max(1.0, float(expected.abs().max())), name


def cnn(w: Sketch, x: str) -> str:
    """A whole CNN, with a linear layer whose neurons are then read as an image of other channels."""
    a = w.avg_pool(w.relu(w.norm(w.layer(x, 4, name="conv1"))), (2, 2), (2, 2), (0, 0))
    b = w.relu(w.layer(a, 6, padding=0, groups=2, name="conv2"))
    b = w.avg_pool(b, (2, 2), (2, 2), (1, 1), count_include_pad=False)
    c = w.reshape(w.relu(w.dense(b, 12, name="fc1")), (3, 2, 2))
    d = w.relu(w.layer(c, 5, 2, padding=1, name="conv3"))
    return w.dense(d, 3, name="fc2")


def balanced(net: Any, images: Images) -> AnnGraph:
    """The graph with the biases of its last layer such that every class wins sometimes."""
    graph = draw(net, images.shape[1:])
    mean = run_graph(graph, torch.from_numpy(images).double()).mean(0).numpy()
    nodes = [
        replace(n, op=replace(n.op, bias=n.op.bias - mean))
        if n.name == graph.output and isinstance(n.op, Linear)
        else n
        for n in graph
    ]
    return AnnGraph(tuple(nodes), graph.outputs)


@pytest.mark.parametrize("granularity", ["layer", "channel"])
@pytest.mark.parametrize("pool", ["fold", "spiking"])
@pytest.mark.parametrize("percentile", [100, 95])
def test_rates_are_activations_over_lambda(granularity: str, pool: str, percentile: float) -> None:
    images = np.random.default_rng(4).random((30, 2, 12, 12), np.float32)
    graph = balanced(cnn, images)
    chosen = recipe(granularity=granularity, pool=pool, percentile=percentile)
    found = convert(graph, images, chosen)
    network = build_network(simplify(graph), chosen.build_options)
    assert_rates_are_activations_over_lambda(network, found, images)
    assert (found.scales["fc1"].max() > found.scales["fc1"].min()) == (granularity == "channel")
    expected = run_graph(graph, torch.from_numpy(images)).argmax(1)
    assert len(set(expected.tolist())) > 1
    readout = dict(forward_rates(found.network, torch.from_numpy(images), clip=False))[found.network.output.name]
    assert torch.equal(readout.argmax(1), expected)


@pytest.mark.parametrize("granularity", ["layer", "channel"])
def test_with_the_maximum_the_largest_rate_of_each_population_is_one(granularity: str) -> None:
    found = convert(TINY_NET, TINY_IMAGES, recipe(granularity=granularity))
    values = dict(forward_rates(found.network, torch.from_numpy(TINY_IMAGES).double(), clip=False))
    for name in ("l0", "l1"):
        largest = values[name].amax(0) if granularity == "channel" else values[name].amax()
        torch.testing.assert_close(largest, torch.ones_like(largest), rtol=1e-15, atol=0)
    assert values["l2"].abs().max().item() == pytest.approx(1, rel=1e-15)


@pytest.mark.parametrize("readout", ["membrane", "count"])
@pytest.mark.parametrize("percentile", [100, 75])
def test_no_scale_moves_a_decision(readout: str, percentile: float) -> None:
    """Two classes of very different size: a scale for each would let the small one win."""
    graph = dense(([[1.0]], [0.0]), ([[100.0], [1.0]], [0.0, 0.5]))
    chosen = recipe(granularity="channel", readout=readout, percentile=percentile)
    found = convert(graph, np.array([[0.1], [0.4], [0.3], [1.0]], np.float32), chosen)
    assert len(set(found.scales["l1"].tolist())) == 1
    out = dict(forward_rates(found.network, torch.tensor([[0.1]]).double(), clip=False))["l1"][0]
    assert (out[0] / out[1]).item() == pytest.approx(10 / 0.6, rel=1e-7)  # 0.1 is rounded to float32


def test_the_images_are_used_whole_and_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small whole numbers make every sum exact, so nothing may differ by a bit."""
    rng = np.random.default_rng(9)
    graph = dense(
        (rng.integers(-3, 4, (5, 4)), rng.integers(-2, 3, 5)), (rng.integers(-3, 4, (3, 5)), rng.integers(-2, 3, 3))
    )
    images = rng.integers(0, 5, (623, 4)).astype(np.float32)
    one = convert(graph, images, recipe(percentile=97, granularity="channel"))
    assert one.statistics["l0"].n_values == 623
    monkeypatch.setattr(rules, "BATCH", 17)
    other = convert(graph, images[rng.permutation(623)], recipe(percentile=97, granularity="channel"))
    for name, scale in one.scales.items():
        np.testing.assert_array_equal(scale, other.scales[name])


def test_a_silent_layer_is_refused_by_name() -> None:
    silent = dense((W0, B0), ([[-1.0, -1.0]], [0.0]), ([[1.0]], [0.0]))
    with pytest.raises(
        InvalidNetworkError, match="layer 'l1': every activation is 0 on 4 calibration samples"
    ) as found:
        convert(silent, TINY_IMAGES, recipe())
    assert "check the weights, the input scaling (--scale) and the data" in str(found.value)
    with pytest.raises(InvalidNetworkError, match="layer 'l0': every activation is 0"):
        convert(dense((W0, [0, 0]), (W2, B2)), np.zeros((3, 2), np.float32), recipe())


def test_a_layer_sparser_than_the_percentile_takes_its_maximum() -> None:
    """One of 4 activations is above 0: the median is 0, and dividing by it would be infinite."""
    sparse = dense(([[1.0, 1.0]], [-1.5]), ([[1.0], [-2.0]], [0.0, 0.0]))
    found = convert(sparse, TINY_IMAGES, recipe(percentile=50))
    assert found.statistics["l0"].percentile.tolist() == [0.0]
    assert found.scales["l0"].tolist() == [0.5]
    assert found.n_silent_channels["l0"] == 0
    assert all(np.isfinite(weight).all() for weight, _ in layers_of(found.network))


def test_silent_channels_keep_the_scale_of_the_layer_and_are_counted() -> None:
    net = dense(([[2.0, 0.0], [-1.0, -1.0], [0.0, 1.0]], [0.0, 0.0, 0.0]), (np.ones((2, 3)), [0.0, 0.0]))
    found = convert(net, TINY_IMAGES, recipe(granularity="channel"))
    assert found.scales["l0"].tolist() == [2.0, 2.0, 1.0]
    assert found.n_silent_channels == {"input": 0, "l0": 1, "l1": 0}


def test_a_channel_that_hardly_fires_gets_a_32nd_of_the_layers_scale() -> None:
    """Below it, it would take the others' bits on a chip; an activation of 1e-9 is rounding."""
    net = dense(([[2.0, 0.0], [0.0, 0.125], [0.0, 1e-9]], [0.0, 0.0, 0.0]), (np.ones((2, 3)), [0.0, 0.0]))
    found = convert(net, TINY_IMAGES, recipe(granularity="channel"))
    assert found.scales["l0"].tolist() == [2.0, 0.125, 2.0]
    assert found.n_silent_channels["l0"] == 1
    net = dense(([[2.0, 0.0], [0.0, 0.01], [0.0, 1.0]], [0.0, 0.0, 0.0]), (np.ones((2, 3)), [0.0, 0.0]))
    found = convert(net, TINY_IMAGES, recipe(granularity="channel"))
    assert found.scales["l0"].tolist() == [2.0, 2.0 / 32, 1.0]
    assert found.n_silent_channels["l0"] == 0


def test_images_a_plain_rate_cannot_express_get_a_second_channel_and_a_scale() -> None:
    images = 3 * TINY_IMAGES - 1
    found = convert(TINY_NET, images, recipe(input="rate"))
    assert (found.network.n_signs, found.network.input_scale.tolist()) == (2, [2.0])
    assert (found.scales["input"].tolist(), found.input_range) == ([1.0] * 4, (-1.0, 2.0))
    x = torch.from_numpy(images).double()
    out = dict(forward_rates(found.network, x, clip=False))["l2"] * found.scales["l2"][0]
    torch.testing.assert_close(out, run_graph(TINY_NET, x), rtol=1e-12, atol=1e-12)
    with pytest.raises(DataError, match="rate coding needs inputs between 0 and 1"):
        normalize(build_network(TINY_NET, BuildOptions(encoding="rate")), images, recipe(input="rate"))
    current = convert(TINY_NET, images, recipe())
    assert (current.scales["input"].tolist(), current.input_range) == ([1.0, 1.0], (-1.0, 2.0))
    assert current.network.n_signs == 1
    plain = convert(TINY_NET, TINY_IMAGES / 2, recipe(input="rate"))
    assert (plain.scales["input"].tolist(), plain.network.n_signs, plain.network.input_scale.tolist()) == (
        [1.0, 1.0],
        1,
        [1.0],
    )


def test_events_are_normalized_on_their_mean_rates() -> None:
    found = convert(TINY_NET, TINY_IMAGES, recipe(input="rate"), events=True)
    assert found.network.encoding == "events"
    assert (found.network.n_signs, found.network.input_scale.tolist()) == (1, [1.0])
    same = convert(TINY_NET, TINY_IMAGES, recipe(input="rate"))
    assert {k: v.tolist() for k, v in found.scales.items()} == {k: v.tolist() for k, v in same.scales.items()}


def test_bad_calibration_data_is_refused() -> None:
    with pytest.raises(DataError, match="there is no calibration data"):
        convert(TINY_NET, TINY_IMAGES[:0], recipe())
    for dtype in (np.uint8, np.int64, bool):
        with pytest.raises(DataError, match=f"calibration images are {np.dtype(dtype)}; give them as float32"):
            convert(TINY_NET, TINY_IMAGES.astype(dtype), recipe())
    wide = convert(TINY_NET, TINY_IMAGES.astype(np.float64), recipe())  # type: ignore[arg-type]
    assert wide.scales["l1"].tolist() == [5.5, 5.5]
    with pytest.raises(InvalidNetworkError, match="population 'input': activations are negative, NaN or infinite"):
        convert(TINY_NET, TINY_IMAGES * np.float32(np.nan), recipe())
    huge = dense((W0 * 1e38, B0), (W1 * 1e38, B1), (W2, B2))
    with pytest.raises(InvalidNetworkError, match="population 'l1': activations are negative, NaN or infinite"):
        convert(huge, TINY_IMAGES, recipe())


def test_the_network_given_is_not_changed() -> None:
    network = build_network(TINY_NET, BuildOptions())
    before = [(weight.copy(), bias.copy()) for weight, bias in layers_of(network)]
    normalize(network, TINY_IMAGES, recipe())
    for (weight, bias), (w, b) in zip(layers_of(network), before, strict=True):
        np.testing.assert_array_equal(weight, w)
        np.testing.assert_array_equal(bias, b)
