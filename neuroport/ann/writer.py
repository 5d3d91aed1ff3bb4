"""What the front ends write with: each call adds the nodes of one operator to a growing ANN graph.

Front ends differ in names and argument order; what an operator means is said once, here. Values are node names;
shapes and axes are one sample's, without the batch axis; arrays that join activations broadcast as in numpy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from neuroport.ann.graph import (
    Add,
    Affine,
    AnnGraph,
    AvgPool2d,
    Concat,
    Constant,
    Conv2d,
    ConvTranspose2d,
    FloatArray,
    Gather,
    Input,
    LeakyReLU,
    Linear,
    MaxPool2d,
    Node,
    Op,
    Origin,
    Pair,
    ReLU,
    Resample,
    Reshape,
    Round,
    Softmax,
    Squash,
    reachable,
)
from neuroport.errors import UnsupportedOperatorError

Shape = tuple[int, ...]
_IMAGE = 3  # channels, height, width
_WEIGHTED = (Conv2d, ConvTranspose2d, Linear, Affine, LeakyReLU)


class GraphWriter:
    """A growing graph. `place` says which layer the next nodes belong to."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self._hint, self._other, self._operator, self._origin = "node", "node", "", Origin()
        self._n_inputs = 0

    def place(self, hint: str, operator: str, origin: Origin, *, other: str | None = None) -> None:
        """Name the next nodes with weights after `hint`, the others after `other`; refusals name the operator."""
        self._hint, self._operator, self._origin = hint, operator, origin
        self._other = hint if other is None else other

    def graph(self, outputs: Sequence[str]) -> AnnGraph:
        """The graph of the nodes the outputs depend on."""
        return AnnGraph(reachable(self.nodes, tuple(outputs)), tuple(outputs))

    def shape(self, x: str) -> Shape:
        """Shape of a value."""
        return self.nodes[x].shape

    def refuse(self, why: str) -> UnsupportedOperatorError:
        """The refusal of the current operator, by name and place."""
        return UnsupportedOperatorError(f"operator '{self._operator}' in {self._origin}: {why}")

    def add_node(self, op: Op, inputs: Sequence[str], shape: Sequence[int]) -> str:
        """One node; returns its name."""
        base = self._hint if isinstance(op, _WEIGHTED) else self._other
        name, n = base, 1
        while name in self.nodes:
            n += 1
            name = f"{base}_{n}"
        self.nodes[name] = Node(name, op, tuple(inputs), tuple(int(i) for i in shape), self._origin)
        return name

    def input(self, shape: Sequence[int]) -> str:
        """The next input of the network."""
        offset = sum(node.size for node in self.nodes.values() if isinstance(node.op, Input))
        self._n_inputs += 1
        self.place("input" if self._n_inputs == 1 else f"input_{self._n_inputs}", "input", Origin())
        return self.add_node(Input(offset), (), shape)

    def constant(self, value: FloatArray) -> str:
        """The same numbers for every sample."""
        return self.add_node(Constant(np.asarray(value, np.float64)), (), value.shape)

    # --- layers with weights

    def conv(
        self,
        x: str,
        weight: FloatArray,
        bias: FloatArray | None,
        *,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
        transposed: bool = False,
        output_padding: Sequence[int] = (0,),
    ) -> str:
        """Convolution over one or two axes, or its transpose (weight [C_in, C_out / groups, ...])."""
        shape = self.shape(x)
        n_axes = weight.ndim - 2
        if n_axes not in (1, 2) or len(shape) != n_axes + 1:
            raise self.refuse(
                f"a convolution over {n_axes} axes of a sample of shape {list(shape)} is not converted; 1-d "
                f"convolutions of [C, L] and 2-d convolutions of [C, H, W] are"
            )
        is_line = n_axes == 1
        image = self.reshape(x, (shape[0], 1, shape[1])) if is_line else x
        w = weight[:, :, None, :] if is_line else weight
        steps, pads = _pair(stride, is_line, 1), _pair(padding, is_line, 0)
        gaps, extra = _pair(dilation, is_line, 1), _pair(output_padding, is_line, 0)
        size = self.shape(image)[1:]
        span = [d * (k - 1) + 1 for d, k in zip(gaps, w.shape[2:], strict=True)]
        axes = range(2)
        if transposed:
            n_out = w.shape[1] * groups
            out = [(size[i] - 1) * steps[i] - 2 * pads[i] + span[i] + extra[i] for i in axes]
        else:
            n_out = len(w)
            out = [(size[i] + 2 * pads[i] - span[i]) // steps[i] + 1 for i in axes]
        b = np.zeros(n_out) if bias is None else bias
        if min(out) < 1:
            raise self.refuse(f"the kernel {list(w.shape[2:])} does not fit into the input {list(shape)}")
        kind = ConvTranspose2d if transposed else Conv2d
        y = self.add_node(kind(w, b, steps, pads, gaps, groups), (image,), (n_out, *out))
        return self.reshape(y, (n_out, out[1])) if is_line else y

    def linear(self, x: str, weight: FloatArray, bias: FloatArray | None) -> str:
        """y = x @ weight^T + bias over the last axis. weight: [n_out, n_in]; bias broadcasts against [..., n_out]."""
        *outer, n_in = self.shape(x)
        n_out = len(weight)
        b = np.zeros(n_out) if bias is None else np.asarray(bias, np.float64)
        is_plain = b.size == 1 or b.shape == (1,) * (b.ndim - 1) + (n_out,)
        layer_bias = np.broadcast_to(b.reshape(-1), (n_out,)).copy() if is_plain else np.zeros(n_out)
        if math.prod(outer) == 1:
            y = self.add_node(Linear(weight, layer_bias), (self.reshape(x, (n_in,)),), (n_out,))
            y = self.reshape(y, (*outer, n_out))
        else:  # the same layer at each place: a 1x1 convolution with the features as channels
            n = math.prod(outer)
            channels = self.permute(self.reshape(x, (n, n_in)), (1, 0))
            op = Conv2d(weight[:, :, None, None], layer_bias)
            y = self.add_node(op, (self.reshape(channels, (n_in, 1, n)),), (n_out, 1, n))
            y = self.reshape(self.permute(self.reshape(y, (n_out, n)), (1, 0)), (*outer, n_out))
        return y if is_plain else self.affine(y, None, b)

    def affine(self, x: str, gain: FloatArray | None, offset: FloatArray | None) -> str:
        """gain * x + offset, numpy's broadcasting, also of x itself."""
        g = np.asarray(1.0 if gain is None else gain, np.float64)
        o = np.asarray(0.0 if offset is None else offset, np.float64)
        shape = np.broadcast_shapes(self.shape(x), g.shape, o.shape)
        wide = self.broadcast(x, shape)
        if (g == 1).all() and (o == 0).all():
            return wide
        full = tuple(a.reshape((1,) * (len(shape) - a.ndim) + a.shape) for a in (g, o))
        return self.add_node(Affine(*full), (wide,), shape)

    def batch_norm(self, x: str, gain: FloatArray, offset: FloatArray) -> str:
        """gain[c] * x[c] + offset[c] per channel, the first axis."""
        per_channel = (-1,) + (1,) * (len(self.shape(x)) - 1)
        return self.add_node(Affine(gain.reshape(per_channel), offset.reshape(per_channel)), (x,), self.shape(x))

    # --- activations

    def clamp(self, x: str, low: float | None, high: float | None) -> str:
        """min(max(x, low), high), as a rectifier between two shifts."""
        if low is not None and high is not None and not low < high:
            raise self.refuse(f"clamp between {low} and {high} is a constant")
        if low is None and high is None:
            return x
        if low is None:  # min(x, high) = high - relu(high - x)
            below = self.relu(self.affine(x, np.array(-1.0), np.array(float(high or 0.0))))
            return self.affine(below, np.array(-1.0), np.array(float(high or 0.0)))
        shifted = self.affine(x, None, np.array(-float(low)))
        return self.affine(self.relu(shifted, None if high is None else high - low), None, np.array(float(low)))

    def relu(self, x: str, ceiling: float | None = None) -> str:
        """min(max(x, 0), ceiling)."""
        return self.add_node(ReLU(None if ceiling is None else float(ceiling)), (x,), self.shape(x))

    def leaky_relu(self, x: str, slope: FloatArray) -> str:
        """x above 0, slope * x below; slope broadcasts."""
        s = np.asarray(slope, np.float64)
        if (s == 0).all():
            return self.relu(x)
        return self.add_node(LeakyReLU(s.reshape((1,) * (len(self.shape(x)) - s.ndim) + s.shape)), (x,), self.shape(x))

    def absolute(self, x: str) -> str:
        """|x| = relu(x) + relu(-x)."""
        return self.add(self.relu(x), self.relu(self.affine(x, np.array(-1.0), None)))

    def maximum(self, a: str, b: str) -> str:
        """max(a, b) = relu(a - b) + b."""
        return self.add(self.relu(self.add(a, b, sign=-1)), b)

    def minimum(self, a: str, b: str) -> str:
        """min(a, b) = a - relu(a - b)."""
        return self.add(a, self.relu(self.add(a, b, sign=-1)), sign=-1)

    def rounded(self, x: str, mode: str) -> str:
        """Whole numbers, 'floor' or 'nearest'."""
        return self.add_node(Round("floor" if mode == "floor" else "nearest"), (x,), self.shape(x))

    def softmax(self, x: str, axis: int, *, log: bool = False) -> str:
        """Softmax or its logarithm over an axis of the sample."""
        return self.add_node(Softmax(axis % len(self.shape(x)), log), (x,), self.shape(x))

    def squash(self, x: str, function: str) -> str:
        """'sigmoid', 'tanh' or 'log_sigmoid', which stand behind the last layer only."""
        known = {"sigmoid": Squash("sigmoid"), "tanh": Squash("tanh"), "log_sigmoid": Squash("log_sigmoid")}
        return self.add_node(known[function], (x,), self.shape(x))

    # --- joining

    def add(self, a: str, b: str, sign: int = 1) -> str:
        """a + sign * b of two activations, numpy's broadcasting."""
        shape = np.broadcast_shapes(self.shape(a), self.shape(b))
        return self.add_node(Add((1, sign)), (self.broadcast(a, shape), self.broadcast(b, shape)), shape)

    def concat(self, values: Sequence[str], axis: int) -> str:
        """Activations joined along an axis of the sample."""
        if len(values) == 1:
            return values[0]
        shape = list(self.shape(values[0]))
        axis %= len(shape)
        shape[axis] = sum(self.shape(v)[axis] for v in values)
        return self.add_node(Concat(axis), values, shape)

    # --- pools and resampling

    def max_pool(
        self, x: str, kernel: Pair, stride: Pair, padding: Pair, *, dilation: Pair = (1, 1), ceil_mode: bool = False
    ) -> str:
        """Maximum over windows of [C, H, W]; [C, L] uses the second numbers."""
        return self._pool(x, MaxPool2d(kernel, stride, padding, dilation, ceil_mode))

    def avg_pool(
        self,
        x: str,
        kernel: Pair,
        stride: Pair,
        padding: Pair,
        *,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor: int | None = None,
    ) -> str:
        """Mean over windows of [C, H, W]; [C, L] uses the second numbers."""
        return self._pool(x, AvgPool2d(kernel, stride, padding, ceil_mode, count_include_pad, divisor))

    def _pool(self, x: str, op: MaxPool2d | AvgPool2d) -> str:
        shape = self.shape(x)
        if len(shape) not in (_IMAGE, _IMAGE - 1):
            raise self.refuse(f"a pool over a sample of shape {list(shape)} is not converted; [C, H, W] or [C, L] is")
        image = x if len(shape) == _IMAGE else self.reshape(x, (shape[0], 1, shape[1]))
        probe = torch.empty(1, *self.shape(image), device="meta")
        if isinstance(op, MaxPool2d):
            made = F.max_pool2d(probe, op.kernel, op.stride, op.padding, op.dilation, op.ceil_mode)
        else:
            made = F.avg_pool2d(probe, op.kernel, op.stride, op.padding, op.ceil_mode, op.count_include_pad)
        y = self.add_node(op, (image,), tuple(made.shape[1:]))
        return y if image == x else self.reshape(y, (shape[0], made.shape[3]))

    def resample(self, x: str, rows: FloatArray, cols: FloatArray) -> str:
        """rows @ x[c] @ cols^T for each channel of [C, H, W]."""
        c = self.shape(x)[0]
        return self.add_node(Resample(rows, cols), (x,), (c, len(rows), len(cols)))

    def total(self, x: str, axes: Sequence[int], *, keep: bool, mean: bool) -> str:
        """Sum or mean over axes of the sample; `keep`: they stay with length 1."""
        shape = self.shape(x)
        image, kept, window = self._windows(x, axes)
        y = self.avg_pool(image, window, window, (0, 0), divisor=None if mean else 1)
        return self.reshape(y, _reduced(shape, axes) if keep else kept)

    def largest(self, x: str, axes: Sequence[int], *, keep: bool) -> str:
        """Maximum over axes of the sample."""
        shape = self.shape(x)
        image, kept, window = self._windows(x, axes)
        y = self.max_pool(image, window, window, (0, 0))
        return self.reshape(y, _reduced(shape, axes) if keep else kept)

    def _windows(self, x: str, axes: Sequence[int]) -> tuple[str, Shape, Pair]:
        """x as [kept, *window] so that a pool reduces the axes; the kept axes' shape; the window."""
        shape = self.shape(x)
        reduced = sorted({a % len(shape) for a in axes})
        others = [a for a in range(len(shape)) if a not in reduced]
        moved = self.permute(x, [*others, *reduced])
        kept = tuple(shape[a] for a in others)
        sizes = [shape[a] for a in reduced]
        window = (sizes[0], sizes[1]) if len(sizes) == 2 else (math.prod(sizes), 1)
        return self.reshape(moved, (math.prod(kept), *window)), kept, window

    # --- relabelling

    def reshape(self, x: str, shape: Sequence[int]) -> str:
        """The same numbers in C order under another shape."""
        if tuple(shape) == self.shape(x):
            return x
        return self.add_node(Reshape(), (x,), shape)

    def permute(self, x: str, order: Sequence[int]) -> str:
        """Axes in another order."""
        index = np.arange(self.nodes[x].size).reshape(self.shape(x)).transpose(order)
        return self.gather(x, index)

    def broadcast(self, x: str, shape: Sequence[int]) -> str:
        """x repeated along axes of length 1."""
        if tuple(shape) == self.shape(x):
            return x
        index = np.arange(self.nodes[x].size).reshape(self.shape(x))
        return self.gather(x, np.broadcast_to(index, tuple(shape)))

    def gather(self, x: str, index: np.ndarray) -> str:
        """The numbers of x at `index` (of any shape, in C order of x; -1 gives 0)."""
        flat = np.ascontiguousarray(index).reshape(-1).astype(np.int64)
        if np.array_equal(flat, np.arange(self.nodes[x].size)):
            return self.reshape(x, index.shape)
        return self.add_node(Gather(flat), (x,), index.shape)


def _pair(values: Sequence[int], is_line: bool, missing: int) -> Pair:
    """(vertical, horizontal) of one or two numbers; a line has only the horizontal one."""
    numbers = [int(v) for v in values]
    return (missing if is_line else numbers[0], numbers[-1])


def _reduced(shape: Shape, axes: Sequence[int]) -> Shape:
    reduced = {a % len(shape) for a in axes}
    return tuple(1 if a in reduced else n for a, n in enumerate(shape))
