"""Folding batch norm keeps the function, wherever the batch norm stands."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroport.ann.graph import AnnGraph, BatchNorm, Conv2d, Input, Linear, Node, ReLU, Reshape
from neuroport.ann.interpret import run_graph
from neuroport.ann.simplify import simplify

RNG = np.random.default_rng(7)


def norm(n: int) -> BatchNorm:
    """Gains of both signs and of very different size."""
    return BatchNorm(RNG.normal(size=n) * 4.0 ** RNG.integers(-3, 3, n), RNG.normal(size=n))


def conv(n_out: int, n_in: int, **options: object) -> Conv2d:
    return Conv2d(RNG.normal(size=(n_out, n_in, 3, 3)), RNG.normal(size=n_out), **options)  # type: ignore[arg-type]


def chain(shape: tuple[int, ...], *ops: tuple[object, tuple[int, ...]]) -> AnnGraph:
    nodes = [Node("input", Input(), (), shape)]
    for k, (op, out) in enumerate(ops):
        nodes.append(Node(f"n{k}", op, (nodes[-1].name,), out))  # type: ignore[arg-type]
    return AnnGraph(tuple(nodes), nodes[-1].name)


def assert_same_function(graph: AnnGraph) -> AnnGraph:
    simple = simplify(graph)
    assert not any(isinstance(node.op, BatchNorm) for node in simple)
    x = torch.from_numpy(RNG.normal(size=(5, *graph.input.shape)))
    before, after = run_graph(graph, x), run_graph(simple, x)
    # Both sum at most some hundred products in float64; the order differs only by where the gain is multiplied in.
    assert before.std() > 0
    assert (before - after).abs().max() <= 1e-12 * max(1.0, float(before.abs().max()))
    return simple


def test_behind_a_convolution_and_a_linear_layer_it_is_folded() -> None:
    linear = Linear(RNG.normal(size=(3, 4 * 36)), RNG.normal(size=3))
    graph = chain(
        (2, 8, 8),
        (conv(4, 1, groups=2), (4, 6, 6)),
        (norm(4), (4, 6, 6)),
        (ReLU(), (4, 6, 6)),
        (Reshape(), (144,)),
        (linear, (3,)),
        (norm(3), (3,)),
    )
    simple = assert_same_function(graph)
    assert [(n.name, type(n.op)) for n in simple] == [
        ("input", Input),
        ("n0", Conv2d),
        ("n2", ReLU),
        ("n3", Reshape),
        ("n4", Linear),
    ]
    assert simple.output == "n4"
    assert simple.by_name["n2"].inputs == ("n0",)


def test_the_folded_numbers_are_those_of_the_paper() -> None:
    """Rueckauer 2016, 3.3: gamma 3, sigma 2, mu 5, beta 7 on W = 4, b = 1 gives W~ = 6, b~ = 3/2 (1 - 5) + 7 = 1."""
    gain = 3 / 2
    batch_norm = BatchNorm(np.array([gain]), np.array([7 - gain * 5]))
    graph = chain((1,), (Linear(np.array([[4.0]]), np.array([1.0])), (1,)), (batch_norm, (1,)))
    folded = simplify(graph).by_name["n0"].op
    assert isinstance(folded, Linear)
    assert (folded.weight.item(), folded.bias.item()) == (6.0, 1.0)


@pytest.mark.parametrize(
    "graph",
    [
        chain((3, 5, 5), (norm(3), (3, 5, 5)), (conv(4, 3, padding=(1, 1)), (4, 5, 5))),
        chain((2, 5, 5), (conv(4, 2), (4, 3, 3)), (ReLU(), (4, 3, 3)), (norm(4), (4, 3, 3))),
        chain((2, 5, 5), (conv(4, 2), (4, 3, 3)), (Reshape(), (36,)), (norm(36), (36,))),
        chain((6,), (norm(6), (6,)), (Linear(RNG.normal(size=(2, 6)), np.zeros(2)), (2,))),
        chain((2, 5, 5), (conv(4, 2), (4, 3, 3)), (norm(4), (4, 3, 3)), (norm(4), (4, 3, 3))),
        chain((2, 5, 5), (norm(2), (2, 5, 5)), (norm(2), (2, 5, 5)), (norm(2), (2, 5, 5))),
        chain((3,), (norm(3), (3,)), (ReLU(), (3,)), (norm(3), (3,)), (norm(3), (3,))),
    ],
    ids=["of the input", "behind relu", "behind flatten", "features", "twice", "thrice alone", "between relus"],
)
def test_anywhere_else_it_is_a_layer_of_its_own(graph: AnnGraph) -> None:
    assert_same_function(graph)


def test_a_layer_that_something_else_reads_is_not_changed() -> None:
    layer = conv(2, 1)
    nodes = (
        Node("input", Input(), (), (1, 5, 5)),
        Node("conv", layer, ("input",), (2, 3, 3)),
        Node("bn", norm(2), ("conv",), (2, 3, 3)),
        Node("relu", ReLU(), ("conv",), (2, 3, 3)),
    )
    for output in ("bn", "relu"):
        simple = assert_same_function(AnnGraph(nodes, output))
        assert simple.by_name["conv"].op is layer


@settings(max_examples=50)
@given(data=st.data(), n_in=st.integers(1, 3))
def test_random_stacks_of_layers(data: st.DataObject, n_in: int) -> None:
    shape: tuple[int, ...] = (n_in, 7, 7)
    ops: list[tuple[object, tuple[int, ...]]] = []
    for kind in data.draw(st.lists(st.sampled_from(["conv", "norm", "relu", "linear"]), min_size=1, max_size=7)):
        if kind == "conv" and len(shape) == 3 and shape[1] >= 3:
            ops.append((conv(3, shape[0]), (3, shape[1] - 2, shape[2] - 2)))
        elif kind == "linear":
            n = int(np.prod(shape))
            ops.append((Reshape(), (n,)))
            ops.append((Linear(RNG.normal(size=(4, n)), RNG.normal(size=4)), (4,)))
        elif kind == "norm":
            ops.append((norm(shape[0]), shape))
        else:
            ops.append((ReLU(), shape))
        shape = ops[-1][1]
    graph = chain((n_in, 7, 7), *ops)
    x = torch.from_numpy(RNG.normal(size=(3, n_in, 7, 7)))
    before, after = run_graph(graph, x), run_graph(simplify(graph), x)
    assert (before - after).abs().max() <= 1e-11 * max(1.0, float(before.abs().max()))
    assert not any(isinstance(node.op, BatchNorm) for node in simplify(graph))
