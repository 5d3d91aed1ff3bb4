"""One node of an ONNX graph with its operands resolved: what the operator tables read from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper
from onnx.reference import ReferenceEvaluator

from neuroport.ann.graph import FloatArray
from neuroport.ann.writer import GraphWriter, Shape

Array = NDArray[Any]
Value = str | Array  # the name of an activation in the writer, or a constant


@dataclass(frozen=True, eq=False)
class Call:
    """One use of an operator; `batch`: the samples that stand on the first axis of every activation."""

    node: NodeProto
    opset: int
    batch: int
    inputs: tuple[Value | None, ...]
    writer: GraphWriter

    @cached_property
    def _attributes(self) -> dict[str, Any]:
        return {a.name: helper.get_attribute_value(a) for a in self.node.attribute}

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute; text as str."""
        value = self._attributes.get(name, default)
        return value.decode(errors="replace") if isinstance(value, bytes) else value

    def ints(self, name: str, default: Sequence[int]) -> list[int]:
        """A list of whole numbers, or the default where it is missing or empty."""
        return [int(i) for i in (self.attr(name) or default)]

    def value(self, position: int) -> Value | None:
        """An operand, None where it is left out."""
        return self.inputs[position] if position < len(self.inputs) else None

    def activation(self, position: int = 0) -> str:
        """An operand that must be computed from the input."""
        value = self.value(position)
        if isinstance(value, str):
            return value
        raise self.writer.refuse(
            f"operand {position + 1} is {'missing' if value is None else 'constant'} where an activation is expected"
        )

    def constant(self, position: int, what: str) -> Array | None:
        """An operand that must not be computed from the input, None where it is left out."""
        value = self.value(position)
        if isinstance(value, str):
            raise self.writer.refuse(
                f"its {what} is computed from the input; only a constant {what} is converted; make it constant"
            )
        return value

    def weight(self, position: int, what: str) -> FloatArray:
        """A constant operand that must be there."""
        value = self.constant(position, what)
        if value is None:
            raise self.writer.refuse(f"its {what} is missing; give operand {position + 1}")
        return np.asarray(value, np.float64)

    def optional(self, position: int, what: str) -> FloatArray | None:
        """A constant operand as float64, None where it is left out."""
        value = self.constant(position, what)
        return None if value is None else np.asarray(value, np.float64)

    def rank(self, x: str) -> int:
        """Axes of an activation, the batch axis among them."""
        return 1 + len(self.writer.shape(x))

    def shape(self, x: str) -> Shape:
        """Shape of an activation, [batch, ...]."""
        return (self.batch, *self.writer.shape(x))

    def sample_axis(self, x: str, axis: int) -> int:
        """An axis of [batch, ...] counted without the batch axis.

        Raises:
            UnsupportedOperatorError: it is the batch axis.
        """
        rank = self.rank(x)
        if not -rank <= axis < rank:
            raise self.writer.refuse(f"axis {axis} does not exist in {list(self.shape(x))}")
        if axis % rank == 0:
            raise self.moves_batch("it works along the batch axis")
        return axis % rank - 1

    def per_sample(self, value: Array, rank: int) -> FloatArray:
        """A constant that joins an activation with `rank` axes, as each single sample meets it.

        Raises:
            UnsupportedOperatorError: it differs between the samples, or adds axes before the batch axis.
        """
        array = np.asarray(value, np.float64)
        if array.ndim < rank:
            return array
        if array.ndim > rank or len(array) not in (1, self.batch) or (array != array[:1]).any():
            raise self.moves_batch(f"a constant of shape {list(array.shape)} meets the batch axis")
        row: FloatArray = array[0]
        return row

    def moves_batch(self, how: str) -> Exception:
        """The refusal of what does not treat every sample alike and apart."""
        return self.writer.refuse(
            f"it moves or merges the batch axis: {how}, and the batch is {self.batch}; keep the samples apart and on "
            f"the first axis, or export with a batch of one"
        )


def evaluate(node: NodeProto, opset: int, values: Sequence[Array | None]) -> list[Array]:
    """What ONNX's own reference computes for one node of constants, in the operator set the model was written for."""
    feeds = {name: v for name, v in zip(node.input, values, strict=True) if name and v is not None}
    infos = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
        for name, v in feeds.items()
    ]
    outputs = [name for name in node.output if name]
    graph = helper.make_graph([node], "node", infos, [helper.make_empty_tensor_value_info(name) for name in outputs])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    found = dict(zip(outputs, ReferenceEvaluator(model).run(outputs, feeds), strict=True))
    return [np.asarray(found[name]) if name else np.empty(0) for name in node.output]
