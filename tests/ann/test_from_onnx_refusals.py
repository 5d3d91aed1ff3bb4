"""What the ONNX front end refuses, and that it says which operator, where, and what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from neuroport.errors import ConversionError, InvalidNetworkError, UnsupportedOperatorError
from tests.ann.onnx_models import FLOAT, INT64, Net, load

ROW = (6,)
IMAGE = (4, 6, 6)
Case = tuple[str, int, tuple[int, ...], Callable[[Net], str], str]


def _lstm(net: Net) -> str:
    return net.op("LSTM", "x", net.rand(1, 12, 6), net.rand(1, 12, 3), hidden_size=3)


def _branch(net: Net) -> str:
    value = onnx.helper.make_tensor_value_info("b", FLOAT, None)
    body = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["b"])], "then", [], [value])
    return net.op("If", net.const(np.array(True)), then_branch=body, else_branch=body)


def _times_batch(net: Net) -> str:
    batch = net.op("Gather", net.op("Shape", "x"), net.ints(0))
    return net.op("Mul", "x", net.op("Cast", batch, to=FLOAT))


OPERATORS: list[Case] = [
    ("lstm", 13, (5, 6), _lstm, "'LSTM' in module 'v0_0' .net.onnx, node 0.: it carries a state"),
    ("if", 13, ROW, _branch, "'If'.*control flow"),
    (
        "erf",
        13,
        ROW,
        lambda n: n.op("Erf", "x", name="act"),
        "'Erf' in module 'act' .net.onnx, node 0.: it is not conv",
    ),
    ("gelu", 20, ROW, lambda n: n.op("Gelu", "x"), "'Gelu'.*it is not converted; neuroport converts.*replace it"),
    ("product", 13, ROW, lambda n: n.op("Mul", "x", n.op("Relu", "x")), "'Mul'.*product of two activations"),
    ("quotient", 13, ROW, lambda n: n.op("Div", "x", n.op("Abs", "x")), "quotient of two activations"),
    ("reciprocal", 13, ROW, lambda n: n.op("Div", n.rand(6), "x"), "constant divided by an activation"),
    ("zero", 13, ROW, lambda n: n.op("Div", "x", n.const(np.array(0.0))), "its divisor is 0"),
    ("attention", 13, (5, 6), lambda n: n.op("MatMul", "x", n.op("Transpose", "x", perm=[0, 2, 1])), "two activations"),
    ("foreign", 13, ROW, lambda n: n.op("Scaler", "x", domain="ai.onnx.ml"), "'ai.onnx.ml::Scaler'.*not converted"),
    ("microsoft", 13, ROW, lambda n: n.op("Gelu", "x", domain="com.microsoft"), "'com.microsoft::Gelu'"),
    (
        "quantized",
        13,
        ROW,
        lambda n: n.op("QuantizeLinear", "x", n.const(np.array(0.1)), n.const(np.array(0, np.uint8))),
        "'QuantizeLinear'.*it is not converted",
    ),
    ("random", 13, ROW, lambda n: n.op("Add", "x", n.op("RandomNormal", shape=[6])), "'RandomNormal'.*is random"),
    (
        "training",
        13,
        ROW,
        lambda n: n.op("Dropout", "x", n.const(np.array(0.5)), n.const(np.array(True))),
        "'Dropout'.*training mode",
    ),
    (
        "constant-training",
        13,
        ROW,
        lambda n: n.op("Add", "x", n.op("Dropout", n.rand(6), n.const(np.array(0.5)), n.const(np.array(True)))),
        "'Dropout'.*random",
    ),
    (
        "batch-statistics",
        15,
        IMAGE,
        lambda n: n.op("BatchNormalization", "x", *(n.rand(4) for _ in range(4)), n=3, training_mode=1)[0],
        "the batch's own statistics",
    ),
    ("threshold", 13, ROW, lambda n: n.op("ThresholdedRelu", "x", alpha=0.5), "only alpha = 0"),
    ("integer", 13, ROW, lambda n: n.op("Cast", n.op("Cast", "x", to=INT64), to=FLOAT), "becomes int64"),
    (
        "indices",
        13,
        IMAGE,
        lambda n: n.op("Cast", n.op("MaxPool", "x", n=2, kernel_shape=[2, 2])[1], to=1),
        "second result",
    ),
    (
        "dynamic-weight",
        13,
        (4, 3, 3),
        lambda n: n.op("Conv", "x", n.op("Relu", "x")),
        "its weight is computed from the",
    ),
    (
        "constant-conv",
        13,
        (1, 3, 3),
        lambda n: n.op("Conv", n.rand(1, 1, 5, 5), "x"),
        "is constant where an activation",
    ),
    ("constant-left", 13, ROW, lambda n: n.op("Gemm", n.rand(3, 6), "x", transB=1), "first operand is constant"),
    ("volume", 13, (2, 4, 4, 4), lambda n: n.op("Conv", "x", n.rand(1, 2, 2, 2, 2)), "over 3 axes"),
    ("channels", 13, IMAGE, lambda n: n.op("Conv", "x", n.rand(2, 3, 3, 3)), "the channels must agree"),
    ("pool-volume", 13, (2, 4, 4, 4), lambda n: n.op("MaxPool", "x", kernel_shape=[2, 2, 2]), "a pool with kernel"),
    (
        "pool-same",
        13,
        IMAGE,
        lambda n: n.op("MaxPool", "x", kernel_shape=[1, 2], strides=[4, 2], auto_pad="SAME_UPPER"),
        "below its stride",
    ),
    (
        "pool-dilated",
        13,
        IMAGE,
        lambda n: n.op("MaxPool", "x", kernel_shape=[2, 2], dilations=[2, 2], auto_pad="SAME_LOWER"),
        "with dilations",
    ),
    (
        "pool-padding",
        13,
        (1, 2, 2),
        lambda n: n.op("MaxPool", "x", kernel_shape=[2, 2], dilations=[3, 3], pads=[1, 1, 1, 1]),
        "in the padding alone",
    ),
    (
        "deconv-same",
        13,
        IMAGE,
        lambda n: n.op("ConvTranspose", "x", n.rand(4, 2, 1, 1), strides=[2, 2], auto_pad="SAME_UPPER"),
        "kernel below the stride",
    ),
    ("too-large", 13, IMAGE, lambda n: n.op("Conv", "x", n.rand(2, 4, 7, 7)), "does not fit"),
    ("cubic", 13, IMAGE, lambda n: n.op("Resize", "x", "", n.const([1, 1, 2.0, 2]), mode="cubic"), "mode 'cubic'"),
    (
        "crop",
        13,
        IMAGE,
        lambda n: n.op(
            "Resize",
            "x",
            n.const([0.0, 0, 0, 0, 1, 1, 0.5, 0.5]),
            n.const([1, 1, 2.0, 2]),
            coordinate_transformation_mode="tf_crop_and_resize",
        ),
        "coordinate mode 'tf_crop_and_resize'",
    ),
    ("antialias", 18, IMAGE, lambda n: n.op("Resize", "x", "", n.const([1, 1, 0.5, 0.5]), antialias=1), "antialiasing"),
    ("empty", 13, ROW, lambda n: n.op("Relu", n.op("Slice", "x", n.ints(3), n.ints(3), n.ints(1))), "is empty"),
    ("dynamic-slice", 13, ROW, lambda n: n.op("Reshape", n.rand(6), n.op("Cast", "x", to=INT64)), "becomes int64"),
    (
        "per-pixel-norm",
        7,
        IMAGE,
        lambda n: n.op("BatchNormalization", "x", *(n.rand(144) for _ in range(4)), spatial=0),
        "each pixel",
    ),
]

BATCH: list[Case] = [
    ("transpose", 13, (2, 2), lambda n: n.op("Transpose", "x", perm=[1, 0, 2]), "reads another sample"),
    ("merge", 13, IMAGE, lambda n: n.op("Reshape", "x", n.ints(-1, 36)), r"the result has shape \[8, 36\]"),
    ("flatten", 13, ROW, lambda n: n.op("Flatten", "x", axis=0), r"the result has shape \[1, 12\]"),
    ("first", 13, ROW, lambda n: n.op("Slice", "x", n.ints(0), n.ints(1), n.ints(0)), r"shape \[1, 6\]"),
    ("reverse", 13, ROW, lambda n: n.op("Slice", "x", n.ints(-1), n.ints(-9), n.ints(0), n.ints(-1)), "another sample"),
    ("mean", 13, ROW, lambda n: n.op("Sub", "x", n.op("ReduceMean", "x", axes=[0])), "along the batch axis"),
    ("all", 13, ROW, lambda n: n.op("ReduceSum", "x"), "along the batch axis"),
    ("softmax", 13, ROW, lambda n: n.op("Softmax", "x", axis=0), "along the batch axis"),
    ("concat", 13, ROW, lambda n: n.op("Concat", "x", "x", axis=0), "along the batch axis"),
    ("weights", 13, ROW, lambda n: n.op("Add", "x", n.rand(2, 6)), "meets the batch axis"),
    ("ranks", 13, ROW, lambda n: n.op("Add", n.op("Unsqueeze", "x", n.ints(1)), "x"), "meet"),
    ("grow", 13, ROW, lambda n: n.op("Add", "x", n.rand(3, 1, 6)), "meets the batch axis"),
    ("left", 13, ROW, lambda n: n.op("MatMul", n.rand(3, 2), "x"), "left of a matrix of samples"),
    ("size", 13, ROW, _times_batch, "computes with the size of the batch"),
]


@pytest.mark.parametrize(("name", "opset", "shape", "build", "message"), OPERATORS, ids=[c[0] for c in OPERATORS])
def test_operator_is_refused(
    name: str, opset: int, shape: tuple[int, ...], build: Callable[[Net], str], message: str, tmp_path: Path
) -> None:
    net = Net(opset)
    net.input(*shape)
    output = build(net)
    with pytest.raises(UnsupportedOperatorError, match=message) as caught:
        load(net.build(output), tmp_path)
    assert "net.onnx, node" in str(caught.value)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(("name", "opset", "shape", "build", "message"), BATCH, ids=[c[0] for c in BATCH])
def test_what_mixes_the_samples_is_refused(
    name: str, opset: int, shape: tuple[int, ...], build: Callable[[Net], str], message: str, tmp_path: Path
) -> None:
    net = Net(opset, batch="N")
    net.input(*shape)
    with pytest.raises(ConversionError, match=message) as caught:
        load(net.build(build(net)), tmp_path)
    assert "batch" in str(caught.value)


def test_batch_baked_in_where_the_input_leaves_it_free_is_refused(tmp_path: Path) -> None:
    for baked in (1, 2):  # 2 is the size we read with first
        net = Net(13)
        flat = net.op("Reshape", net.input(2, 3), net.ints(baked, 6))
        with pytest.raises(UnsupportedOperatorError, match=r"'Reshape'.*do not belong together"):
            load(net.build(flat), tmp_path)


def test_operator_sets_outside_those_read_are_refused(tmp_path: Path) -> None:
    net = Net(6)
    with pytest.raises(UnsupportedOperatorError, match=r"uses operator set 6 of ONNX; 7 to .* convert the file"):
        load(net.build(net.op("Relu", net.input(4))), tmp_path)


def test_free_axis_behind_the_batch_is_refused_by_name(tmp_path: Path) -> None:
    net = Net(13)
    model = net.build(net.op("Relu", net.input(3, "height", 8)))
    with pytest.raises(
        InvalidNetworkError, match=r"axis 2 \('height'\) of input 'x'.*--input_name x --input_shape 1,3,SIZE,8"
    ):
        load(model, tmp_path)


@pytest.mark.parametrize(
    ("kind", "shape", "message"),
    [
        (onnx.TensorProto.UINT8, (3, 4), "holds uint8; float16, float and double are read"),
        (FLOAT, (), "has shape .*the first axis must be the batch and another must follow"),
    ],
)
def test_input_of_another_kind_is_refused(kind: int, shape: tuple[int, ...], message: str, tmp_path: Path) -> None:
    net = Net(13)
    x = net.input(*shape, kind=kind)
    model = net.build(net.op("Relu", net.op("Cast", x, to=FLOAT)))
    with pytest.raises(InvalidNetworkError, match=message):
        load(model, tmp_path)


def test_network_without_input_and_output_without_input_are_refused(tmp_path: Path) -> None:
    net = Net(13)
    with pytest.raises(InvalidNetworkError, match="has no input"):
        load(net.build(net.op("Relu", net.rand(2, 3))), tmp_path)
    net = Net(13)
    x = net.op("Relu", net.input(3))
    with pytest.raises(InvalidNetworkError, match=r"output 'v1_0' of 'net.onnx' does not depend on the input"):
        load(net.build(x, net.op("Neg", net.rand(2, 3))), tmp_path)


def test_inputs_with_two_batches_are_refused(tmp_path: Path) -> None:
    net = Net(13, batch=2)
    x = net.input(3)
    net.batch = 1
    model = net.build(net.op("Add", x, net.input(3, name="state")))
    with pytest.raises(InvalidNetworkError, match=r"batches of \[1, 2\]"):
        load(model, tmp_path)


def test_weights_that_are_not_finite_are_refused_by_layer(tmp_path: Path) -> None:
    net = Net(13)
    weight = net.const(np.array([[np.nan], [1.0]]), "fc.weight")
    with pytest.raises(InvalidNetworkError, match="layer 'fc': 1 of 2 numbers in its weight are NaN"):
        load(net.build(net.op("Gemm", net.input(2), weight)), tmp_path)


def test_negative_variance_is_refused_by_layer(tmp_path: Path) -> None:
    net = Net(13)
    x = net.input(2, 3, 3)
    parameters = [net.rand(2, name="norm.weight"), net.rand(2), net.rand(2), net.const(np.array([-1.0, 1.0]))]
    with pytest.raises(InvalidNetworkError, match="layer 'norm': 1 of 2 numbers in its gain are NaN"):
        load(net.build(net.op("BatchNormalization", x, *parameters)), tmp_path)


def test_names_of_the_file_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    net = Net(13)
    with pytest.raises(UnsupportedOperatorError) as caught:
        load(net.build(net.op("Erf", net.input(3), name="a\x1b[31m\nb")), tmp_path)
    assert str(caught.value).isprintable()
