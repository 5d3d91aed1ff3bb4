"""Each ONNX operator alone, in every operator set where its form changed, against onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.ann.onnx_models import FLOAT, Net, assert_equal

IMAGE = (4, 9, 8)
LINE = (3, 10)
ROW = (6,)
Build = Callable[[Net], "str | list[str]"]
CASES: list[tuple[str, tuple[int, ...], tuple[int, ...], Build]] = [
    # --- convolutions
    ("conv", (7, 11, 22), IMAGE, lambda n: n.op("Conv", "x", n.rand(5, 4, 3, 3), n.rand(5), pads=[1, 1, 1, 1])),
    ("conv-no-bias", (8,), IMAGE, lambda n: n.op("Conv", "x", n.rand(5, 4, 2, 3), strides=[2, 3])),
    ("conv-1d", (11,), LINE, lambda n: n.op("Conv", "x", n.rand(4, 3, 3), n.rand(4), pads=[2, 1], strides=[2])),
    ("conv-uneven", (11,), IMAGE, lambda n: n.op("Conv", "x", n.rand(2, 4, 3, 3), pads=[0, 1, 2, 0], strides=[2, 1])),
    ("conv-groups", (11,), IMAGE, lambda n: n.op("Conv", "x", n.rand(6, 2, 3, 3), n.rand(6), group=2)),
    (
        "conv-dilated",
        (11,),
        IMAGE,
        lambda n: n.op("Conv", "x", n.rand(2, 4, 3, 3), dilations=[2, 3], pads=[2, 3, 2, 3]),
    ),
    *(
        (
            f"conv-{auto}-{s}",
            (11,),
            IMAGE,
            lambda n, a=auto, s=s: n.op("Conv", "x", n.rand(2, 4, 4, 3), auto_pad=a, strides=[s, s]),
        )
        for auto in ("SAME_UPPER", "SAME_LOWER", "VALID")
        for s in (1, 2)
    ),
    (
        "conv-computed-weight",
        (13,),
        IMAGE,
        lambda n: n.op("Conv", "x", n.op("Mul", n.rand(2, 4, 3, 3), n.rand(2, 1, 1, 1))),
    ),
    ("deconv", (7, 11, 22), IMAGE, lambda n: n.op("ConvTranspose", "x", n.rand(4, 3, 3, 3), n.rand(3), strides=[2, 2])),
    ("deconv-1d", (11,), LINE, lambda n: n.op("ConvTranspose", "x", n.rand(3, 2, 4), strides=[2], pads=[1, 1])),
    (
        "deconv-output-padding",
        (11,),
        IMAGE,
        lambda n: n.op(
            "ConvTranspose", "x", n.rand(4, 3, 3, 3), strides=[2, 3], pads=[1, 1, 1, 1], output_padding=[1, 2]
        ),
    ),
    ("deconv-groups", (11,), IMAGE, lambda n: n.op("ConvTranspose", "x", n.rand(4, 3, 3, 2), n.rand(6), group=2)),
    ("deconv-dilated", (11,), IMAGE, lambda n: n.op("ConvTranspose", "x", n.rand(4, 3, 3, 3), dilations=[2, 2])),
    *(
        (
            f"deconv-pads-{'-'.join(map(str, pads))}",
            (11,),
            IMAGE,
            lambda n, p=pads: n.op("ConvTranspose", "x", n.rand(4, 2, 4, 4), n.rand(2), strides=[2, 2], pads=list(p)),
        )
        for pads in ((0, 1, 1, 0), (2, 0, 0, 3), (3, 0, 0, 1), (1, 1, 1, 1))
    ),
    *(
        (
            f"deconv-output-shape-{auto}",
            (11,),
            IMAGE,
            lambda n, a=auto: n.op(
                "ConvTranspose", "x", n.rand(4, 2, 4, 3), strides=[2, 2], output_shape=[17, 16], auto_pad=a
            ),
        )
        for auto in ("NOTSET", "SAME_UPPER", "SAME_LOWER")
    ),
    *(
        (
            f"deconv-{auto}",
            (11,),
            IMAGE,
            lambda n, a=auto: n.op("ConvTranspose", "x", n.rand(4, 2, 5, 4), strides=[2, 3], auto_pad=a),
        )
        for auto in ("SAME_UPPER", "SAME_LOWER", "VALID")
    ),
    # --- matrices
    ("gemm", (7, 9, 11, 13), ROW, lambda n: n.op("Gemm", "x", n.rand(6, 5), n.rand(5))),
    (
        "gemm-scaled",
        (11,),
        ROW,
        lambda n: n.op("Gemm", "x", n.rand(5, 6), n.rand(1, 5), transB=1, alpha=0.5, beta=2.0),
    ),
    ("gemm-scalar-bias", (11,), ROW, lambda n: n.op("Gemm", "x", n.rand(5, 6), n.rand(1), transB=1)),
    ("gemm-no-bias", (11,), ROW, lambda n: n.op("Gemm", "x", n.rand(6, 5))),
    ("gemm-residual", (11,), ROW, lambda n: n.op("Gemm", "x", n.rand(6, 6), "x", beta=0.5)),
    ("matmul", (7, 13), ROW, lambda n: n.op("MatMul", "x", n.rand(6, 5))),
    ("matmul-deep", (13,), IMAGE, lambda n: n.op("MatMul", "x", n.rand(8, 5))),
    ("matmul-wrapped", (13,), LINE, lambda n: n.op("MatMul", "x", n.rand(1, 10, 5))),
    ("matmul-left", (13,), LINE, lambda n: n.op("MatMul", n.rand(5, 3), "x")),
    ("matmul-vector", (13,), LINE, lambda n: n.op("MatMul", "x", n.rand(10))),
    ("matmul-left-vector", (13,), IMAGE, lambda n: n.op("MatMul", n.rand(9), "x")),
    # --- arithmetic
    ("add-channel", (7, 13, 14), IMAGE, lambda n: n.op("Add", "x", n.rand(4, 1, 1))),
    ("add-row", (13,), IMAGE, lambda n: n.op("Add", n.rand(1, 1, 1, 8), "x")),
    ("add-wider", (13,), (1, 5), lambda n: n.op("Add", "x", n.rand(1, 3, 1))),
    ("sub", (7, 13), IMAGE, lambda n: n.op("Sub", "x", n.rand(1, 4, 9, 1))),
    ("sub-from", (13,), IMAGE, lambda n: n.op("Sub", n.rand(8), "x")),
    ("mul", (7, 13), IMAGE, lambda n: n.op("Mul", "x", n.rand(4, 1, 1))),
    ("mul-scalar", (13,), IMAGE, lambda n: n.op("Mul", n.const(np.array(-0.3)), "x")),
    ("div", (7, 13), IMAGE, lambda n: n.op("Div", "x", n.rand(4, 1, 1, low=0.5))),
    ("add-two", (13,), IMAGE, lambda n: n.op("Add", "x", n.op("Relu", "x"))),
    ("add-broadcast", (13,), IMAGE, lambda n: n.op("Sub", n.op("GlobalAveragePool", "x"), "x")),
    ("add-itself", (13,), IMAGE, lambda n: n.op("Add", "x", "x")),
    ("sum", (8, 13), ROW, lambda n: n.op("Sum", "x", n.rand(6), n.op("Relu", "x"), n.rand(1, 6))),
    ("mean", (8, 13), ROW, lambda n: n.op("Mean", "x", n.rand(6), n.op("Relu", "x"))),
    ("neg", (13,), ROW, lambda n: n.op("Neg", "x")),
    ("abs", (13,), ROW, lambda n: n.op("Abs", "x")),
    ("max", (8, 13), ROW, lambda n: n.op("Max", "x", n.op("Neg", "x"), n.const(np.array(0.2)))),
    ("max-array", (13,), IMAGE, lambda n: n.op("Max", n.rand(4, 1, 1), "x")),
    ("min", (8, 13), ROW, lambda n: n.op("Min", "x", n.op("Mul", "x", n.const(np.array(2.0))))),
    ("min-constant", (8, 13), ROW, lambda n: n.op("Min", n.const(np.array(0.1)), "x", n.rand(6))),
    # --- activations
    ("relu", (7, 13, 14), ROW, lambda n: n.op("Relu", "x")),
    ("leaky", (7, 16), ROW, lambda n: n.op("LeakyRelu", "x", alpha=0.2)),
    ("leaky-default", (13,), ROW, lambda n: n.op("LeakyRelu", "x")),
    ("prelu", (7, 9, 16), IMAGE, lambda n: n.op("PRelu", "x", n.rand(4, 1, 1))),
    ("prelu-one", (16,), IMAGE, lambda n: n.op("PRelu", "x", n.rand(1))),
    ("prelu-row", (16,), ROW, lambda n: n.op("PRelu", "x", n.rand(1, 6))),
    ("clip", (7, 10), ROW, lambda n: n.op("Clip", "x", min=-0.5, max=0.7)),
    ("clip-low", (7,), ROW, lambda n: n.op("Clip", "x", min=0.0)),
    ("clip-high", (7,), ROW, lambda n: n.op("Clip", "x", max=0.3)),
    ("clip", (11, 12, 13), ROW, lambda n: n.op("Clip", "x", n.const(np.array(0.0)), n.const(np.array(0.6)))),
    ("clip-low", (11,), ROW, lambda n: n.op("Clip", "x", n.const(np.array(-0.1)))),
    ("clip-high", (13,), ROW, lambda n: n.op("Clip", "x", "", n.const(np.array(0.6)))),
    ("clip-none", (13,), ROW, lambda n: n.op("Clip", "x")),
    ("hard-sigmoid", (7, 22), ROW, lambda n: n.op("HardSigmoid", "x", alpha=0.4)),
    ("thresholded", (10,), ROW, lambda n: n.op("ThresholdedRelu", "x", alpha=0.0)),
    ("sigmoid", (13,), ROW, lambda n: n.op("Sigmoid", "x")),
    ("tanh", (13,), ROW, lambda n: n.op("Tanh", "x")),
    ("floor", (13,), ROW, lambda n: n.op("Floor", n.op("Mul", "x", n.const(np.array(3.0))))),
    ("ceil", (13,), ROW, lambda n: n.op("Ceil", n.op("Mul", "x", n.const(np.array(3.0))))),
    ("round", (11, 22), ROW, lambda n: n.op("Round", n.op("Mul", "x", n.const(np.array(3.0))))),
    ("softmax", (7, 11, 13), ROW, lambda n: n.op("Softmax", "x", axis=1)),
    ("softmax-default", (11, 13), ROW, lambda n: n.op("Softmax", "x")),
    ("softmax-flat", (11,), LINE, lambda n: n.op("LogSoftmax", "x", axis=1)),
    ("softmax-channels", (13,), LINE, lambda n: n.op("Softmax", "x", axis=1)),
    ("softmax-pixel", (11,), (5, 1, 1), lambda n: n.op("Softmax", "x", axis=1)),
    ("log-softmax", (13,), ROW, lambda n: n.op("LogSoftmax", "x")),
    ("dropout", (7, 10), ROW, lambda n: n.op("Dropout", "x", ratio=0.5)),
    ("dropout", (12, 13, 22), ROW, lambda n: n.op("Dropout", "x", n.const(np.array(0.5)))),
    ("identity", (13, 16), ROW, lambda n: n.op("Identity", "x")),
    ("cast", (9, 13), ROW, lambda n: n.op("Cast", "x", to=FLOAT)),
    ("cast-like", (15,), ROW, lambda n: n.op("CastLike", "x", n.rand(1))),
    # --- normalization
    (
        "batch-norm",
        (7, 9, 14, 15),
        IMAGE,
        lambda n: n.op("BatchNormalization", "x", n.rand(4), n.rand(4), n.rand(4), n.rand(4, low=0.1), epsilon=1e-3),
    ),
    ("batch-norm-row", (15,), ROW, lambda n: n.op("BatchNormalization", "x", *(n.rand(6, low=0.1) for _ in range(4)))),
]


def _named(cases: list[tuple[str, tuple[int, ...], tuple[int, ...], Build]]) -> list:
    return [
        pytest.param(opset, shape, build, id=f"{name}-{opset}")
        for name, opsets, shape, build in cases
        for opset in opsets
    ]


@pytest.mark.parametrize(("opset", "shape", "build"), _named(CASES))
def test_operator_computes_what_onnxruntime_computes(
    opset: int, shape: tuple[int, ...], build: Build, tmp_path: Path
) -> None:
    net = Net(opset)
    net.input(*shape)
    outputs = build(net)
    assert_equal(net.build(*([outputs] if isinstance(outputs, str) else outputs)), tmp_path)
