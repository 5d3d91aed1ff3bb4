"""Runs an ANN graph in torch, so that each rung of the ladder is computed and not assumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from neuroport.ann.graph import (
    Add,
    Affine,
    AnnGraph,
    AvgPool2d,
    Concat,
    Constant,
    Conv2d,
    ConvTranspose2d,
    Gather,
    Input,
    LeakyReLU,
    Linear,
    MaxPool2d,
    Node,
    ReLU,
    Resample,
    Reshape,
    Round,
    Softmax,
    Squash,
)


def run_graph(graph: AnnGraph, images: torch.Tensor) -> torch.Tensor:
    """First output of the graph, [N, ...], for images [N, *input_shape], in the images' dtype."""
    return run_outputs(graph, images)[0]


def run_outputs(graph: AnnGraph, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Every output of the graph, each [N, ...], for images [N, *input_shape], in the images' dtype."""
    values: dict[str, torch.Tensor] = {}
    last_use = {name: node.name for node in graph for name in node.inputs}
    flat = images.reshape(len(images), -1)
    with torch.no_grad():
        for node in graph:
            if isinstance(node.op, Input):
                begin = node.op.offset
                values[node.name] = flat[:, begin : begin + node.size].reshape(len(flat), *node.shape)
            elif isinstance(node.op, Constant):
                values[node.name] = _as(node.op.value, flat).expand(len(flat), *node.shape)
            else:
                values[node.name] = apply_op(node, [values[name] for name in node.inputs])
            _forget(node, values, last_use, graph.outputs)
    return tuple(values[name] for name in graph.outputs)


def _forget(node: Node, values: dict[str, torch.Tensor], last_use: Mapping[str, str], kept: Sequence[str]) -> None:
    for name in set(node.inputs):
        if last_use[name] == node.name and name not in kept:
            del values[name]


def apply_op(node: Node, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
    """What one node (no input, no constant) returns for its inputs [N, ...]."""
    x = inputs[0]
    match node.op:
        case Conv2d(weight, bias, stride, padding, dilation, groups):
            return F.conv2d(x, _as(weight, x), _as(bias, x), stride, padding, dilation, groups)
        case ConvTranspose2d():
            return _conv_transpose(node, node.op, x)
        case Linear(weight, bias):
            return F.linear(x, _as(weight, x), _as(bias, x))
        case Affine(gain, offset):
            return x * _as(gain, x) + _as(offset, x)
        case ReLU():
            return rectify(node.op, x)
        case LeakyReLU(slope):
            return torch.where(x >= 0, x, x * _as(slope, x))
        case Round(mode):
            return x.floor() if mode == "floor" else x.round()
        case MaxPool2d(kernel, stride, padding, dilation, ceil_mode):
            return F.max_pool2d(x, kernel, stride, padding, dilation, ceil_mode)
        case AvgPool2d():
            return avg_pool(node.op, x)
        case Resample(rows, cols):
            return _as(rows, x) @ x @ _as(cols, x).T
        case Gather(index):
            return gather(index, x).reshape(len(x), *node.shape)
        case Reshape():
            return x.reshape(len(x), *node.shape)
        case Add(signs):
            total = x if signs[0] > 0 else -x
            for sign, other in zip(signs[1:], inputs[1:], strict=True):
                total = torch.add(total, other, alpha=sign)
            return total
        case Concat(axis):
            return torch.cat(list(inputs), axis + 1)
        case Softmax(axis, log):
            return F.log_softmax(x, axis + 1) if log else F.softmax(x, axis + 1)
        case Squash(function):
            return {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "log_sigmoid": F.logsigmoid}[function](x)
        case Input() | Constant():
            raise TypeError(f"node '{node.name}' computes nothing")


def rectify(op: ReLU, x: torch.Tensor) -> torch.Tensor:
    """The activation of x: clipped at 0 and the ceiling, rounded to the levels."""
    y = F.relu(x)
    if op.ceiling is None:
        return y
    if op.levels is None:
        return y.clamp_max(op.ceiling)
    return (y / op.ceiling * op.levels + 0.5).floor().clamp_max(op.levels) / op.levels * op.ceiling


def avg_pool(op: AvgPool2d, x: torch.Tensor) -> torch.Tensor:
    """Average pool of x [N, C, H, W] with the operator's rules."""
    return F.avg_pool2d(
        x, op.kernel, op.stride, op.padding, op.ceil_mode, op.count_include_pad, divisor_override=op.divisor
    )


def gather(index: NDArray[np.int64], x: torch.Tensor) -> torch.Tensor:
    """[N, n_out] from x [N, ...]: the numbers at the indices in C order, 0 at -1."""
    flat = x.reshape(len(x), -1)
    if (index < 0).any():
        flat = torch.cat([flat, flat.new_zeros(len(flat), 1)], 1)  # index -1 is the last
        index = index % flat.shape[1]
    return flat.index_select(1, torch.from_numpy(index))


def _conv_transpose(node: Node, op: ConvTranspose2d, x: torch.Tensor) -> torch.Tensor:
    spans = [d * (k - 1) + 1 for d, k in zip(op.dilation, op.weight.shape[2:], strict=True)]
    smallest = [
        (n - 1) * s - 2 * p + span for n, s, p, span in zip(x.shape[2:], op.stride, op.padding, spans, strict=True)
    ]
    extra = [n - least for n, least in zip(node.shape[1:], smallest, strict=True)]
    return F.conv_transpose2d(
        x, _as(op.weight, x), _as(op.bias, x), op.stride, op.padding, extra, op.groups, op.dilation
    )


def _as(array: NDArray[np.float64], like: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(array, dtype=like.dtype)
