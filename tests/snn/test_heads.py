"""Outputs and inputs: tails behind the readout, several outputs, shared ones, and several inputs in one sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from neuroport.ann.graph import AnnGraph, Softmax
from neuroport.ann.interpret import run_outputs
from neuroport.ann.simplify import simplify
from neuroport.errors import InvalidNetworkError
from neuroport.snn.build import BuildOptions, build_network
from neuroport.snn.heads import base_of, read_out, tail_nodes, tail_of
from neuroport.snn.network import SpikingNetwork
from neuroport.snn.rates import forward_rates
from tests.snn.graphs import Sketch, assert_close, draw, samples


def assert_same(graph: AnnGraph, **options: Any) -> SpikingNetwork:
    network = build_network(simplify(graph), BuildOptions(**options))
    x = samples(graph)
    found = dict(forward_rates(network, x, clip=False))
    for head, expected in zip(network.outputs, run_outputs(graph, x), strict=True):
        assert_close(read_out(head, found[head.population]).reshape(expected.shape), expected)
        assert network.by_name[head.population].role == "readout"
    return network


TAILS = {
    "softmax": lambda w, x: w.softmax(x, 0),
    "log softmax": lambda w, x: w.softmax(x, -1, log=True),
    "sigmoid": lambda w, x: w.squash(x, "sigmoid"),
    "tanh": lambda w, x: w.squash(x, "tanh"),
    "log sigmoid": lambda w, x: w.squash(x, "log_sigmoid"),
    "leaky": lambda w, x: w.leaky_relu(x, np.array(0.1)),
    "reshape": lambda w, x: w.reshape(x, (2, 3)),
    "several": lambda w, x: w.softmax(w.reshape(w.leaky_relu(x, np.array(0.1)), (2, 3)), 1),
    "none": lambda w, x: x,
    "relu": lambda w, x: w.softmax(w.relu(x), 0),
}


@pytest.mark.parametrize("name", TAILS)
def test_what_stands_behind_the_last_layer_is_left_to_the_host(name: str) -> None:
    graph = draw(lambda w, x: TAILS[name](w.at("end"), w.dense(w.relu(w.layer(x, 4, name="conv")), 6, name="fc")))
    network = assert_same(graph)
    assert [p.name for p in network.populations] == ["input", "conv", "fc"]
    assert network.output.neuron.fires == (name == "relu")
    n_tail = {"none": 0, "several": 3}.get(name, 1)
    assert len(network.outputs[0].tail) == n_tail
    assert network.outputs[0].shape == (6,)


def test_scores_and_their_softmax_are_read_from_one_population() -> None:
    def net(w: Sketch, x: str) -> list[str]:
        scores = w.dense(w.relu(w.layer(x, 4, name="conv")), 6, name="fc")
        return [w.softmax(scores, 0), scores, w.reshape(scores, (2, 3))]

    graph = draw(net)
    network = assert_same(graph)
    assert [p.name for p in network.populations] == ["input", "conv", "fc"]
    assert [h.population for h in network.outputs] == ["fc"] * 3
    assert [len(h.tail) for h in network.outputs] == [1, 0, 1]
    assert [base_of(graph, name).name for name in graph.outputs] == ["fc"] * 3
    assert [type(n.op) for n in tail_of(graph, graph.output)] == [Softmax]
    assert tail_nodes(graph) == {graph.outputs[0], graph.outputs[2]}


def test_an_output_that_others_read_too_is_a_readout_and_passes_on_its_signal() -> None:
    """Auxiliary scores of a linear layer that goes on: what goes on is not what the readout's spikes would say."""

    def linear(w: Sketch, x: str) -> list[str]:
        middle = w.dense(w.relu(w.layer(x, 4, name="conv")), 5, name="middle")
        return [w.dense(w.relu(middle), 3, name="fc"), middle, middle]

    for readout in ("membrane", "count"):
        network = build_network(simplify(draw(linear)), BuildOptions(readout=readout))
        assert all(network.by_name[j.pre].role != "readout" for j in network.projections)
    assert_same(draw(linear))

    def fired(w: Sketch, x: str) -> list[str]:
        middle = w.relu(w.dense(w.relu(w.layer(x, 4, name="conv")), 5, name="middle"))
        return [w.dense(middle, 3, name="fc"), middle]

    network = assert_same(draw(fired))
    assert [(p.name, p.role) for p in network.populations[2:]] == [("middle", "readout"), ("fc", "readout")]
    assert ("middle", "fc") in [(j.pre, j.post) for j in network.projections]


def test_a_softmax_that_something_reads_is_no_tail() -> None:
    def net(w: Sketch, x: str) -> list[str]:
        scores = w.dense(x, 6, name="fc")
        probabilities = w.softmax(scores, 0)
        return [probabilities, w.dense(probabilities, 2, name="more")]

    graph = draw(net)
    assert tail_nodes(graph) == frozenset()
    flat = draw(lambda w, x: w.relu(w.reshape(w.dense(x, 6, name="fc"), (2, 3))))
    assert tail_nodes(flat) == frozenset()


def test_a_spiking_softmax_reads_potentials_and_no_spikes() -> None:
    graph = draw(lambda w, x: [w.softmax(w.dense(x, 4, name="a"), 0), w.relu(w.dense(x, 3, name="b"))])
    network = build_network(simplify(graph), BuildOptions(readout="softmax"))
    assert [h.is_sampled for h in network.outputs] == [True, False]
    assert [network.by_name[h.population].neuron.fires for h in network.outputs] == [False, True]
    for readout in ("membrane", "count"):
        other = build_network(simplify(graph), BuildOptions(readout=readout))
        assert not any(h.is_sampled for h in other.outputs)


def two_inputs(seed: int = 0) -> AnnGraph:
    w = Sketch(seed)
    image, vector = w.input((2, 4, 4)), w.input((5,))
    a = w.total(w.relu(w.layer(image, 4, name="conv")), (1, 2), keep=False, mean=True)
    b = w.relu(w.dense(vector, 3, name="side"))
    joined = w.concat([a, b], 0)
    return w.graph([w.dense(joined, 4, name="fc"), w.dense(vector, 2, name="direct")])


INPUTS: list[dict[str, Any]] = [
    {},
    {"encoding": "rate", "n_signs": 1, "input_scale": np.array([3.0])},
    {"encoding": "rate", "n_signs": 2, "input_scale": np.array([3.0])},
]


@pytest.mark.parametrize("options", INPUTS)
def test_several_inputs_are_one_population_of_their_numbers_in_order(options: dict[str, Any]) -> None:
    graph = two_inputs()
    assert graph.input_shape == (37,)
    assert [n.name for n in graph.inputs] == ["input", "input_2"]
    network = assert_same(graph, **options)
    assert network.input.shape == (37 * options.get("n_signs", 1),)
    x = samples(graph)
    direct: Any = graph.by_name["direct"].op
    by_hand = x[:, 32:] @ torch.from_numpy(direct.weight).T + torch.from_numpy(direct.bias)
    assert_close(run_outputs(graph, x)[1], by_hand)


def test_an_input_nobody_reads_still_has_its_place_in_the_sample() -> None:
    w = Sketch()
    unused, used = w.input((3,)), w.input((4,))
    graph = w.graph([w.dense(used, 2, name="fc")])
    assert graph.input_shape == (7,)
    assert unused in graph.by_name
    network = assert_same(graph)
    assert network.input.shape == (7,)


def test_a_head_of_no_population_is_refused() -> None:
    network = build_network(
        draw(lambda w, x: w.dense(w.relu(w.layer(x, 2, name="conv")), 3, name="fc")), BuildOptions()
    )
    for name in ("nowhere", "conv"):
        heads = (network.heads[0].__class__(name),)
        with pytest.raises(InvalidNetworkError, match=f"output '{name}' is not a readout population"):
            SpikingNetwork(network.populations, network.projections, heads=heads)
    bare = SpikingNetwork(network.populations, network.projections)
    assert [h.population for h in bare.outputs] == ["fc"]
    values = torch.ones(2, 3)
    assert read_out(bare.outputs[0], values) is values
