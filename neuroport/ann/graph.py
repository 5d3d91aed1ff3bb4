"""The ANN graph: named nodes in topological order, each one operator of a small closed set.

Shapes leave the batch axis out: images [C, H, W], features [N]. Weights are float64 so that folding does not round
twice; the interpreter casts them to the dtype it runs in.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from neuroport.errors import InvalidNetworkError

FloatArray = NDArray[np.float64]
Pair = tuple[int, int]


@dataclass(frozen=True)
class Input:
    """One input of the network; `offset`: where its numbers begin in the sample, which joins all inputs in C order."""

    offset: int = 0


@dataclass(frozen=True, eq=False)
class Constant:
    """The same numbers for every sample. value: the node's shape."""

    value: FloatArray


@dataclass(frozen=True, eq=False)
class Conv2d:
    """Cross-correlation with zero padding: y = conv(x, weight) + bias.

    weight: [C_out, C_in / groups, kH, kW]; bias: [C_out]; stride, padding, dilation: (vertical, horizontal).
    """

    weight: FloatArray
    bias: FloatArray
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1


@dataclass(frozen=True, eq=False)
class ConvTranspose2d:
    """The adjoint of a cross-correlation, plus bias: each input pixel adds a scaled kernel to the output.

    weight: [C_in, C_out / groups, kH, kW]; bias: [C_out]; the node's shape says how much is cut at the far border.
    """

    weight: FloatArray
    bias: FloatArray
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1


@dataclass(frozen=True, eq=False)
class Linear:
    """y = weight @ x + bias for features x [n_in]. weight: [n_out, n_in]; bias: [n_out]."""

    weight: FloatArray
    bias: FloatArray


@dataclass(frozen=True, eq=False)
class Affine:
    """y = gain * x + offset; both broadcast against the node's shape and have as many axes: [C, 1, 1] per channel.

    Batch normalization in its inference form is one: gain = gamma / sigma, offset = beta - gamma mu / sigma.
    Source: Rueckauer et al. 2016, section 3.3.
    """

    gain: FloatArray
    offset: FloatArray


@dataclass(frozen=True)
class ReLU:
    """y = min(max(x, 0), ceiling), rounded to `levels` equal levels where given; no ceiling: None.

    With levels L: y = ceiling * floor(L x / ceiling + 1/2) / L, the QCFS activation (Bu et al. 2022, eq. 15).
    """

    ceiling: float | None = None
    levels: int | None = None


@dataclass(frozen=True, eq=False)
class LeakyReLU:
    """y = x above 0, slope * x below. slope: broadcasts against the node's shape, with as many axes."""

    slope: FloatArray


@dataclass(frozen=True)
class Round:
    """Whole numbers: floor, or nearest with ties to even. Only understood as part of a quantized activation."""

    mode: Literal["floor", "nearest"]


@dataclass(frozen=True)
class MaxPool2d:
    """Maximum over windows; padding never wins."""

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    ceil_mode: bool = False


@dataclass(frozen=True)
class AvgPool2d:
    """Mean over windows. `count_include_pad`: padded zeros count in the divisor; `divisor`: fixed divisor or None."""

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor: int | None = None


@dataclass(frozen=True, eq=False)
class Resample:
    """y[c] = rows @ x[c] @ cols^T: adaptive pools, interpolation. rows: [H', H]; cols: [W', W]."""

    rows: FloatArray
    cols: FloatArray


@dataclass(frozen=True, eq=False)
class Gather:
    """y.ravel()[k] = x.ravel()[index[k]], 0 where the index is -1: slices, permutations, padding, upsampling.

    index: [n_out] int64.
    """

    index: NDArray[np.int64]


@dataclass(frozen=True)
class Reshape:
    """The same numbers in C order under another shape (flatten, view, reshape)."""


@dataclass(frozen=True)
class Add:
    """Sum of the inputs, each with its sign (+1 or -1); all of one shape."""

    signs: tuple[int, ...]


@dataclass(frozen=True)
class Concat:
    """The inputs joined along an axis of the sample (0: channels)."""

    axis: int


@dataclass(frozen=True)
class Softmax:
    """Softmax, or its logarithm, over an axis of the sample; only behind the last layer."""

    axis: int
    log: bool = False


@dataclass(frozen=True)
class Squash:
    """A smooth monotone function, only behind the last layer."""

    function: Literal["sigmoid", "tanh", "log_sigmoid"]


Op = (
    Input
    | Constant
    | Conv2d
    | ConvTranspose2d
    | Linear
    | Affine
    | ReLU
    | LeakyReLU
    | Round
    | MaxPool2d
    | AvgPool2d
    | Resample
    | Gather
    | Reshape
    | Add
    | Concat
    | Softmax
    | Squash
)


@dataclass(frozen=True)
class Origin:
    """Where a node comes from: module path ('features.0') and source line ('net.py:12'), empty when unknown."""

    module: str = ""
    source: str = ""

    def __str__(self) -> str:
        """The module path and line as a person would look them up."""
        module = f"module '{self.module}'" if self.module else "the top module"
        return f"{module} ({self.source})" if self.source else module


@dataclass(frozen=True)
class Node:
    """One operator with its inputs by name and the shape of what it returns, without the batch axis."""

    name: str
    op: Op
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    origin: Origin = field(default_factory=Origin)

    @property
    def size(self) -> int:
        """Numbers per sample."""
        return math.prod(self.shape)


@dataclass(frozen=True, eq=False)
class AnnGraph:
    """Nodes in topological order; `outputs` name those whose values are the answer, the class scores first.

    Raises:
        InvalidNetworkError: a node uses a name that does not stand before it, or a weight is not finite.
    """

    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check the order of the nodes and that every number is finite."""
        seen: set[str] = set()
        for node in self.nodes:
            missing = [name for name in node.inputs if name not in seen]
            if missing or node.name in seen:
                raise InvalidNetworkError(f"node '{node.name}' is out of order or doubled: it uses {missing}")
            seen.add(node.name)
            _check_finite(node)
        for name in self.outputs:
            if name not in seen:
                raise InvalidNetworkError(f"the graph has no node '{name}' to take its output from")
        if not self.outputs:
            raise InvalidNetworkError("the graph has no output")

    @cached_property
    def by_name(self) -> Mapping[str, Node]:
        """Nodes by their name."""
        return {node.name: node for node in self.nodes}

    @cached_property
    def users(self) -> Mapping[str, tuple[str, ...]]:
        """For each node the names of the nodes that read it, once for each use."""
        found: dict[str, list[str]] = {node.name: [] for node in self.nodes}
        for node in self.nodes:
            for name in node.inputs:
                found[name].append(node.name)
        return {name: tuple(users) for name, users in found.items()}

    @property
    def inputs(self) -> tuple[Node, ...]:
        """The input nodes, in the order of their numbers in the sample."""
        found = [node for node in self.nodes if isinstance(node.op, Input)]
        return tuple(sorted(found, key=lambda node: node.op.offset if isinstance(node.op, Input) else 0))

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample: the input's own, or [n] where several inputs are joined."""
        inputs = self.inputs
        return inputs[0].shape if len(inputs) == 1 else (sum(node.size for node in inputs),)

    @property
    def output(self) -> str:
        """The first output: the class scores."""
        return self.outputs[0]

    def __iter__(self) -> Iterator[Node]:
        """Nodes in topological order."""
        return iter(self.nodes)


def reachable(nodes: dict[str, Node], outputs: tuple[str, ...]) -> tuple[Node, ...]:
    """The nodes the outputs depend on, in their order, and every input."""
    wanted = set(outputs)
    for node in reversed(nodes.values()):
        if node.name in wanted:
            wanted.update(node.inputs)
    return tuple(node for node in nodes.values() if node.name in wanted or isinstance(node.op, Input))


def _check_finite(node: Node) -> None:
    for what in ("weight", "bias", "gain", "offset", "value", "slope"):
        value = getattr(node.op, what, None)
        if value is not None and not np.isfinite(value).all():
            bad = int((~np.isfinite(value)).sum())
            raise InvalidNetworkError(
                f"layer '{node.name}': {bad} of {value.size} numbers in its {what} are NaN or infinite; "
                f"every weight must be finite; check the training run or the weights file ({node.origin})"
            )
