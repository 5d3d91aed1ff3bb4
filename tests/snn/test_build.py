"""From the ANN graph to populations and projections: without clipping, the rates are the ANN's own activations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from neuroport.ann.graph import AnnGraph
from neuroport.ann.interpret import run_outputs
from neuroport.ann.simplify import simplify
from neuroport.errors import InvalidNetworkError, UnsupportedOperatorError
from neuroport.snn.build import BuildOptions, build_network
from neuroport.snn.heads import read_out
from neuroport.snn.network import SpikingNetwork
from neuroport.snn.operators import Chain, Conv2d, ConvTranspose2d, Dense, Synapse, apply
from neuroport.snn.rates import forward_rates
from neuroport.snn.sparse import materialize
from tests.snn.graphs import NETS, Sketch, assert_close, draw, samples


def rates(network: SpikingNetwork, x: torch.Tensor, *, clip: bool = False) -> dict[str, torch.Tensor]:
    return dict(forward_rates(network, x, clip=clip))


def assert_same(graph: AnnGraph, **options: Any) -> SpikingNetwork:
    """Every output, read from its population's rates, is the graph's own."""
    network = build_network(simplify(graph), BuildOptions(**options))
    x = samples(graph)
    found, expected = rates(network, x), run_outputs(graph, x)
    assert len(network.outputs) == len(expected)
    for head, value in zip(network.outputs, expected, strict=True):
        assert value.std() > 1e-6
        raw = found[head.population]
        assert_close(read_out(head, raw).reshape(value.shape), value)
    return network


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("pool", ["fold", "spiking"])
def test_rates_without_clipping_are_the_outputs_of_the_ann(net: str, pool: str) -> None:
    assert_same(draw(NETS[net]), pool=pool)


@pytest.mark.parametrize("net", NETS)
def test_a_readout_that_counts_spikes_has_the_sums_of_the_ann(net: str) -> None:
    """Its sums are the ANN's; as rates, what is below 0 is silence."""
    network = assert_same(draw(NETS[net]), readout="count")
    assert network.output.neuron.fires


@pytest.mark.parametrize("net", NETS)
def test_on_and_off_channels_and_a_scale_change_no_rate(net: str) -> None:
    """Padded borders included: the channels are joined before the first layer pads."""
    network = assert_same(draw(NETS[net]), encoding="rate", n_signs=2, input_scale=np.array([4.0]))
    assert network.input.shape[0] == 2 * 3
    assert (network.n_signs, network.input_scale.tolist()) == (2, [4.0])


@pytest.mark.parametrize("net", NETS)
def test_synapses_that_a_chip_can_hold_have_the_same_rates(net: str) -> None:
    graph = draw(NETS[net])
    network = build_network(simplify(graph), BuildOptions())
    for j in network.projections:
        made = materialize(j.operator, j.post)
        assert isinstance(made, Synapse)
        x = torch.from_numpy(np.random.default_rng(3).normal(size=(2, *j.operator.in_shape)))
        assert_close(apply(made, x).flatten(1), apply(j.operator, x).flatten(1))


def test_every_hidden_population_has_the_activations_of_its_relu() -> None:
    graph = draw(NETS["residual"])
    network = build_network(simplify(graph), BuildOptions())
    assert [p.name for p in network.populations] == ["input", "conv1", "conv2", "fc"]
    assert [p.shape for p in network.populations] == [(3, 8, 8), (6, 8, 8), (6, 8, 8), (5,)]
    assert [p.role for p in network.populations] == ["input", "hidden", "hidden", "readout"]
    assert [p.is_helper for p in network.populations] == [False] * 4
    pairs = [(j.pre, j.post) for j in network.projections]
    assert pairs == [("input", "conv1"), ("conv1", "conv2"), ("conv2", "fc")]  # the shortcut is in the same kernel
    shortcut = network.projections[1].operator
    assert isinstance(shortcut, Conv2d)
    assert shortcut.geometry.kernel == (3, 3)
    x = samples(graph)
    found = rates(network, x)
    relus = [n.name for n in graph if type(n.op).__name__ == "ReLU"]
    for name, relu in zip(("conv1", "conv2"), relus, strict=True):
        assert_close(found[name], run_outputs(AnnGraph(graph.nodes, (relu,)), x)[0])


KINDS = {
    "upsampled": {"down": Conv2d, "up2": ConvTranspose2d, "out": Conv2d},
    "padded_shortcut": {"conv1": Conv2d, "conv2": Conv2d, "fc": Dense},
    "inverted_residual": {"expand1": Conv2d, "depthwise0": Conv2d, "last": Conv2d},
    "channels_last": {"conv1": Conv2d, "conv2": Conv2d, "fc": Dense},
    "norms_everywhere": {"conv1": Conv2d, "conv2": Chain, "fc": Dense},
}


@pytest.mark.parametrize("net", KINDS)
def test_linear_layers_in_a_row_stay_small(net: str) -> None:
    """One kernel where one will do: batch norm, shortcuts, permutations and upsampling make no matrix."""
    network = build_network(simplify(draw(NETS[net])), BuildOptions())
    for name, kind in KINDS[net].items():
        assert {type(j.operator) for j in network.incoming[name]} == {kind}


def test_names_of_populations_are_those_of_the_layers_with_weights() -> None:
    def names(net: Callable[[Sketch, str], Any], **options: Any) -> list[str]:
        return [p.name for p in build_network(simplify(draw(net)), BuildOptions(**options)).populations]

    def plain(w: Sketch, x: str) -> str:
        a = w.layer(x, 2, name="conv")
        a = w.at("act").relu(a)
        a = w.at("pool").avg_pool(a, (2, 2), (2, 2), (0, 0))
        a = w.dense(a, 3, name="fc")
        return w.at("last").relu(w.relu(a))

    assert names(plain) == ["input", "conv", "fc"]
    assert names(plain, pool="spiking") == ["input", "conv", "pool", "fc"]

    def shared(w: Sketch, x: str) -> str:
        """One layer called twice, and two activations of one sum."""
        weight = w.weight(3, 3, 1, 1)
        for _ in range(2):
            once = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}
            x = w.relu(w.at("layer").conv(x, weight, None, **once))
        total = w.at("sum").add(x, w.at("act").relu(x, 0.5), sign=-1)
        low = w.at("low").relu(total)
        high = w.at("high").relu(w.affine(total, np.array(-1.0), np.array(0.25)))
        return w.at("end").add(low, high)

    # the second activation of layer_2 is min(max(x, 0), 0.5) of the layer itself
    assert names(shared) == ["input", "layer", "layer_2", "layer_2.act_op", "low", "high", "end"]
    assert names(lambda w, x: w.dense(w.at("act").relu(x), 2, name="fc")) == ["input", "act", "fc"]

    def split(w: Sketch, x: str) -> list[str]:
        a = w.layer(x, 2, name="conv")
        return [w.dense(w.at("one").relu(a), 2, name="fc1"), w.dense(w.at("two").relu(a, 1.0), 2, name="fc2")]

    assert names(split) == ["input", "conv", "conv.two_op", "fc1", "fc2"]


def test_options_reach_the_neurons() -> None:
    graph = draw(NETS["residual"])
    options = BuildOptions(reset="zero", v_init=0.25, leak=0.9, encoding="rate", readout="count")
    network = build_network(simplify(graph), options)
    assert network.encoding == "rate"
    for population in network.populations[1:]:
        neuron: Any = population.neuron
        assert (neuron.reset, neuron.v_init, neuron.leak, neuron.fires, neuron.v_th) == ("zero", 0.25, 0.9, True, 1.0)
    membrane: Any = build_network(simplify(graph), BuildOptions(v_init=0.25)).output.neuron
    assert (membrane.fires, membrane.v_init, membrane.leak) == (False, 0.0, 1.0)
    leaky: Any = build_network(simplify(graph), BuildOptions(leak=0.9, floor=-0.5, leaky_readout=True))
    assert {(p.neuron.leak, p.neuron.floor, p.neuron.fires) for p in leaky.populations[1:]} == {
        (0.9, -0.5, True),
        (0.9, None, False),
    }
    relu_last = build_network(simplify(draw(lambda w, x: w.relu(w.dense(x, 3, name="fc")))), BuildOptions()).output
    assert relu_last.neuron.fires
    assert relu_last.role == "readout"


def test_ceilings_of_trained_activations_are_kept() -> None:
    """clamp at 1, between -1 and 1 (two above the low end), and QCFS; a ceiling from above is no ceiling."""
    network = build_network(simplify(draw(NETS["clamped"])), BuildOptions())
    ceilings = {p.name: p.saturation and p.saturation.ceiling.tolist() for p in network.populations[1:]}
    assert ceilings == {"conv1": [1.0], "conv2": [2.0], "conv3": None, "conv3_op_2": None, "fc": None}
    quantized = build_network(simplify(draw(NETS["quantized"])), BuildOptions())
    found = [p.saturation for p in quantized.populations[1:3]]
    assert [(s and s.ceiling.tolist(), s and s.levels) for s in found] == [([0.7], 8), ([4.0], 4)]


def test_an_activation_of_what_is_never_negative_needs_no_neurons() -> None:
    def net(w: Sketch, x: str) -> str:
        a, b = w.relu(w.layer(x, 4, name="a")), w.relu(w.layer(x, 4, name="b"))
        total = w.at("sum").relu(w.add(a, b))
        pooled = w.at("pool").relu(w.avg_pool(w.concat([total, a], 0), (2, 2), (2, 2), (0, 0)))
        return w.dense(pooled, 3, name="fc")

    network = assert_same(draw(net))
    assert [p.name for p in network.populations] == ["input", "a", "b", "fc"]
    of_input = assert_same(draw(lambda w, x: w.dense(w.at("first").relu(x), 2, name="fc")))
    assert [p.name for p in of_input.populations] == ["input", "first", "fc"]

    def limited(w: Sketch, x: str) -> str:
        a, b = w.relu(w.layer(x, 4, name="a")), w.relu(w.layer(x, 4, name="b"))
        total = w.add(a, b)
        return w.dense(w.at("six").relu(total, 0.5), 3, name="fc")

    assert [p.name for p in assert_same(draw(limited)).populations] == ["input", "a", "b", "six", "fc"]
    ended = assert_same(draw(lambda w, x: w.dense(w.at("six").relu(w.relu(w.layer(x, 2, name="c"), 2.0), 6.0), 2)))
    assert len(ended.populations) == 3


def test_clipped_rates_end_at_one_and_the_readout_of_a_membrane_does_not() -> None:
    graph = draw(NETS["residual"])
    network = build_network(simplify(graph), BuildOptions())
    x = 3 * samples(graph)
    free, clipped = rates(network, x), rates(network, x, clip=True)
    assert free["conv1"].max() > 1
    assert torch.equal(clipped["conv1"], free["conv1"].clamp(0, 1))
    assert torch.equal(clipped["input"], x)
    assert not torch.allclose(clipped["fc"], free["fc"])
    assert clipped["fc"].min() < 0
    counted = build_network(simplify(graph), BuildOptions(readout="count", encoding="rate"))
    limited = rates(counted, x, clip=True)
    assert torch.equal(limited["input"], x.clamp(0, 1))
    assert limited["fc"].min() >= 0
    assert limited["fc"].max() <= 1


def test_biases_of_merged_layers_pass_through_the_later_ones() -> None:
    """(W2 W1, W2 b1 + b2) by hand: W1 = 2, b1 = 3, W2 = 5, b2 = 7 gives 10 x + 22."""

    def net(w: Sketch, x: str) -> str:
        once = w.at("l0").linear(x, np.array([[2.0]]), np.array([3.0]))
        return w.relu(w.at("l1").linear(once, np.array([[5.0]]), np.array([7.0])))

    network = build_network(draw(net, (1,)), BuildOptions())
    assert network.output.bias.item() == 22.0
    assert rates(network, torch.tensor([[1.0], [-3.0]]))["l1"].flatten().tolist() == [32.0, 0.0]


def relayed(w: Sketch, x: str) -> str:
    """Two linear 3x3 layers with zeros between them at the border: no single kernel does that."""
    a = w.relu(w.layer(x, 4, name="conv0"))
    b = w.layer(w.layer(a, 4, name="conv1"), 4, name="conv2")
    return w.dense(w.relu(b), 3, name="fc")


def test_linear_layers_beyond_the_limit_are_relayed_by_both_signs() -> None:
    graph = draw(relayed)
    whole = assert_same(graph)
    assert [p.name for p in whole.populations] == ["input", "conv0", "conv2", "fc"]
    network = assert_same(graph, max_condensed=1000)
    assert [p.name for p in network.populations] == ["input", "conv0", "conv2.on", "conv2.off", "conv2", "fc"]
    assert [p.name for p in network.populations if p.is_helper] == ["conv2.on", "conv2.off"]
    found = rates(network, samples(graph))
    assert (found["conv2.on"] * found["conv2.off"]).abs().max() == 0
    assert found["conv2.on"].max() > 0 < found["conv2.off"].max()
    assert all(isinstance(j.operator, Conv2d) for j in network.incoming["conv2"])


def test_a_relayed_signal_is_relayed_once_for_all_who_read_it() -> None:
    def net(w: Sketch, x: str) -> list[str]:
        p = w.layer(w.relu(w.layer(x, 4, name="conv0")), 4, name="middle")
        return [w.relu(w.layer(p, 2, name=f"head{k}")) for k in range(3)] + [w.add(p, w.relu(p))]

    network = assert_same(draw(net), max_condensed=1000)
    assert [p.name for p in network.populations if p.is_helper] == ["head0.on", "head0.off"]
    pyramid = assert_same(draw(NETS["feature_pyramid"]), max_condensed=100)
    assert sum(p.is_helper for p in pyramid.populations) == 6


def test_a_network_without_a_layer_is_refused() -> None:
    for nothing in (lambda w, x: x, lambda w, x: w.softmax(w.reshape(x, (12,)), 0)):
        with pytest.raises(InvalidNetworkError, match="no layer with weights: there is nothing to convert"):
            build_network(draw(nothing, (3, 2, 2)), BuildOptions())


def test_what_does_not_depend_on_the_input_is_added_or_refused() -> None:
    def joined(w: Sketch, x: str) -> str:
        c = w.at("const").constant(w.rng.normal(size=(2, 8, 8)))
        a = w.concat([w.layer(x, 2, name="conv"), w.affine(c, np.array(2.0), None)], 0)
        a = w.at("act").relu(a)
        return w.dense(w.add(a, w.layer(c, 4, name="fixed")), 3, name="fc")

    assert [p.name for p in assert_same(draw(joined)).populations] == ["input", "conv", "fc"]

    def added(w: Sketch, x: str) -> str:
        c = w.at("const").constant(w.rng.normal(size=(2, 8, 8)))
        a = w.concat([w.layer(x, 2, name="conv"), w.affine(c, np.array(2.0), None)], 0)
        b = w.relu(w.layer(a, 4, name="conv2"))
        return w.dense(w.add(b, w.layer(c, 4, name="fixed"), sign=-1), 3, name="fc")

    network = assert_same(draw(added))
    assert [p.name for p in network.populations] == ["input", "conv2", "fc"]
    with pytest.raises(InvalidNetworkError, match=r"layer 'c_op' in module 'c' .* leave it out of the network"):
        build_network(draw(lambda w, x: [w.dense(x, 2, name="fc"), w.at("c").constant(np.ones(3))]), BuildOptions())


@pytest.mark.parametrize(
    ("operator", "name"),
    [
        (lambda w, x: w.softmax(x, 0), "softmax"),
        (lambda w, x: w.squash(x, "sigmoid"), "sigmoid"),
        (lambda w, x: w.squash(x, "tanh"), "tanh"),
        (lambda w, x: w.rounded(x, "floor"), "round"),
    ],
)
def test_what_no_neuron_computes_is_refused_in_the_middle_by_name_and_place(operator: Any, name: str) -> None:
    def net(w: Sketch, x: str) -> str:
        a = w.layer(x, 2, name="conv")
        return w.dense(operator(w.at("block.act"), a), 3, name="fc")

    graph = draw(net)
    with pytest.raises(UnsupportedOperatorError) as caught:
        build_network(simplify(graph), BuildOptions())
    place = "module 'block.act' (net.py:1) ('block.act_op')"
    assert str(caught.value) == (
        f"operator '{name}' in {place} stands in the middle of the network: no integrate-and-fire neuron computes it; "
        f"it is converted only behind the last layer; replace it by ReLU or a clamp and train again"
    )
