"""Scale rules: the number each published rule gives, against numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from neuroport.ann.graph import AnnGraph
from neuroport.ann.simplify import simplify
from neuroport.ann.writer import GraphWriter
from neuroport.normalize.convert import convert
from neuroport.normalize.scales import Normalized, normalize
from neuroport.snn.build import BuildOptions, build_network
from neuroport.snn.network import Neuron, Projection, SpikingNetwork
from neuroport.snn.operators import (
    Chain,
    Conv2d,
    ConvGeometry,
    ConvTranspose2d,
    Dense,
    Gather,
    Operator,
    Resample,
    Scale,
    Sparse,
)
from neuroport.snn.rates import forward_rates
from tests.normalize.nets import (
    RESIDUAL_IMAGES,
    Images,
    between,
    dense,
    layers_of,
    population,
    recipe,
    residual_by_hand,
)
from tests.snn.graphs import IMAGE, NETS, Sketch, draw

RULES = ("activation", "weights", "diehl", "mmse", "balance", "none")
W0, B0 = np.array([[2.0, 0.0], [0.0, 4.0]]), np.array([1.0, -1.0])
W1, B1 = np.array([[1.0, 1.0], [-1.0, 2.0]]), np.array([0.5, -0.25])
W2, B2 = np.array([[1.0, -1.0], [0.0, -4.0]]), np.array([2.0, 1.0])
NET = dense((W0, B0), (W1, B1), (W2, B2))
CORNERS = np.array([[1, 0], [0, 1], [1, 1], [0.5, 0.5]], np.float32)


def column(*values: float) -> Images:
    return np.array(values, np.float32)[:, None]


def scales_of(graph: AnnGraph, images: Images, **options: Any) -> dict[str, list[float]]:
    return {name: value.tolist() for name, value in convert(graph, images, recipe(**options)).scales.items()}


def lone_layer(weight: Any) -> AnnGraph:
    """A layer of one input without bias, and a readout of one class."""
    return dense((weight, np.zeros(len(weight))), ([np.ones(len(weight))], [0.0]))


# --- weights (Diehl, model-based)


@pytest.mark.parametrize(
    ("granularity", "lambda_0", "lambda_1"), [("layer", [4, 4], [8.5, 8.5]), ("channel", [3, 4], [7.5, 8])]
)
def test_the_largest_sum_of_positive_weights(granularity: str, lambda_0: list[float], lambda_1: list[float]) -> None:
    """l0: 2 + 1 and 4, as -1 is no input. l1, layer: 4 + 4 + 1/2 and 2 * 4. By channel: 3 + 4 + 1/2 and 2 * 4."""
    found = convert(NET, CORNERS, recipe(scale="weights", granularity=granularity))
    first, second, last = np.array(lambda_0), np.array(lambda_1), found.scales["l2"][0]
    assert (found.scales["l0"].tolist(), found.scales["l1"].tolist()) == (lambda_0, lambda_1)
    expected = [
        (W0 / first[:, None], B0 / first),
        (W1 * first / second[:, None], B1 / second),
        (W2 * second / last, B2 / last),
    ]
    for (weight, bias), (w, b) in zip(layers_of(found.network), expected, strict=True):
        np.testing.assert_allclose(weight, w, rtol=1e-15)
        np.testing.assert_allclose(bias, b, rtol=1e-15)


@pytest.mark.parametrize(
    ("images", "largest"), [((0.0, 0.5), 2), ((0.0, 5.0), 10), ((-2.0, 0.5), 8), ((-2.0, 5.0), 16), ((2.0, 5.0), 10)]
)
def test_inputs_reach_from_the_smallest_to_the_largest_of_the_data_and_at_least_from_0_to_1(
    images: tuple[float, float], largest: float
) -> None:
    """2 x - 3 y, x and y in [0, 1]: 2; in [0, 5]: 10; in [-2, 1]: 2 + 6; in [-2, 5]: 10 + 6."""
    net = dense(([[2.0, -3.0]], [0.0]), ([[1.0]], [0.0]))
    data = np.array([images, images[::-1]], np.float32)
    assert scales_of(net, data, scale="weights")["l0"] == [largest]


def test_a_padded_border_adds_nothing_to_a_sum() -> None:
    """Each pixel of a 2x2 image sees a quarter of the kernel: the positive ones sum to 14, 16, 10 and 12, not to 31."""
    kernel = np.array([[1.0, 2, 3], [4, 5, -6], [7, -8, 9]])
    w = GraphWriter()
    conv = w.conv(
        w.input((1, 2, 2)),
        kernel[None, None],
        np.array([0.5]),
        stride=(1, 1),
        padding=(1, 1),
        dilation=(1, 1),
        groups=1,
    )
    out = w.linear(w.reshape(w.relu(conv), (4,)), np.ones((1, 4)), None)
    images = np.ones((1, 1, 2, 2), np.float32)
    found = normalize(build_network(w.graph([out]), BuildOptions()), images, recipe(scale="weights"))
    hidden = found.network.populations[1].name
    assert found.scales[hidden].tolist() == [16.5]


MIXED = np.array([[2.0, -3.0], [1.0, 6.0]])
OPERATORS: dict[str, Operator] = {
    "dense": Dense(MIXED, (2,), (2,)),
    "sparse": Sparse(csr_array(MIXED), (2,), (2,)),
    "scaled before": Chain((Scale(np.array([1.0, -1.0]), (2,)), Dense(MIXED * [1, -1], (2,), (2,)))),
    "scaled behind": Chain((Dense(MIXED * [[1], [-1]], (2,), (2,)), Scale(np.array([1.0, -1.0]), (2,)))),
    "resampled": Resample(-np.ones((1, 1)), -MIXED, (1, 1, 2)),
    "convolved": Conv2d(MIXED[:, :, None, None], ConvGeometry((2, 1, 1), (2, 1, 1), (1, 1))),
    "transposed": ConvTranspose2d(MIXED.T[:, :, None, None], ConvGeometry((2, 1, 1), (2, 1, 1), (1, 1))),
    "picked": Chain((Dense(MIXED[::-1].copy(), (2,), (2,)), Gather(np.array([1, 0]), (2,), (2,)))),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_has_the_largest_sum_of_its_matrix(name: str) -> None:
    """Inputs between -1 and 1, weights 2, -3 and 1, 6: sums of up to 5 and 7. Largest weights are 2 and 6."""
    populations = (
        population("input", (2,), role="input"),
        population("a", (2,)),
        population("out", (1,), neuron=Neuron(fires=False), role="readout"),
    )
    projections = (Projection("input", "a", OPERATORS[name]), between(*populations[1:], [[1.0, 1.0]]))
    network = SpikingNetwork(populations, projections)
    images = np.array([[-1.0, 1.0], [0.25, 0.0]], np.float32)
    found = normalize(network, images, recipe(scale="weights", granularity="channel"))
    assert found.scales["a"].tolist() == [5, 7]


def test_a_sum_of_branches_receives_from_all_of_them() -> None:
    """a: 2, 1. b = a0 - a1: 2, by channel too. c: 3 * 2 + 2 and 0 + 2 by layer, 3 * 2 + 2 and 0 + 1 by channel."""
    layer = scales_of(residual_by_hand(), RESIDUAL_IMAGES, scale="weights")
    assert [layer[name] for name in "abc"] == [[2, 2], [2], [8, 8]]
    channel = scales_of(residual_by_hand(), RESIDUAL_IMAGES, scale="weights", granularity="channel")
    assert [channel[name] for name in "abc"] == [[2, 1], [2], [8, 1]]


@pytest.mark.parametrize("net", ["residual", "concat_then_max_pool", "average_pools", "feature_pyramid"])
@pytest.mark.parametrize("granularity", ["layer", "channel"])
@pytest.mark.parametrize("low", [0.0, -1.0])
def test_no_rate_goes_beyond_one_whatever_the_input(net: str, granularity: str, low: float) -> None:
    """Calibrated on three images only. Corners of the input's range are the extreme points of every first layer."""
    rng = np.random.default_rng(3)
    calibration = rng.uniform(low, 1, (3, *IMAGE)).astype(np.float32)
    calibration[0, 0, 0, :2] = low, 1
    found = convert(draw(NETS[net]), calibration, recipe(scale="weights", granularity=granularity))
    corners = torch.from_numpy(rng.choice([low, 1.0], (50, *IMAGE)))
    for name, rates in forward_rates(found.network, corners, clip=False):
        if found.network.by_name[name].neuron.fires and name != "input":
            assert rates.max() <= 1 + 1e-12, name


# --- the larger of weight and activation (Diehl, data-based)


@pytest.mark.parametrize(
    ("options", "lambda_0", "lambda_1"),
    [
        ({}, [4, 4], [6, 6]),
        ({"percentile": 50}, [4, 4], [3, 3]),
        ({"granularity": "channel"}, [4, 4], [3, 6]),
    ],
)
def test_the_larger_of_largest_weight_and_largest_activation(
    options: dict[str, Any], lambda_0: list[float], lambda_1: list[float]
) -> None:
    """Activations (1, 0) (2, 0), then (1, 3) (2, 6): the weight 4 (not -5) is above 2, the weight 3 is below 6.

    Weights are divided by scale / previous scale. The median of 1 2 3 6 is 2, below the weight 3.
    """
    w0, w1, w2 = np.array([[4.0], [-5.0]]), np.array([[1.0, 0.0], [3.0, -9.0]]), np.array([[1.0, 2.0]])
    net = dense((w0, [0, 0]), (w1, [0, 0]), (w2, [0]))
    found = convert(net, column(0.25, 0.5), recipe(scale="diehl", **options))
    assert (found.scales["l0"].tolist(), found.scales["l1"].tolist()) == (lambda_0, lambda_1)
    expected = w1 / (np.array(lambda_1)[:, None] / np.array(lambda_0))
    np.testing.assert_allclose(layers_of(found.network)[1][0], expected, rtol=1e-15)
    np.testing.assert_allclose(layers_of(found.network)[0][0], w0 / 4, rtol=1e-15)


# --- weights as they are


@pytest.mark.parametrize("threshold", [1.0, 4.0, 20.0])
@pytest.mark.parametrize("granularity", ["layer", "channel"])
def test_weights_as_they_are_under_a_threshold(threshold: float, granularity: str) -> None:
    """W / threshold under 1 is W under the threshold; biases shrink with the activations, the readout by its own."""
    found = convert(NET, CORNERS, recipe(scale="none", threshold=threshold, granularity=granularity))
    first, second, third = layers_of(found.network)
    np.testing.assert_allclose(first[0], W0 / threshold, rtol=1e-15)
    np.testing.assert_allclose(second[0], W1 / threshold, rtol=1e-15)
    np.testing.assert_allclose(first[1], B0 / threshold, rtol=1e-15)
    np.testing.assert_allclose(second[1], B1 / threshold**2, rtol=1e-15)
    last = found.scales["l2"][0]
    np.testing.assert_allclose(third[0], W2 * threshold**2 / last, rtol=1e-15)


@pytest.mark.parametrize("threshold", [1.0, 4.0])
def test_the_threshold_is_passed_once_by_weights_and_not_by_what_has_none(threshold: float) -> None:
    """Behind conv1 and conv2 every rectifier of the max-pool has their scale; an average pool's 1/4 are weights."""

    def net(w: Sketch, x: str) -> str:
        a = w.relu(w.layer(w.relu(w.layer(x, 4, name="conv1")), 4, name="conv2"))
        maximum = w.at("maximum").max_pool(a, (2, 2), (2, 2), (0, 0))
        mean = w.at("mean").avg_pool(w.relu(maximum), (2, 2), (2, 2), (0, 0))
        return w.dense(mean, 3, name="fc")

    found = convert(
        draw(net),
        np.random.default_rng(1).random((4, *IMAGE), np.float32),
        recipe(scale="none", threshold=threshold, pool="spiking"),
    )
    power = {"conv1": 1, "conv2": 2, "mean": 3}
    hidden = [p.name for p in found.network.populations if p.role == "hidden"]
    assert sum(name.startswith("maximum") for name in hidden) >= 2
    for name in hidden:
        assert set(found.scales[name].tolist()) == {threshold ** power.get(name, 2)}, name


def test_relays_keep_the_scale_of_what_they_relay() -> None:
    """conv1 fires, conv2 is linear before fc: its sums go on by two populations with conv2's weights, once divided."""

    def net(w: Sketch, x: str) -> str:
        a = w.relu(w.layer(x, 4, name="conv1"))
        return w.dense(w.relu(w.layer(w.layer(a, 4, name="conv2"), 4, name="conv3")), 3, name="fc")

    images = np.random.default_rng(1).random((4, *IMAGE), np.float32)
    network = build_network(simplify(draw(net)), BuildOptions(max_condensed=1))
    found = normalize(network, images, recipe(scale="none", threshold=4.0))
    relays = [p.name for p in network.populations if p.name.endswith((".on", ".off"))]
    assert len(relays) >= 2
    powers = {name: np.log(found.scales[name][0]) / np.log(4) for name in [*relays, "conv1", "conv3"]}
    assert powers["conv1"] == pytest.approx(1)
    assert {round(powers[name], 9) for name in relays} == {2.0}
    assert powers["conv3"] == pytest.approx(3)


# --- residual blocks


def test_both_branches_are_divided_by_the_largest_activation_behind_the_sum() -> None:
    """lambda of a 2, of b 1, of c 5: main path 3 * 1/5 and -1/5, identity 2/5. By channel a has 2 and 1.

    The main path alone reaches 3, the shortcut 2. Channel 1 of c never fires and keeps the layer's scale.
    """
    for granularity, shortcut in (("layer", [0.4, 0.4]), ("channel", [0.4, 0.2])):
        found = convert(residual_by_hand(), RESIDUAL_IMAGES, recipe(granularity=granularity))
        assert found.scales["c"].tolist() == [5, 5]
        operators = {j.pre: j.operator for j in found.network.incoming["c"]}
        main, identity = operators["b"], operators["a"]
        assert isinstance(main, Dense)
        assert isinstance(identity, Conv2d)
        np.testing.assert_allclose(main.weight, [[0.6], [-0.2]], rtol=1e-15)
        np.testing.assert_allclose(identity.weight.reshape(-1), shortcut, rtol=1e-15)


# --- silent channels


SILENT = {
    "activation": ([2, 2, 1], 1),
    "weights": ([2, 2, 1], 1),  # nothing positive can arrive
    "diehl": ([2, 2, 2], 1),  # the layer's largest weight
    "mmse": ([2, 2, 1], 1),
    "balance": ([2, 2, 1], 1),
    "none": ([4, 4, 4], 1),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_silent_channel_has_a_scale_and_is_counted(rule: str) -> None:
    """relu(2x, -x, x) of x = 1: with one value all rules that look at activations agree; a thousand steps: no blur."""
    net = dense(([[2.0], [-1.0], [1.0]], [0, 0, 0]), (np.ones((2, 3)), [0, 0]))
    options = {"threshold": 4.0} if rule == "none" else {}
    found = convert(net, column(1, 1), recipe(scale=rule, granularity="channel", steps=1000, **options))
    expected, n_silent = SILENT[rule]
    assert found.scales["l0"].tolist() == expected
    assert found.n_silent_channels == {"input": 0, "l0": n_silent, "l1": 0}
    for weight, bias in layers_of(found.network):
        assert np.isfinite(weight).all() and np.isfinite(bias).all()


@pytest.mark.parametrize("rule", RULES)
def test_a_silent_layer_beside_the_way_is_counted_whole(rule: str) -> None:
    """b is relu(-a): no rule divides by its 0, and the answer comes by the other way."""
    found = _with_a_silent_branch(rule)
    assert found.n_silent_channels["b"] == 1
    assert all((value > 0).all() and np.isfinite(value).all() for value in found.scales.values())


def _with_a_silent_branch(rule: str) -> Normalized:
    def net(w: Sketch, x: str) -> str:
        a = w.relu(w.at("a").linear(x, np.array([[2.0]]), None))
        b = w.relu(w.at("b").linear(a, np.array([[-3.0]]), None))
        return w.at("out").linear(w.concat([a, b], 0), np.array([[1.0, 1.0]]), None)

    return convert(draw(net, (1,)), column(1, 0.5), recipe(scale=rule, granularity="channel"))
