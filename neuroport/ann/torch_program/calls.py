"""One call of an ATen operator: its arguments by their name in the schema, and what is known of each."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePath
from typing import Any, cast

import numpy as np
import torch
from torch import fx

from neuroport.ann.graph import Constant, FloatArray, Origin
from neuroport.ann.writer import GraphWriter
from neuroport.errors import ConversionError, InvalidNetworkError, UnsupportedOperatorError

CONVERTED = (
    "convolutions and transposed convolutions over one or two axes, linear and matrix products with constant weights, "
    "batch norm, the ReLU family (ReLU6, clamp, hardtanh, hardsigmoid, leaky, PReLU, abs, maximum, minimum), floor and "
    "round, average and max pools, mean, sum, interpolation, add, sub, products with constants, concatenation, "
    "slices, pads, views, shuffles, dropout, and softmax, sigmoid or tanh behind the last layer"
)


@dataclass(frozen=True)
class Activation:
    """A tensor [N, ...] that depends on the sample: a node of the graph we write."""

    name: str


@dataclass(frozen=True, eq=False)
class Fixed:
    """Something that is the same at every call; `parameters`: the state it was computed from."""

    value: Any
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True)
class Size:
    """A number computed from the batch size: what it is at each batch size tried."""

    numbers: tuple[Any, ...]


@dataclass(frozen=True)
class Several:
    """The results of an operator with several; None: not converted."""

    items: tuple[Value | None, ...]


@dataclass(frozen=True)
class Unread:
    """A result that cannot be converted: an error only where something reads it."""

    error: ConversionError


Value = Activation | Fixed | Size | Several | Unread


@dataclass(frozen=True)
class Batch:
    """The batch axis of a program: its size as torch wrote it, and the batch sizes to try operators with."""

    size: Any

    @property
    def is_free(self) -> bool:
        """Whether any number of samples may come."""
        return not isinstance(self.size, int)

    @property
    def tried(self) -> tuple[int, ...]:
        """Batch sizes at which operators that only move numbers are run."""
        return (2, 3) if self.is_free else (int(self.size),)

    def leads(self, shape: Sequence[Any]) -> bool:
        """Whether the first axis of a shape is the batch axis."""
        return len(shape) > 0 and str(shape[0]) == str(self.size)


@dataclass(frozen=True)
class Call:
    """One call of an ATen operator. `values`: what is known of each node before it; `write`: the graph so far."""

    node: fx.Node
    values: Mapping[fx.Node, Value]
    batch: Batch
    write: GraphWriter
    origin: Origin = field(default_factory=Origin)

    @property
    def operator(self) -> str:
        """The overload's name, 'aten.conv2d.default'."""
        return str(self.node.target)

    @cached_property
    def args(self) -> Mapping[str, Any]:
        """Every argument by its name in the schema, nodes replaced by what is known of them."""
        known = cast(Any, self.values.__getitem__)
        given, named = fx.node.map_arg((self.node.args, self.node.kwargs), known)
        found: dict[str, Any] = {}
        for k, argument in enumerate(cast(torch._ops.OpOverload, self.node.target)._schema.arguments):
            default = argument.default_value if argument.has_default_value() else None
            found[argument.name] = given[k] if k < len(given) else named.get(argument.name, default)
        return found

    @property
    def x(self) -> str:
        """The graph's name of the first argument, an activation."""
        return self.activation(next(iter(self.args)))

    @property
    def shape(self) -> tuple[int, ...]:
        """The first argument's shape, one sample's."""
        return self.write.shape(self.x)

    @property
    def n_axes(self) -> int:
        """Axes of the first argument, the batch axis counted."""
        return len(self.shape) + 1

    def activation(self, name: str) -> str:
        """The graph's name of an argument that depends on the sample."""
        value = self.args[name]
        if not isinstance(value, Activation):
            raise self.refuse(f"its {name} is a constant where a tensor computed from the input is converted")
        return value.name

    def array(self, name: str) -> FloatArray | None:
        """A constant tensor as float64, None where the argument is None.

        Raises:
            UnsupportedOperatorError: the tensor is computed from the input (two activations multiplied, say).
        """
        value = self.args.get(name)
        return None if value is None else as_array(self._constant(name, value))

    def weight(self, name: str) -> FloatArray:
        """A constant tensor that must be there."""
        value = self.array(name)
        if value is None:
            raise self.refuse(f"it has no {name}")
        return value

    def number(self, name: str, default: float | None = None) -> float | None:
        """One constant number, the default where the argument is None or missing."""
        value = self.args.get(name)
        if value is None:
            return default
        array = as_array(self._constant(name, value))
        if array.size != 1:
            raise self.refuse(f"its {name} has {array.size} numbers; one number is converted")
        return float(array.reshape(()))

    def scalar(self, name: str, default: float) -> float:
        """One constant number that is always there."""
        found = self.number(name, default)
        return default if found is None else found

    def ints(self, name: str, default: Sequence[int] = ()) -> list[int]:
        """Whole numbers as written in the call; one number is a list of one."""
        value = self.args.get(name)
        if value is None:
            return list(default)
        values = value if isinstance(value, list | tuple) else [value]
        return [int(self._constant(name, v)) for v in values]

    def operand(self, name: str, n_axes: int) -> str | FloatArray:
        """An activation's name, or a constant as it is for each sample of a tensor with n_axes axes."""
        value = self.args[name]
        if isinstance(value, Activation):
            op = self.write.nodes[value.name].op
            return op.value if isinstance(op, Constant) else value.name
        return self.per_sample(as_array(self._constant(name, value)), n_axes)

    def per_sample(self, array: FloatArray, n_axes: int) -> FloatArray:
        """A constant without the batch axis, where it meets a tensor with n_axes axes.

        Raises:
            UnsupportedOperatorError: it is not the same for every sample, or has more axes.
        """
        if array.ndim < n_axes:
            return array
        if array.ndim > n_axes:
            raise self.refuse(f"a constant of {array.ndim} axes meets {n_axes} axes; give it at most {n_axes}")
        if len(array) == 0 or not (array == array[:1]).all():
            raise self.refuse(
                f"a constant of shape {list(array.shape)} differs between the samples of a batch; leave its first "
                f"axis out, or give it length 1"
            )
        return cast(FloatArray, array[0])

    def axis(self, axis: int, n_axes: int | None = None) -> int:
        """An axis of the tensor as one of the sample.

        Raises:
            InvalidNetworkError: the batch axis.
        """
        found = axis % (self.n_axes if n_axes is None else n_axes)
        if found == 0:
            raise self.moved("the operator works along it")
        return found - 1

    def check_axes(self, *allowed: int) -> None:
        """Refuse an input with another number of axes, the batch axis counted.

        Raises:
            UnsupportedOperatorError: an image without its batch or channel axis, a sequence, a volume.
        """
        if self.n_axes not in allowed:
            raise UnsupportedOperatorError(
                f"operator '{self.operator}' in {self.origin} reads {self.n_axes} axes; "
                f"{' or '.join(map(str, allowed))} are converted (samples, channels or features, height, width)"
            )

    def refuse(self, why: str) -> UnsupportedOperatorError:
        """The refusal of this use of the operator, by name and place."""
        return UnsupportedOperatorError(f"operator '{self.operator}' in {self.origin}: {why}")

    def moved(self, how: str) -> InvalidNetworkError:
        """The refusal of an operator that does not keep the samples apart, in order, on the first axis."""
        return InvalidNetworkError(
            f"operator '{self.operator}' in {self.origin} moves or merges the batch axis: {how}; keep the samples on "
            f"the first axis"
        )

    def run(self, trial: int, activation: Callable[[Activation, int], torch.Tensor]) -> Any:
        """What the operator itself answers at the batch size tried, for the tensors given for the activations."""

        def known(node: fx.Node) -> Any:
            value = self.values[node]
            if isinstance(value, Activation):
                return activation(value, self.batch.tried[trial])
            if isinstance(value, Size):
                return value.numbers[trial]
            if isinstance(value, Fixed):
                return value.value
            raise unsupported(self.node, self.origin)

        args, kwargs = fx.node.map_arg((self.node.args, self.node.kwargs), known)
        try:
            with torch.no_grad():
                return cast(Any, self.node.target)(*args, **kwargs)
        except (RuntimeError, ValueError, IndexError) as error:  # sizes that do not go into another batch size
            raise self.moved(f"it fails for {self.batch.tried[trial]} samples") from error

    def _constant(self, name: str, value: Any) -> Any:
        if isinstance(value, Fixed):
            return value.value
        if isinstance(value, Size):
            raise self.refuse(f"its {name} is computed from the batch size; a sample's answer must not depend on it")
        if isinstance(value, Activation | Several | Unread):
            raise self.refuse(f"its {name} is computed from the input; only constant weights can be put on a chip")
        return value


def as_array(value: Any) -> FloatArray:
    """A constant tensor or number as float64."""
    if isinstance(value, torch.Tensor):
        return cast(FloatArray, value.detach().cpu().to(torch.float64).numpy().copy())
    return np.asarray(value, np.float64)


def unsupported(node: fx.Node, origin: Origin) -> UnsupportedOperatorError:
    """The refusal of an operator, by name, place and remedy."""
    return UnsupportedOperatorError(
        f"operator '{node.target}' in {origin} is not converted; neuroport converts {CONVERTED}; "
        f"replace it or leave it out of the exported network"
    )


def packet(node: fx.Node) -> str:
    """The operator's name without overload and without the underscore of its in-place form: 'aten.relu'."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return str(node.target)
    name = str(node.target.overloadpacket)
    return name.removesuffix("_") if is_in_place(node) else name


def is_in_place(node: fx.Node) -> bool:
    """Whether the operator writes into one of its arguments."""
    # detach_ writes no number
    return (
        isinstance(node.target, torch._ops.OpOverload)
        and node.target._schema.is_mutable
        and str(node.target) != "aten.detach_.default"
    )


def modules_of(node: fx.Node) -> list[tuple[str, str]]:
    """(path, class) of the modules a call stands in, the outermost first."""
    stack = node.meta.get("nn_module_stack") or {}
    return [(str(entry[0]), str(entry[1])) for entry in stack.values()]


def origin_of(node: fx.Node) -> Origin:
    """Module path and source line of a call."""
    paths = [path for path, _ in modules_of(node)]
    module = next((path for path in reversed(paths) if path and not path.startswith("_")), "")
    frames = re.findall(r'File "([^"]+)", line (\d+)', node.meta.get("stack_trace") or "")
    files = [frame for frame in frames if not frame[0].startswith("<")]
    own = [frame for frame in files if "torch" not in PurePath(frame[0]).parts]
    file, line = (own or files or [("", "")])[-1]
    return Origin(module, f"{PurePath(file).name}:{line}" if file else "")
