"""What front ends write with: every call means what torch or numpy means by it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from neuroport.ann.graph import AnnGraph, Input, Linear, Origin, ReLU, Reshape
from neuroport.ann.interpret import run_outputs
from neuroport.ann.writer import GraphWriter
from neuroport.errors import UnsupportedOperatorError
from tests.snn.graphs import Sketch, assert_close

T = torch.Tensor
RNG = np.random.default_rng(5)
IMAGE = RNG.normal(size=(2, 3, 6, 5))
LINE = RNG.normal(size=(2, 3, 9))
ROWS = RNG.normal(size=(2, 4, 7))
GRID = RNG.normal(size=(2, 2, 3, 4, 5))


def written(net: Callable[[Sketch, str], str], x: np.ndarray) -> T:
    """What the graph answers for x [N, ...]; every node has the shape it says."""
    w = Sketch()
    out = net(w, w.input(x.shape[1:]))
    graph = w.graph([out])
    everything = AnnGraph(graph.nodes, tuple(node.name for node in graph))
    values = dict(zip(everything.outputs, run_outputs(everything, torch.from_numpy(x)), strict=True))
    for node in graph:
        assert tuple(values[node.name].shape[1:]) == node.shape
    return values[out]


def assert_means(net: Callable[[Sketch, str], str], expected: Callable[[T], T], x: np.ndarray) -> None:
    assert_close(written(net, x), expected(torch.from_numpy(x)))


def tensors(*shape: int) -> tuple[np.ndarray, T]:
    value = RNG.normal(size=shape)
    return value, torch.from_numpy(value)


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("groups", [1, 3])
def test_convolutions_over_one_and_two_axes(groups: int, with_bias: bool) -> None:
    bias, b = tensors(6)
    given_ = bias if with_bias else None
    w2, t2 = tensors(6, 3 // groups, 3, 2)
    assert_means(
        lambda w, x: w.conv(x, w2, given_, stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=groups),
        lambda x: F.conv2d(x, t2, b if with_bias else None, (2, 1), (1, 0), (1, 2), groups),
        IMAGE,
    )
    assert_means(
        lambda w, x: w.conv(x, w2, given_, stride=[2], padding=[1], dilation=[1], groups=groups),  # one number for both
        lambda x: F.conv2d(x, t2, b if with_bias else None, 2, 1, 1, groups),
        IMAGE,
    )
    w1, t1 = tensors(6, 3 // groups, 3)
    assert_means(
        lambda w, x: w.conv(x, w1, given_, stride=(2,), padding=(1,), dilation=(2,), groups=groups),
        lambda x: F.conv1d(x, t1, b if with_bias else None, 2, 1, 2, groups),
        LINE,
    )


@pytest.mark.parametrize("groups", [1, 3])
def test_transposed_convolutions(groups: int) -> None:
    w2, t2 = tensors(3, 2, 3, 2)
    bias, b = tensors(2 * groups)
    options: dict[str, Any] = {"stride": (3, 2), "padding": (1, 0), "dilation": (1, 2), "groups": groups}
    assert_means(
        lambda w, x: w.conv(x, w2, bias, **options, transposed=True, output_padding=(2, 1)),
        lambda x: F.conv_transpose2d(x, t2, b, (3, 2), (1, 0), (2, 1), groups, (1, 2)),
        IMAGE,
    )
    w1, t1 = tensors(3, 2, 4)
    assert_means(
        lambda w, x: w.conv(x, w1, bias, stride=(2,), padding=(1,), dilation=(1,), groups=groups, transposed=True),
        lambda x: F.conv_transpose1d(x, t1, b, 2, 1, 0, groups),
        LINE,
    )


def test_what_no_convolution_reads_is_refused_by_operator_and_place() -> None:
    once = {"stride": (1,), "padding": (0,), "dilation": (1,), "groups": 1}
    w = GraphWriter()
    x = w.input((3, 4, 4, 4))
    w.place("features.0", "conv3d", Origin("features.0", "net.py:7"))
    with pytest.raises(UnsupportedOperatorError) as caught:
        w.conv(x, np.ones((2, 3, 3, 3, 3)), None, **once)  # type: ignore[arg-type]
    assert str(caught.value) == (
        "operator 'conv3d' in module 'features.0' (net.py:7): a convolution over 3 axes of a sample of shape "
        "[3, 4, 4, 4] is not converted; 1-d convolutions of [C, L] and 2-d convolutions of [C, H, W] are"
    )
    with pytest.raises(UnsupportedOperatorError, match=r"over 2 axes of a sample of shape \[3, 4, 4, 4\]"):
        w.conv(x, np.ones((2, 3, 3, 3)), None, **once)  # type: ignore[arg-type]
    image = w.input((3, 4, 4))
    w.place("", "conv2d", Origin())
    with pytest.raises(UnsupportedOperatorError, match=r"the top module: the kernel \[5, 3\] does not fit into the in"):
        w.conv(image, np.ones((2, 3, 5, 3)), None, **once)  # type: ignore[arg-type]
    with pytest.raises(
        UnsupportedOperatorError, match=r"a pool over a sample of shape \[3, 4, 4, 4\] is not converted"
    ):
        w.max_pool(x, (2, 2), (2, 2), (0, 0))
    with pytest.raises(UnsupportedOperatorError, match=r"clamp between 1.0 and 1.0 is a constant"):
        w.clamp(image, 1.0, 1.0)


@pytest.mark.parametrize("shape", [(7,), (1, 7), (4, 7), (2, 3, 7)])
@pytest.mark.parametrize("bias_shape", [None, (), (1,), (5,), "full", "rows"])
def test_a_linear_layer_works_on_the_last_axis(shape: tuple[int, ...], bias_shape: Any) -> None:
    if bias_shape == "full":
        bias_shape = (*shape[:-1], 5)
    elif bias_shape == "rows":
        bias_shape = (*shape[:-1], 1)
    x = RNG.normal(size=(2, *shape))
    weight, t = tensors(5, 7)
    bias = None if bias_shape is None else RNG.normal(size=bias_shape)
    added = torch.zeros(1, dtype=torch.float64) if bias is None else torch.from_numpy(bias)
    assert_means(lambda w, x: w.linear(x, weight, bias), lambda x: x @ t.T + added, x)


def test_a_bias_for_each_of_as_many_places_as_features_broadcasts_over_the_features() -> None:
    (weight, t), (bias, b) = tensors(5, 7), tensors(5, 1)
    assert_means(lambda w, x: w.linear(x, weight, bias), lambda x: x @ t.T + b, RNG.normal(size=(2, 5, 7)))


def test_a_linear_layer_on_a_flat_sample_is_one_node() -> None:
    w = Sketch()
    y = w.linear(w.input((7,)), RNG.normal(size=(3, 7)), np.ones(3))
    assert [type(node.op) for node in w.graph([y])] == [Input, Linear]


@given(
    x_shape=st.sampled_from([(3, 1, 5), (3, 4, 5), (4, 1), (5,), (1,)]),
    gain_shape=st.sampled_from([None, (), (5,), (4, 1), (3, 1, 1), (3, 4, 5)]),
    offset_shape=st.sampled_from([None, (), (5,), (4, 1), (1, 4, 5)]),
)
def test_affine_maps_broadcast_as_numpy_does(x_shape: Any, gain_shape: Any, offset_shape: Any) -> None:
    gain = None if gain_shape is None else RNG.normal(size=gain_shape)
    offset = None if offset_shape is None else RNG.normal(size=offset_shape)
    x = RNG.normal(size=x_shape)
    expected = x * (1.0 if gain is None else gain) + (0.0 if offset is None else offset)
    found = written(lambda w, x: w.affine(x, gain, offset), x[None])[0].numpy()
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-15, atol=1e-15)


def test_what_changes_nothing_writes_nothing() -> None:
    w = Sketch()
    x = w.input((3, 4))
    assert w.affine(x, np.ones((3, 1)), np.zeros(1)) == x
    assert w.reshape(x, (3, 4)) == x
    assert w.clamp(x, None, None) == x
    assert w.concat([x], 0) == x
    assert w.broadcast(x, (3, 4)) == x
    assert w.permute(x, (0, 1)) == x
    assert isinstance(w.nodes[w.gather(x, np.arange(12))].op, Reshape)
    assert isinstance(w.nodes[w.leaky_relu(x, np.zeros(1))].op, ReLU)


A, B = RNG.normal(size=(3, 1)), RNG.normal(size=(6, 1))
MEANINGS: dict[str, tuple[Callable[[Sketch, str], str], Callable[[T], T], np.ndarray]] = {
    "batch norm": (
        lambda w, x: w.batch_norm(x, A[:, 0], A[:, 0] - 1),
        lambda x: x * torch.from_numpy(A)[:, :, None] + torch.from_numpy(A - 1)[:, :, None],
        IMAGE,
    ),
    "clamp": (lambda w, x: w.clamp(x, -0.5, 0.75), lambda x: x.clamp(-0.5, 0.75), IMAGE),
    "clamp at 0": (lambda w, x: w.clamp(x, 0, 0.75), lambda x: x.clamp(0, 0.75), IMAGE),
    "clamp below": (lambda w, x: w.clamp(x, 0.25, None), lambda x: x.clamp_min(0.25), IMAGE),
    "clamp above": (lambda w, x: w.clamp(x, None, -0.25), lambda x: x.clamp_max(-0.25), IMAGE),
    "clamp above at 0": (lambda w, x: w.clamp(x, None, 0.0), lambda x: x.clamp_max(0), IMAGE),
    "relu6": (lambda w, x: w.relu(x, 1), lambda x: x.clamp(0, 1), IMAGE),
    "leaky relu": (lambda w, x: w.leaky_relu(x, np.array(0.3)), lambda x: F.leaky_relu(x, 0.3), IMAGE),
    "prelu": (
        lambda w, x: w.leaky_relu(x, A[:, :, None]),
        lambda x: F.prelu(x, torch.from_numpy(A[:, 0])),
        IMAGE,
    ),
    "prelu of rows": (lambda w, x: w.leaky_relu(x, B), lambda x: torch.where(x > 0, x, x * torch.from_numpy(B)), IMAGE),
    "absolute": (lambda w, x: w.absolute(x), torch.abs, IMAGE),
    "maximum": (
        lambda w, x: w.maximum(x, w.affine(x, np.array(-0.5), np.array(0.1))),
        lambda x: torch.maximum(x, 0.1 - 0.5 * x),
        IMAGE,
    ),
    "minimum": (
        lambda w, x: w.minimum(x, w.total(x, (1,), keep=True, mean=True)),
        lambda x: torch.minimum(x, x.mean(2, keepdim=True)),
        IMAGE,
    ),
    "floor": (lambda w, x: w.rounded(x, "floor"), torch.floor, 3 * IMAGE),
    "nearest": (lambda w, x: w.rounded(x, "nearest"), torch.round, np.rint(6 * IMAGE) / 2),
    "softmax": (lambda w, x: w.softmax(x, -1), lambda x: x.softmax(3), IMAGE),
    "softmax of channels": (lambda w, x: w.softmax(x, 0), lambda x: x.softmax(1), IMAGE),
    "log softmax": (lambda w, x: w.softmax(x, 1, log=True), lambda x: x.log_softmax(2), IMAGE),
    "sigmoid": (lambda w, x: w.squash(x, "sigmoid"), torch.sigmoid, IMAGE),
    "tanh": (lambda w, x: w.squash(x, "tanh"), torch.tanh, IMAGE),
    "log sigmoid": (lambda w, x: w.squash(x, "log_sigmoid"), F.logsigmoid, IMAGE),
    "add that broadcasts": (
        lambda w, x: w.add(w.total(x, (0,), keep=True, mean=False), w.reshape(x, (3, 6, 5)), sign=-1),
        lambda x: x.sum(1, keepdim=True) - x,
        IMAGE,
    ),
    "concat": (lambda w, x: w.concat([x, x, w.relu(x)], -1), lambda x: torch.cat([x, x, x.relu()], 3), IMAGE),
    "concat of channels": (lambda w, x: w.concat([x, w.relu(x)], 0), lambda x: torch.cat([x, x.relu()], 1), IMAGE),
    "resample": (
        lambda w, x: w.resample(x, np.ones((2, 6)), np.arange(15.0).reshape(3, 5)),
        lambda x: torch.ones(2, 6, dtype=x.dtype) @ x @ torch.arange(15.0, dtype=x.dtype).reshape(3, 5).T,
        IMAGE,
    ),
    "permute": (lambda w, x: w.permute(x, (2, 0, 1)), lambda x: x.permute(0, 3, 1, 2), IMAGE),
    "broadcast": (
        lambda w, x: w.broadcast(w.reshape(x, (3, 1, 9)), (2, 3, 4, 9)),
        lambda x: x[:, None, :, None].expand(2, 2, 3, 4, 9),
        LINE,
    ),
    "gather": (
        lambda w, x: w.gather(x, np.array([[0, -1], [26, 5]])),
        lambda x: torch.stack([x.flatten(1)[:, 0], 0 * x[:, 0, 0], x.flatten(1)[:, 26], x.flatten(1)[:, 5]], 1).reshape(
            2, 2, 2
        ),
        LINE,
    ),
    "max pool": (
        lambda w, x: w.max_pool(x, (3, 2), (2, 1), (1, 0), dilation=(1, 2), ceil_mode=True),
        lambda x: F.max_pool2d(x, (3, 2), (2, 1), (1, 0), (1, 2), True),
        IMAGE,
    ),
    "max pool of a line": (
        lambda w, x: w.max_pool(x, (1, 3), (1, 2), (0, 1), ceil_mode=True),
        lambda x: F.max_pool1d(x, 3, 2, 1, 1, True),
        LINE,
    ),
    "average pool": (
        lambda w, x: w.avg_pool(x, (3, 2), (2, 2), (1, 1), ceil_mode=True, count_include_pad=False),
        lambda x: F.avg_pool2d(x, (3, 2), (2, 2), (1, 1), True, False),
        IMAGE,
    ),
    "average pool with a divisor": (
        lambda w, x: w.avg_pool(x, (3, 2), (2, 2), (1, 1), divisor=5),
        lambda x: F.avg_pool2d(x, (3, 2), (2, 2), (1, 1), divisor_override=5),
        IMAGE,
    ),
    "average pool of a line": (
        lambda w, x: w.avg_pool(x, (1, 3), (1, 2), (0, 1)),
        lambda x: F.avg_pool1d(x, 3, 2, 1),
        LINE,
    ),
}


@pytest.mark.parametrize("name", MEANINGS)
def test_a_call_means_what_torch_means(name: str) -> None:
    assert_means(*MEANINGS[name])


@pytest.mark.parametrize(
    "axes", [(0,), (1,), (2,), (3,), (-1,), (0, 1), (2, 3), (1, 3), (0, 2), (1, 2, 3), (0, 1, 2, 3)]
)
@pytest.mark.parametrize("keep", [True, False])
def test_totals_means_and_maxima_over_any_axes(axes: tuple[int, ...], keep: bool) -> None:
    behind_batch = tuple(a % 4 + 1 for a in axes)
    for net, expected in (
        (lambda w, x: w.total(x, axes, keep=keep, mean=False), lambda x: x.sum(behind_batch, keepdim=keep)),
        (lambda w, x: w.total(x, axes, keep=keep, mean=True), lambda x: x.mean(behind_batch, keepdim=keep)),
        (lambda w, x: w.largest(x, axes, keep=keep), lambda x: x.amax(behind_batch, keepdim=keep)),
    ):
        assert_means(net, expected, GRID)


def test_names_are_those_of_the_layer_and_numbered_where_they_repeat() -> None:
    w = GraphWriter()
    first = w.input((2, 3))
    second = w.input((4,))
    origin = Origin("block.fc", "net.py:3")
    w.place("block.fc", "linear", origin, other="block.fc_view")
    y = w.linear(w.reshape(first, (6,)), np.ones((4, 6)), None)
    z = w.add(w.relu(y), w.linear(second, np.ones((4, 4)), None))
    graph = w.graph([z])
    assert [node.name for node in graph] == [
        "input",
        "input_2",
        "block.fc_view",
        "block.fc",
        "block.fc_view_2",
        "block.fc_2",
        "block.fc_view_3",
    ]
    assert {str(node.origin) for node in graph.nodes[2:]} == {"module 'block.fc' (net.py:3)"}
    assert [node.op.offset for node in graph.inputs] == [0, 6]  # type: ignore[union-attr]
    assert graph.input_shape == (10,)


def test_the_graph_holds_what_its_outputs_depend_on_and_every_input() -> None:
    w = Sketch()
    x, unused = w.input((2, 4, 4)), w.input((3,))
    a = w.layer(x, 2, name="a")
    w.layer(a, 2, name="dead")
    graph = w.graph([w.relu(a), a])
    assert [node.name for node in graph] == ["input", unused, "a", "dead_op"]
    assert graph.outputs == ("dead_op", "a")
    constant = w.constant(np.arange(3))
    assert w.nodes[constant].shape == (3,)
    assert w.nodes[constant].op.value.dtype == np.float64  # type: ignore[union-attr]
