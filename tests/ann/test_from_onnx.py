"""Whole ONNX networks against onnxruntime: exporters' habits, several inputs and outputs, random ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroport.ann.graph import Gather, Input, Linear, ReLU
from neuroport.ann.interpret import run_outputs
from tests.ann.onnx_models import FLOAT, INT64, Net, assert_equal, load


def _batch_norm(net: Net, x: str, channels: int) -> str:
    return net.op("BatchNormalization", x, *(net.rand(channels, low=0.2) for _ in range(4)))


def keras_sandwich(net: Net) -> list[str]:
    """Channels last outside, channels first within, as tf2onnx writes it."""
    x = net.op("Transpose", net.input(8, 8, 3), perm=[0, 3, 1, 2])
    x = net.op("Conv", x, net.rand(4, 3, 3, 3), net.rand(4), auto_pad="SAME_UPPER", strides=[2, 2])
    x = net.op("Relu", net.op("Transpose", x, perm=[0, 2, 3, 1]))
    x = net.op("Add", x, net.rand(4))
    x = net.op("Transpose", x, perm=[0, 3, 1, 2])
    x = net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = net.op("Reshape", net.op("Transpose", x, perm=[0, 2, 3, 1]), net.ints(-1, 16))
    return [net.op("Softmax", net.op("Add", net.op("MatMul", x, net.rand(16, 5)), net.rand(5)))]


def residual(net: Net) -> list[str]:
    x = net.input(3, 8, 8)
    y = _batch_norm(net, net.op("Conv", x, net.rand(6, 3, 3, 3), pads=[1, 1, 1, 1], strides=[2, 2]), 6)
    y = net.op("Conv", net.op("Relu", y), net.rand(6, 6, 3, 3), pads=[1, 1, 1, 1])
    y = net.op("Relu", net.op("Add", y, net.op("Conv", x, net.rand(6, 3, 1, 1), strides=[2, 2])))
    return [net.op("Gemm", net.op("Flatten", net.op("GlobalAveragePool", y)), net.rand(4, 6), net.rand(4), transB=1)]


def pyramid(net: Net) -> list[str]:
    """Two outputs of two sizes, the coarse one enlarged and added to the fine one."""
    fine = net.op("Relu", net.op("Conv", net.input(3, 8, 8), net.rand(4, 3, 3, 3), pads=[1, 1, 1, 1]))
    coarse = net.op("Relu", net.op("Conv", fine, net.rand(4, 4, 3, 3), pads=[1, 1, 1, 1], strides=[2, 2]))
    up = net.op("Resize", coarse, "", net.const([1.0, 1.0, 2.0, 2.0], dtype=np.float32), nearest_mode="floor")
    merged = net.op("Add", net.op("Conv", fine, net.rand(4, 4, 1, 1)), up)
    return [net.op("Conv", merged, net.rand(2, 4, 1, 1)), net.op("Conv", coarse, net.rand(3, 4, 1, 1))]


def u_net(net: Net) -> list[str]:
    down = net.op("LeakyRelu", net.op("Conv", net.input(1, 8, 8), net.rand(4, 1, 3, 3), pads=[1, 1, 1, 1]))
    deep = net.op("Conv", net.op("MaxPool", down, kernel_shape=[2, 2], strides=[2, 2]), net.rand(6, 4, 1, 1))
    up = net.op("ConvTranspose", net.op("Relu", deep), net.rand(6, 4, 2, 2), net.rand(4), strides=[2, 2])
    return [net.op("Conv", net.op("Concat", down, up, axis=1), net.rand(2, 8, 1, 1))]


def dynamic_flatten(net: Net) -> list[str]:
    """view(x.size(0), -1) as PyTorch's first exporter writes it: arithmetic on shapes around one Reshape."""
    x = net.op("Conv", net.input(2, 5, 5), net.rand(3, 2, 3, 3))
    batch = net.op("Gather", net.op("Shape", x), net.const(np.array(0)), axis=0)
    shape = net.op("Concat", net.op("Unsqueeze", batch, net.ints(0)), net.op("Constant", value_ints=[-1]), axis=0)
    return [net.op("Gemm", net.op("Reshape", x, shape), net.rand(27, 4))]


def shuffle(net: Net) -> list[str]:
    """Channel shuffle, and halves that go separate ways."""
    x = net.op("Reshape", net.input(4, 3, 3), net.ints(0, 2, 2, 3, 3))
    x = net.op("Reshape", net.op("Transpose", x, perm=[0, 2, 1, 3, 4]), net.ints(0, 4, 3, 3))
    a, b = net.op("Split", x, net.ints(1, 3), n=2, axis=1)
    return [net.op("Concat", net.op("Relu", b), net.op("Clip", a, net.const(np.array(-0.5))), axis=1)]


def token(net: Net) -> list[str]:
    """A constant joined to each sample, expanded to the batch that Shape reports."""
    x = net.input(3, 4)
    batch = net.op("Slice", net.op("Shape", x), net.ints(0), net.ints(1))
    row = net.op("Expand", net.rand(1, 1, 4), net.op("Concat", batch, net.ints(1, 4), axis=0))
    return [net.op("MatMul", net.op("Concat", row, x, axis=1), net.rand(4, 5))]


def constant_weights(net: Net) -> list[str]:
    """Weights as Constant nodes, transposed and reshaped before use; a second use of one weight."""
    values = net.rng.normal(size=(3, 2, 2)).astype(np.float32)
    weight = net.op("Constant", value=onnx.numpy_helper.from_array(values))
    weight = net.op("Transpose", net.op("Reshape", weight, net.ints(3, 4)), perm=[1, 0])
    ones = net.op("ConstantOfShape", net.ints(3), value=onnx.helper.make_tensor("v", FLOAT, [1], [0.25]))
    return [net.op("Relu", net.op("Gemm", net.op("Gemm", net.input(4), weight, ones), weight, transB=1))]


def dead_code(net: Net) -> list[str]:
    """What no output depends on is not converted, and not refused."""
    x = net.input(4)
    net.op("Erf", x)
    net.op("RandomNormalLike", x)
    return [net.op("Relu", x)]


NETWORKS = [keras_sandwich, residual, pyramid, u_net, dynamic_flatten, shuffle, token, constant_weights, dead_code]


@pytest.mark.parametrize("batch", ["N", 1, 4])
@pytest.mark.parametrize("network", NETWORKS)
def test_network_computes_what_onnxruntime_computes(network, batch: str | int, tmp_path: Path) -> None:
    net = Net(13, batch=batch)
    assert_equal(net.build(*network(net)), tmp_path, n=6)


@pytest.mark.parametrize("opset", [7, 8, 9, 10, 11, 12, 13, 15, 18, 21, 22])
def test_plain_cnn_is_read_in_every_operator_set(opset: int, tmp_path: Path) -> None:
    net = Net(opset)
    x = net.op("Relu", net.op("Conv", net.input(2, 6, 6), net.rand(3, 2, 3, 3), net.rand(3), pads=[1, 1, 1, 1]))
    x = net.op("MaxPool", net.op("Dropout", x), kernel_shape=[2, 2], strides=[2, 2])
    x = net.op("Reshape", _batch_norm(net, x, 3), net.ints(0, 27))
    assert_equal(net.build(net.op("Gemm", x, net.rand(4, 27), net.rand(4), transB=1)), tmp_path)


def test_batch_of_one_baked_into_a_reshape_is_read(tmp_path: Path) -> None:
    net = Net(8, batch=1)
    x = net.op("Conv", net.input(1, 6, 6), net.rand(2, 1, 3, 3), auto_pad="SAME_UPPER")
    x = net.op("Reshape", net.op("Relu", net.op("Add", x, net.rand(2, 1, 1))), net.ints(1, 72))
    weight = net.op("Reshape", net.rand(2, 6, 6, 5), net.ints(72, 5))
    graph = assert_equal(net.build(net.op("Add", net.op("MatMul", x, weight), net.rand(1, 5))), tmp_path)
    assert graph.by_name[graph.output].shape == (5,)


def test_several_inputs_join_into_one_sample(tmp_path: Path) -> None:
    net = Net(13)
    image, row = net.input(2, 4, 4, name="image"), net.input(3, name="row")
    flat = net.op("Flatten", net.op("Conv", image, net.rand(1, 2, 3, 3)))
    model = net.build(net.op("Gemm", net.op("Concat", flat, row, axis=1), net.rand(7, 2)))
    graph = assert_equal(model, tmp_path)
    assert graph.input_shape == (35,)
    assert [(node.shape, node.op) for node in graph.inputs] == [((2, 4, 4), Input(0)), ((3,), Input(32))]


def test_outputs_keep_their_order_and_may_repeat(tmp_path: Path) -> None:
    net = Net(13)
    x = net.input(4)
    a, b = net.op("Relu", x), net.op("Neg", x)
    graph = assert_equal(net.build(b, a, net.op("Identity", b)), tmp_path)
    assert [graph.by_name[name].op for name in graph.outputs][1] == ReLU()


def test_layers_carry_the_names_of_their_weights_or_nodes(tmp_path: Path) -> None:
    net = Net(13)
    x = net.op("Conv", net.input(1, 4, 4), net.rand(2, 1, 3, 3, name="features.0.weight"), name="/features/Conv")
    x = net.op("Flatten", net.op("Relu", x, name="/act/Relu"))
    weight = net.op("Transpose", net.rand(3, 8, name="model/dense/kernel:0"), perm=[1, 0])
    graph, _ = load(net.build(net.op("MatMul", x, weight)), tmp_path)
    assert [node.name for node in graph] == ["input", "features.0", "act/Relu", "v2_0", "model/dense"]
    assert str(graph.by_name["features.0"].origin) == "module '/features/Conv' (net.onnx, node 0)"


def test_relabelling_that_changes_nothing_adds_nothing(tmp_path: Path) -> None:
    net = Net(13)
    x = net.op("Transpose", net.op("Transpose", net.input(2, 3, 4), perm=[0, 2, 3, 1]), perm=[0, 3, 1, 2])
    x = net.op("Slice", net.op("Relu", x), net.ints(0), net.ints(3), net.ints(2))
    graph, _ = load(net.build(x), tmp_path)
    assert [type(node.op) for node in graph] == [Input, Gather, Gather, ReLU]


def test_framework_pads_the_last_chunk_of_a_fixed_batch(tmp_path: Path) -> None:
    net = Net(13, batch=4)
    _, framework = load(net.build(net.op("Gemm", net.input(3), net.rand(3, 2))), tmp_path)
    images = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    (found,) = framework.run(images)
    assert found.shape == (6, 2)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[4:], framework.run(images[4:])[0])


def test_framework_runs_more_samples_than_one_chunk_and_none(tmp_path: Path) -> None:
    net = Net(13)
    _, framework = load(net.build(net.op("Relu", net.input(3))), tmp_path)
    images = np.random.default_rng(0).normal(size=(600, 3)).astype(np.float32)
    np.testing.assert_array_equal(framework.run(images)[0], np.maximum(images, 0))
    assert framework.run(images[:0])[0].shape == (0, 3)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_precision_is_that_of_the_input(dtype, tmp_path: Path) -> None:
    net = Net(13, dtype=dtype)
    graph, framework = load(net.build(net.op("Gemm", net.input(3), net.rand(3, 2))), tmp_path)
    assert framework.precision == np.finfo(dtype).eps
    images = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    (found,) = run_outputs(graph, torch.from_numpy(images))
    assert np.abs(found.numpy() - framework.run(images)[0]).max() < max(8 * np.finfo(dtype).eps, 1e-6)


def test_local_functions_are_read_as_what_they_hold(tmp_path: Path) -> None:
    body = [onnx.helper.make_node("Mul", ["a", "b"], ["c"]), onnx.helper.make_node("Relu", ["c"], ["y"])]
    opset = onnx.helper.make_opsetid("", 15)
    function = onnx.helper.make_function("mine", "ScaledRelu", ["a", "b"], ["y"], body, [opset])
    net = Net(15)
    model = net.build(net.op("Relu", net.op("Neg", net.input(4), net.rand(4))))
    del model.graph.value_info[:]
    model.graph.node[0].op_type, model.graph.node[0].domain = "ScaledRelu", "mine"
    model.functions.append(function)
    model.opset_import.append(onnx.helper.make_opsetid("mine", 1))
    graph = assert_equal(model, tmp_path)
    assert any(node.op == ReLU() for node in graph)


def test_free_batch_may_be_written_as_zero_or_left_unknown(tmp_path: Path) -> None:
    for dims in ([0, 3], [None, 3]):
        net = Net(13)
        net.inputs.append(onnx.helper.make_tensor_value_info("x", FLOAT, dims))
        graph, framework = load(net.build(net.op("Gemm", "x", net.rand(3, 2))), tmp_path)
        assert framework.fixed_batch is None
        assert isinstance(graph.by_name[graph.output].op, Linear)


@st.composite
def random_networks(draw: st.DrawFn) -> onnx.ModelProto:
    net = Net(13, batch=draw(st.sampled_from(["N", 1, 3])), seed=draw(st.integers(0, 2**20)))
    size = [draw(st.integers(4, 9)), draw(st.integers(4, 9))]
    channels = draw(st.integers(1, 4))
    x, n_layers = net.input(channels, *size), draw(st.integers(1, 6))
    for _ in range(n_layers):
        x, channels = _random_layer(draw, net, x, channels)
    x = net.op(draw(st.sampled_from(["GlobalAveragePool", "GlobalMaxPool", "Relu"])), x)
    return net.build(x, net.op("Neg", net.op("Flatten", x)))


def _random_layer(draw: st.DrawFn, net: Net, x: str, channels: int) -> tuple[str, int]:
    kind = draw(
        st.sampled_from(["conv", "deconv", "pool", "activation", "norm", "residual", "concat", "pad", "resize", "turn"])
    )
    pads = [draw(st.integers(0, 1)) for _ in range(4)]
    stride = [draw(st.integers(1, 2)) for _ in range(2)]
    if kind in ("conv", "deconv"):
        n_out = draw(st.integers(1, 4))
        shape = (n_out, channels) if kind == "conv" else (channels, n_out)
        weight = net.rand(*shape, draw(st.integers(1, 3)), draw(st.integers(1, 3)))
        if kind == "conv":
            y = net.op("Conv", net.op("Pad", x, net.ints(0, 0, 2, 2, 0, 0, 2, 2)), weight, pads=pads, strides=stride)
        else:
            y = net.op("ConvTranspose", x, weight, net.rand(n_out), strides=stride)
        return y, n_out
    if kind == "pool":
        name = draw(st.sampled_from(["MaxPool", "AveragePool"]))
        padded = net.op("Pad", x, net.ints(0, 0, 1, 1, 0, 0, 1, 1), mode="edge")
        ceil_mode = draw(st.integers(0, 1))
        return net.op(name, padded, kernel_shape=[3, 2], strides=stride, pads=pads, ceil_mode=ceil_mode), channels
    if kind == "residual":
        return net.op("Add", x, net.op("Conv", x, net.rand(channels, channels, 1, 1))), channels
    if kind == "concat":
        return net.op("Concat", x, net.op("Neg", x), axis=1), 2 * channels
    makers = {
        "activation": lambda: net.op(draw(st.sampled_from(["Relu", "LeakyRelu", "Abs", "HardSigmoid"])), x),
        "norm": lambda: _batch_norm(net, x, channels),
        "pad": lambda: net.op("Pad", x, net.ints(0, 0, *pads[:2], 0, 0, *pads[2:])),
        "turn": lambda: net.op("Transpose", x, perm=[0, 1, 3, 2]),
        "resize": lambda: net.op("Resize", x, "", net.const([1.0, 1.0, 2.0, 1.5], dtype=np.float32)),
    }
    return makers[kind](), channels


@settings(max_examples=60)
@given(model=random_networks())
def test_random_network_computes_what_onnxruntime_computes(model: onnx.ModelProto, tmp_path: Path) -> None:
    graph, framework = load(model, tmp_path)
    images = np.random.default_rng(0).normal(size=(4, *graph.input_shape)).astype(np.float32)
    for want, have in zip(framework.run(images), run_outputs(graph, torch.from_numpy(images)), strict=True):
        assert tuple(have.shape) == want.shape
        assert np.abs(have.numpy() - want).max() <= 1e-4 * max(np.abs(want).max(), 1e-3)


def test_shape_arithmetic_of_constants_is_evaluated(tmp_path: Path) -> None:
    net = Net(15)
    x = net.input(2, 3, 4)
    shape = net.op("Shape", x, start=1)
    area = net.op("Cast", net.op("ReduceProd", shape, keepdims=0), to=FLOAT)
    y = net.op("Div", net.op("Mul", x, area), net.op("Cast", net.op("Size", net.ints(1, 2, 3)), to=FLOAT))
    flat = net.op("Concat", net.ints(-1), net.op("ReduceProd", shape), axis=0)
    assert_equal(net.build(net.op("Reshape", y, net.op("Cast", flat, to=INT64))), tmp_path)
