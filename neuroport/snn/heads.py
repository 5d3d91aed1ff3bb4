"""Outputs: where the spiking part of the network ends and what the host does with its numbers."""

from __future__ import annotations

import torch

from neuroport.ann.graph import AnnGraph, LeakyReLU, Node, Reshape, Softmax, Squash
from neuroport.ann.interpret import apply_op
from neuroport.snn.network import Head

_Tail = Softmax | Squash | LeakyReLU | Reshape


def tail_nodes(graph: AnnGraph) -> frozenset[str]:
    """Monotone functions behind the last layers, which nothing but outputs reads: the readout need not compute them."""
    found: set[str] = set()
    for node in reversed(graph.nodes):
        users = graph.users[node.name]
        is_read = bool(users) or node.name in graph.outputs
        if isinstance(node.op, _Tail) and is_read and all(user in found for user in users):
            found.add(node.name)
    return frozenset(found)


def base_of(graph: AnnGraph, output: str) -> Node:
    """The node whose signal an output is computed from."""
    tail = tail_nodes(graph)
    node = graph.by_name[output]
    while node.name in tail:
        node = graph.by_name[node.inputs[0]]
    return node


def tail_of(graph: AnnGraph, output: str) -> tuple[Node, ...]:
    """The monotone functions of one output, first to last."""
    tail = tail_nodes(graph)
    node, found = graph.by_name[output], []
    while node.name in tail:
        found.append(node)
        node = graph.by_name[node.inputs[0]]
    return tuple(reversed(found))


def read_out(head: Head, values: torch.Tensor) -> torch.Tensor:
    """The output [N, ...] of a head for its population's values [N, ...] in the ANN's units."""
    y = values.reshape(len(values), *head.shape) if head.shape else values
    for node in head.tail:
        y = apply_op(node, [y])
    return y
