"""ONNX operators that move numbers and compute none: each becomes one Gather, found by moving element numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from neuroport.ann.onnx_model.call import Array, Call, evaluate
from neuroport.ann.onnx_model.session import open_session

Float32Array = NDArray[np.float32]
_IR_VERSION = 8  # weights need not stand among the inputs


def relabel(call: Call) -> list[str]:
    """The outputs of an operator that only moves numbers, found by running it on the numbers of the elements."""
    x = call.activation(0)
    constants = [call.constant(i, f"operand {i + 1}") for i in range(1, len(call.inputs))]
    moved = evaluate(call.node, call.opset, [element_numbers(call, x), *constants])
    return [gather(call, x, numbers) for numbers in moved]


def element_numbers(call: Call, x: str) -> Array:
    """[batch, ...]: sample b, element k is b * n + k + 1, so that 0 is free for padding."""
    shape = call.shape(x)
    return np.arange(1.0, np.prod(shape, dtype=np.int64) + 1).reshape(shape)


def gather(call: Call, x: str, moved: Array) -> str:
    """The Gather behind moved element numbers.

    Raises:
        UnsupportedOperatorError: a sample reads another sample, or the samples are not treated alike.
    """
    if moved.ndim < 1 or len(moved) != call.batch:
        raise call.moves_batch(f"the result has shape {list(moved.shape)}")
    rows = moved.reshape(call.batch, -1).astype(np.int64)
    n = call.writer.nodes[x].size
    expected = np.where(rows[:1] > 0, rows[:1] + n * np.arange(call.batch)[:, None], 0)
    if not np.array_equal(rows, expected) or rows[0].max(initial=0) > n:
        raise call.moves_batch("a sample of the result reads another sample")
    return call.writer.gather(x, (rows[0] - 1).reshape(moved.shape[1:]))


def pad(call: Call) -> str:
    """Pad with a constant, or with the image's own numbers; negative pads cut."""
    x = call.activation(0)
    rank = call.rank(x)
    mode, value = call.attr("mode", "constant"), float(call.attr("value", 0.0))
    if call.opset >= 11:
        amounts = [int(i) for i in call.weight(1, "pads")]
        given, axes = call.optional(2, "padding value"), call.optional(3, "axes")
        value = 0.0 if given is None else float(given.reshape(-1)[0])
        padded = range(rank) if axes is None else [int(a) % rank for a in axes]
    else:
        amounts, padded = call.ints("pads", ()), range(rank)
    half = len(amounts) // 2
    before, after = [0] * rank, [0] * rank
    for axis, begin, end in zip(padded, amounts[:half], amounts[half:], strict=True):
        before[axis], after[axis] = begin, end
    numbers = element_numbers(call, x)
    cut = tuple(slice(max(-b, 0), n - max(-a, 0)) for b, a, n in zip(before, after, numbers.shape, strict=True))
    widths = [(max(b, 0), max(a, 0)) for b, a in zip(before, after, strict=True)]
    modes = {"constant": "constant", "reflect": "reflect", "edge": "edge", "wrap": "wrap"}
    if mode not in modes:
        raise call.writer.refuse(f"padding mode '{mode}' is not converted; {', '.join(modes)} are")
    moved = np.pad(numbers[cut], widths, mode=modes[mode])  # type: ignore[call-overload]
    y = gather(call, x, moved)
    return y if value == 0 or mode != "constant" else call.writer.affine(y, None, np.where(moved[0] == 0, value, 0.0))


def resize(call: Call) -> str:
    """Resize and Upsample: nearest neighbours as a Gather, linear interpolation as a matrix for each axis."""
    x = call.activation(0)
    shape = call.shape(x)
    mode = call.attr("mode", "nearest")
    if call.attr("antialias", 0) or call.attr("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise call.writer.refuse("antialiasing and kept aspect ratios are not converted; export without them")
    sizes, scales = _target(call, shape)
    if sizes[0] != call.batch:
        raise call.moves_batch(f"the result has shape {sizes}")
    if tuple(sizes) == shape:  # onnxruntime copies then, also where the scales are not quite 1
        return x
    if call.attr("coordinate_transformation_mode") == "tf_crop_and_resize":
        raise call.writer.refuse("coordinate mode 'tf_crop_and_resize' is not converted; crop with Slice first")
    if mode == "nearest":
        index = [_nearest(call, *axis) for axis in list(zip(shape, sizes, scales, strict=True))[1:]]
        numbers = np.arange(call.writer.nodes[x].size).reshape(shape[1:])
        return call.writer.gather(x, numbers[np.ix_(*index)])
    if mode not in ("linear", "bilinear") or len(shape) not in (3, 4) or sizes[1] != shape[1]:
        raise call.writer.refuse(
            f"mode '{mode}' from {list(shape)} to {sizes} is not converted; 'nearest' is, and 'linear' over the "
            f"last axes of [N, C, L] or [N, C, H, W]"
        )
    spatial = list(zip(shape, sizes, scales, strict=True))[2:]
    matrices = [_interpolation(_positions(call, *axis), axis[0]) for axis in spatial]
    if len(matrices) == 2:
        return call.writer.resample(x, *matrices)
    line = call.writer.reshape(x, (shape[1], 1, shape[2]))
    return call.writer.reshape(call.writer.resample(line, np.eye(1), matrices[0]), (sizes[1], sizes[2]))


def _target(call: Call, shape: tuple[int, ...]) -> tuple[list[int], list[np.float32]]:
    """Length and scale of each axis of the result, as onnxruntime reckons them."""
    if call.node.op_type == "Upsample" and call.opset < 9:
        scales, sizes = np.asarray(call.attr("scales"), np.float64), None
    elif call.opset < 11:
        scales, sizes = call.weight(1, "scales"), None
    else:
        given, sizes = call.optional(2, "scales"), call.optional(3, "sizes")
        scales = np.empty(0) if given is None else given
    axes = [int(a) % len(shape) for a in call.ints("axes", range(len(shape)))]
    factor, length = [np.float32(1)] * len(shape), list(shape)
    if sizes is not None and sizes.size:
        for axis, size in zip(axes, sizes, strict=True):
            length[axis] = int(size)
            factor[axis] = np.float32(size) / np.float32(shape[axis])
    else:
        for axis, scale in zip(axes, scales, strict=True):
            factor[axis] = np.float32(scale)
            length[axis] = int(np.floor(np.float32(scale) * np.float32(shape[axis])))
    if min(length) < 1:
        raise call.writer.refuse(f"the result of shape {length} is empty")
    return length, factor


def _positions(call: Call, n_in: int, n_out: int, scale: np.float32) -> Float32Array:
    """Where each output position lies on the input axis, in float32 as onnxruntime computes it."""
    x = np.arange(n_out, dtype=np.float32)
    half = np.float32(0.5)
    legacy = call.node.op_type == "Upsample" or call.opset < 11
    mode = "asymmetric" if legacy else call.attr("coordinate_transformation_mode", "half_pixel")
    if n_in == n_out and scale == 1:
        return x
    if mode == "asymmetric":
        return x / scale
    if mode == "half_pixel" or (mode == "pytorch_half_pixel" and n_out > 1):
        return (x + half) / scale - half
    if mode == "tf_half_pixel_for_nn":
        return (x + half) / scale
    if mode == "half_pixel_symmetric":
        adjustment = np.float32(n_out) / (scale * np.float32(n_in))
        return np.float32(n_in) / 2 * (1 - adjustment) + (x + half) / scale - half
    if mode == "pytorch_half_pixel" or (mode == "align_corners" and n_out == 1):
        return np.zeros(1, np.float32)
    if mode == "align_corners":
        return x * np.float32(n_in - 1) / np.float32(n_out - 1)
    raise call.writer.refuse(f"coordinate mode '{mode}' is not converted; half_pixel, asymmetric and align_corners are")


def _nearest(call: Call, n_in: int, n_out: int, scale: np.float32) -> Array:
    """The input element for each output position, as onnxruntime itself answers on a line of element numbers.

    Where a position falls on a tie, its rounding differs from the standard's and from version to version. The line
    has a second axis that grows, because a result of the input's shape would be a mere copy.
    """
    if n_in == n_out and scale == 1:
        return np.arange(n_in)
    names = ("coordinate_transformation_mode", "nearest_mode")
    attributes: dict[str, Any] = {name: call.attr(name) for name in names if call.attr(name)}
    constants = {}
    if call.opset < 9:
        attributes["scales"] = [float(scale), 2.0]
    elif call.opset < 11:
        constants = {"scales": np.array([scale, 2], np.float32)}
    else:
        constants = {"roi": np.empty(0, np.float32), "scales": np.array([scale, 2], np.float32)}
        if n_out != int(np.float32(scale) * np.float32(n_in)):
            constants |= {"scales": np.empty(0, np.float32), "sizes": np.array([n_out, 2])}
    node = helper.make_node(call.node.op_type, ["line", *constants], ["index"], mode="nearest", **attributes)
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("line", "index")]
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph([node], "line", infos[:1], infos[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", call.opset)], ir_version=_IR_VERSION)
    line = np.arange(n_in, dtype=np.float32)[:, None]
    (found,) = open_session(model.SerializeToString()).run(None, {"line": line})
    return np.asarray(found)[:, 0].astype(np.int64)


def _interpolation(position: Float32Array, n_in: int) -> Array:
    """[n_out, n_in]: the weights of the two neighbours of each position, which stays inside the image."""
    inside = np.clip(position, 0, n_in - 1).astype(np.float64)
    low = np.minimum(np.floor(inside).astype(np.int64), n_in - 1)
    matrix = np.zeros((len(position), n_in))
    rows = np.arange(len(position))
    np.add.at(matrix, (rows, low), 1 - (inside - low))
    np.add.at(matrix, (rows, np.minimum(low + 1, n_in - 1)), inside - low)
    return matrix
