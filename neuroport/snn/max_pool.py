"""Max-pool as rectifiers: max(a, b) = relu(a - b) + b, exact in rates, on any chip.

A window is reduced along its columns, then along its rows, in pairs: a 2x2 pool takes three neurons per output.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from neuroport.ann.graph import Add, AnnGraph, AvgPool2d, Concat, Gather, MaxPool2d, Node, Op, ReLU, Reshape


def expand_max_pools(graph: AnnGraph) -> tuple[AnnGraph, frozenset[str]]:
    """The same function without max-pool, and the names of the rectifiers that stand for it."""
    writer = _Writer(frozenset(graph.by_name))
    for node in graph:
        if isinstance(node.op, MaxPool2d):
            writer.expand(node, node.op)
        else:
            writer.nodes[node.name] = node
    return AnnGraph(tuple(writer.nodes.values()), graph.outputs), frozenset(writer.helpers)


class _Writer:
    """A growing graph; names of new nodes begin with the pool's."""

    def __init__(self, taken: frozenset[str]) -> None:
        self.taken = taken
        self.nodes: dict[str, Node] = {}
        self.helpers: list[str] = []
        self.maxima: set[str] = set()  # of numbers that are not below 0

    def expand(self, pool: Node, op: MaxPool2d) -> None:
        """Nodes of one pool, the last under the pool's own name."""
        x = self.nodes[pool.inputs[0]]
        c, h, _ = x.shape
        narrow = self._reduced(pool, self._taps(pool, x, op, axis=1), (c, h, pool.shape[2]))
        final = self._reduced(pool, self._taps(pool, narrow, op, axis=0), pool.shape)
        del self.nodes[final.name]
        if final.name in self.maxima:
            self.maxima.add(pool.name)
        self.nodes[pool.name] = Node(pool.name, final.op, final.inputs, pool.shape, pool.origin)

    def _taps(self, pool: Node, x: Node, op: MaxPool2d, axis: int) -> list[Node]:
        """What the windows hold at each position of the kernel along one axis (0: rows).

        Where a position lies in the padding, it is 0 if nothing in the window is below 0, else another number of it.
        """
        n_in, n_out = x.shape[axis + 1], pool.shape[axis + 1]
        start = np.arange(n_out) * op.stride[axis] - op.padding[axis]
        places = start[:, None] + np.arange(op.kernel[axis]) * op.dilation[axis]
        inside = (places >= 0) & (places < n_in)
        index = np.arange(x.size).reshape(x.shape)
        if self._is_nonnegative(x):
            padding = np.full_like(np.take(index, [0], axis + 1), -1)
            index = np.concatenate([index, padding], axis + 1)
            places = np.where(inside, places, n_in)
        else:
            places = np.where(inside, places, places[np.arange(n_out), inside.argmax(1)][:, None])
        taps: list[Node] = []
        for tap in range(op.kernel[axis]):
            chosen = np.take(index, places[:, tap], axis + 1)
            taps.append(self._add(pool, Gather(chosen.reshape(-1)), (x.name,), chosen.shape))
        return taps

    def _is_nonnegative(self, x: Node) -> bool:
        """Whether the numbers surely are: activations, selected or joined, or maxima of such."""
        if isinstance(x.op, ReLU) or x.name in self.maxima:
            return True
        relabels = isinstance(x.op, Gather | Concat | Reshape | MaxPool2d | AvgPool2d)
        return relabels and all(self._is_nonnegative(self.nodes[name]) for name in x.inputs)

    def _reduced(self, pool: Node, values: Sequence[Node], shape: Sequence[int]) -> Node:
        """The maximum of all values, in pairs."""
        rest = list(values)
        while len(rest) > 1:
            pairs = [self._larger(pool, a, b, shape) for a, b in zip(rest[::2], rest[1::2], strict=False)]
            rest = pairs + (rest[-1:] if len(rest) % 2 else [])
        return rest[0]

    def _larger(self, pool: Node, a: Node, b: Node, shape: Sequence[int]) -> Node:
        difference = self._add(pool, Add((1, -1)), (a.name, b.name), shape)
        above = self._add(pool, ReLU(), (difference.name,), shape)
        self.helpers.append(above.name)
        larger = self._add(pool, Add((1, 1)), (above.name, b.name), shape)
        if self._is_nonnegative(a):
            self.maxima.add(larger.name)
        return larger

    def _add(self, pool: Node, op: Op, inputs: tuple[str, ...], shape: Sequence[int]) -> Node:
        n = len(self.nodes)
        while (name := f"{pool.name}.{n}") in self.taken or name in self.nodes:
            n += 1
        node = Node(name, op, inputs, tuple(int(n) for n in shape), pool.origin)
        self.nodes[name] = node
        return node
