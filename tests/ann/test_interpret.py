"""The graph's own rules and its interpreter: each operator against numpy or torch, and what is refused."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from neuroport.ann import graph as ann
from neuroport.ann import interpret
from neuroport.ann.graph import AnnGraph, Constant, Input, Node, Origin, ReLU, reachable
from neuroport.ann.interpret import apply_op, rectify, run_graph, run_outputs
from neuroport.errors import InvalidNetworkError
from tests.snn.graphs import Sketch

RNG = np.random.default_rng(9)
X = torch.from_numpy(RNG.normal(size=(2, 3, 6, 5)))
KERNEL, BIAS = RNG.normal(size=(6, 1, 3, 2)), RNG.normal(size=6)
ROWS = RNG.normal(size=(4, 5))
SLOPE = RNG.normal(size=(3, 1, 1))


def answer(op: Any, shape: tuple[int, ...], *inputs: torch.Tensor) -> torch.Tensor:
    return apply_op(Node("n", op, ("x",) * len(inputs), shape), inputs)


CASES: dict[str, tuple[Any, tuple[int, ...], Any]] = {
    "conv": (
        ann.Conv2d(KERNEL, BIAS, (2, 1), (1, 0), (1, 2), 3),
        (6, 3, 3),
        lambda x: F.conv2d(x, torch.from_numpy(KERNEL), torch.from_numpy(BIAS), (2, 1), (1, 0), (1, 2), 3),
    ),
    "transposed, the far border cut": (
        ann.ConvTranspose2d(KERNEL[:3], BIAS[:3], (3, 2), (1, 0), (1, 2), 3),
        (3, 16, 11),
        lambda x: F.conv_transpose2d(
            x, torch.from_numpy(KERNEL[:3]), torch.from_numpy(BIAS[:3]), (3, 2), (1, 0), (0, 0), 3, (1, 2)
        ),
    ),
    "transposed, longer at the far border": (
        ann.ConvTranspose2d(KERNEL[:3], BIAS[:3], (3, 2), (1, 0), (1, 2), 3),
        (3, 18, 12),
        lambda x: F.conv_transpose2d(
            x, torch.from_numpy(KERNEL[:3]), torch.from_numpy(BIAS[:3]), (3, 2), (1, 0), (2, 1), 3, (1, 2)
        ),
    ),
    "affine": (
        ann.Affine(SLOPE, np.full((1, 1, 1), 2.0)),
        (3, 6, 5),
        lambda x: x * torch.from_numpy(SLOPE) + 2,
    ),
    "relu": (ReLU(), (3, 6, 5), torch.relu),
    "relu1": (ReLU(1.0), (3, 6, 5), lambda x: x.clamp(0, 1)),
    "leaky": (ann.LeakyReLU(SLOPE), (3, 6, 5), lambda x: torch.where(x > 0, x, x * torch.from_numpy(SLOPE))),
    "floor": (ann.Round("floor"), (3, 6, 5), torch.floor),
    "nearest": (ann.Round("nearest"), (3, 6, 5), torch.round),
    "max pool": (
        ann.MaxPool2d((2, 3), (2, 1), (1, 1), (2, 1), True),
        (3, 4, 5),
        lambda x: F.max_pool2d(x, (2, 3), (2, 1), (1, 1), (2, 1), True),
    ),
    "average pool": (
        ann.AvgPool2d((2, 3), (2, 2), (1, 1), True, False, None),
        (3, 4, 3),
        lambda x: F.avg_pool2d(x, (2, 3), (2, 2), (1, 1), True, False),
    ),
    "resample": (
        ann.Resample(KERNEL[0, 0].T @ np.ones((3, 6)), np.ones((2, 5))),
        (3, 2, 2),
        lambda x: torch.einsum("ph,nchw->ncp", torch.from_numpy(KERNEL[0, 0].T @ np.ones((3, 6))), x)[..., None].repeat(
            1, 1, 1, 2
        ),
    ),
    "gather": (
        ann.Gather(np.array([89, -1, 0, 0])),
        (2, 2),
        lambda x: torch.stack([x[:, 2, 5, 4], torch.zeros(2).double(), x[:, 0, 0, 0], x[:, 0, 0, 0]], 1).reshape(
            2, 2, 2
        ),
    ),
    "gather of all": (ann.Gather(np.arange(90)[::-1].copy()), (90,), lambda x: x.flatten(1).flip(1)),
    "reshape": (ann.Reshape(), (5, 18), lambda x: x.reshape(2, 5, 18)),
    "softmax": (ann.Softmax(1), (3, 6, 5), lambda x: x.softmax(2)),
    "log softmax": (ann.Softmax(0, log=True), (3, 6, 5), lambda x: x.log_softmax(1)),
    "sigmoid": (ann.Squash("sigmoid"), (3, 6, 5), torch.sigmoid),
    "tanh": (ann.Squash("tanh"), (3, 6, 5), torch.tanh),
    "log sigmoid": (ann.Squash("log_sigmoid"), (3, 6, 5), F.logsigmoid),
    "linear": (ann.Linear(ROWS, np.ones(4)), (3, 6, 4), lambda x: x @ torch.from_numpy(ROWS).T + 1),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", CASES)
def test_an_operator_is_what_torch_computes_in_the_type_of_its_input(name: str, dtype: torch.dtype) -> None:
    op, shape, expected = CASES[name]
    x = X.to(dtype)
    found = answer(op, shape, x)
    assert tuple(found.shape[1:]) == shape
    assert found.dtype == dtype
    wanted = expected(x.double())
    largest = max(1.0, float(wanted.abs().max()))
    # sums of at most 90 products
    assert (found - wanted).abs().max() <= 100 * torch.finfo(dtype).eps * largest


def test_sums_keep_their_signs_and_joins_their_order() -> None:
    a, b, c = (torch.from_numpy(RNG.integers(-9, 9, (2, 3, 2)).astype(np.float64)) for _ in range(3))
    assert torch.equal(answer(ann.Add((1, -1, 1)), (3, 2), a, b, c), a - b + c)
    assert torch.equal(answer(ann.Add((-1, 1)), (3, 2), a, b), b - a)
    assert torch.equal(answer(ann.Add((-1,)), (3, 2), a), -a)
    assert torch.equal(answer(ann.Concat(1), (3, 6), a, b, a), torch.cat([a, b, a], 2))
    for op in (Input(), Constant(np.ones(2))):
        with pytest.raises(TypeError, match="node 'n' computes nothing"):
            answer(op, (2,), a)


@given(
    x=st.floats(-3, 3, width=32),
    levels=st.integers(1, 16),
    ceiling=st.sampled_from([0.5, 1.0, 2.0]),  # powers of two: no rounding but that of the levels
)
def test_levels_are_equal_steps_rounded_half_up(x: float, levels: int, ceiling: float) -> None:
    """Bu et al. 2022, eq. 15, counted in whole numbers: k steps where k - 1/2 <= x L / ceiling < k + 1/2."""
    y = rectify(ReLU(ceiling, levels), torch.tensor([x], dtype=torch.float64)).item()
    steps = round(y * levels / ceiling)
    assert y == pytest.approx(steps * ceiling / levels, rel=1e-15)
    exact = x / ceiling * levels
    assert 0 <= steps <= levels
    assert steps == min(max(int(np.floor(exact + 0.5)), 0), levels)


# --- whole graphs


def joined(w: Sketch) -> AnnGraph:
    a, b = w.input((2, 3)), w.input((4,))
    c = w.at("fc").linear(b, np.eye(6, 4), None)
    d = w.add(w.reshape(a, (6,)), c)
    return w.graph([w.relu(d), d, w.add(d, w.constant(np.arange(6.0)))])


def test_several_inputs_come_in_one_sample_and_several_outputs_go_out() -> None:
    graph = joined(Sketch())
    x = torch.from_numpy(RNG.normal(size=(5, 10)))
    total = x[:, :6] + torch.cat([x[:, 6:], torch.zeros(5, 2)], 1)
    for found in (run_outputs(graph, x), run_outputs(graph, x.reshape(5, 2, 5))):
        assert len(found) == 3
        for value, expected in zip(found, (total.relu(), total, total + torch.arange(6.0)), strict=True):
            assert torch.equal(value, expected)
    assert torch.equal(run_graph(graph, x), total.relu())
    assert not run_graph(graph, x.requires_grad_()).requires_grad


def test_values_are_forgotten_behind_their_last_use(monkeypatch: pytest.MonkeyPatch) -> None:
    w = Sketch()
    x = w.input((4,))
    for k in range(20):
        x = w.relu(w.affine(x, np.array(1.0 + k), np.array(0.5)))
    made: list[weakref.ref[torch.Tensor]] = []
    most = [0]

    def watched(node: Node, inputs: Any) -> torch.Tensor:
        value = apply_op(node, inputs)
        made.append(weakref.ref(value))
        most[0] = max(most[0], sum(ref() is not None for ref in made))
        return value

    monkeypatch.setattr(interpret, "apply_op", watched)
    run_graph(w.graph([x]), torch.ones(2, 4))
    assert len(made) == 40
    assert most[0] <= 3


def test_the_graph_knows_its_nodes_users_and_inputs() -> None:
    graph = joined(Sketch())
    assert [n.name for n in graph.inputs] == ["input", "input_2"]
    assert graph.input_shape == (10,)
    assert graph.output == graph.outputs[0]
    total = graph.outputs[1]
    assert len(graph.users[total]) == 2
    assert graph.users[graph.output] == ()
    assert graph.by_name["fc"].size == 6
    turned = AnnGraph(
        (Node("late", Input(3), (), (2,)), Node("early", Input(0), (), (3,)), Node("y", ReLU(), ("late",), (2,))),
        ("y",),
    )
    assert [n.name for n in turned.inputs] == ["early", "late"]
    assert run_graph(turned, torch.arange(5.0)[None]).tolist() == [[3, 4]]
    twice = AnnGraph((Node("x", Input(), (), (2,)), Node("y", ann.Add((1, 1)), ("x", "x"), (2,))), ("y",))
    assert twice.users["x"] == ("y", "y")
    assert run_graph(twice, torch.ones(1, 2)).tolist() == [[2, 2]]
    assert [n.name for n in reachable(graph.by_name, (total,))] == [
        n.name for n in graph if n.name not in (graph.outputs[0], graph.outputs[2]) and not isinstance(n.op, Constant)
    ]


def test_origins_read_as_a_person_would_look_them_up() -> None:
    assert str(Origin("features.0", "net.py:12")) == "module 'features.0' (net.py:12)"
    assert str(Origin("features.0")) == "module 'features.0'"
    assert str(Origin("", "net.py:12")) == "the top module (net.py:12)"
    assert str(Origin()) == "the top module"


def test_graphs_that_make_no_sense_are_refused() -> None:
    x, y = Node("x", Input(), (), (2,)), Node("y", ReLU(), ("x",), (2,))
    for nodes, outputs, message in (
        ((y, x), ("y",), r"node 'y' is out of order or doubled: it uses \['x'\]"),
        ((x, x), ("x",), "node 'x' is out of order or doubled"),
        ((x, y), ("z",), "the graph has no node 'z' to take its output from"),
        ((x, y), (), "the graph has no output"),
    ):
        with pytest.raises(InvalidNetworkError, match=message):
            AnnGraph(nodes, outputs)


@pytest.mark.parametrize(
    ("op", "what"),
    [
        (ann.Linear(np.array([[1.0, np.nan]]), np.zeros(1)), "1 of 2 numbers in its weight"),
        (ann.Linear(np.ones((1, 2)), np.array([np.inf])), "1 of 1 numbers in its bias"),
        (ann.Affine(np.array([np.nan, np.inf]), np.zeros(1)), "2 of 2 numbers in its gain"),
        (ann.Affine(np.ones(2), np.array([-np.inf])), "1 of 1 numbers in its offset"),
        (ann.LeakyReLU(np.array([np.nan])), "1 of 1 numbers in its slope"),
        (Constant(np.array([0.0, np.nan])), "1 of 2 numbers in its value"),
    ],
)
def test_numbers_that_are_none_are_refused_by_layer_and_place(op: Any, what: str) -> None:
    nodes = (Node("x", Input(), (), (2,)), Node("fc", op, ("x",), (2,), Origin("head.fc", "net.py:3")))
    with pytest.raises(InvalidNetworkError) as caught:
        AnnGraph(nodes, ("fc",))
    assert str(caught.value) == (
        f"layer 'fc': {what} are NaN or infinite; every weight must be finite; check the training run or the "
        f"weights file (module 'head.fc' (net.py:3))"
    )
