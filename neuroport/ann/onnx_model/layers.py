"""ONNX layers with weights and windows: convolutions, matrix products, normalization, pools, reductions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from neuroport.ann.graph import FloatArray, Pair
from neuroport.ann.onnx_model.call import Call
from neuroport.ann.onnx_model.windows import (
    WindowAxis,
    check_windows,
    count_inside,
    repeat_padded,
    window_axes,
    zero_padded,
)


def conv(call: Call) -> str:
    """Convolution; pads that differ between the two sides become zeros in front of it."""
    x, weight, bias = call.activation(0), call.weight(1, "weight"), call.optional(2, "bias")
    groups = int(call.attr("group", 1))
    _check_channels(call, x, weight.shape[1] * groups, weight)
    axes = window_axes(call, weight.shape[2:], call.writer.shape(x)[1:])
    padding = [axis.begin for axis in axes]
    if padding != [axis.end for axis in axes]:
        x, padding = zero_padded(call, x, axes), [0] * len(axes)
    return call.writer.conv(
        x,
        weight,
        bias,
        stride=[axis.stride for axis in axes],
        padding=padding,
        dilation=[axis.dilation for axis in axes],
        groups=groups,
    )


def _check_channels(call: Call, x: str, expected: int, weight: FloatArray) -> None:
    shape, groups = call.writer.shape(x), int(call.attr("group", 1))
    kernel = call.ints("kernel_shape", weight.shape[2:])
    if len(shape) != weight.ndim - 1 or shape[0] != expected or len(weight) % groups or kernel != [*weight.shape[2:]]:
        raise call.writer.refuse(
            f"weight {list(weight.shape)} in {groups} group(s) with kernel {kernel} does not fit a sample of shape "
            f"{list(shape)}; the channels must agree"
        )


def conv_transpose(call: Call) -> str:
    """Transposed convolution: the part of the full result that the pads leave."""
    x, weight, bias = call.activation(0), call.weight(1, "weight"), call.optional(2, "bias")
    groups = int(call.attr("group", 1))
    _check_channels(call, x, len(weight), weight)
    n = weight.ndim - 2
    stride, dilation = call.ints("strides", (1,) * n), call.ints("dilations", (1,) * n)
    sizes = call.writer.shape(x)[1:]
    span = [d * (k - 1) + 1 for d, k in zip(dilation, weight.shape[2:], strict=True)]
    full = [(size - 1) * s + k for size, s, k in zip(sizes, stride, span, strict=True)]
    begin, out = _transposed_part(call, sizes, full, stride)
    padding, extra = list(begin), [o - f + 2 * b for o, f, b in zip(out, full, begin, strict=True)]
    for i in range(n):
        if not 0 <= extra[i] < max(stride[i], dilation[i]):  # not a transposed convolution of torch: cut afterwards
            padding[i], extra[i] = 0, max(begin[i] + out[i] - full[i], 0)
        if extra[i] and extra[i] >= max(stride[i], dilation[i]):
            raise call.writer.refuse(f"output padding {extra} must be smaller than the strides {stride}")
    y = call.writer.conv(
        x,
        weight,
        bias,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        transposed=True,
        output_padding=extra,
    )
    made = call.writer.shape(y)
    index = np.arange(math.prod(made)).reshape(made)
    first = [b - p for b, p in zip(begin, padding, strict=True)]
    part = tuple(slice(f, f + o) for f, o in zip(first, out, strict=True))
    return call.writer.gather(y, index[(slice(None), *part)])


def _transposed_part(
    call: Call, sizes: Sequence[int], full: Sequence[int], stride: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Begin and length of the result on each axis of the full result."""
    n = len(sizes)
    auto, wanted = call.attr("auto_pad", "NOTSET"), call.ints("output_shape", ())[-n:]
    pads, more = call.ints("pads", (0,) * (2 * n)), call.ints("output_padding", (0,) * n)
    if not wanted and auto in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [size * s for size, s in zip(sizes, stride, strict=True)]
        if any(w > f for w, f in zip(wanted, full, strict=True)):  # onnxruntime answers with fewer
            raise call.writer.refuse("automatic pads with a kernel below the stride are not clear; export with pads")
    if wanted:
        total = [max(f + m - w, 0) for f, m, w in zip(full, more, wanted, strict=True)]
        begin = [t // 2 if auto == "SAME_UPPER" else t - t // 2 for t in total]
        return begin, wanted
    if auto == "VALID":
        pads = [0] * (2 * n)
    out = [f + m - b - e for f, m, b, e in zip(full, more, pads[:n], pads[n:], strict=True)]
    if min(out) < 1 or min(pads) < 0:
        raise call.writer.refuse(f"pads {pads} leave nothing of the result of size {list(full)}")
    return pads[:n], out


def gemm(call: Call) -> str:
    """alpha * x @ weight + beta * bias."""
    if not isinstance(call.value(0), str):
        raise call.writer.refuse("its first operand is constant; the activation must stand on the left")
    x, weight = call.activation(0), call.weight(1, "weight")
    if call.attr("transA", 0) or len(call.writer.shape(x)) != 1:
        raise call.moves_batch("its left operand is transposed, or is no matrix")
    alpha, beta = float(call.attr("alpha", 1.0)), float(call.attr("beta", 1.0))
    weight = alpha * (weight if call.attr("transB", 0) else weight.T)
    _check_features(call, x, weight)
    bias = call.value(2)
    if isinstance(bias, str):
        scaled = call.writer.affine(bias, np.array(beta), None)
        if call.rank(scaled) != 2:
            raise call.moves_batch(f"an activation of shape {list(call.shape(scaled))} is added")
        return call.writer.add(call.writer.linear(x, weight, None), scaled)
    return call.writer.linear(x, weight, None if bias is None else beta * call.per_sample(bias, 2))


def _check_features(call: Call, x: str, weight: FloatArray) -> None:
    shape = call.writer.shape(x)
    if not shape or shape[-1] != weight.shape[1]:
        raise call.writer.refuse(f"a weight of {list(weight.shape)} does not fit a sample of shape {list(shape)}")


def matmul(call: Call) -> str:
    """An activation times a constant matrix, from either side."""
    a, b = call.value(0), call.value(1)
    if isinstance(a, str) and isinstance(b, str):
        raise call.writer.refuse("a product of two activations is not converted; one side must be constant")
    x = call.activation(0 if isinstance(a, str) else 1)
    weight = call.weight(1 if isinstance(a, str) else 0, "weight")
    while weight.ndim > 2 and weight.ndim <= call.rank(x) and len(weight) == 1:
        weight = weight[0]
    if weight.ndim > 2 or weight.ndim < 1:
        raise call.writer.refuse(f"a weight of shape {list(weight.shape)} is not converted; one matrix is")
    if isinstance(a, str):
        rows = weight[None] if weight.ndim == 1 else weight.T
        _check_features(call, x, rows)
        y = call.writer.linear(x, rows, None)
        return call.writer.reshape(y, call.writer.shape(y)[:-1]) if weight.ndim == 1 else y
    shape = call.writer.shape(x)
    if len(shape) < 2:
        raise call.moves_batch("a constant stands on the left of a matrix of samples")
    order = [*range(len(shape) - 2), len(shape) - 1, len(shape) - 2]
    turned = call.writer.permute(x, order)
    rows = weight[None] if weight.ndim == 1 else weight
    _check_features(call, turned, rows)
    y = call.writer.permute(call.writer.linear(turned, rows, None), order)
    made = call.writer.shape(y)
    return call.writer.reshape(y, (*made[:-2], made[-1])) if weight.ndim == 1 else y


def batch_norm(call: Call) -> str:
    """Batch normalization with its running statistics, as gain and offset per channel."""
    has_more = any(call.node.output[1:])
    if call.attr("training_mode", 0) or (call.opset < 14 and has_more) or not call.attr("spatial", 1):
        raise call.writer.refuse(
            "normalization by the batch's own statistics, or of each pixel on its own, is not converted; "
            "export the network in inference mode"
        )
    scale, bias = call.weight(1, "scale"), call.weight(2, "bias")
    mean, variance = call.weight(3, "mean"), call.weight(4, "variance")
    with np.errstate(all="ignore"):  # what is not finite is refused by the graph, with the layer's name
        gain = scale / np.sqrt(variance + float(call.attr("epsilon", 1e-5)))
    x = call.activation(0)
    if gain.shape != call.writer.shape(x)[:1]:
        raise call.writer.refuse(f"{gain.size} channels do not fit a sample of shape {list(call.writer.shape(x))}")
    return call.writer.batch_norm(x, gain, bias - mean * gain)


def max_pool(call: Call) -> str:
    """Maximum over windows. Padding that torch's pool does not know becomes numbers of the same window."""
    x, axes = _pool_axes(call)
    check_windows(call, axes)
    if _is_plain(axes) and all(2 * a.begin <= a.kernel for a in axes):
        ceil_mode = bool(call.attr("ceil_mode", 0))
        pads = _pair([a.begin for a in axes], 0)
    else:
        x, ceil_mode, pads = repeat_padded(call, x, axes), False, (0, 0)
    kernel, stride, dilation = _pairs(axes)
    return call.writer.max_pool(x, kernel, stride, pads, dilation=dilation, ceil_mode=ceil_mode)


def average_pool(call: Call) -> str:
    """Mean over windows; where torch's pool counts otherwise, a mean over zeros and a gain for each position."""
    x, axes = _pool_axes(call)
    with_padding = bool(call.attr("count_include_pad", 0))
    if not with_padding:
        check_windows(call, axes)
    kernel, stride, dilation = _pairs(axes)
    if dilation == (1, 1) and _is_plain(axes) and all(2 * a.begin <= a.kernel for a in axes):
        pads, ceil_mode = _pair([a.begin for a in axes], 0), bool(call.attr("ceil_mode", 0))
        return call.writer.avg_pool(x, kernel, stride, pads, ceil_mode=ceil_mode, count_include_pad=with_padding)
    padded = zero_padded(call, x, axes)
    area = math.prod(a.kernel for a in axes)
    if dilation == (1, 1):
        y = call.writer.avg_pool(padded, kernel, stride, (0, 0))
    else:
        channels = call.writer.shape(x)[0]
        weight = np.full((channels, 1, *(a.kernel for a in axes)), 1 / area)
        steps, gaps = [a.stride for a in axes], [a.dilation for a in axes]
        y = call.writer.conv(
            padded, weight, None, stride=steps, padding=[0] * len(axes), dilation=gaps, groups=channels
        )
    counts = np.ones((1,) * len(axes))
    for i, axis in enumerate(axes):
        along = [1] * len(axes)
        along[i] = -1
        counts = counts * count_inside(axis, with_padding=with_padding).reshape(along)
    return call.writer.affine(y, area / counts[None], None)


def _pool_axes(call: Call) -> tuple[str, list[WindowAxis]]:
    x = call.activation(0)
    kernel = call.ints("kernel_shape", ())
    if len(kernel) not in (1, 2) or len(call.writer.shape(x)) != len(kernel) + 1:
        raise call.writer.refuse(
            f"a pool with kernel {kernel} over a sample of shape {list(call.writer.shape(x))} is not converted; "
            f"pools over [C, L] and [C, H, W] are"
        )
    return x, window_axes(call, kernel, call.writer.shape(x)[1:])


def _is_plain(axes: Sequence[WindowAxis]) -> bool:
    return all(a.begin == a.end for a in axes)


def _pairs(axes: Sequence[WindowAxis]) -> tuple[Pair, Pair, Pair]:
    """Kernel, stride and dilation as the writer takes them."""
    return (
        _pair([a.kernel for a in axes], 1),
        _pair([a.stride for a in axes], 1),
        _pair([a.dilation for a in axes], 1),
    )


def _pair(numbers: Sequence[int], missing: int) -> Pair:
    return (numbers[0] if len(numbers) == 2 else missing, numbers[-1])


def global_pool(call: Call) -> str:
    """Mean or maximum over every axis behind the channels."""
    x = call.activation(0)
    axes = list(range(1, len(call.writer.shape(x))))
    if not axes:
        return x
    if call.node.op_type == "GlobalMaxPool":
        return call.writer.largest(x, axes, keep=True)
    return call.writer.total(x, axes, keep=True, mean=True)


def reduce(call: Call) -> str:
    """Sum, mean, maximum or minimum over axes of the sample."""
    x, kind = call.activation(0), call.node.op_type
    given = call.constant(1, "axes")
    chosen = call.ints("axes", ()) if given is None else [int(a) for a in np.asarray(given).reshape(-1)]
    if not chosen and call.attr("noop_with_empty_axes", 0):
        return x
    axes = [call.sample_axis(x, axis) for axis in (chosen or range(call.rank(x)))]
    keep = bool(call.attr("keepdims", 1))
    if kind in ("ReduceMean", "ReduceSum"):
        return call.writer.total(x, axes, keep=keep, mean=kind == "ReduceMean")
    minus = np.array(-1.0)
    if kind == "ReduceMin":
        return call.writer.affine(call.writer.largest(call.writer.affine(x, minus, None), axes, keep=keep), minus, None)
    return call.writer.largest(x, axes, keep=keep)
