"""The ANN graph: named nodes in topological order, each one operator of a small closed set.

Shapes leave the batch axis out: images [C, H, W], features [N]. Weights are float64 so that folding does not round
twice; the interpreter casts them to the dtype it runs in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from neuroport.errors import InvalidNetworkError

FloatArray = NDArray[np.float64]
Pair = tuple[int, int]


@dataclass(frozen=True)
class Input:
    """The image or feature vector, one per sample."""


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
class Linear:
    """y = weight @ x + bias over the last axis. weight: [n_out, n_in]; bias: [n_out]."""

    weight: FloatArray
    bias: FloatArray


@dataclass(frozen=True, eq=False)
class BatchNorm:
    """y = gain * x + offset per channel (axis 0 of the sample): inference form of batch normalization.

    Source: Rueckauer et al. 2016, section 3.3: gain = gamma / sigma, offset = beta - gamma mu / sigma.
    """

    gain: FloatArray
    offset: FloatArray


@dataclass(frozen=True)
class ReLU:
    """y = max(x, 0)."""


@dataclass(frozen=True)
class AvgPool2d:
    """Mean over windows. `count_include_pad`: padded zeros count in the divisor; `divisor`: fixed divisor or None."""

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor: int | None = None


@dataclass(frozen=True)
class Reshape:
    """The same numbers in C order under another shape (flatten, view, reshape)."""


Op = Input | Conv2d | Linear | BatchNorm | ReLU | AvgPool2d | Reshape


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


@dataclass(frozen=True, eq=False)
class AnnGraph:
    """Nodes in topological order; the first is the input, `output` names the one whose value is the answer.

    Raises:
        InvalidNetworkError: a node uses a name that does not stand before it, or a weight is not finite.
    """

    nodes: tuple[Node, ...]
    output: str

    def __post_init__(self) -> None:
        """Check the order of the nodes and that every number is finite."""
        seen: set[str] = set()
        for node in self.nodes:
            missing = [name for name in node.inputs if name not in seen]
            if missing or node.name in seen:
                raise InvalidNetworkError(f"node '{node.name}' is out of order or doubled: it uses {missing}")
            seen.add(node.name)
            _check_finite(node)
        if self.output not in seen:
            raise InvalidNetworkError(f"the graph has no node '{self.output}' to take its output from")

    @cached_property
    def by_name(self) -> Mapping[str, Node]:
        """Nodes by their name."""
        return {node.name: node for node in self.nodes}

    @cached_property
    def users(self) -> Mapping[str, tuple[str, ...]]:
        """For each node the names of the nodes that read it."""
        found: dict[str, list[str]] = {node.name: [] for node in self.nodes}
        for node in self.nodes:
            for name in node.inputs:
                found[name].append(node.name)
        return {name: tuple(users) for name, users in found.items()}

    @property
    def input(self) -> Node:
        """The input node."""
        return next(node for node in self.nodes if isinstance(node.op, Input))

    def __iter__(self) -> Iterator[Node]:
        """Nodes in topological order."""
        return iter(self.nodes)


def _check_finite(node: Node) -> None:
    for what in ("weight", "bias", "gain", "offset"):
        value = getattr(node.op, what, None)
        if value is not None and not np.isfinite(value).all():
            bad = int((~np.isfinite(value)).sum())
            raise InvalidNetworkError(
                f"layer '{node.name}': {bad} of {value.size} numbers in its {what} are NaN or infinite; "
                f"every weight must be finite; check the training run or the weights file ({node.origin})"
            )
