"""One pass over the ANN graph that keeps its function and brings it into the form spiking networks are built from.

Batch norm and other affine maps fold into the layer before them. Activations move in front of what only relabels or
selects (concat, permutations, upsampling, max-pool), so that a population is a layer's own neurons. Floor and clamp
of a quantized activation become one rectifier with levels.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from neuroport.ann.graph import (
    Affine,
    AnnGraph,
    AvgPool2d,
    Concat,
    Conv2d,
    ConvTranspose2d,
    FloatArray,
    Gather,
    LeakyReLU,
    Linear,
    MaxPool2d,
    Node,
    Op,
    ReLU,
    Resample,
    Round,
    reachable,
)

_Weighted = Conv2d | ConvTranspose2d | Linear
_Elementwise = Affine | ReLU | LeakyReLU
_Spatial = MaxPool2d | AvgPool2d | Resample
_NEAR = 1e-6


def simplify(graph: AnnGraph) -> AnnGraph:
    """The same function without batch norm behind a layer of its own, activations right behind their layers.

    Source: Rueckauer et al. 2016, section 3.3: W~ = gamma / sigma W, b~ = gamma / sigma (b - mu) + beta.
    """
    return _Simplifier(graph).run()


class _Simplifier:
    """Builds the new graph node by node. n_users: readers of a new node, outputs counted."""

    def __init__(self, graph: AnnGraph) -> None:
        self.graph = graph
        self.nodes: dict[str, Node] = {}
        self.new_name: dict[str, str] = {}
        self.n_users: dict[str, int] = {}

    def run(self) -> AnnGraph:
        for node in self.graph:
            inputs = tuple(self.new_name[name] for name in node.inputs)
            made = self._step(replace(node, inputs=inputs))
            self.new_name[node.name] = made
            n_users = len(self.graph.users[node.name]) + self.graph.outputs.count(node.name)
            self.n_users[made] = max(self.n_users[made], n_users)
        outputs = tuple(self.new_name[name] for name in self.graph.outputs)
        return AnnGraph(reachable(self.nodes, outputs), outputs)

    def _step(self, node: Node) -> str:
        match node.op:
            case ReLU(float(), None) if self._feeds_round(node.name):
                return self._emit(node)  # it moves with its levels, once they are known
            case Affine() | ReLU() | LeakyReLU():
                return self._elementwise(node, node.op, node.inputs[0], is_alone=True)
            case MaxPool2d() | AvgPool2d() | Resample():
                return self._spatial(node, node.op)
            case Round():
                return self._rounded(node, node.op)
        return self._emit(node)

    def _feeds_round(self, name: str) -> bool:
        """Whether nothing but a rounding, with affine maps before it, reads the node."""
        users = self.graph.users[name]
        if len(users) != 1 or name in self.graph.outputs:
            return False
        op = self.graph.by_name[users[0]].op
        return isinstance(op, Round) or (isinstance(op, Affine) and self._feeds_round(users[0]))

    def _emit(self, node: Node) -> str:
        """A new node under its own name, or a numbered one where parts of it share it."""
        name, n = node.name, 1
        while name in self.nodes:
            n += 1
            name = f"{node.name}.{n}"
        self.nodes[name] = replace(node, name=name)
        self.n_users[name] = 1
        return name

    def _elementwise(self, node: Node, op: _Elementwise, x: str, *, is_alone: bool) -> str:
        """`op` applied to x, as far towards x's source as it goes; is_alone: nobody else reads the way back to x."""
        before = self.nodes[x]
        is_alone = is_alone and self.n_users[x] == 1
        if not is_alone:
            self.n_users[x] = max(self.n_users[x], 2)  # whoever reads the way back, and the node made here
        if isinstance(op, Affine) and isinstance(before.op, Affine):
            joined = Affine(before.op.gain * op.gain, before.op.offset * op.gain + op.offset)
            return self._elementwise(node, joined, before.inputs[0], is_alone=is_alone)
        if isinstance(op, Affine) and isinstance(before.op, _Weighted) and is_alone:
            folded = _folded(before, before.op, op)
            if folded is not None:
                self.nodes[x] = replace(before, op=folded)
                return x
        if isinstance(op, ReLU) and isinstance(before.op, ReLU) and op.levels is None and before.op.levels is None:
            ceilings = [c for c in (op.ceiling, before.op.ceiling) if c is not None]
            if op.ceiling is None or (before.op.ceiling is not None and before.op.ceiling <= op.ceiling):
                return x
            return self._elementwise(node, ReLU(min(ceilings)), before.inputs[0], is_alone=is_alone)
        if isinstance(op, ReLU) and isinstance(before.op, Round) and op.levels is None:
            made = self._clipped_levels(node, op, before, is_alone=is_alone)
            if made is not None:
                return made
        moved = self._moved(node, op, before, is_alone=is_alone)
        if moved is not None:
            return moved
        return self._emit(replace(node, op=op, inputs=(x,), shape=before.shape))

    def _moved(self, node: Node, op: _Elementwise, before: Node, *, is_alone: bool) -> str | None:
        """The operator in front of a relabelling or max-pool, None where it stays behind."""
        match before.op:
            case Concat(axis):
                ends = np.cumsum([self.nodes[part].shape[axis] for part in before.inputs])
                parts = [
                    self._elementwise(node, _sliced(op, axis, end - size, end), part, is_alone=is_alone)
                    for part, end in zip(before.inputs, ends, strict=True)
                    for size in [self.nodes[part].shape[axis]]
                ]
                return self._emit(replace(node, op=before.op, inputs=tuple(parts), shape=before.shape))
            case MaxPool2d() if isinstance(op, ReLU):
                inner = self._elementwise(node, op, before.inputs[0], is_alone=is_alone)
                return self._emit(replace(before, inputs=(inner,)))
            case Gather(index):
                return self._before_gather(node, op, before, index, is_alone=is_alone)
        return None

    def _before_gather(
        self, node: Node, op: _Elementwise, before: Node, index: np.ndarray, *, is_alone: bool
    ) -> str | None:
        source = self.nodes[before.inputs[0]]
        count = np.bincount(index[index >= 0], minlength=source.size)
        if (count == 0).any():  # a slice: the activation would be computed for numbers nobody reads
            return None
        moved: _Elementwise = op
        if not isinstance(op, ReLU):
            if (count != 1).any() or (index < 0).any():
                return None
            moved = _permuted(op, before, source, index)
        inner = self._elementwise(node, moved, source.name, is_alone=is_alone)
        return self._emit(replace(before, inputs=(inner,)))

    def _spatial(self, node: Node, op: _Spatial) -> str:
        """A pool of joined channels is the pools joined."""
        before = self.nodes[node.inputs[0]]
        if not (isinstance(before.op, Concat) and before.op.axis == 0):
            return self._emit(node)
        for part in before.inputs:  # read here, and by the concat where others read that
            self.n_users[part] = max(self.n_users[part], self.n_users[before.name])
        parts = [
            self._emit(replace(node, inputs=(part,), shape=(self.nodes[part].shape[0], *node.shape[1:])))
            for part in before.inputs
        ]
        return self._emit(replace(node, op=before.op, inputs=tuple(parts)))

    def _rounded(self, node: Node, op: Round) -> str:
        """floor(g relu_c(x) + 1/2) with g c a whole number L: the activation with L levels, times g."""
        scaled = self.nodes[node.inputs[0]]
        if not isinstance(scaled.op, Affine):
            return self._emit(node)
        clip = self.nodes[scaled.inputs[0]]
        gain, offset = _scalar(scaled.op.gain), _scalar(scaled.op.offset)
        wanted = 0.5 if op.mode == "floor" else 0.0
        if not isinstance(clip.op, ReLU) or clip.op.ceiling is None or gain is None or offset != wanted:
            return self._emit(node)
        n_levels = round(gain * clip.op.ceiling)
        if n_levels < 1 or abs(gain * clip.op.ceiling - n_levels) > _NEAR * n_levels:
            return self._emit(node)
        if clip.op.levels not in (None, n_levels):  # rounding twice is not rounding once
            return self._emit(node)
        stepped = self._elementwise(clip, ReLU(clip.op.ceiling, n_levels), clip.inputs[0], is_alone=False)
        one = np.ones((1,) * len(node.shape))
        return self._elementwise(node, Affine(gain * one, 0.0 * one), stepped, is_alone=True)

    def _clipped_levels(self, node: Node, op: ReLU, before: Node, *, is_alone: bool) -> str | None:
        """clip(floor(x), 0, L) is the activation of x - 1/2 with ceiling L and L levels."""
        if op.ceiling is None or round(op.ceiling) != op.ceiling or not isinstance(before.op, Round):
            return None
        one = np.ones((1,) * len(before.shape))
        shift = -0.5 if before.op.mode == "floor" else 0.0
        inner = self._elementwise(before, Affine(one, shift * one), before.inputs[0], is_alone=is_alone)
        return self._emit(replace(node, op=ReLU(op.ceiling, round(op.ceiling)), inputs=(inner,), shape=before.shape))


def _folded(node: Node, op: _Weighted, norm: Affine) -> Op | None:
    """The layer with the affine map behind it, None where the map differs within a channel."""
    channels = node.shape[0]
    gain, offset = _by_channel(norm.gain, channels), _by_channel(norm.offset, channels)
    if gain is None or offset is None:
        return None
    bias = op.bias * gain + offset
    if isinstance(op, ConvTranspose2d):
        per_group = op.weight.shape[1]
        group = np.arange(len(op.weight)) // (len(op.weight) // op.groups)
        rows = gain[group[:, None] * per_group + np.arange(per_group)[None, :]]
        return replace(op, weight=op.weight * rows[:, :, None, None], bias=bias)
    return replace(op, weight=op.weight * gain.reshape(-1, *[1] * (op.weight.ndim - 1)), bias=bias)


def _by_channel(values: FloatArray, n: int) -> FloatArray | None:
    if values.size == 1:
        return np.full(n, values.reshape(-1)[0])
    return values.reshape(-1) if values.size == n == values.shape[0] else None


def _scalar(values: FloatArray) -> float | None:
    first = float(values.reshape(-1)[0])
    return first if bool((values == first).all()) else None


def _sliced(op: _Elementwise, axis: int, begin: int, end: int) -> _Elementwise:
    """The operator for the part of a concat between two positions of its axis."""

    def cut(values: FloatArray) -> FloatArray:
        return values if values.shape[axis] == 1 else np.take(values, range(begin, end), axis)

    if isinstance(op, Affine):
        return Affine(cut(op.gain), cut(op.offset))
    return LeakyReLU(cut(op.slope)) if isinstance(op, LeakyReLU) else op


def _permuted(op: _Elementwise, after: Node, source: Node, index: np.ndarray) -> _Elementwise:
    """The operator before a permutation that is given behind it."""

    def back(values: FloatArray) -> FloatArray:
        if values.size == 1:
            return values.reshape((1,) * len(source.shape))
        flat = np.empty(source.size)
        flat[index] = np.broadcast_to(values, after.shape).reshape(-1)
        return _compact(flat.reshape(source.shape))

    if isinstance(op, Affine):
        return Affine(back(op.gain), back(op.offset))
    return LeakyReLU(back(op.slope)) if isinstance(op, LeakyReLU) else op


def _compact(values: FloatArray) -> FloatArray:
    """One number per channel where each channel has only one."""
    first = values.reshape(len(values), -1)[:, :1]
    same = (values.reshape(len(values), -1) == first).all()
    return first.reshape((-1,) + (1,) * (values.ndim - 1)) if same else values
