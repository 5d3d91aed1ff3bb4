"""Folding and moving keep the function of every graph, and leave the form that spiking networks are built from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from neuroport.ann.graph import (
    Affine,
    AnnGraph,
    Concat,
    Conv2d,
    ConvTranspose2d,
    LeakyReLU,
    Linear,
    MaxPool2d,
    ReLU,
    Round,
)
from neuroport.ann.interpret import run_outputs
from neuroport.ann.simplify import simplify
from tests.ann.random_graphs import graphs
from tests.snn.graphs import NETS, Sketch, draw, samples

WEIGHTED = (Conv2d, ConvTranspose2d, Linear)


def kinds(graph: AnnGraph) -> Counter[str]:
    return Counter(type(node.op).__name__ for node in graph)


def assert_same_function(graph: AnnGraph) -> AnnGraph:
    """Float64 sums of some hundred products in another order; gains multiply what was there before."""
    simple = simplify(graph)
    x = samples(graph)
    for before, after in zip(run_outputs(graph, x), run_outputs(simple, x), strict=True):
        assert before.shape == after.shape
        assert (before - after).abs().max() <= 1e-10 * max(1.0, float(before.abs().max()))
    return simple


@settings(max_examples=400)
@given(graph=graphs())
def test_random_graphs_keep_every_output(graph: AnnGraph) -> None:
    simple = assert_same_function(graph)
    if not any(isinstance(node.op, Round) for node in graph):  # a clip waits for its levels, which may not come
        assert_in_order(simple)
    assert_same_function(simple)


def assert_in_order(graph: AnnGraph) -> None:
    """No affine map behind another or behind a layer of its own; activations in front of what they commute with."""
    for node in graph:
        if isinstance(node.op, Affine | ReLU | LeakyReLU):
            before = graph.by_name[node.inputs[0]]
            assert not isinstance(before.op, Concat) or getattr(node.op, "levels", None)
            if isinstance(node.op, ReLU) and node.op.levels is None:
                assert not isinstance(before.op, MaxPool2d)
            if isinstance(node.op, Affine):
                assert not isinstance(before.op, Affine)
                is_alone = len(graph.users[before.name]) == 1 and before.name not in graph.outputs
                per_channel = all(
                    v.size == 1 or v.size == v.shape[0] == node.shape[0] for v in (node.op.gain, node.op.offset)
                )
                assert not (isinstance(before.op, WEIGHTED) and is_alone and per_channel)


@pytest.mark.parametrize("net", NETS)
def test_the_patterns_of_published_networks_keep_their_function(net: str) -> None:
    simple = assert_same_function(draw(NETS[net]))
    assert_in_order(simple)
    assert not any(isinstance(node.op, Round) for node in simple)


def norm(w: Sketch, x: str) -> str:
    """Gains of both signs and of very different size."""
    n = w.shape(x)[0]
    return w.batch_norm(x, w.rng.normal(size=n) * 4.0 ** w.rng.integers(-3, 3, n), w.rng.normal(size=n))


FOLDED: dict[str, Callable[[Sketch, str], str]] = {
    "conv": lambda w, x: norm(w, w.layer(x, 4)),
    "grouped": lambda w, x: norm(w, w.layer(x, 6, groups=3)),
    "transposed": lambda w, x: norm(w, w.layer(x, 4, 3, stride=2, transposed=True)),
    "grouped transposed": lambda w, x: norm(w, w.layer(x, 6, 3, groups=3, transposed=True)),
    "linear": lambda w, x: norm(w, w.dense(x, 5)),
    "twice": lambda w, x: norm(w, norm(w, w.layer(x, 4))),
    "scalar": lambda w, x: w.affine(w.layer(x, 4), np.array(-2.0), np.array(0.5)),
    "one channel": lambda w, x: norm(w, w.layer(x, 1)),
    "through a permutation": lambda w, x: w.affine(w.permute(w.layer(x, 4), (1, 2, 0)), w.rng.normal(size=4), None),
    "through a concat": lambda w, x: norm(w, w.concat([w.layer(x, 2), w.layer(x, 3, 1)], 0)),
    "through a concat of rows": lambda w, x: norm(w, w.concat([w.layer(x, 2), w.layer(x, 2, 1)], 1)),
    "through both": lambda w, x: norm(w, w.permute(w.concat([w.layer(x, 4), w.layer(x, 4, 1)], 2), (0, 2, 1))),
}


@pytest.mark.parametrize("name", FOLDED)
def test_behind_a_layer_of_its_own_it_is_folded(name: str) -> None:
    graph = draw(FOLDED[name])
    simple = assert_same_function(graph)
    assert kinds(simple)["Affine"] == 0
    assert sum(isinstance(n.op, WEIGHTED) for n in simple) == sum(isinstance(n.op, WEIGHTED) for n in graph)


KEPT: dict[str, Callable[[Sketch, str], str]] = {
    "of the input": lambda w, x: w.layer(norm(w, x), 4),
    "behind relu": lambda w, x: norm(w, w.relu(w.layer(x, 4))),
    "behind flatten": lambda w, x: norm(w, w.reshape(w.layer(x, 4), (256,))),
    "of a sum": lambda w, x: norm(w, w.add(w.layer(x, 4), w.layer(x, 4))),
    "other numbers in a channel": lambda w, x: w.affine(w.layer(x, 4), w.rng.normal(size=(1, 8, 1)), None),
    "behind a slice": lambda w, x: norm(w, w.gather(w.layer(x, 4), np.arange(256).reshape(4, 8, 8)[:, ::2])),
    "behind padding": lambda w, x: norm(
        w, w.gather(w.layer(x, 4), np.pad(np.arange(256).reshape(4, 8, 8), 1, constant_values=-1))
    ),
    "behind upsampling": lambda w, x: norm(w, w.up(w.layer(x, 4))),
    "behind max-pool": lambda w, x: norm(w, w.max_pool(w.layer(x, 4), (2, 2), (2, 2), (0, 0))),
}


@pytest.mark.parametrize("name", KEPT)
def test_anywhere_else_it_is_a_layer_of_its_own(name: str) -> None:
    assert kinds(assert_same_function(draw(KEPT[name])))["Affine"] == 1


def test_the_folded_numbers_are_those_of_the_paper() -> None:
    """Rueckauer 2016, 3.3: gamma 3, sigma 2, mu 5, beta 7 on W = 4, b = 1 gives W~ = 6, b~ = 3/2 (1 - 5) + 7 = 1."""

    def net(w: Sketch, x: str) -> str:
        y = w.at("fc").linear(x, np.array([[4.0]]), np.array([1.0]))
        return w.at("bn").batch_norm(y, np.array([1.5]), np.array([7 - 1.5 * 5]))

    simple = simplify(draw(net, (1,)))
    folded: Any = simple.by_name["fc"].op
    assert (folded.weight.item(), folded.bias.item()) == (6.0, 1.0)
    assert simple.outputs == ("fc",)


# --- activations move


def order(graph: AnnGraph) -> list[str]:
    return [type(n.op).__name__ for n in graph if type(n.op).__name__ not in ("Input", "Reshape")]


def test_activations_move_in_front_of_what_relabels_selects_or_joins() -> None:
    for moved in (
        lambda w, x: w.permute(w.layer(x, 4), (2, 0, 1)),
        lambda w, x: w.up(w.layer(x, 4)),
        lambda w, x: w.gather(w.layer(x, 4), np.pad(np.arange(256).reshape(4, 8, 8), 1, constant_values=-1)),
        lambda w, x: w.max_pool(w.layer(x, 4), (2, 2), (2, 2), (1, 1)),
    ):
        for ceiling in (None, 0.5):
            graph = draw(lambda w, x, moved=moved, ceiling=ceiling: w.relu(moved(w, x), ceiling))
            kind = type(graph.by_name[graph.by_name[graph.output].inputs[0]].op).__name__
            assert order(assert_same_function(graph)) == ["Conv2d", "ReLU", kind]
    joined = draw(lambda w, x: w.relu(w.concat([w.layer(x, 2), w.layer(x, 3)], 0)))
    assert order(assert_same_function(joined)) == ["Conv2d", "Conv2d", "ReLU", "ReLU", "Concat"]
    leaky = draw(lambda w, x: w.leaky_relu(w.concat([w.layer(x, 2), x], 0), w.rng.random((5, 1, 1))))
    assert order(assert_same_function(leaky)) == ["Conv2d", "LeakyReLU", "LeakyReLU", "Concat"]
    permuted = draw(lambda w, x: w.leaky_relu(w.permute(w.layer(x, 4), (1, 2, 0)), w.rng.random(4)))
    assert order(assert_same_function(permuted)) == ["Conv2d", "LeakyReLU", "Gather"]


def test_activations_stay_behind_a_slice_and_a_sum() -> None:
    """Neurons whose output nobody reads would cost a chip room."""
    cut = draw(lambda w, x: w.relu(w.gather(w.layer(x, 4), np.arange(256).reshape(4, 8, 8)[:, 2:])))
    assert order(assert_same_function(cut)) == ["Conv2d", "Gather", "ReLU"]
    total = draw(lambda w, x: w.relu(w.add(w.layer(x, 4), w.layer(x, 4))))
    assert order(assert_same_function(total)) == ["Conv2d", "Conv2d", "Add", "ReLU"]


def test_a_pool_of_joined_channels_is_the_pools_joined() -> None:
    for pool in (
        lambda w, x: w.max_pool(x, (2, 2), (2, 2), (1, 1)),
        lambda w, x: w.avg_pool(x, (2, 2), (2, 2), (1, 1), count_include_pad=False),
        lambda w, x: w.resample(x, np.ones((2, 8)), np.ones((3, 8))),
    ):
        graph = draw(lambda w, x, pool=pool: pool(w, w.concat([w.layer(x, 2), w.layer(x, 3)], 0)))
        simple = assert_same_function(graph)
        assert order(simple)[-1] == "Concat"
        rows = draw(lambda w, x, pool=pool: pool(w, w.concat([x, w.layer(x, 3)], 1)), (3, 4, 8))
        assert order(assert_same_function(rows))[-1] != "Concat"


def test_activations_in_a_row_are_one() -> None:
    for ceilings, expected in (
        ((None, None), [None]),
        ((6.0, None), [6.0]),
        ((None, 6.0), [6.0]),
        ((6.0, 1.0), [1.0]),
        ((1.0, 6.0), [1.0]),
    ):
        graph = draw(lambda w, x, c=ceilings: w.relu(w.relu(w.layer(x, 4), c[0]), c[1]))
        simple = assert_same_function(graph)
        assert [n.op.ceiling for n in simple if isinstance(n.op, ReLU)] == expected


# --- quantized activations


def levels(graph: AnnGraph) -> list[tuple[float | None, int | None]]:
    return [(n.op.ceiling, n.op.levels) for n in graph if isinstance(n.op, ReLU)]


@pytest.mark.parametrize("n_levels", [1, 4, 15])
@pytest.mark.parametrize("ceiling", [0.7, 1.0, 3.25])
def test_a_quantized_activation_is_one_rectifier_in_either_order(n_levels: int, ceiling: float) -> None:
    """Bu et al. 2022, eq. 15: lambda / L clip(floor(L x / lambda + 1/2), 0, L)."""
    for clip_first in (True, False):
        graph = draw(lambda w, x, first=clip_first: w.qcfs(norm(w, w.layer(x, 4)), n_levels, ceiling, clip_first=first))
        simple = assert_same_function(graph)
        assert not any(isinstance(n.op, Round) for n in simple)
        assert levels(simple) == [(ceiling, n_levels) if clip_first else (n_levels, n_levels)]
        gains = [n.op.gain.item() for n in simple if isinstance(n.op, Affine)]
        if ceiling / n_levels != 1:  # the writer leaves out what changes nothing
            assert gains == ([pytest.approx(1.0)] if clip_first else [ceiling / n_levels])


BEHIND: dict[str, Callable[[Sketch, str], str]] = {
    "max-pool": lambda w, x: w.max_pool(w.layer(x, 4), (2, 2), (2, 2), (0, 0)),
    "concat": lambda w, x: w.concat([w.layer(x, 2), w.layer(x, 3)], 0),
    "permutation": lambda w, x: w.permute(w.layer(x, 4), (1, 2, 0)),
    "upsampling": lambda w, x: w.up(w.layer(x, 4)),
    "reshape": lambda w, x: w.reshape(w.layer(x, 4), (256,)),
    "sum": lambda w, x: w.add(w.layer(x, 4), w.layer(x, 4)),
}


@pytest.mark.parametrize("name", BEHIND)
@pytest.mark.parametrize("clip_first", [True, False])
def test_a_quantized_activation_is_understood_wherever_it_stands(name: str, clip_first: bool) -> None:
    simple = assert_same_function(draw(lambda w, x: w.qcfs(BEHIND[name](w, x), 4, 0.7, clip_first=clip_first)))
    assert not any(isinstance(n.op, Round) for n in simple)


def nearest(w: Sketch, x: str, *, clip_first: bool) -> str:
    """As torch.round does in fake quantization: no half is added."""
    if clip_first:
        return w.rounded(w.affine(w.relu(x, 1.5), np.array(4.0), None), "nearest")
    return w.relu(w.rounded(w.affine(x, np.array(4.0), None), "nearest"), 6.0)


@pytest.mark.parametrize("clip_first", [True, False])
def test_rounding_to_the_nearest_is_the_same_rectifier(clip_first: bool) -> None:
    simple = assert_same_function(draw(lambda w, x: nearest(w, w.layer(x, 4), clip_first=clip_first)))
    assert levels(simple) == [(1.5 if clip_first else 6.0, 6)]
    assert not any(isinstance(n.op, Round) for n in simple)


def test_what_is_no_quantized_activation_is_left_as_it_is() -> None:
    """A step that does not meet the ceiling, an offset that is not a half, two rounds in a row of different steps."""

    def stepped(gain: float, offset: float, ceiling: float | None, mode: str = "floor") -> Callable[[Sketch, str], str]:
        def net(w: Sketch, x: str) -> str:
            y = w.relu(w.layer(x, 4), ceiling)
            return w.rounded(w.affine(y, np.array(gain), np.array(offset)), mode)

        return net

    for net in (
        stepped(4.3, 0.5, 1.0),
        stepped(4.0, 0.25, 1.0),
        stepped(4.0, 0.5, 1.0, "nearest"),
        stepped(4.0, 0.5, None),
        stepped(-4.0, 0.5, 1.0),
        stepped(0.25, 0.5, 1.0),
        lambda w, x: w.rounded(w.layer(x, 4), "floor"),
        lambda w, x: w.relu(w.rounded(w.layer(x, 4), "floor"), 2.5),
        lambda w, x: w.relu(w.rounded(w.layer(x, 4), "floor")),
        lambda w, x: w.rounded(w.affine(w.relu(w.layer(x, 4), 1.0), w.rng.random((4, 1, 1)), np.array(0.5)), "floor"),
    ):
        simple = assert_same_function(draw(net))
        assert kinds(simple)["Round"] == 1
        assert {n for _, n in levels(simple)} <= {None}


def test_rounding_twice_is_rounding_once_only_to_the_same_steps() -> None:
    for first, second in ((4, 8), (8, 4), (4, 4)):

        def net(w: Sketch, x: str, steps: tuple[int, int] = (first, second)) -> str:
            y = w.relu(w.layer(x, 4), 1.0)
            for n in steps:
                y = w.rounded(w.affine(y, np.array(float(n)), np.array(0.5)), "floor")
                y = w.affine(y, np.array(1 / n), None)
            return y

        assert kinds(assert_same_function(draw(net)))["Round"] == (first != second)


# --- values that several nodes read


SHARED: dict[str, Callable[[Sketch, str], list[str]]] = {
    "layer": lambda w, x: (lambda a: [norm(w, a), w.relu(a)])(w.layer(x, 4)),
    "layer that is an output": lambda w, x: (lambda a: [norm(w, a), a])(w.layer(x, 4)),
    "layer read twice by one": lambda w, x: (lambda a: [w.add(norm(w, a), a)])(w.layer(x, 4)),
    "concat": lambda w, x: (lambda a: [norm(w, a), a])(w.concat([w.layer(x, 4), w.layer(x, 4)], 0)),
    "concat under two maps": lambda w, x: (lambda a: [norm(w, w.relu(norm(w, norm(w, a)))), norm(w, a), w.relu(a)])(
        w.concat([w.layer(x, 4), w.layer(x, 4)], 0)
    ),
    "permutation under two maps": lambda w, x: (
        lambda a: [w.clamp(w.affine(a, w.rng.normal(size=4), None), -1, 1), a, w.qcfs(a, 4)]
    )(w.permute(w.layer(x, 4), (1, 2, 0))),
    "one layer joined with itself": lambda w, x: (
        lambda a: [norm(w, w.concat([a, a], 0)), w.relu(w.concat([a, a], 1))]
    )(w.layer(x, 4)),
    "max-pool": lambda w, x: (lambda a: [w.relu(a, 0.5), a])(w.max_pool(w.layer(x, 4), (2, 2), (2, 2), (0, 0))),
    "activation": lambda w, x: (lambda a: [norm(w, a), w.relu(a, 0.5), w.relu(a)])(w.relu(w.layer(x, 4), 1.0)),
    "round": lambda w, x: (lambda a: [w.relu(w.relu(a), 8.0), a, w.relu(a, 2.0)])(
        w.relu(w.rounded(w.layer(x, 4), "floor"))
    ),
    "affine map": lambda w, x: (lambda a: [norm(w, a), w.relu(a), norm(w, norm(w, a))])(norm(w, w.layer(x, 4))),
    "dense block": lambda w, x: (
        lambda a: [w.qcfs(norm(w, w.concat([a, w.layer(w.qcfs(norm(w, a), 4), 2)], 0)), 4), norm(w, a)]
    )(w.concat([w.layer(x, 4), w.layer(x, 2)], 0)),
}


@pytest.mark.parametrize("name", SHARED)
def test_what_something_else_reads_is_not_changed(name: str) -> None:
    graph = draw(SHARED[name])
    assert_same_function(graph)
    assert_same_function(AnnGraph(graph.nodes, graph.outputs[::-1]))


def test_the_given_graph_is_not_changed() -> None:
    graph = draw(NETS["clamped"])
    before = {n.name: (n.op, n.inputs) for n in graph}
    weights = {n.name: n.op.weight.copy() for n in graph if isinstance(n.op, WEIGHTED)}
    simplify(graph)
    assert {n.name: (n.op, n.inputs) for n in graph} == before
    for name, weight in weights.items():
        np.testing.assert_array_equal(graph.by_name[name].op.weight, weight)  # type: ignore[union-attr]


def test_nodes_nobody_needs_are_gone_and_inputs_stay() -> None:
    graph = draw(lambda w, x: [w.layer(x, 2, name="used"), norm(w, w.layer(x, 4, name="dead"))])
    simple = simplify(AnnGraph(graph.nodes, graph.outputs[:1]))
    assert [n.name for n in simple] == ["input", "used"]
