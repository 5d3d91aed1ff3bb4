"""Networks of many operators: random ones, several inputs and outputs, layers used twice, and the nodes' names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import nn

from neuroport.ann.from_torch import export_module, graph_from_exported
from neuroport.ann.graph import Constant, Conv2d, Gather, Input, Linear
from tests.ann.torch_nets import Net, assert_same, randomize, read, samples

Step = Callable[[torch.Tensor], torch.Tensor]


class Steps(nn.Module):
    """Steps one after the other; what a step holds is found as a layer of its own."""

    def __init__(self, steps: list[Step]) -> None:
        super().__init__()
        self.steps = steps
        self.layers = nn.ModuleList(step for step in steps if isinstance(step, nn.Module))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for step in self.steps:
            x = step(x)
        return x


class Residual(nn.Module):
    """Joins a branch with what it reads, by sum, difference, maximum or concatenation."""

    def __init__(self, branch: nn.Module, how: str) -> None:
        super().__init__()
        self.branch, self.how = branch, how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.branch(x)
        match self.how:
            case "add":
                return x + y
            case "sub":
                return y - x
            case "max":
                return torch.maximum(x, y)
            case _:
                return torch.cat([y, x], 1)


def simple_steps(shape: tuple[int, ...]) -> list[Step]:
    """Steps that any image of at least 2 x 2 pixels can take."""
    c, h, w = shape
    found: list[Step] = [
        nn.Conv2d(c, 3, 3, padding=1),
        nn.Conv2d(c, 4, (1, 2), padding="same", bias=False),
        nn.Conv2d(c, c, 3, padding=1, groups=c, padding_mode="circular"),
        nn.BatchNorm2d(c),
        nn.ReLU(),
        nn.ReLU(inplace=True),
        nn.LeakyReLU(0.1),
        nn.PReLU(c),
        nn.ReLU6(),
        nn.MaxPool2d(2, 1),
        nn.AvgPool2d(2, 1, 1),
        nn.AdaptiveAvgPool2d((h - 1, w)),
        nn.ConstantPad2d((1, 0, 0, 1), 0.5),
        lambda x: x.transpose(2, 3),
        lambda x: x.flip(3) * 0.5,
        lambda x: x.permute(0, 2, 1, 3),
        lambda x: x.flatten(2).view(x.size(0), w, c, h),
        lambda x: torch.stack(x.unbind(1)[::-1], 1),
        lambda x: x.clamp(-1, 2) + 0.25,
        lambda x: x - x.mean((2, 3), keepdim=True),
        Residual(nn.Conv2d(c, c, 1), "add"),
        Residual(nn.Sequential(nn.Conv2d(c, c, 3, padding=1), nn.ReLU()), "sub"),
        Residual(nn.Conv2d(c, 2, 1), "cat"),
        Residual(nn.Identity(), "cat"),
        Residual(nn.BatchNorm2d(c), "max"),
        Residual(nn.ReLU(), "add"),
    ]
    if c * h * w < 150:
        found += [nn.Upsample(scale_factor=(2, 1)), nn.Upsample(scale_factor=1.5, mode="bilinear")]
    if c > 1:
        found += [lambda x: torch.cat([x[:, 1:], x[:, :1]], 1), lambda x: x[:, :-1]]
    return found


@settings(max_examples=30, phases=[Phase.generate])  # an export takes too long to look for a smaller failure
@given(data=st.data(), seed=st.integers(0, 1000))
def test_random_networks_answer_as_torch_does(data: st.DataObject, seed: int) -> None:
    x = samples(3, 2, 5, 6, seed=seed, dtype=torch.float64)
    steps: list[Step] = []
    y = x
    for _ in range(data.draw(st.integers(2, 7))):
        if min(y.shape[1:]) < 2:
            break
        steps.append(data.draw(st.sampled_from(simple_steps(tuple(y.shape[1:])))))
        if isinstance(steps[-1], nn.Module):
            steps[-1].eval().to(torch.float64)
        with torch.no_grad():
            y = steps[-1](y.clone())
    head: list[Step] = [nn.Flatten(), nn.Linear(y[0].numel(), 3)]
    if data.draw(st.booleans()):
        head = [lambda x: x.mean((2, 3)), nn.Linear(y.shape[1], 3)]
    module = randomize(Steps(steps + head), seed).double()
    graph = graph_from_exported(export_module(module, x))
    assert_same(graph, module, x)
    assert_same(graph, module, samples(4, 2, 5, 6, seed=seed + 1, dtype=torch.float64))


def test_several_inputs_are_joined_and_several_outputs_come_in_order() -> None:
    class Net2(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(2, 3, 3), nn.Linear(5, 4)

        def forward(self, image: torch.Tensor, row: torch.Tensor, rest: torch.Tensor) -> dict[str, Any]:
            y = self.conv(image).mean((2, 3))
            z = self.fc(row)
            return {"scores": y + z[:, :3], "more": [z.relu(), y, None], "last": y}

    module = randomize(Net2())
    inputs = (samples(3, 2, 5, 5), samples(3, 5, seed=1), samples(3, 2, seed=2))
    graph = graph_from_exported(export_module(module, inputs))
    assert [(n.name, n.shape, n.op.offset) for n in graph.inputs if isinstance(n.op, Input)] == [
        ("input", (2, 5, 5), 0),
        ("input_2", (5,), 50),
        ("input_3", (2,), 55),
    ]
    assert graph.input_shape == (57,)
    assert len(graph.outputs) == 4
    assert graph.outputs[1] != graph.outputs[2] == graph.outputs[3]
    assert_same(graph, module, *inputs)


def test_a_module_of_any_number_of_inputs() -> None:
    module = Net(lambda s, a, b: s.fc(a - b), fc=nn.Linear(4, 2))
    inputs = (samples(3, 4), samples(3, 4, seed=1))
    assert_same(graph_from_exported(export_module(module, inputs)), module, *inputs)


def test_nodes_with_weights_have_the_layers_name_and_others_the_calls() -> None:
    body = nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.PReLU(4), nn.Flatten())
    module = randomize(Net(lambda s, x: s.head(s.body(x)) + 1, body=body, head=nn.Linear(24, 3)))
    graph = read(module, 2, 2, 8)
    assert [n.name for n in graph] == [
        *("input", "conv1d", "body.0", "conv1d_2", "body.1", "body.2", "flatten", "head", "add"),
    ]
    assert graph.by_name["conv1d"].origin == graph.by_name["body.0"].origin
    assert graph.by_name["body.0"].origin.module == "body.0"


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_layers_with_computed_weights_keep_their_name() -> None:
    first = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    second = torch.nn.utils.weight_norm(nn.Linear(4, 2))
    graph = read(nn.Sequential(first, nn.ReLU(), second), 3, 4)
    assert [n.name for n in graph if isinstance(n.op, Linear)] == ["0", "2"]


def test_operators_that_nobody_reads_leave_no_node_and_are_not_refused() -> None:
    def forward(s: Any, x: torch.Tensor) -> torch.Tensor:
        torch.argmax(F.gelu(x), 1)
        F.relu(x)
        return s.fc(x)

    graph = read(Net(forward, fc=nn.Linear(4, 2)), 3, 4)
    assert [n.name for n in graph] == ["input", "fc"]


def test_checks_of_the_input_are_left_out() -> None:
    def forward(s: Any, x: torch.Tensor) -> torch.Tensor:
        torch._check(x.shape[0] > 0)
        torch._assert_async((x.sum() != 0.123456).reshape(()))
        return s.fc(x)

    assert [n.name for n in read(Net(forward, fc=nn.Linear(4, 2)), 3, 4)] == ["input", "fc"]


def test_zeros_of_the_batch_size_are_one_constant() -> None:
    def forward(s: Any, x: torch.Tensor) -> torch.Tensor:
        short = x[:, :, ::2, ::2]
        return torch.cat([short, torch.zeros(short.size(0), 2, 3, 3)], 1) + s.conv(x)

    module = randomize(Net(forward, conv=nn.Conv2d(2, 4, 3, 2, 1)))
    graph = read(module, 2, 2, 6, 6)
    assert [n.shape for n in graph if isinstance(n.op, Constant)] == [(2, 3, 3)]
    assert_same(graph, module, samples(4, 2, 6, 6))


def test_a_view_is_an_index_of_torchs_own_making() -> None:
    graph = read(Net(lambda s, x: x.flip(1)), 2, 3)
    (node,) = [n for n in graph if isinstance(n.op, Gather)]
    assert isinstance(node.op, Gather)
    assert node.op.index.tolist() == [2, 1, 0]


def test_a_residual_network_with_a_transposed_decoder() -> None:
    def forward(s: Any, x: torch.Tensor) -> Any:
        down = F.relu6(s.bn(s.conv(x)))
        up = s.up(F.max_pool2d(down, 2))
        joined = torch.cat([up, down], 1)
        return s.fc(F.adaptive_avg_pool2d(joined, 1).flatten(1)), joined

    module = randomize(
        Net(
            forward,
            conv=nn.Conv2d(2, 4, 3, padding=1),
            bn=nn.BatchNorm2d(4),
            up=nn.ConvTranspose2d(4, 3, 2, 2),
            fc=nn.Linear(7, 5),
        )
    )
    graph = read(module, 2, 2, 8, 8)
    assert [n.name for n in graph if isinstance(n.op, Conv2d)] == ["conv"]
    assert_same(graph, module, samples(3, 2, 8, 8))
