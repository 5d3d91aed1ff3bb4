"""ATen operators with weights, pools and resampling, and what each becomes in the ANN graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from neuroport.ann.graph import FloatArray, Pair
from neuroport.ann.torch_program.calls import Activation, Call, Several, Value, as_array
from neuroport.errors import UnsupportedOperatorError

# --- convolutions and matrix products


def conv(call: Call) -> Value:
    """A convolution, its padding given as numbers or by name, or a transposed one."""
    weight, x = call.weight("weight"), call.x
    dilation = call.ints("dilation", (1,))
    padding: Sequence[int] = (0,)
    named = call.args["padding"]
    if not isinstance(named, str):
        padding = call.ints("padding")
    elif named == "same":
        x, padding = _same_padding(call, x, weight.shape[2:], dilation)
    return Activation(
        call.write.conv(
            x,
            weight,
            call.array("bias"),
            stride=call.ints("stride", (1,)),
            padding=padding,
            dilation=dilation,
            groups=call.ints("groups", (1,))[0],
            transposed="output_padding" in call.args and call.args.get("transposed", True),
            output_padding=call.ints("output_padding", (0,)),
        )
    )


def _same_padding(call: Call, x: str, kernel: Sequence[int], dilation: Sequence[int]) -> tuple[str, Sequence[int]]:
    """The padding that keeps the size; behind an even kernel torch pads one more zero at the far end."""
    gaps = dilation if len(dilation) == len(kernel) else [dilation[0]] * len(kernel)
    total = [d * (k - 1) for d, k in zip(gaps, kernel, strict=True)]
    if not any(n % 2 for n in total):
        return x, [n // 2 for n in total]
    shape = call.write.shape(x)
    border = [(0, 0)] * (len(shape) - len(total)) + [(n // 2, n - n // 2) for n in total]
    if len(border) != len(shape):
        raise call.refuse(f"a convolution over {len(total)} axes of a sample of shape {list(shape)} is not converted")
    index = np.arange(call.write.nodes[x].size).reshape(shape)
    return call.write.gather(x, np.pad(index, border, constant_values=-1)), [0] * len(total)


def linear(call: Call) -> Value:
    """y = x W^T + b over the last axis."""
    return Activation(_dense(call, call.weight("weight"), "input", call.array("bias")))


def addmm(call: Call) -> Value:
    """y = beta * bias + alpha * x W."""
    beta, alpha = call.scalar("beta", 1.0), call.scalar("alpha", 1.0)
    weight, bias = alpha * call.weight("mat2").T, call.operand("self", 2)
    if not isinstance(bias, str):
        return Activation(_dense(call, weight, "mat1", beta * bias))
    product = _dense(call, weight, "mat1", None)
    return Activation(call.write.add(product, call.write.affine(bias, np.array(beta), None)))


def matmul(call: Call) -> Value:
    """x W, or W x for each sample, with a constant W."""
    left, right = list(call.args)[:2]
    if isinstance(call.args[right], Activation):
        if isinstance(call.args[left], Activation):
            raise call.refuse("the product of two activations is not converted; a spiking layer has constant weights")
        return _product_from_the_left(call, _matrix(call, left), right)
    if isinstance(call.args[left], Activation) and call.n_axes == 1:
        raise call.moved("the product sums over it")
    weight = call.weight(right)
    if weight.ndim == 1:
        made = _dense(call, weight[None], left, None)
        return Activation(call.write.reshape(made, call.write.shape(made)[:-1]))
    return Activation(_dense(call, _matrix(call, right).T, left, None))


def _matrix(call: Call, name: str) -> FloatArray:
    """A constant matrix without leading axes of length 1."""
    weight = call.weight(name)
    while weight.ndim > 2 and (weight == weight[:1]).all():
        weight = weight[0]
    if weight.ndim != 2:
        raise call.refuse(f"a constant factor of {weight.ndim} axes is not converted; one matrix for all samples is")
    return weight


def _product_from_the_left(call: Call, weight: FloatArray, name: str) -> Value:
    x = call.activation(name)
    n_axes = len(call.write.shape(x))
    if n_axes < 2:
        raise call.moved("the product sums over it")
    swap = [*range(n_axes - 2), n_axes - 1, n_axes - 2]
    y = call.write.linear(call.write.permute(x, swap), weight, None)
    return Activation(call.write.permute(y, swap))


def _dense(call: Call, weight: FloatArray, name: str, bias: FloatArray | None) -> str:
    x = call.activation(name)
    if not call.write.shape(x) or weight.ndim != 2:
        raise call.refuse("a linear layer needs samples of one axis or more and a weight of two")
    return call.write.linear(x, np.ascontiguousarray(weight), bias)


# --- normalization


def batch_norm(call: Call) -> Value:
    """Normalization with running statistics, in any of its overloads."""
    if call.args.get("training") and call.args.get("running_mean") is not None:
        raise training_mode(call)
    return Activation(_normalize(call, "batch norm", "images of the batch"))


def batch_norm_inference(call: Call) -> Value:
    """The decomposed form, which returns the statistics too."""
    return Several((Activation(_normalize(call, "batch norm", "images of the batch")), None, None))


def instance_norm(call: Call) -> Value:
    """Instance norm with running statistics; with an image's own it is no affine function."""
    if call.args["use_input_stats"]:
        raise call.refuse(
            "instance norm with the image's own statistics is not converted; train with track_running_stats=True and "
            "export in eval mode, or use batch norm"
        )
    return Activation(_normalize(call, "instance norm", "numbers of the image"))


def _normalize(call: Call, what: str, others: str) -> str:
    call.check_axes(2, 3, 4)
    mean, variance = call.array("running_mean"), call.array("running_var")
    if mean is None or variance is None:
        raise UnsupportedOperatorError(
            f"operator '{call.operator}' in {call.origin}: {what} without running statistics depends on the other "
            f"{others}; train with track_running_stats=True"
        )
    gamma, beta = call.array("weight"), call.array("bias")
    with np.errstate(all="ignore"):  # the graph refuses what is not finite, and names the layer
        gain = (1.0 if gamma is None else gamma) / np.sqrt(variance + call.scalar("eps", 1e-5))
        return call.write.batch_norm(call.x, gain, (0.0 if beta is None else beta) - mean * gain)


def training_mode(call: Call) -> UnsupportedOperatorError:
    """The refusal of an export in training mode."""
    return UnsupportedOperatorError(
        f"operator '{call.operator}' in {call.origin} was exported in training mode; call model.eval() before "
        f"torch.export"
    )


# --- pools and resampling


def _pair(call: Call, name: str, default: Sequence[int], missing: int) -> Pair:
    """(vertical, horizontal); operators over one axis have only the horizontal number."""
    numbers = call.ints(name) or list(default)
    return (missing if _is_line(call) else numbers[0], numbers[-1])


def _is_line(call: Call) -> bool:
    return "1d" in call.operator


def _check_image(call: Call) -> None:
    call.check_axes(3 if _is_line(call) else 4)


def avg_pool(call: Call) -> Value:
    """Mean over windows."""
    _check_image(call)
    kernel = _pair(call, "kernel_size", (), 1)
    divisor = call.args.get("divisor_override")
    return Activation(
        call.write.avg_pool(
            call.x,
            kernel,
            _pair(call, "stride", kernel, 1),
            _pair(call, "padding", (0,), 0),
            ceil_mode=bool(call.args["ceil_mode"]),
            count_include_pad=bool(call.args["count_include_pad"]),
            divisor=None if divisor is None else int(divisor),
        )
    )


def max_pool(call: Call) -> Value:
    """Maximum over windows."""
    _check_image(call)
    kernel = _pair(call, "kernel_size", (), 1)
    name = call.write.max_pool(
        call.x,
        kernel,
        _pair(call, "stride", kernel, 1),
        _pair(call, "padding", (0,), 0),
        dilation=_pair(call, "dilation", (1,), 1),
        ceil_mode=bool(call.args["ceil_mode"]),
    )
    return Several((Activation(name), None)) if "indices" in call.operator else Activation(name)


def adaptive_pool(call: Call) -> Value:
    """Mean or maximum over as many windows as the output has; windows of one size, or means of several."""
    _check_image(call)
    wanted, size = call.ints("output_size"), call.shape[1:]
    wanted = wanted if len(wanted) == len(size) else wanted * len(size)
    is_max = "max" in call.operator
    if all(n % m == 0 for n, m in zip(size, wanted, strict=True)):
        sizes = [n // m for n, m in zip(size, wanted, strict=True)]
        kernel = (1 if _is_line(call) else sizes[0], sizes[-1])
        pool = call.write.max_pool if is_max else call.write.avg_pool
        made = Activation(pool(call.x, kernel, kernel, (0, 0)))
    elif is_max:
        raise call.refuse(
            f"{list(size)} pixels do not divide into {wanted} windows of one size; choose an output size that divides, "
            f"or an average pool"
        )
    else:
        made = _resample(call, [_means(n, m) for n, m in zip(size, wanted, strict=True)])
    return Several((made, None)) if is_max else made


def _means(size: int, n_windows: int) -> FloatArray:
    return _matrix_of(size, lambda x: F.adaptive_avg_pool1d(x, n_windows))


def interpolate(call: Call) -> Value:
    """Linear, bilinear or bicubic interpolation: torch's own weights for each axis."""
    _check_image(call)
    size, wanted = call.shape[1:], [int(n) for n in call.node.meta["val"].shape[2:]]
    factors = call.args.get("scale_factors") or [
        call.args.get(name) for name in ("scales_h", "scales_w", "scales") if name in call.args
    ]
    scales = factors if len(factors) == len(size) else [None] * len(size)
    corners = bool(call.args["align_corners"])
    aten = torch.ops.aten
    upsample = aten.upsample_bicubic2d.default if "cubic" in call.operator else aten.upsample_bilinear2d.default

    def matrix(axis: int) -> FloatArray:
        return _matrix_of(
            size[axis], lambda x: upsample(x[..., None], [wanted[axis], 1], corners, scales[axis], None)[..., 0]
        )

    return _resample(call, [matrix(axis) for axis in range(len(size))])


def _matrix_of(size: int, run: Callable[[torch.Tensor], torch.Tensor]) -> FloatArray:
    """The matrix [n_out, size] of a linear function of lines [1, C, size], seen on the unit vectors."""
    return as_array(run(torch.eye(size, dtype=torch.float64)[None])[0]).T.copy()


def _resample(call: Call, matrices: Sequence[FloatArray]) -> Activation:
    x, shape = call.x, call.shape
    if not _is_line(call):
        return Activation(call.write.resample(x, matrices[0], matrices[1]))
    image = call.write.reshape(x, (shape[0], 1, shape[1]))
    made = call.write.resample(image, np.ones((1, 1)), matrices[0])
    return Activation(call.write.reshape(made, (shape[0], len(matrices[0]))))


def reduce(call: Call) -> Value:
    """Sum, mean, maximum or minimum over axes of the sample."""
    kind = call.operator.split(".")[1]
    dims = call.ints("dim") if "dim" in call.args else []
    if not dims:
        raise call.moved("the operator reduces every axis")
    axes, keep = [call.axis(dim) for dim in dims], bool(call.args.get("keepdim", False))
    if kind in ("sum", "mean"):
        return Activation(call.write.total(call.x, axes, keep=keep, mean=kind == "mean"))
    if kind in ("max", "amax"):
        made = call.write.largest(call.x, axes, keep=keep)
    else:  # min x = -max(-x)
        turned = call.write.affine(call.x, np.array(-1.0), None)
        made = call.write.affine(call.write.largest(turned, axes, keep=keep), np.array(-1.0), None)
    return Activation(made) if kind.startswith("a") else Several((Activation(made), None))


LAYERS: Mapping[str, Callable[[Call], Value]] = {
    **{f"aten.{name}": conv for name in ("conv1d", "conv2d", "convolution", "conv_transpose1d", "conv_transpose2d")},
    "aten.linear": linear,
    "aten.addmm": addmm,
    **{f"aten.{name}": matmul for name in ("mm", "bmm", "mv", "matmul")},
    "aten.batch_norm": batch_norm,
    "aten._native_batch_norm_legit_no_training": batch_norm_inference,
    "aten.instance_norm": instance_norm,
    **{f"aten.{name}": avg_pool for name in ("avg_pool1d", "avg_pool2d")},
    **{f"aten.max_pool{n}{what}": max_pool for n in ("1d", "2d") for what in ("", "_with_indices")},
    **{f"aten.adaptive_{what}_pool{n}": adaptive_pool for n in ("1d", "2d") for what in ("avg", "max")},
    "aten._adaptive_avg_pool2d": adaptive_pool,
    **{f"aten.upsample_{kind}": interpolate for kind in ("linear1d", "bilinear2d", "bicubic2d")},
    **{f"aten.{name}": reduce for name in ("sum", "mean", "amax", "amin")},
}
