"""Runs an ANN graph in torch, so that each rung of the ladder is computed and not assumed."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F

from neuroport.ann.graph import AnnGraph, AvgPool2d, BatchNorm, Conv2d, Input, Linear, Node, ReLU, Reshape


def run_graph(graph: AnnGraph, images: torch.Tensor) -> torch.Tensor:
    """Output of the graph, [N, n_out], for images [N, C, H, W] (or features [N, n_in]), in the images' dtype."""
    values: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        for node in graph:
            values[node.name] = images if isinstance(node.op, Input) else _apply(node, values)
    return values[graph.output]


def _apply(node: Node, values: Mapping[str, torch.Tensor]) -> torch.Tensor:
    x = values[node.inputs[0]]
    match node.op:
        case Conv2d(weight, bias, stride, padding, dilation, groups):
            w, b = torch.as_tensor(weight, dtype=x.dtype), torch.as_tensor(bias, dtype=x.dtype)
            return F.conv2d(x, w, b, stride, padding, dilation, groups)
        case Linear(weight, bias):
            return F.linear(x, torch.as_tensor(weight, dtype=x.dtype), torch.as_tensor(bias, dtype=x.dtype))
        case BatchNorm(gain, offset):
            per_channel = (1, -1) + (1,) * (x.ndim - 2)
            scale = torch.as_tensor(gain, dtype=x.dtype).reshape(per_channel)
            return x * scale + torch.as_tensor(offset, dtype=x.dtype).reshape(per_channel)
        case ReLU():
            return F.relu(x)
        case AvgPool2d():
            return avg_pool(node.op, x)
        case Reshape():
            return x.reshape(len(x), *node.shape)
        case Input():
            return x


def avg_pool(op: AvgPool2d, x: torch.Tensor) -> torch.Tensor:
    """Average pool of x [N, C, H, W] with the operator's rules."""
    return F.avg_pool2d(
        x, op.kernel, op.stride, op.padding, op.ceil_mode, op.count_include_pad, divisor_override=op.divisor
    )
