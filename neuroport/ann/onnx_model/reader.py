"""Walks an ONNX graph in its order: constants are evaluated once, activations are written to the ANN graph."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import zip_longest

import numpy as np
from onnx import GraphProto, NodeProto

from neuroport.ann.graph import AnnGraph, Node, Origin
from neuroport.ann.onnx_model.call import Array, Call, Value, evaluate
from neuroport.ann.onnx_model.ops import CONVERTED, TABLE
from neuroport.ann.onnx_model.text import plain, reason
from neuroport.ann.writer import GraphWriter
from neuroport.errors import InvalidNetworkError, NeuroportError, UnsupportedOperatorError

_CONTROL = {"If", "Loop", "Scan"}
_RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
_REASONS = {
    **dict.fromkeys(
        ("LSTM", "GRU", "RNN"), "it carries a state from step to step; only feed-forward networks are read"
    ),
    **dict.fromkeys(_CONTROL, "control flow is not converted; export the network with the branch or loop resolved"),
    **dict.fromkeys(_RANDOM, "its result is random; export the network in inference mode"),
}
_WEIGHT = re.compile(r"^(.+?)(?:\.weight|[./]kernel(?::\d+)?|/gamma(?::\d+)?)$")


@dataclass(frozen=True)
class OnnxSource:
    """What a reading starts from. inputs: name and shape of one sample; constants: the initializers by name."""

    file: str
    graph: GraphProto
    opset: int
    inputs: tuple[tuple[str, tuple[int, ...]], ...]
    constants: Mapping[str, Array]


def read_graph(source: OnnxSource, fixed_batch: int | None) -> AnnGraph:
    """The ANN graph of an ONNX graph. fixed_batch: None where the batch axis is free.

    A free batch is read with two sizes: what differs between them is computed from the batch, or baked in.

    Raises:
        UnsupportedOperatorError: an operator outside the table, with its node and file.
        InvalidNetworkError: weights that are not finite, outputs that do not depend on the input.
    """
    if fixed_batch is not None:
        return _Reader(source, fixed_batch).read()
    graph, other = _Reader(source, 2).read(), _Reader(source, 3).read()
    for a, b in zip_longest(graph, other):
        if a is None or b is None or not _is_same(a, b):
            node = a or b
            raise InvalidNetworkError(
                f"layer '{node.name}' in {node.origin} computes with the size of the batch, which is free in the file; "
                f"what a network answers to one sample must not depend on the others; export with a batch of one"
            )
    return graph


def _is_same(a: Node, b: Node) -> bool:
    if (a.name, a.inputs, a.shape, type(a.op)) != (b.name, b.inputs, b.shape, type(b.op)):
        return False
    return all(np.array_equal(getattr(a.op, f.name), getattr(b.op, f.name)) for f in fields(a.op))


@dataclass
class _Reader:
    """One walk with `batch` samples on the first axis of every activation."""

    source: OnnxSource
    batch: int
    writer: GraphWriter = field(default_factory=GraphWriter)
    values: dict[str, Value] = field(default_factory=dict)
    roots: dict[str, str] = field(default_factory=dict)  # the initializer that a computed constant comes from

    def read(self) -> AnnGraph:
        self.values.update(self.source.constants)
        for name, shape in self.source.inputs:
            self.values[name] = self.writer.input(shape)
        wanted = self._needed()
        with warnings.catch_warnings(action="ignore"):
            for number, node in enumerate(self.source.graph.node):
                if wanted.intersection(node.output):
                    self._read_node(number, node)
        outputs = [self._output(value.name) for value in self.source.graph.output]
        return self.writer.graph(outputs)

    def _needed(self) -> set[str]:
        """The values the outputs depend on."""
        wanted = {value.name for value in self.source.graph.output}
        for node in reversed(self.source.graph.node):
            if wanted.intersection(node.output):
                wanted.update(node.input)
        return wanted - {""}

    def _output(self, name: str) -> str:
        value = self.values.get(name)
        if isinstance(value, str):
            return value
        raise InvalidNetworkError(
            f"output '{plain(name)}' of '{self.source.file}' does not depend on the input; every output must be "
            f"computed from it; remove the output"
        )

    def _read_node(self, number: int, node: NodeProto) -> None:
        label = plain(node.name) or plain(next(iter(node.output), ""))
        operator = f"{node.domain}::{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
        origin = Origin(label, f"{self.source.file}, node {number}")
        self.writer.place(self._layer_name(node) or label or "node", plain(operator), origin)
        if operator in _REASONS or operator != node.op_type:
            raise self._unsupported(operator)
        inputs = tuple(self._value(name) if name else None for name in node.input)
        call = Call(node, self.source.opset, self.batch, inputs, self.writer)
        try:
            results = self._results(call)
        except NeuroportError:
            raise
        except Exception as error:
            raise self.writer.refuse(f"its shapes or attributes do not belong together: {reason(error)}") from error
        for name, result in zip(node.output, results, strict=False):
            if isinstance(result, str) and self.writer.nodes[result].size == 0:
                raise self.writer.refuse(f"its result of shape {list(call.shape(result))} is empty")
            if name:
                self.values[name] = result

    def _value(self, name: str) -> Value:
        if name not in self.values:
            raise self.writer.refuse(
                f"it reads '{plain(name)}', a second result (indices, a mask) that is not converted; only first "
                f"results are"
            )
        return self.values[name]

    def _results(self, call: Call) -> Sequence[Value]:
        node = call.node
        constants = [value for value in call.inputs if not isinstance(value, str)]
        if len(constants) == len(call.inputs):
            if node.op_type == "Dropout" and any(np.any(value) for value in constants[2:] if value is not None):
                raise self._unsupported("Bernoulli")
            for name in node.output:
                self.roots[name] = self._root(node)
            return evaluate(node, call.opset, constants)
        if node.op_type in ("Shape", "Size"):
            like = np.broadcast_to(np.float32(0), call.shape(call.activation(0)))
            return evaluate(node, call.opset, [like])
        translate = TABLE.get(node.op_type)
        if translate is None:
            raise self._unsupported(node.op_type)
        made = translate(call)
        return [made] if isinstance(made, str) else made

    def _unsupported(self, operator: str) -> UnsupportedOperatorError:
        why = _REASONS.get(operator, f"it is not converted; neuroport converts {CONVERTED}")
        return self.writer.refuse(f"{why}; replace it or leave it out of the exported network")

    def _root(self, node: NodeProto) -> str:
        names = [self.roots.get(name, name) for name in node.input if name]
        return next((name for name in names if _WEIGHT.match(name)), names[0] if names else "")

    def _layer_name(self, node: NodeProto) -> str:
        """The name of the layer's own weight ('features.0'), or the node's."""
        for name in node.input:
            if not isinstance(self.values.get(name), str) and (found := _WEIGHT.match(self._named(name))):
                return plain(found[1]).strip("/")
        return plain(node.name).strip("/")

    def _named(self, name: str) -> str:
        return self.roots.get(name, name)
