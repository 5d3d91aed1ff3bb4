"""The PyTorch front end: what is converted computes what torch computes, however the module is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from neuroport.ann.from_torch import export_module, graph_from_exported
from neuroport.ann.graph import AvgPool2d, Conv2d, Input, Linear, ReLU, Reshape
from tests.ann.torch_nets import Net, assert_same, kinds, randomize, samples


@st.composite
def conv_layers(draw: st.DrawFn, n_in: int) -> nn.Conv2d:
    groups = draw(st.sampled_from([1, 1, 2]))
    n_out = groups * draw(st.integers(1, 3))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    has_bias = draw(st.booleans())
    if draw(st.booleans()):
        kernel = draw(st.tuples(st.sampled_from([1, 3]), st.sampled_from([1, 3])))
        padding = draw(st.sampled_from(["same", "valid"]))
        return nn.Conv2d(n_in, n_out, kernel, padding=padding, dilation=dilation, groups=groups, bias=has_bias)
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 2)))
    numbers = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    return nn.Conv2d(n_in, n_out, kernel, stride, numbers, dilation, groups, has_bias)


@st.composite
def pools(draw: st.DrawFn) -> nn.AvgPool2d:
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    return nn.AvgPool2d(
        kernel,
        draw(st.one_of(st.none(), st.tuples(st.integers(1, 3), st.integers(1, 3)))),
        draw(st.tuples(st.integers(0, kernel[0] // 2), st.integers(0, kernel[1] // 2))),
        draw(st.booleans()),
        draw(st.booleans()),
        draw(st.sampled_from([None, None, 1, 5])),
    )


@settings(max_examples=12, phases=[Phase.generate])  # an export takes too long to look for a smaller failure
@given(data=st.data(), seed=st.integers(0, 1000), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_random_networks_answer_as_torch_does(data: st.DataObject, seed: int, dtype: torch.dtype) -> None:
    height, width = data.draw(st.tuples(st.integers(11, 14), st.integers(11, 14)))
    conv = data.draw(conv_layers(n_in=4))
    head: list[nn.Module] = [conv]
    if data.draw(st.booleans()):
        head.append(nn.BatchNorm2d(conv.out_channels, affine=data.draw(st.booleans()), eps=1e-2))
    head.append(nn.ReLU(inplace=data.draw(st.booleans())))
    head.append(data.draw(pools()))
    head += [nn.Dropout2d(), nn.Flatten(), nn.Dropout(inplace=data.draw(st.booleans()))]
    x = samples(3, 4, height, width, seed=seed, dtype=dtype)
    n_features = nn.Sequential(*head).eval().to(dtype)(x).shape[1]
    tail = [nn.Linear(n_features, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3, bias=data.draw(st.booleans()))]
    module = randomize(nn.Sequential(*head, *tail), seed).to(dtype)
    program = export_module(module, x)
    decomposed = data.draw(st.booleans())
    graph = graph_from_exported(program.run_decompositions() if decomposed else program)
    assert_same(graph, module, x)
    more = samples(5, 4, height, width, seed=seed + 1, dtype=dtype)  # a batch size it was not traced with
    assert_same(graph, module, more)


STYLES = {
    "functional": lambda s, x: s.fc(torch.flatten(F.relu(s.conv(x)), 1)),
    "functional in place": lambda s, x: s.fc(torch.flatten(F.relu_(s.conv(x)), 1)),
    "method": lambda s, x: s.fc(s.conv(x).relu().flatten(1)),
    "view of the size": lambda s, x: s.fc(s.conv(x).relu().view(x.size(0), -1)),
    "view of the shape": lambda s, x: s.fc(s.conv(x).relu().view(x.shape[0], 4 * 6 * 6)),
    "view with -1 first": lambda s, x: s.fc(s.conv(x).relu().view(-1, 4 * 36)),
    "reshape twice": lambda s, x: s.fc(s.conv(x).relu().reshape(x.size(0), 4, 36).reshape(x.size(0), -1)),
    "contiguous": lambda s, x: s.fc(s.conv(x).relu().contiguous().clone().detach().flatten(1)),
    "functional dropout": lambda s, x: s.fc(F.dropout(s.conv(x).relu(), 0.5, s.training).flatten(1)),
    "weights computed": lambda s, x: F.linear(
        F.conv2d(x, s.conv.weight * 2 - 1, s.conv.bias.exp()).relu().flatten(1), s.fc.weight.abs().sqrt()
    ),
    "matrices": lambda s, x: torch.addmm(s.fc.bias, s.conv(x).relu().flatten(1), s.fc.weight.t()),
    "constant from shape": lambda s, x: F.linear(s.conv(x).flatten(1), s.fc.weight / x.shape[1], s.fc.bias),
}


@pytest.mark.parametrize(
    ("style", "decompose"), [*((style, False) for style in STYLES), ("functional dropout", True), ("matrices", True)]
)
def test_styles_of_writing_a_network(style: str, decompose: bool) -> None:
    module = randomize(Net(STYLES[style], conv=nn.Conv2d(2, 4, 3), fc=nn.Linear(4 * 36, 3)))
    x = samples(3, 2, 8, 8)
    program = export_module(module, x)
    assert_same(graph_from_exported(program.run_decompositions() if decompose else program), module, x)


class Doubled(nn.Module):
    """A parametrization of one's own."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return 2 * weight.triu()


@pytest.mark.parametrize("decompose", [False, True])
@pytest.mark.parametrize("kind", ["weight_norm", "old weight_norm", "spectral_norm", "own"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_parametrized_weights_are_computed_once(kind: str, decompose: bool) -> None:
    linear = randomize(nn.Linear(12, 5))
    match kind:
        case "weight_norm":
            parametrizations.weight_norm(linear)
        case "old weight_norm":
            torch.nn.utils.weight_norm(linear)
        case "spectral_norm":
            parametrizations.spectral_norm(linear)
        case "own":
            parametrize.register_parametrization(linear, "weight", Doubled())
    module = nn.Sequential(nn.Flatten(), linear, nn.ReLU(), randomize(nn.Linear(5, 2))).eval()
    x = samples(4, 3, 4)
    program = export_module(module, x)
    graph = graph_from_exported(program.run_decompositions() if decompose else program)
    assert kinds(graph) == [Input, Reshape, Linear, ReLU, Linear]
    assert_same(graph, module, x)


def test_half_and_double_precision_weights_keep_their_value() -> None:
    module = randomize(nn.Linear(3, 2)).double()
    graph = graph_from_exported(export_module(module, samples(2, 3, dtype=torch.float64)))
    linear = graph.nodes[-1].op
    assert isinstance(linear, Linear)
    assert linear.weight.dtype == np.float64
    np.testing.assert_array_equal(linear.weight, module.weight.detach().numpy())


def test_a_fixed_batch_size_is_read_as_one_of_many() -> None:
    module = randomize(nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)))
    for n in (1, 4):
        graph = graph_from_exported(torch.export.export(module, (samples(n, 2, 8, 8),)))
        assert graph.input_shape == (2, 8, 8)
        assert_same(graph, module, samples(7, 2, 8, 8))


def test_a_saved_program_reads_the_same(tmp_path: Any) -> None:
    def forward(s: Any, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            y = F.relu(s.norm(s.conv(x)))
        y = torch.cat([y, torch.zeros(x.size(0), 1, 6, 6)], 1)
        return s.fc(y.view(y.size(0), -1))

    layers = {"conv": nn.Conv2d(2, 4, 3), "norm": nn.BatchNorm2d(4), "fc": nn.Linear(180, 3)}
    module = randomize(Net(forward, **layers))
    x = samples(3, 2, 8, 8)
    torch.export.save(export_module(module, x), tmp_path / "net.pt2")
    assert_same(graph_from_exported(torch.export.load(tmp_path / "net.pt2")), module, x)


def test_nodes_carry_the_names_shapes_and_places_of_the_layers() -> None:
    body = nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.ReLU(), nn.AvgPool2d(2))
    module = randomize(Net(lambda s, x: s.head(s.body(x).flatten(1)), body=body, head=nn.Linear(36, 3)))
    graph = graph_from_exported(export_module(module, samples(2, 2, 8, 8)))
    assert [(n.name, n.shape) for n in graph if isinstance(n.op, Input | Conv2d | Linear)] == [
        ("input", (2, 8, 8)),
        ("body.0", (4, 6, 6)),
        ("head", (3,)),
    ]
    assert kinds(graph) == [Input, Conv2d, ReLU, AvgPool2d, Reshape, Linear]
    assert [n.origin.module for n in graph][1:4] == ["body.0", "body.1", "body.2"]
    assert graph.output == "head"
    np.testing.assert_array_equal(graph.by_name["body.0"].op.bias, np.zeros(4))


def test_a_layer_used_twice_is_two_nodes() -> None:
    module = randomize(Net(lambda s, x: s.fc(F.relu(s.fc(F.relu(s.fc(x))))), fc=nn.Linear(5, 5)))
    x = samples(6, 5)
    graph = graph_from_exported(export_module(module, x))
    assert [n.name for n in graph if isinstance(n.op, Linear)] == ["fc", "fc_2", "fc_3"]
    assert_same(graph, module, x)


def test_a_layer_that_is_called_input() -> None:
    module = randomize(Net(lambda s, x: s.input(F.relu(s.input(x))), input=nn.Linear(5, 5)))
    x = samples(6, 5)
    graph = graph_from_exported(export_module(module, x))
    assert [n.name for n in graph if isinstance(n.op, Linear)] == ["input_2", "input_3"]
    assert_same(graph, module, x)


@pytest.mark.parametrize(
    "function",
    [
        lambda s, x: s.fc(nn.functional.dropout(s.conv(x), 0.3, False).relu_().flatten(1)),
        lambda s, x: s.fc(F.relu(s.conv(x).clone(), inplace=True).flatten(1)),
        lambda s, x: s.fc(s.conv(x).flatten(1).relu_().relu_()),
    ],
)
def test_in_place_relu_counts_where_its_result_is_read(function: Callable[[Any, torch.Tensor], torch.Tensor]) -> None:
    module = randomize(Net(function, conv=nn.Conv2d(2, 4, 3), fc=nn.Linear(144, 3)))
    x = samples(3, 2, 8, 8)
    assert_same(graph_from_exported(export_module(module, x)), module, x)


def test_in_place_relu_whose_result_is_thrown_away() -> None:
    def forward(s: Any, x: torch.Tensor) -> torch.Tensor:
        y = s.conv(x)
        F.relu_(y)
        return s.fc(y.flatten(1))

    module = randomize(Net(forward, conv=nn.Conv2d(2, 4, 3), fc=nn.Linear(144, 3)))
    x = samples(3, 2, 8, 8)
    assert_same(graph_from_exported(export_module(module, x)), module, x)


def test_a_copy_taken_before_an_in_place_relu_keeps_its_negative_values() -> None:
    def forward(s: Any, x: torch.Tensor) -> torch.Tensor:
        y = s.conv(x)
        copy = y.clone()
        y.relu_()
        return s.fc(copy.flatten(1))

    module = randomize(Net(forward, conv=nn.Conv2d(2, 4, 3), fc=nn.Linear(144, 3)))
    x = samples(3, 2, 8, 8)
    assert_same(graph_from_exported(export_module(module, x)), module, x)


def test_export_leaves_the_module_as_it_was() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.BatchNorm1d(4)).train()
    module[1].eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    export_module(module, samples(3, 4))
    assert [module.training, *(m.training for m in module)] == [True, True, False, True]
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
