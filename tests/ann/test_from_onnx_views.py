"""ONNX pools, reductions, and operators that only move numbers, against onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.ann.onnx_models import Net, assert_equal

IMAGE = (4, 9, 8)
LINE = (3, 10)
ROW = (6,)
Build = Callable[[Net], "str | list[str]"]
Case = tuple[str, tuple[int, ...], tuple[int, ...], Build]


def _pool(kind: str, shape: tuple[int, ...] = IMAGE, opset: int = 11, **attributes) -> Case:
    words = [f"{k}={v}" for k, v in attributes.items()]
    return (" ".join([kind, *words]), (opset,), shape, lambda n: n.op(kind, "x", **attributes))


def _nothing(net: Net) -> list[str]:
    """No region and no scales, which operator set 11 cannot leave out."""
    return [net.const([], dtype=np.float32), net.const([], dtype=np.float32)] if net.opset < 13 else ["", ""]


POOLS: list[Case] = [
    *(
        _pool(kind, **attributes)
        for kind in ("MaxPool", "AveragePool")
        for attributes in (
            {"kernel_shape": [2, 2], "strides": [2, 2]},
            {"kernel_shape": [3, 2]},
            {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]},
            {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]},
            {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 0, 0, 1]},
            {"kernel_shape": [4, 3], "strides": [3, 2], "pads": [3, 2, 2, 2]},
            {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1},
            {"kernel_shape": [3, 3], "strides": [2, 3], "ceil_mode": 1, "pads": [1, 1, 1, 1]},
            {"kernel_shape": [3, 3], "strides": [2, 3], "ceil_mode": 1, "pads": [1, 0, 0, 1]},
            {"kernel_shape": [2, 2], "strides": [3, 3], "ceil_mode": 1, "pads": [0, 1, 0, 1]},
            {"kernel_shape": [3, 4], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
            {"kernel_shape": [3, 4], "strides": [2, 2], "auto_pad": "SAME_LOWER"},
            {"kernel_shape": [3, 4], "strides": [2, 2], "auto_pad": "VALID"},
            {"kernel_shape": [3], "strides": [2], "pads": [1, 1], "shape": LINE},
            {"kernel_shape": [3], "strides": [2], "pads": [0, 1], "shape": LINE},
        )
    ),
    *(
        _pool("AveragePool", count_include_pad=1, **attributes)
        for attributes in (
            {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]},
            {"kernel_shape": [3, 3], "pads": [1, 0, 0, 1], "strides": [2, 2]},
            {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 3], "ceil_mode": 1},
            {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER", "strides": [2, 2]},
            {"kernel_shape": [3], "pads": [1, 0], "strides": [2], "shape": LINE},
        )
    ),
    _pool("MaxPool", kernel_shape=[2, 3], dilations=[2, 2], strides=[2, 1]),
    _pool("MaxPool", kernel_shape=[3, 3], dilations=[2, 2], strides=[2, 2], pads=[1, 1, 1, 1]),
    _pool("MaxPool", kernel_shape=[3, 2], dilations=[2, 3], strides=[1, 2], pads=[1, 0, 2, 1]),
    _pool("MaxPool", kernel_shape=[3, 2], dilations=[2, 3], strides=[2, 2], pads=[0, 1, 2, 1], ceil_mode=1),
    _pool("AveragePool", opset=19, kernel_shape=[2, 3], dilations=[2, 2], strides=[2, 1]),
    _pool("AveragePool", opset=19, kernel_shape=[3, 2], dilations=[2, 3], pads=[1, 0, 1, 1]),
    _pool("AveragePool", opset=19, kernel_shape=[3, 3], strides=[2, 3], ceil_mode=1, pads=[1, 1, 1, 1]),
    _pool(
        "AveragePool",
        opset=19,
        count_include_pad=1,
        kernel_shape=[3, 3],
        strides=[2, 3],
        ceil_mode=1,
        pads=[0, 1, 1, 1],
    ),
    _pool("AveragePool", opset=22, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    _pool("MaxPool", opset=7, kernel_shape=[3, 3], strides=[2, 2]),
    _pool("MaxPool", opset=8, kernel_shape=[3, 3], strides=[2, 2], storage_order=0),
    _pool("MaxPool", opset=22, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    _pool("AveragePool", opset=7, kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    _pool("GlobalAveragePool"),
    _pool("GlobalAveragePool", opset=22, shape=LINE),
    _pool("GlobalMaxPool"),
    *(
        (
            f"{kind} {axes} keep={keep}",
            opsets,
            IMAGE,
            lambda n, k=kind, a=axes, kd=keep: n.op(k, "x", axes=a, keepdims=kd),
        )
        for kind, opsets in (
            ("ReduceMean", (7, 13)),
            ("ReduceSum", (7, 11)),
            ("ReduceMax", (7, 13)),
            ("ReduceMin", (13,)),
        )
        for axes, keep in (([2, 3], 1), ([2, 3], 0), ([1], 0), ([-1], 1), ([1, 2, 3], 0), ([1, 3], 1))
    ),
    *(
        (f"{kind} input", opsets, IMAGE, lambda n, k=kind: n.op(k, "x", n.ints(2, -1), keepdims=0))
        for kind, opsets in (("ReduceMean", (18,)), ("ReduceSum", (13, 18)), ("ReduceMax", (18, 20)))
    ),
    ("ReduceSum noop", (13,), IMAGE, lambda n: n.op("ReduceSum", "x", noop_with_empty_axes=1)),
]

VIEWS: list[Case] = [
    ("transpose", (7, 13, 21), IMAGE, lambda n: n.op("Transpose", "x", perm=[0, 2, 3, 1])),
    ("reshape", (7, 13, 14), IMAGE, lambda n: n.op("Reshape", "x", n.ints(0, -1))),
    ("reshape-deep", (13,), IMAGE, lambda n: n.op("Reshape", "x", n.ints(-1, 2, 2, 9, 8))),
    ("flatten", (7, 9, 13, 21), IMAGE, lambda n: n.op("Flatten", "x")),
    ("squeeze", (7, 11), (4, 1, 3, 1), lambda n: n.op("Squeeze", "x", axes=[2, 4])),
    ("squeeze", (13, 21), (4, 1, 3, 1), lambda n: n.op("Squeeze", "x", n.ints(2, -1))),
    ("squeeze-all", (13,), (4, 1, 3, 1), lambda n: n.op("Squeeze", "x")),
    ("unsqueeze", (7, 11), ROW, lambda n: n.op("Unsqueeze", "x", axes=[1, 3])),
    ("unsqueeze", (13, 21), ROW, lambda n: n.op("Unsqueeze", "x", n.ints(1, 3))),
    ("slice", (7, 9), IMAGE, lambda n: n.op("Slice", "x", axes=[1, 3], starts=[1, 0], ends=[3, -1])),
    (
        "slice",
        (10, 11, 13),
        IMAGE,
        lambda n: n.op("Slice", "x", n.ints(1, -1), n.ints(4, -7), n.ints(1, 3), n.ints(2, -2)),
    ),
    ("split", (7, 11), IMAGE, lambda n: n.op("Split", "x", n=2, axis=1, split=[1, 3])),
    ("split", (13,), IMAGE, lambda n: n.op("Split", "x", n.ints(1, 3), n=2, axis=1)),
    ("split-even", (11, 13), IMAGE, lambda n: n.op("Split", "x", n=2, axis=-1)),
    ("split-number", (18,), IMAGE, lambda n: n.op("Split", "x", n=2, axis=2, num_outputs=2)),
    ("gather", (7, 13), IMAGE, lambda n: n.op("Gather", "x", n.ints(2, 0, -1), axis=1)),
    ("gather-one", (13,), IMAGE, lambda n: n.op("Gather", "x", n.const(np.array(1)), axis=2)),
    ("expand", (8, 13), (4, 1, 1), lambda n: n.op("Expand", "x", n.ints(1, 1, 3, 2))),
    ("tile", (7, 13), IMAGE, lambda n: n.op("Tile", "x", n.ints(1, 2, 1, 3))),
    ("depth-to-space", (7, 11, 13), IMAGE, lambda n: n.op("DepthToSpace", "x", blocksize=2)),
    ("depth-to-space-crd", (11, 13), IMAGE, lambda n: n.op("DepthToSpace", "x", blocksize=2, mode="CRD")),
    ("space-to-depth", (7, 13), (2, 4, 6), lambda n: n.op("SpaceToDepth", "x", blocksize=2)),
    ("pad", (7, 10), IMAGE, lambda n: n.op("Pad", "x", pads=[0, 1, 0, 2, 0, 0, 3, 1])),
    ("pad-value", (7,), IMAGE, lambda n: n.op("Pad", "x", pads=[0, 0, 1, 2, 0, 0, 3, 1], value=0.5)),
    ("pad-reflect", (7,), IMAGE, lambda n: n.op("Pad", "x", pads=[0, 0, 1, 2, 0, 0, 3, 1], mode="reflect")),
    *(
        (f"pad-{mode}", (11, 13, 21), IMAGE, lambda n, m=mode: n.op("Pad", "x", n.ints(0, 0, 1, 2, 0, 0, 3, 1), mode=m))
        for mode in ("constant", "reflect", "edge")
    ),
    ("pad-wrap", (19,), IMAGE, lambda n: n.op("Pad", "x", n.ints(0, 0, 1, 2, 0, 0, 3, 1), mode="wrap")),
    ("pad-cut", (13,), IMAGE, lambda n: n.op("Pad", "x", n.ints(0, 0, -1, 2, 0, 0, 3, -1))),
    ("pad-cut-edge", (13,), IMAGE, lambda n: n.op("Pad", "x", n.ints(0, 0, -1, 2, 0, 0, 3, -1), mode="edge")),
    ("pad-value", (13,), IMAGE, lambda n: n.op("Pad", "x", n.ints(0, 0, 1, 2, 0, 0, 3, 1), n.const(np.array(-2.0)))),
    ("pad-axes", (18,), IMAGE, lambda n: n.op("Pad", "x", n.ints(1, 2, 3, 1), "", n.ints(-1, 2))),
    ("concat", (7, 11, 13), IMAGE, lambda n: n.op("Concat", "x", n.op("Neg", "x"), axis=1)),
    ("concat-last", (13,), IMAGE, lambda n: n.op("Concat", "x", n.op("Neg", "x"), "x", axis=-1)),
]

RESIZES: list[Case] = [
    ("upsample", (7,), IMAGE, lambda n: n.op("Upsample", "x", scales=[1.0, 1.0, 2.0, 3.0])),
    ("upsample", (9,), IMAGE, lambda n: n.op("Upsample", "x", n.const([1.0, 1.0, 2.0, 1.5], dtype=np.float32))),
    (
        "upsample-linear",
        (9,),
        IMAGE,
        lambda n: n.op("Upsample", "x", n.const([1.0, 1.0, 2.0, 1.5], dtype=np.float32), mode="linear"),
    ),
    *(
        (
            f"resize10-{mode}-{scale}",
            (10,),
            IMAGE,
            lambda n, m=mode, s=scale: n.op("Resize", "x", n.const([1.0, 1.0, s, 2.0], dtype=np.float32), mode=m),
        )
        for mode in ("nearest", "linear")
        for scale in (2.0, 1.7, 0.6, 0.5)
    ),
    *(
        (
            f"resize-{coordinates}-{rounding}-{scale}",
            (11, 13),
            IMAGE,
            lambda n, c=coordinates, r=rounding, s=scale: n.op(
                "Resize",
                "x",
                n.const([], dtype=np.float32),
                n.const([1.0, 1.0, s, 2.0], dtype=np.float32),
                coordinate_transformation_mode=c,
                nearest_mode=r,
            ),
        )
        for coordinates in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
        for rounding in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
        for scale in (2.0, 0.6)
    ),
    (
        "resize-tf",
        (11,),
        IMAGE,
        lambda n: n.op(
            "Resize",
            "x",
            n.const([], dtype=np.float32),
            n.const([1.0, 1.0, 2.0, 3.0], dtype=np.float32),
            coordinate_transformation_mode="tf_half_pixel_for_nn",
            nearest_mode="floor",
        ),
    ),
    *(
        (
            f"resize-linear-{coordinates}-{size}",
            (11, 19),
            IMAGE,
            lambda n, c=coordinates, s=size: n.op(
                "Resize", "x", *_nothing(n), n.ints(2, 4, *s), mode="linear", coordinate_transformation_mode=c
            ),
        )
        for coordinates in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
        for size in ((18, 16), (5, 11), (1, 3))
    ),
    (
        "resize-sizes",
        (13, 19),
        IMAGE,
        lambda n: n.op("Resize", "x", "", "", n.ints(2, 4, 13, 5)),
    ),
    ("resize-axes", (18,), IMAGE, lambda n: n.op("Resize", "x", "", "", n.ints(13, 5), axes=[2, 3])),
    (
        "resize-symmetric",
        (19,),
        IMAGE,
        lambda n: n.op(
            "Resize",
            "x",
            "",
            n.const([1.0, 1.0, 1.7, 2.2], dtype=np.float32),
            mode="linear",
            coordinate_transformation_mode="half_pixel_symmetric",
        ),
    ),
    (
        "resize-line",
        (13,),
        LINE,
        lambda n: n.op("Resize", "x", "", n.const([1.0, 1.0, 2.5], dtype=np.float32), mode="linear"),
    ),
]


@pytest.mark.parametrize(
    ("opset", "shape", "build"),
    [
        pytest.param(opset, shape, build, id=f"{name}-{opset}")
        for name, opsets, shape, build in (*POOLS, *VIEWS, *RESIZES)
        for opset in opsets
    ],
)
def test_view_or_pool_computes_what_onnxruntime_computes(
    opset: int, shape: tuple[int, ...], build: Build, tmp_path: Path
) -> None:
    net = Net(opset, batch=2 if {"Resize", "Squeeze"} & {*build.__code__.co_consts} else "N")  # sizes name it
    net.input(*shape)
    outputs = build(net)
    assert_equal(net.build(*([outputs] if isinstance(outputs, str) else outputs)), tmp_path)
