"""The PyTorch front end refuses what it would convert wrongly, and says which operator, where, and what to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from neuroport.ann.from_torch import export_module, graph_from_exported
from neuroport.ann.graph import AnnGraph, Input, Linear, Node
from neuroport.errors import ConversionError, InvalidNetworkError, UnsupportedOperatorError

Function = Callable[[Any, torch.Tensor], torch.Tensor]


class Block(nn.Module):
    """Calls a function of itself and the input."""

    def __init__(self, function: Function, **children: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, child in children.items():
            self.add_module(name, child)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self, x)


class Outer(nn.Module):
    """A network whose first layers lie two modules deep."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Identity(), block)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


def read(module: nn.Module, *shape: int) -> AnnGraph:
    return graph_from_exported(export_module(module, torch.rand(shape)))


def line_of(function: Callable[..., Any], n: int = 1) -> str:
    """Line n behind the `def` of a function, as a message names it."""
    return f"(test_from_torch_refusals.py:{function.__code__.co_firstlineno + n})"


OPERATORS: dict[str, Function] = {
    "sigmoid": lambda s, x: torch.sigmoid(x),
    "tanh": lambda s, x: torch.tanh(x),
    "gelu": lambda s, x: F.gelu(x),
    "leaky_relu": lambda s, x: F.leaky_relu(x),
    "elu": lambda s, x: F.elu(x),
    "silu": lambda s, x: F.silu(x),
    "softmax": lambda s, x: F.softmax(x, 1),
    "relu6": lambda s, x: F.relu6(x),
    "clamp": lambda s, x: x.clamp(0, 1),
    "abs": lambda s, x: x.abs(),
    "max_pool2d": lambda s, x: F.max_pool2d(x, 2),
    "adaptive_avg_pool2d": lambda s, x: F.adaptive_avg_pool2d(x, 2),
    "mean": lambda s, x: x.mean((2, 3)),
    "add": lambda s, x: x + F.relu(x),
    "sub": lambda s, x: x - 0.5,
    "mul": lambda s, x: x * 2,
    "div": lambda s, x: x / x.shape[1],
    "cat": lambda s, x: torch.cat([x, F.relu(x)], 1),
    "permute": lambda s, x: x.permute(0, 2, 3, 1),
    "transpose": lambda s, x: x.transpose(2, 3),
    "flip": lambda s, x: x.flip(3),
    "slice": lambda s, x: x[:, :, 1:],
    "pad": lambda s, x: F.pad(x, (1, 0, 0, 0)),
    "upsample_nearest2d": lambda s, x: F.interpolate(x, scale_factor=2),
    "group_norm": lambda s, x: F.group_norm(x, 2),
    "layer_norm": lambda s, x: F.layer_norm(x, x.shape[1:]),
    "instance_norm": lambda s, x: F.instance_norm(x),
    "alpha_dropout": lambda s, x: F.alpha_dropout(x, 0.5, False),
    "rand_like": lambda s, x: x + torch.rand_like(x),
    "hardswish": lambda s, x: F.hardswish(x),
}


@pytest.mark.parametrize("operator", OPERATORS)
def test_an_unknown_operator_is_refused_by_name_module_and_line(operator: str) -> None:
    function = OPERATORS[operator]
    with pytest.raises(UnsupportedOperatorError) as caught:
        read(Outer(Block(function)), 2, 4, 6, 6)
    message = str(caught.value)
    assert re.search(rf"operator 'aten\.{operator}(\.|')", message), message
    assert f"in module 'body.1' {line_of(Block.forward)} is not converted; neuroport converts 2-d conv" in message
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("layer", "shape", "operator"),
    [
        (nn.Sigmoid(), (4,), "sigmoid"),
        (nn.MaxPool2d(2), (2, 6, 6), "max_pool2d"),
        (nn.PReLU(), (4,), "prelu"),
        (nn.ConvTranspose2d(2, 3, 3), (2, 6, 6), "conv_transpose2d"),
        (nn.Conv1d(2, 3, 3), (2, 6), "conv1d"),
        (nn.Conv3d(2, 3, 3), (2, 6, 6, 6), "conv3d"),
        (nn.AvgPool1d(2), (2, 6), "avg_pool1d"),
        (nn.LSTM(4, 3, batch_first=True), (5, 4), "lstm"),
        (nn.MultiheadAttention(4, 1), (5, 4), "linear"),
        (nn.LayerNorm(4), (4,), "layer_norm"),
        (nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (2, 6, 6), "pad"),
    ],
)
def test_an_unknown_layer_is_refused_by_name_and_module(
    layer: nn.Module, shape: tuple[int, ...], operator: str
) -> None:
    def forward(s: Any, x: torch.Tensor) -> torch.Tensor:
        answer = s.layer(x, x, x) if isinstance(s.layer, nn.MultiheadAttention) else s.layer(x)
        return answer[0] if isinstance(answer, tuple) else answer

    program = torch.export.export(Block(forward, layer=layer).eval(), (torch.rand(2, *shape),))
    with pytest.raises(UnsupportedOperatorError, match=rf"operator 'aten\.{operator}.*module 'layer.*\.py:\d+\)"):
        graph_from_exported(program)


def test_the_line_is_the_one_that_calls_the_operator() -> None:
    class Lines(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = F.relu(x)
            x = torch.sigmoid(x)
            return F.relu(x)

    with pytest.raises(UnsupportedOperatorError, match=re.escape(f"in the top module {line_of(Lines.forward, 2)}")):
        read(Lines(), 2, 4)


CONV, FC = nn.Conv2d(2, 4, 3), nn.Linear(6, 3)


@pytest.mark.parametrize(
    ("function", "shape", "reason"),
    [
        (lambda s, x: F.linear(x, s.fc.weight * x.sum()), (6,), "is not converted"),
        (lambda s, x: F.linear(x, F.relu(x)), (6,), "is not converted"),
        (lambda s, x: F.linear(s.fc.weight, x), (6,), "weight is computed from the input"),
        (lambda s, x: s.fc(x), (5, 6), "linear layer over the last of 2 axes is not converted; flatten before it"),
        (lambda s, x: torch.addmm(s.fc.bias, x, s.fc.weight.t(), beta=2), (6,), "factors other than 1"),
        (lambda s, x: torch.addmm(s.fc.bias[None], x, s.fc.weight.t()), (6,), "bias of 2 axes"),
        (lambda s, x: F.conv2d(x, s.conv.weight[:, :, :2, :2], padding="same"), (2, 6, 6), "padding 'same' of an even"),
        (lambda s, x: F.batch_norm(x, None, None, training=True), (2, 6, 6), "without running statistics"),
        (lambda s, x: F.batch_norm(x, torch.zeros(2), torch.ones(2)), (2, 6), "reads 3 axes; 2 or 4 are converted"),
        (lambda s, x: F.avg_pool2d(x, 2), (6, 6), "reads 3 axes; 4 are converted"),
        (lambda s, x: F.dropout(x), (6,), "training mode; call model.eval()"),
        (lambda s, x: F.linear(x, s.fc.weight + torch.randn(3, 6)), (6,), "aten.randn.default'"),
        (lambda s, x: F.linear(x, torch.bernoulli(s.fc.weight.sigmoid())), (6,), "aten.bernoulli.default'"),
        (lambda s, x: F.linear(x, F.dropout(s.fc.weight, 0.5, True)), (6,), "aten.dropout.default'"),
    ],
)
def test_an_operator_used_in_another_way_is_refused(function: Function, shape: tuple[int, ...], reason: str) -> None:
    with pytest.raises(UnsupportedOperatorError, match=re.escape(reason)):
        read(Block(function, conv=CONV, fc=FC).eval(), 3, *shape)


def test_a_view_taken_before_an_in_place_relu_is_refused_as_torch_has_changed_it() -> None:
    def read_later(s: Any, x: torch.Tensor) -> torch.Tensor:
        y = s.fc(x)
        view = y.view(-1, 3)
        y.relu_()
        return s.last(view)

    def returned(s: Any, x: torch.Tensor) -> torch.Tensor:
        y = s.fc(x)
        view = y.view(-1, 3)
        y.relu_()
        return view

    for function, message in ((read_later, "reads memory that an in-place"), (returned, "returns memory that an in")):
        with pytest.raises(UnsupportedOperatorError, match=message):
            read(Block(function, fc=FC, last=nn.Linear(3, 2)), 3, 6)


def test_a_network_that_changes_its_own_state_is_refused_and_left_alone() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 2)
            self.register_buffer("offset", torch.zeros(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.offset.add_(1.0)
            return F.linear(x, self.fc.weight, self.offset)

    program = export_module(Counting(), torch.rand(3, 4))
    with pytest.raises(UnsupportedOperatorError, match=r"aten\.add_\.Tensor.*changes the network's own state"):
        graph_from_exported(program)
    assert torch.equal(program.state_dict["offset"], torch.zeros(2))


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(4), nn.Dropout(0.5)])
def test_an_export_in_training_mode_is_refused(layer: nn.Module) -> None:
    module = nn.Sequential(nn.Linear(4, 4), layer).train()
    program = torch.export.export(module, (torch.rand(3, 4),))
    with pytest.raises(UnsupportedOperatorError, match=r"module '1'.*call model\.eval\(\) before torch\.export"):
        graph_from_exported(program)


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (lambda s, x: s.four(x.reshape(-1, 4)), (4, 8)),
        (lambda s, x: x.flatten(0), (4, 8)),
        (lambda s, x: x.view(1, -1), (4, 8)),
        (lambda s, x: s.four(x.view(8, 4)), (4, 8)),
    ],
)
def test_samples_that_leave_the_first_axis_are_refused(function: Function, shape: tuple[int, ...]) -> None:
    module = Block(function, four=nn.Linear(4, 2))
    program = torch.export.export(module, (torch.rand(shape),))  # the batch size is fixed: 4
    with pytest.raises(InvalidNetworkError, match=r"moves or merges the batch axis.*keep the samples on the first"):
        graph_from_exported(program)


def test_an_image_without_its_batch_axis_is_refused() -> None:
    """Shape [3, 6, 6] stays 3 in front: only the number of axes tells that the channels are not samples."""
    program = torch.export.export(nn.Conv2d(3, 3, 3), (torch.rand(3, 6, 6),))
    with pytest.raises(UnsupportedOperatorError, match="reads 3 axes; 4 are converted"):
        graph_from_exported(program)


def test_what_torch_cannot_trace_is_a_conversion_error() -> None:
    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    class FixedBatch(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.view(4, 8)

    for module in (Branching(), FixedBatch()):
        with pytest.raises(ConversionError, match=f"torch.export cannot trace {type(module).__name__}: .+; networks"):
            export_module(module, torch.rand(4, 8))


def test_networks_with_other_than_one_input_and_output_are_refused() -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return F.relu(x)

    x = torch.rand(3, 4)
    with pytest.raises(InvalidNetworkError, match="takes 2 inputs; one image or feature tensor is read"):
        graph_from_exported(torch.export.export(Two(), (x, x)))
    with pytest.raises(InvalidNetworkError, match="returns 2 values; one tensor"):
        read(Block(lambda s, x: (F.relu(x), x)), 3, 4)
    with pytest.raises(InvalidNetworkError, match="output does not depend on its input"):
        read(Block(lambda s, x: s.fc.bias * 2, fc=FC), 3, 6)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["0.weight", "0.bias", "1.running_mean", "1.weight", "3.weight"])
def test_weights_that_are_no_numbers_are_refused_with_their_layer(value: float, where: str) -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3)).eval()
    module.state_dict()[where].view(-1)[1] = value
    with pytest.raises(InvalidNetworkError, match=r"1 of .* NaN or infinite.*every weight must be finite") as caught:
        read(module, 2, 1, 4, 4)
    assert f"(module '{where[0]}'" in str(caught.value)


def test_a_graph_out_of_order_is_refused() -> None:
    first, layer = Node("input", Input(), (), (2,)), Linear(torch.eye(2).double().numpy(), torch.zeros(2).numpy())
    with pytest.raises(InvalidNetworkError, match=r"'b' is out of order or doubled: it uses \['a'\]"):
        AnnGraph((first, Node("b", layer, ("a",), (2,)), Node("a", layer, ("input",), (2,))), "b")
    with pytest.raises(InvalidNetworkError, match="'input' is out of order or doubled"):
        AnnGraph((first, first), "input")
    with pytest.raises(InvalidNetworkError, match="no node 'c'"):
        AnnGraph((first,), "c")
