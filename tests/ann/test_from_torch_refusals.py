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
    "gelu": lambda s, x: F.gelu(x),
    "elu": lambda s, x: F.elu(x),
    "celu": lambda s, x: F.celu(x),
    "selu": lambda s, x: F.selu(x),
    "silu": lambda s, x: F.silu(x),
    "mish": lambda s, x: F.mish(x),
    "softplus": lambda s, x: F.softplus(x),
    "hardswish": lambda s, x: F.hardswish(x),
    "group_norm": lambda s, x: F.group_norm(x, 2),
    "layer_norm": lambda s, x: F.layer_norm(x, x.shape[1:]),
    "scaled_dot_product_attention": lambda s, x: F.scaled_dot_product_attention(x, x, x),
    "exp": lambda s, x: x.exp(),
    "pow": lambda s, x: x**2,
    "sqrt": lambda s, x: x.sqrt(),
    "gt": lambda s, x: x * (x > 0),
    "argmax": lambda s, x: x.argmax(1),
    "cumsum": lambda s, x: x.cumsum(1),
    "einsum": lambda s, x: torch.einsum("nchw,cd->ndhw", x, torch.ones(4, 2)),
    "rand_like": lambda s, x: x + torch.rand_like(x),
    "empty": lambda s, x: x + torch.empty(6),
    "empty_like": lambda s, x: x + torch.empty_like(x),
    "complex": lambda s, x: torch.complex(x, x).abs(),
}


@pytest.mark.parametrize("operator", OPERATORS)
def test_an_unknown_operator_is_refused_by_name_module_and_line(operator: str) -> None:
    function = OPERATORS[operator]
    with pytest.raises(UnsupportedOperatorError) as caught:
        read(Outer(Block(function)), 2, 4, 6, 6)
    message = str(caught.value)
    assert re.search(rf"operator 'aten\.{operator}(\.|')", message), message
    assert f"in module 'body.1' {line_of(Block.forward)} is not converted; neuroport converts convolutions" in message
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("layer", "shape", "operator"),
    [
        (nn.GELU(), (4,), "aten.gelu"),
        (nn.Conv3d(2, 3, 3), (2, 6, 6, 6), "aten.conv3d"),
        (nn.LSTM(4, 3, batch_first=True), (5, 4), "nn.LSTM' (aten."),
        (nn.GRU(4, 3, batch_first=True), (5, 4), "nn.GRU' (aten."),
        (nn.RNN(4, 3, batch_first=True), (5, 4), "nn.RNN' (aten."),
        (nn.MultiheadAttention(4, 1, batch_first=True), (5, 4), "nn.MultiheadAttention' (aten."),
        (nn.TransformerEncoderLayer(4, 1, 8, batch_first=True), (5, 4), "nn.MultiheadAttention' (aten."),
        (nn.LayerNorm(4), (4,), "aten.layer_norm"),
        (nn.InstanceNorm2d(2), (2, 6, 6), "aten.instance_norm"),
        (nn.MaxPool3d(2), (2, 6, 6, 6), "aten.max_pool3d"),
        (nn.LPPool2d(2, 2), (2, 6, 6), "aten."),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
@pytest.mark.parametrize("is_free", [True, False])
def test_an_unknown_layer_is_refused_by_name_and_module(
    layer: nn.Module, shape: tuple[int, ...], operator: str, is_free: bool
) -> None:
    def forward(s: Any, x: torch.Tensor) -> torch.Tensor:
        answer = s.layer(x, x, x) if isinstance(s.layer, nn.MultiheadAttention) else s.layer(x)
        return answer[0] if isinstance(answer, tuple) else answer

    module, x = Block(forward, layer=layer).eval(), torch.rand(2, *shape)
    program = export_module(module, x) if is_free else torch.export.export(module, (x,))
    with pytest.raises(UnsupportedOperatorError, match=r"module 'layer.*\.py:\d+\)") as caught:
        graph_from_exported(program)
    assert str(caught.value).startswith(f"operator '{operator}")
    assert caught.value.exit_code == 3


def test_the_line_is_the_one_that_calls_the_operator() -> None:
    class Lines(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = F.relu(x)
            x = F.gelu(x)
            return F.relu(x)

    with pytest.raises(UnsupportedOperatorError, match=re.escape(f"in the top module {line_of(Lines.forward, 2)}")):
        read(Lines(), 2, 4)


CONV, FC = nn.Conv2d(2, 4, 3), nn.Linear(6, 3)


@pytest.mark.parametrize(
    ("function", "shape", "reason"),
    [
        (lambda s, x: F.linear(x, F.relu(x)), (6,), "weight is computed from the input; only constant weights"),
        (lambda s, x: F.linear(s.fc.weight, x), (6,), "weight is computed from the input"),
        (lambda s, x: F.linear(s.fc.weight, s.fc.weight * x.size(0)), (6,), "'aten.mul.Tensor' in"),
        (lambda s, x: F.conv2d(s.conv.weight, x[:, :, :3, :3]), (2, 6, 6), "weight is computed from the input"),
        (lambda s, x: x * F.relu(x), (6,), "product of two activations is not converted; a spiking layer has const"),
        (lambda s, x: x @ x.transpose(2, 3), (2, 6, 6), "product of two activations is not converted"),
        (lambda s, x: torch.bmm(x, F.relu(x)), (6, 6), "product of two activations is not converted"),
        (lambda s, x: 1 / (x + 2), (6,), "aten.reciprocal.default"),
        (lambda s, x: s.fc.bias[:1] / (x + 2), (6,), "division by an activation is not converted; only constants"),
        (lambda s, x: torch.div(x, 2, rounding_mode="trunc"), (6,), "rounding mode 'trunc' is not converted; 'floor'"),
        (lambda s, x: torch.round(x, decimals=2), (6,), "rounding to decimals is not converted"),
        (lambda s, x: x / x.size(0), (6,), "its other is computed from the batch size; a sample's answer must not"),
        (lambda s, x: x[:, x.size(0) % 2], (6,), "moves or merges the batch axis: what a sample becomes depends on"),
        (lambda s, x: F.linear(x, s.fc.weight * torch.full((3, 1), x.size(0))), (6,), "aten.full.default' in"),
        (lambda s, x: F.threshold(x, 0.5, 0.0), (6,), "jumps; give both the same number"),
        (lambda s, x: x.clamp(2.0, 1.0), (6,), "clamp between 2.0 and 1.0 is a constant"),
        (lambda s, x: F.adaptive_max_pool2d(x, 4), (2, 6, 6), "[6, 6] pixels do not divide into [4, 4] windows"),
        (lambda s, x: x.max(1)[1], (6,), "result number 1 of 'aten.max.dim', which is not converted"),
        (lambda s, x: F.max_pool2d(x, 2, return_indices=True)[1], (2, 6, 6), "result number 1 of 'aten.max_pool2d"),
        (lambda s, x: x.int(), (6,), "its result holds torch.int32; only floating-point numbers"),
        (lambda s, x: F.instance_norm(x), (2, 6, 6), "instance norm with the image's own statistics is not converted"),
        (lambda s, x: F.batch_norm(x, None, None, training=True), (2, 6, 6), "without running statistics"),
        (lambda s, x: F.batch_norm(x, torch.zeros(2), torch.ones(2)), (2, 3, 3, 3), "reads 5 axes; 2 or 3 or 4 are"),
        (lambda s, x: F.avg_pool2d(x, 2), (6, 6), "reads 3 axes; 4 are converted"),
        (lambda s, x: F.max_pool1d(x, 2), (6,), "reads 2 axes; 3 are converted"),
        (lambda s, x: F.dropout(x), (6,), "training mode; call model.eval()"),
        (lambda s, x: F.rrelu(x, training=True), (6,), "training mode; call model.eval()"),
        (lambda s, x: F.linear(x, s.fc.weight + torch.randn(3, 6)), (6,), "aten.randn.default'"),
        (lambda s, x: F.linear(x, torch.bernoulli(s.fc.weight.sigmoid())), (6,), "aten.bernoulli.default'"),
        (lambda s, x: F.linear(x, F.dropout(s.fc.weight, 0.5, True)), (6,), "aten.dropout.default'"),
        (lambda s, x: torch.cond(x.sum() > 0, torch.relu, torch.neg, (x,)), (6,), "'cond' in the top"),
    ],
)
def test_an_operator_used_in_another_way_is_refused(function: Function, shape: tuple[int, ...], reason: str) -> None:
    with pytest.raises(ConversionError, match=re.escape(reason)) as caught:
        read(Block(function, conv=CONV, fc=FC).eval(), 3, *shape)
    assert "test_from_torch_refusals.py:" in str(caught.value)


def test_a_constant_that_differs_between_samples_is_refused() -> None:
    per_sample = torch.arange(12.0).reshape(3, 4)
    for function in (lambda s, x: x + per_sample, lambda s, x: torch.cat([x, per_sample], 1)):
        program = torch.export.export(Block(function), (torch.rand(3, 4),))
        with pytest.raises(UnsupportedOperatorError, match=r"shape \[3, 4\] differs between the samples of a batch"):
            graph_from_exported(program)


def test_a_constant_of_more_axes_than_the_activation_is_refused() -> None:
    with pytest.raises(UnsupportedOperatorError, match="a constant of 3 axes meets 2 axes; give it at most 2"):
        read(Block(lambda s, x: x + torch.ones(2, 1, 4)), 3, 4)


def test_activations_of_unlike_rank_would_meet_at_the_wrong_axes() -> None:
    for function in (
        lambda s, x: x + x.mean(1),
        lambda s, x: torch.maximum(x.amax(1), x),
        lambda s, x: x.clamp(min=x.mean(1)),
    ):
        program = torch.export.export(Block(function), (torch.rand(4, 4, 4),))
        with pytest.raises(InvalidNetworkError, match=r"moves or merges the batch axis.*aligned at their last axis"):
            graph_from_exported(program)


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
        (lambda s, x: x.flip(0), (4, 8)),
        (lambda s, x: x.roll(1, 0), (4, 8)),
        (lambda s, x: x.roll(4, 0), (4, 8)),
        (lambda s, x: x.roll(1), (4, 8)),
        (lambda s, x: x.transpose(0, 1), (4, 4)),
        (lambda s, x: x.permute(1, 0, 2), (4, 3, 8)),
        (lambda s, x: x[1:], (4, 8)),
        (lambda s, x: x[0], (4, 4)),
        (lambda s, x: x.unsqueeze(0), (4, 4)),
        (lambda s, x: x.unbind(0)[0], (4, 4)),
        (lambda s, x: x.repeat(2, 1), (4, 8)),
        (lambda s, x: torch.cat([x, x], 0), (4, 8)),
        (lambda s, x: torch.stack([x, x]), (4, 8)),
        (lambda s, x: x.mean(0, keepdim=True), (4, 8)),
        (lambda s, x: x - x.mean(), (4, 8)),
        (lambda s, x: F.softmax(x, 0), (4, 8)),
        (lambda s, x: x.amax(0), (4, 4)),
        (lambda s, x: torch.ones(2, 4) @ x, (4, 8)),
        (lambda s, x: F.pad(x, (0, 0, 1, 0)), (4, 8)),
        (lambda s, x: x[[1, 0, 3, 2]], (4, 8)),
    ],
)
def test_samples_that_leave_the_first_axis_are_refused(function: Function, shape: tuple[int, ...]) -> None:
    module = Block(function, four=nn.Linear(4, 2))
    program = torch.export.export(module, (torch.rand(shape),))  # the batch size is fixed: 4
    with pytest.raises(InvalidNetworkError, match=r"moves or merges the batch axis.*keep the samples on the first"):
        graph_from_exported(program)
    try:
        free = export_module(module, torch.rand(shape))
    except ConversionError:  # torch itself finds that the batch is not free
        return
    with pytest.raises(InvalidNetworkError, match=r"moves or merges the batch axis.*keep the samples on the first"):
        graph_from_exported(free)


def test_an_image_without_its_batch_axis_is_refused() -> None:
    """Shape [3, 6, 6] stays 3 in front: only the number of axes tells that the channels are not samples."""
    program = torch.export.export(nn.Conv2d(3, 3, 3), (torch.rand(3, 6, 6),))
    with pytest.raises(UnsupportedOperatorError, match=r"a convolution over 2 axes of a sample of shape \[6, 6\]"):
        graph_from_exported(program)


def branch(x: torch.Tensor) -> torch.Tensor:
    return x if x.sum() > 0 else -x


def loop(x: torch.Tensor) -> torch.Tensor:
    for _ in range(int(x.abs().max())):
        x = x + 1
    return x


def length(x: torch.Tensor) -> torch.Tensor:
    return x[:, : x.argmax().item()]


def foreign(x: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(x.numpy() * 2)


def view(x: torch.Tensor) -> torch.Tensor:
    return x.view(4, 8)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (branch, "forward() takes a decision, a number or a size from the data (if, while, int(), range(), .item())"),
        (loop, "forward() takes a decision, a number or a size from the data"),
        (foreign, "RuntimeError: .numpy() is not supported"),
        (view, "forward() works only for a batch of 4"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_torch_cannot_trace_is_a_conversion_error(function: Callable[..., torch.Tensor], reason: str) -> None:
    with pytest.raises(ConversionError) as caught:
        export_module(Outer(Block(lambda s, x: function(x))), torch.rand(4, 8))
    message = str(caught.value)
    assert "torch.export cannot trace Outer" in message
    assert f": {reason}" in message
    assert "cannot be converted; rewrite forward() without it" in message
    assert "\n" not in message
    if function is not view:  # torch finds it only at the end
        assert f" in module 'body.1' {line_of(function)}: " in message
    assert caught.value.exit_code == 3


def test_a_size_taken_from_the_data_is_refused() -> None:
    message = f"'aten.item.default' in the top module {line_of(Block.forward)} takes a number out of the data"
    for function in (lambda s, x: length(x), lambda s, x: x * x[0, 0].item()):
        with pytest.raises(UnsupportedOperatorError, match=re.escape(message)):
            read(Block(function), 4, 8)


def test_control_flow_that_torch_can_trace_is_refused_by_name() -> None:
    def forward(s: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.cond(s.fc.bias.sum() > 0, torch.relu, torch.neg, (x,))

    with pytest.raises(
        UnsupportedOperatorError, match=r"operator 'cond' in the top module .*is control flow or a wrap"
    ):
        read(Block(forward, fc=FC), 3, 6)


class Two(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.relu(x)


def test_inputs_that_are_no_samples_are_refused() -> None:
    x, row = torch.rand(3, 4), torch.rand(4)
    with pytest.raises(InvalidNetworkError, match=r"input 'y' has shape \[4\], without the batch 3 as its first axis"):
        graph_from_exported(torch.export.export(Two(), (x, row)))
    with pytest.raises(UnsupportedOperatorError, match=r"input 'y' holds torch.int64; images or features as floating"):
        graph_from_exported(torch.export.export(Two(), (x, torch.zeros(3, dtype=torch.int64))))
    embedding = torch.export.export(nn.Embedding(5, 3), (torch.zeros(3, 2, dtype=torch.int64),))
    with pytest.raises(UnsupportedOperatorError, match="whole numbers go through an embedding, which is not"):
        graph_from_exported(embedding)
    sizes = {0: torch.export.Dim("batch"), 2: torch.export.Dim("width")}
    free = torch.export.export(nn.ReLU(), (torch.rand(2, 3, 7),), dynamic_shapes=(sizes,))
    with pytest.raises(InvalidNetworkError, match="a size other than the batch is free; export with only the batch"):
        graph_from_exported(free)

    class Constant(nn.Module):
        def forward(self) -> torch.Tensor:
            return torch.ones(2, 3)

    with pytest.raises(InvalidNetworkError, match="the network takes no input"):
        graph_from_exported(torch.export.export(Constant(), ()))


def test_outputs_that_are_no_answers_are_refused() -> None:
    for function in (
        lambda s, x: s.fc.bias * 2,
        lambda s, x: (F.relu(x), x),
        lambda s, x: x.detach(),
        lambda s, x: (F.relu(x), torch.zeros_like(x)),
        lambda s, x: (F.relu(x), x.shape[0]),
    ):
        with pytest.raises(InvalidNetworkError, match=r"output '.*' does not depend on its input, or is the input its"):
            read(Block(function, fc=FC), 3, 6)


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
        AnnGraph((first, Node("b", layer, ("a",), (2,)), Node("a", layer, ("input",), (2,))), ("b",))
    with pytest.raises(InvalidNetworkError, match="'input' is out of order or doubled"):
        AnnGraph((first, first), ("input",))
    with pytest.raises(InvalidNetworkError, match="no node 'c'"):
        AnnGraph((first,), ("c",))
    with pytest.raises(InvalidNetworkError, match="the graph has no output"):
        AnnGraph((first,), ())
