"""Scales where a layer is not a plain ReLU: trained ceilings, gates, relays, other shapes, silence."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from neuroport.ann.graph import AnnGraph
from neuroport.ann.interpret import run_outputs
from neuroport.ann.simplify import simplify
from neuroport.errors import InvalidNetworkError, UnsupportedOperatorError
from neuroport.normalize.convert import convert
from neuroport.normalize.recipe import Recipe
from neuroport.normalize.scales import Normalized, normalize
from neuroport.snn.build import BuildOptions, build_network
from neuroport.snn.heads import read_out
from neuroport.snn.network import Gate
from neuroport.snn.operators import Chain, Conv2d
from neuroport.snn.rates import forward_rates
from tests.snn.graphs import NETS, Sketch, assert_close, draw
from tests.snn.test_max_pool import convolved, joined, of_all, of_line, twice

Images = NDArray[np.float32]


def recipe(**options: Any) -> Recipe:
    return Recipe(name="test", summary="", source="", **options)


def images(shape: tuple[int, ...] = (3, 8, 8), n: int = 8) -> Images:
    return np.random.default_rng(6).random((n, *shape), np.float32)


def assert_outputs(graph: AnnGraph, found: Normalized, x: Images) -> None:
    """Rates times their scales, through the tail, are the ANN's outputs."""
    inputs = torch.from_numpy(x).double()
    rates = dict(forward_rates(found.network, inputs, clip=False))
    for head, expected in zip(found.network.outputs, run_outputs(graph, inputs), strict=True):
        scale = torch.from_numpy(found.scales[head.population])
        value = rates[head.population]
        value = value * scale.reshape(-1, *[1] * (value.ndim - 2))
        assert_close(read_out(head, value).reshape(expected.shape), expected)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("granularity", ["layer", "channel"])
def test_every_pattern_keeps_its_outputs(net: str, granularity: str) -> None:
    """Through flatten, concat, permutation, pools, both signs; a QCFS keeps its steps, in units of its ceiling."""
    graph = draw(NETS[net])
    for options in ({}, {"input": "rate"}, {"ceiling": "measured", "percentile": 95.0}):
        if net == "quantized" and options.get("ceiling"):  # scaling moves numbers that lie on a step
            continue
        assert_outputs(graph, convert(graph, images(), recipe(granularity=granularity, **options)), images())


@pytest.mark.parametrize("granularity", ["layer", "channel"])
def test_a_trained_ceiling_is_the_threshold_or_measured_as_the_recipe_says(granularity: str) -> None:
    graph = draw(NETS["clamped"])
    threshold = convert(graph, images(), recipe(granularity=granularity))
    assert set(threshold.scales["conv1"]) == {1.0}
    assert set(threshold.scales["conv2"]) == {2.0}
    assert threshold.network.by_name["conv2"].saturation.ceiling.tolist() == [1.0] * len(  # type: ignore[union-attr]
        threshold.network.by_name["conv2"].saturation.ceiling  # type: ignore[union-attr]
    )
    measured = convert(graph, images(), recipe(granularity=granularity, ceiling="measured", percentile=50.0))
    found = measured.statistics["conv1"]
    np.testing.assert_array_equal(
        measured.scales["conv1"], np.broadcast_to(np.where(found.percentile > 0, found.percentile, found.maximum), 4)
    )
    ceiling = measured.network.by_name["conv1"].saturation
    assert ceiling is not None
    np.testing.assert_allclose(ceiling.ceiling, 1.0 / measured.scales["conv1"], rtol=1e-15)
    assert_outputs(graph, measured, images())
    x = torch.from_numpy(images()).double()
    clipped = dict(forward_rates(threshold.network, x, clip=True))
    free = dict(forward_rates(threshold.network, x, clip=False))
    assert torch.equal(clipped["conv2"], free["conv2"])  # one spike per step is the ceiling itself


def test_levels_are_kept_and_a_spike_is_the_whole_ceiling() -> None:
    graph = draw(NETS["quantized"])
    found = convert(graph, images(), recipe())
    first, second = found.network.populations[1:3]
    for p, n_levels in ((first, 8), (second, 4)):
        assert p.saturation is not None
        assert p.saturation.levels == n_levels
        assert p.saturation.ceiling.tolist() == [1.0] * len(p.saturation.ceiling)
        rates = dict(forward_rates(found.network, torch.from_numpy(images()).double(), clip=False))[p.name]
        steps = rates.numpy() * n_levels
        np.testing.assert_allclose(steps, np.rint(steps), rtol=0, atol=1e-9)
    assert [set(found.scales[p.name]) for p in (first, second)] == [{0.7}, {4.0}]


@pytest.mark.parametrize("net", [convolved, joined, twice, of_all, of_line])
@pytest.mark.parametrize("granularity", ["layer", "channel"])
def test_a_gate_has_the_scale_of_what_it_reads(net: Any, granularity: str) -> None:
    graph = draw(net)
    found = convert(graph, images(), recipe(granularity=granularity, max_pool="gated", percentile=90.0))
    gates = [p for p in found.network.populations if isinstance(p.neuron, Gate)]
    assert gates
    before = build_network(simplify(graph), BuildOptions(max_pool="gated"))
    for gate in gates:
        (projection,) = found.network.incoming[gate.name]
        np.testing.assert_array_equal(found.scales[gate.name], found.scales[projection.pre])
        assert projection.operator == before.incoming[gate.name][0].operator
        assert found.n_silent_channels[gate.name] == 0
    assert_outputs(graph, found, images())


def test_a_gate_may_read_its_population_under_another_shape() -> None:
    """A maximum over rows only, or a linear layer seen as an image: the gate has other channels than its input."""

    def rows(w: Sketch, x: str) -> str:
        a = w.relu(w.layer(x, 4, name="conv"))
        return w.dense(w.at("pool").largest(a, (2,), keep=False), 3, name="fc")

    def seen_as_image(w: Sketch, x: str) -> str:
        a = w.reshape(w.relu(w.dense(x, 32, name="fc1")), (2, 4, 4))
        return w.dense(w.at("pool").max_pool(a, (2, 2), (2, 2), (0, 0)), 3, name="fc2")

    for net in (rows, seen_as_image):
        graph = draw(net)
        assert_outputs(graph, convert(graph, images(), recipe(granularity="layer", max_pool="gated")), images())
    assert_outputs(draw(rows), convert(draw(rows), images(), recipe(granularity="channel", max_pool="gated")), images())
    with pytest.raises(UnsupportedOperatorError, match=r"channels that have different scales.*granularity: layer"):
        convert(draw(seen_as_image), images(), recipe(granularity="channel", max_pool="gated"))


def test_an_output_may_be_a_single_number() -> None:
    """A score without an axis, as squeeze leaves it, that something else than a tail works on."""

    def net(w: Sketch, x: str) -> str:
        score = w.reshape(w.dense(w.relu(w.layer(x, 2, name="conv")), 1, name="fc"), ())
        return w.at("end").squash(w.affine(score, np.array(2.0), np.array(1.0)), "sigmoid")

    graph = draw(net)
    assert_outputs(graph, convert(graph, images(), recipe()), images())


def test_scales_per_channel_go_along_where_the_shape_changes() -> None:
    """Concat at each axis, flatten, a view of other channels and a permutation: the scale follows its neuron."""

    def net(w: Sketch, x: str) -> str:
        a = w.relu(w.norm(w.layer(x, 4, name="a")))
        b = w.relu(w.norm(w.layer(x, 4, 1, name="b")))
        rows, channels = w.concat([a, b], 1), w.concat([b, a], 0)
        c = w.relu(w.layer(w.permute(rows, (2, 0, 1)), 5, name="c"))
        d = w.relu(w.layer(w.reshape(channels, (16, 4, 8)), 5, name="d"))
        flat = [w.reshape(v, (math.prod(w.shape(v)),)) for v in (c, d, channels)]
        return w.dense(w.concat(flat, 0), 3, name="fc")

    graph = draw(net)
    found = convert(graph, images(), recipe(granularity="channel"))
    for name in "abcd":
        assert len(set(found.scales[name])) > 1
    assert_outputs(graph, found, images())
    assert isinstance(found.network.incoming["c"][0].operator, Conv2d | Chain)


def test_relayed_signals_have_scales_of_their_own_for_each_sign() -> None:
    def net(w: Sketch, x: str) -> str:
        a = w.relu(w.layer(x, 4, name="conv0"))
        return w.dense(w.relu(w.layer(w.layer(a, 4, name="conv1"), 4, name="conv2")), 3, name="fc")

    graph = draw(net)
    network = build_network(simplify(graph), BuildOptions(max_condensed=1000))
    found = normalize(network, images(), recipe(granularity="channel"))
    on, off = found.scales["conv2.on"], found.scales["conv2.off"]
    assert not np.array_equal(on, off)
    assert_outputs(graph, found, images())


# --- silence


def linear(w: Sketch, x: str, weight: Any, bias: Any, name: str) -> str:
    return w.at(name).linear(x, np.array(weight, np.float64), np.array(bias, np.float64))


POSITIVE: Images = np.array([[0.5, 1.0], [1.0, 0.25], [0.75, 0.5]], np.float32)


def test_a_dead_branch_is_counted_and_the_rest_goes_on() -> None:
    """The dead half has the scale of what it reads, so its weights stay finite and of a sensible size."""

    def net(w: Sketch, x: str) -> str:
        alive = w.relu(linear(w, x, [[4.0, 0.0], [0.0, 1.0]], [0, 0], "alive"))
        dead = w.relu(linear(w, alive, [[-1.0, -1.0], [-2.0, 0.0]], [0, -1], "dead"))
        return linear(w, w.concat([alive, dead], 0), [[1.0, 2.0, 3.0, 4.0], [1.0, -1.0, 2.0, 0.0]], [0, 1], "fc")

    graph = draw(net, (2,))
    for granularity in ("layer", "channel"):
        found = convert(graph, POSITIVE, recipe(granularity=granularity))
        assert found.n_silent_channels == {"input": 0, "alive": 0, "dead": 2, "fc": 0}
        assert found.scales["dead"].tolist() == [4.0, 4.0]
        assert_outputs(graph, found, POSITIVE)


def test_silent_halves_of_a_relay_a_leaky_relu_and_a_max_pool_are_no_error() -> None:
    def leaky(w: Sketch, x: str) -> str:
        a = w.leaky_relu(linear(w, x, [[1.0, 2.0], [3.0, 0.5]], [0, 0], "l0"), np.array(0.1))
        return linear(w, a, [[1.0, -2.0]], [0.5], "fc")

    def pooled(w: Sketch, x: str) -> str:
        """The larger number always stands second: relu(a - b) never fires."""
        a = w.reshape(w.relu(linear(w, x, [[1.0, 1.0], [2.0, 3.0]], [0, 0], "l0")), (1, 1, 2))
        return linear(w, w.reshape(w.at("pool").max_pool(a, (1, 2), (1, 2), (0, 0)), (1,)), [[3.0]], [0], "fc")

    for net, helper, n in ((leaky, "l0.negative", 2), (pooled, "pool", 1)):
        graph = draw(net, (2,))
        found = convert(graph, POSITIVE, recipe())
        assert found.network.by_name[helper].is_helper
        assert found.n_silent_channels[helper] == n
        assert_outputs(graph, found, POSITIVE)


def silent_tail(w: Sketch, x: str) -> str:
    a = w.relu(linear(w, x, [[1.0, 0.0], [0.0, 1.0]], [0, 0], "l0"))
    b = w.relu(linear(w, a, [[-1.0, -1.0]], [0], "l1"))
    return linear(w, b, [[1.0], [2.0]], [1, 2], "fc")


def silent_both(w: Sketch, x: str) -> str:
    a = w.relu(linear(w, x, [[-1.0, 0.0], [0.0, -1.0]], [0, 0], "l0"))
    b = w.relu(linear(w, x, [[-1.0, -1.0]], [0], "l1"))
    return linear(w, w.concat([a, b], 0), [[1.0, 1.0, 1.0]], [1], "fc")


@pytest.mark.parametrize(("net", "name"), [(silent_tail, "l1"), (silent_both, "l0")])
@pytest.mark.parametrize("granularity", ["layer", "channel"])
def test_an_answer_that_no_spike_can_reach_is_refused(net: Any, name: str, granularity: str) -> None:
    """A bias alone would answer the same for every sample."""
    with pytest.raises(InvalidNetworkError) as caught:
        convert(draw(net, (2,)), POSITIVE, recipe(granularity=granularity))
    assert str(caught.value) == (
        f"layer '{name}': every activation is 0 on 3 calibration samples, so it has no scale and would never fire, "
        f"and the answer hangs on it; check the weights, the input scaling (--scale) and the data"
    )


def test_an_answer_behind_a_silent_gate_is_refused_and_a_readout_of_zeros_is() -> None:
    def gated(w: Sketch, x: str) -> str:
        a = w.reshape(w.relu(linear(w, x, [[-1.0, 0.0], [0.0, -1.0]], [0, 0], "l0")), (2, 1, 1))
        return linear(w, w.reshape(w.at("pool").max_pool(a, (1, 1), (1, 1), (0, 0)), (2,)), [[1.0, 1.0]], [0], "fc")

    with pytest.raises(InvalidNetworkError, match="layer 'l0': every activation is 0"):
        convert(draw(gated, (2,)), POSITIVE, recipe(max_pool="gated"))
    with pytest.raises(InvalidNetworkError, match="layer 'fc': every activation is 0"):
        convert(draw(lambda w, x: linear(w, x, np.zeros((2, 2)), [0, 0], "fc"), (2,)), POSITIVE, recipe())


def test_a_silent_layer_with_a_trained_ceiling_is_refused_as_any_other() -> None:
    def net(w: Sketch, x: str) -> str:
        a = w.relu(linear(w, x, [[-1.0, 0.0], [0.0, -1.0]], [0, 0], "l0"), 6.0)
        return linear(w, a, [[1.0, 1.0]], [1], "fc")

    with pytest.raises(InvalidNetworkError, match="layer 'l0': every activation is 0"):
        convert(draw(net, (2,)), POSITIVE, recipe())


def test_a_readout_that_fires_and_one_that_does_not_have_one_scale_for_all() -> None:
    """Several outputs: each has its own scale, no class of one is scaled against another."""

    def net(w: Sketch, x: str) -> list[str]:
        a = w.relu(w.layer(x, 4, name="conv"))
        return [w.dense(a, 4, name="scores"), w.relu(w.dense(a, 3, name="fired")), w.layer(a, 2, name="boxes")]

    graph = draw(net)
    found = convert(graph, images(), recipe(granularity="channel"))
    for name, n in (("scores", 4), ("fired", 3), ("boxes", 2)):
        assert len(found.scales[name]) == n
        assert len(set(found.scales[name])) == 1
    assert len({found.scales[name][0] for name in ("scores", "fired", "boxes")}) == 3
    assert_outputs(graph, found, images())
