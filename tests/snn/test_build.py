"""From the ANN graph to populations and projections: without clipping, the rates are the ANN's own activations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from neuroport.ann.from_torch import export_module, graph_from_exported
from neuroport.ann.graph import AnnGraph, AvgPool2d, BatchNorm, Conv2d, Input, Linear, Node, Op, ReLU, Reshape
from neuroport.ann.interpret import run_graph
from neuroport.ann.simplify import simplify
from neuroport.errors import ConversionError, InvalidNetworkError
from neuroport.snn.build import BuildOptions, build_network
from neuroport.snn.network import SpikingNetwork
from neuroport.snn.rates import forward_rates

RNG = np.random.default_rng(11)
TILE = AvgPool2d((2, 2), (2, 2))
BORDER = AvgPool2d((2, 2), (2, 2), (1, 1), ceil_mode=True, count_include_pad=False)


def conv(n_out: int, n_in: int, **options: Any) -> Conv2d:
    return Conv2d(RNG.normal(size=(n_out, n_in, 3, 3)), RNG.normal(size=n_out), **options)


def linear(n_out: int, n_in: int) -> Linear:
    return Linear(RNG.normal(size=(n_out, n_in)) / math.sqrt(n_in), RNG.normal(size=n_out))


def norm(n: int) -> BatchNorm:
    return BatchNorm(RNG.normal(size=n), RNG.normal(size=n))


def chain(shape: tuple[int, ...], *ops: Op) -> AnnGraph:
    """The graph of operators in a row, shapes found by running it."""
    nodes = [Node("input", Input(), (), shape)]
    for k, op in enumerate(ops):
        out = (math.prod(nodes[-1].shape),) if isinstance(op, Reshape) else ()
        nodes.append(Node(f"{type(op).__name__.lower()}{k}", op, (nodes[-1].name,), out))
        if not out:
            answer = run_graph(AnnGraph(tuple(nodes), nodes[-1].name), torch.zeros(1, *shape, dtype=torch.float64))
            nodes[-1] = Node(nodes[-1].name, op, nodes[-1].inputs, tuple(answer.shape[1:]))
    return AnnGraph(tuple(nodes), nodes[-1].name)


def rates(network: SpikingNetwork, x: torch.Tensor, *, clip: bool = False) -> dict[str, torch.Tensor]:
    return dict(forward_rates(network, x, clip=clip))


def assert_same(graph: AnnGraph, **options: Any) -> SpikingNetwork:
    """The readout's rates are the graph's output: float64 sums of some hundred products."""
    network = build_network(simplify(graph), BuildOptions(**options))
    x = torch.from_numpy(RNG.normal(size=(6, *graph.input.shape)))
    expected = run_graph(graph, x).flatten(1)
    assert (expected - expected[:1]).abs().max() > 1e-3
    found = rates(network, x)[network.output.name].flatten(1)
    if network.output.neuron.fires:
        expected = expected.clamp_min(0)
    assert (found - expected).abs().max() <= 1e-12 * max(1.0, float(expected.abs().max()))
    return network


GRAPHS = {
    "conv, pool, linear": chain((2, 10, 10), conv(3, 2), ReLU(), TILE, Reshape(), linear(4, 48)),
    "pool then conv": chain(
        (2, 11, 11), conv(3, 2), ReLU(), TILE, conv(4, 3, padding=(1, 1)), ReLU(), Reshape(), linear(3, 64)
    ),
    "pool before relu": chain((2, 10, 10), conv(3, 2), BORDER, ReLU(), Reshape(), linear(4, 75)),
    "pool between linear layers": chain((2, 10, 10), conv(3, 2), ReLU(), conv(3, 3), TILE, Reshape(), linear(4, 27)),
    "pool of the input": chain((2, 10, 10), TILE, conv(3, 2), ReLU(), Reshape(), linear(4, 27)),
    "two pools": chain((2, 13, 13), conv(3, 2), ReLU(), TILE, BORDER, Reshape(), linear(4, 27)),
    "conv after conv": chain((2, 7, 7), conv(3, 2), conv(3, 3, padding=(1, 1)), ReLU(), Reshape(), linear(4, 75)),
    "linear after linear": chain((8,), linear(6, 8), linear(5, 6), ReLU(), linear(4, 5), linear(3, 4)),
    "batch norm of the input": chain((2, 7, 7), norm(2), conv(3, 2, padding=(1, 1)), ReLU(), Reshape(), linear(4, 147)),
    "batch norm behind relu": chain(
        (2, 7, 7), conv(3, 2), ReLU(), norm(3), conv(3, 3, padding=(1, 1)), ReLU(), Reshape(), linear(4, 75)
    ),
    "batch norm behind pool": chain((2, 10, 10), conv(3, 2), ReLU(), TILE, norm(3), ReLU(), Reshape(), linear(4, 48)),
    "batch norm at the end": chain((2, 7, 7), conv(3, 2), ReLU(), Reshape(), norm(75)),
    "relu of the input": chain((2, 5, 5), ReLU(), conv(3, 2), ReLU(), Reshape(), linear(4, 27)),
    "relu twice": chain((2, 7, 7), conv(3, 2), ReLU(), ReLU(), Reshape(), ReLU(), linear(4, 75)),
    "relu at the end": chain((2, 7, 7), conv(3, 2), ReLU(), Reshape(), linear(4, 75), ReLU()),
    "pool at the end": chain((2, 10, 10), conv(3, 2), ReLU(), TILE, Reshape()),
    "relu behind flatten": chain((2, 7, 7), conv(3, 2), Reshape(), ReLU(), linear(4, 75)),
    "one linear layer": chain((7,), linear(3, 7)),
    "fully convolutional": chain((2, 7, 7), conv(3, 2), ReLU(), conv(4, 3, dilation=(2, 2))),
}


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("pool", ["fold", "spiking"])
@pytest.mark.parametrize("readout", ["membrane", "count"])
def test_rates_without_clipping_are_the_activations_of_the_ann(name: str, pool: str, readout: str) -> None:
    assert_same(GRAPHS[name], pool=pool, readout=readout)


def test_every_hidden_population_has_the_activations_of_its_relu() -> None:
    torch.manual_seed(3)
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(4, 6, 3),
        nn.ReLU(),
        nn.Dropout(),
        nn.Flatten(),
        nn.Linear(24, 8),
        nn.ReLU(),
        nn.Linear(8, 3),
    )
    module[1].running_mean.uniform_(-1, 1)
    module[1].running_var.uniform_(0.3, 2)
    module = module.double().eval()
    x = torch.randn(5, 1, 8, 8, dtype=torch.float64)
    network = build_network(simplify(graph_from_exported(export_module(module, x))), BuildOptions())
    assert [p.name for p in network.populations] == ["input", "0", "4", "8", "10"]
    assert [p.shape for p in network.populations] == [(1, 8, 8), (4, 8, 8), (6, 2, 2), (8,), (3,)]
    assert [p.role for p in network.populations] == ["input", "hidden", "hidden", "hidden", "readout"]
    assert [(j.pre, j.post) for j in network.projections] == [("input", "0"), ("0", "4"), ("4", "8"), ("8", "10")]
    found = rates(network, x)
    with torch.no_grad():
        for name, end in (("0", 3), ("4", 6), ("8", 10), ("10", 11)):
            torch.testing.assert_close(found[name], module[:end](x).reshape(found[name].shape), rtol=1e-12, atol=1e-12)


def test_names_of_populations_are_those_of_the_layers_with_weights() -> None:
    graph = chain((2, 10, 10), conv(3, 2), ReLU(), TILE, ReLU(), Reshape(), linear(4, 48), Reshape(), ReLU(), ReLU())
    names = [p.name for p in build_network(graph, BuildOptions(pool="spiking")).populations]
    assert names == ["input", "conv2d0", "avgpool2d2", "linear5"]
    graph = chain((2, 5, 5), ReLU(), conv(3, 2), TILE, ReLU())
    names = [p.name for p in build_network(graph, BuildOptions()).populations]
    assert names == ["input", "relu0", "relu3"]


def test_spiking_pools_are_populations_and_folded_ones_are_not() -> None:
    graph = chain((2, 12, 12), conv(3, 2), ReLU(), TILE, conv(4, 3), ReLU(), Reshape(), linear(4, 36))
    fold = build_network(graph, BuildOptions(pool="fold"))
    spiking = build_network(graph, BuildOptions(pool="spiking"))
    assert [p.name for p in fold.populations] == ["input", "conv2d0", "conv2d3", "linear6"]
    assert [p.name for p in spiking.populations] == ["input", "conv2d0", "avgpool2d2", "conv2d3", "linear6"]
    assert spiking.by_name["avgpool2d2"].neuron.fires
    assert fold.projections[1].operator.in_shape == (3, 10, 10)
    x = torch.from_numpy(RNG.normal(size=(4, 2, 12, 12)))
    for name in ("conv2d0", "conv2d3", "linear6"):
        torch.testing.assert_close(rates(fold, x)[name], rates(spiking, x)[name], rtol=1e-12, atol=1e-12)


def test_options_reach_the_neurons() -> None:
    options = BuildOptions(reset="zero", v_init=0.25, leak=0.9, encoding="rate", readout="count")
    network = build_network(GRAPHS["conv, pool, linear"], options)
    assert network.encoding == "rate"
    for population in network.populations[1:]:
        neuron = population.neuron
        assert (neuron.reset, neuron.v_init, neuron.leak, neuron.fires, neuron.v_th) == ("zero", 0.25, 0.9, True, 1.0)
    membrane = build_network(GRAPHS["conv, pool, linear"], BuildOptions(v_init=0.25)).output.neuron
    assert (membrane.fires, membrane.v_init, membrane.leak) == (False, 0.0, 1.0)
    relu_last = build_network(GRAPHS["relu at the end"], BuildOptions(readout="membrane")).output
    assert relu_last.neuron.fires
    assert relu_last.role == "readout"


def test_clipped_rates_end_at_one_and_the_readout_of_a_membrane_does_not() -> None:
    network = build_network(GRAPHS["relu twice"], BuildOptions())
    x = 3 * torch.from_numpy(RNG.normal(size=(4, 2, 7, 7)))
    free, clipped = rates(network, x), rates(network, x, clip=True)
    assert free["conv2d0"].max() > 1
    torch.testing.assert_close(clipped["conv2d0"], free["conv2d0"].clamp(0, 1), rtol=0, atol=0)
    assert torch.equal(clipped["input"], x)
    last = network.output.name
    assert not torch.allclose(clipped[last], free[last])
    assert clipped[last].min() < 0
    assert clipped[last].abs().max() > 1
    counted = build_network(GRAPHS["relu twice"], BuildOptions(readout="count", encoding="rate"))
    limited = rates(counted, x, clip=True)
    assert torch.equal(limited["input"], x.clamp(0, 1))
    assert limited[last].min() >= 0
    assert limited[last].max() <= 1


def test_biases_of_merged_layers_pass_through_the_later_ones() -> None:
    """(W2 W1, W2 b1 + b2) by hand: W1 = 2, b1 = 3, W2 = 5, b2 = 7 gives 10 x + 22."""
    first, second = Linear(np.array([[2.0]]), np.array([3.0])), Linear(np.array([[5.0]]), np.array([7.0]))
    network = build_network(chain((1,), first, second, ReLU()), BuildOptions())
    assert network.output.bias.item() == 22.0
    assert rates(network, torch.tensor([[1.0], [-3.0]]))["linear1"].flatten().tolist() == [32.0, 0.0]


def test_what_cannot_be_built_is_refused() -> None:
    with pytest.raises(ConversionError, match=r"layer 'batchnorm1' is batch norm: call simplify\(\)"):
        build_network(chain((2, 5, 5), conv(2, 2), norm(2)), BuildOptions())
    for nothing in (chain((4,)), chain((2, 2), Reshape())):
        with pytest.raises(InvalidNetworkError, match="no layer with weights: there is nothing to convert"):
            build_network(nothing, BuildOptions())
