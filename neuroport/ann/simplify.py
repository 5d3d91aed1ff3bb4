"""Passes over the ANN graph that keep its function: batch norm is folded into the layer before it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from neuroport.ann.graph import AnnGraph, BatchNorm, Conv2d, Linear, Node


def simplify(graph: AnnGraph) -> AnnGraph:
    """The same function without batch norm.

    A batch norm behind a convolution or linear layer that nothing else reads is folded into its weights. Anywhere
    else it becomes what it is, a linear layer of its own: a depthwise 1x1 convolution, or a diagonal matrix.

    Source: Rueckauer et al. 2016, section 3.3: W~ = gamma / sigma W, b~ = gamma / sigma (b - mu) + beta.
    """
    nodes: dict[str, Node] = {}
    alias: dict[str, str] = {}
    for node in graph:
        renamed = replace(node, inputs=tuple(alias.get(name, name) for name in node.inputs))
        if not isinstance(node.op, BatchNorm):
            nodes[node.name] = renamed
            continue
        before = nodes[renamed.inputs[0]]
        is_alone = graph.users[node.inputs[0]] == (node.name,) and node.inputs[0] != graph.output
        if isinstance(before.op, Conv2d | Linear) and is_alone:
            nodes[before.name] = replace(before, op=_folded(before.op, node.op))
            alias[node.name] = before.name
        else:
            nodes[node.name] = replace(renamed, op=_as_layer(node.op, len(node.shape)))
    return AnnGraph(tuple(nodes.values()), alias.get(graph.output, graph.output))


def _folded(op: Conv2d | Linear, norm: BatchNorm) -> Conv2d | Linear:
    gain = norm.gain.reshape(-1, *[1] * (op.weight.ndim - 1))
    return replace(op, weight=op.weight * gain, bias=op.bias * norm.gain + norm.offset)


def _as_layer(norm: BatchNorm, n_axes: int) -> Conv2d | Linear:
    n = len(norm.gain)
    if n_axes == 1:
        return Linear(np.diag(norm.gain), norm.offset)
    return Conv2d(norm.gain.reshape(n, 1, 1, 1), norm.offset, groups=n)
