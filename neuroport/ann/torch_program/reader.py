"""Walks the nodes of an exported program in their order and writes the ANN graph."""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind

from neuroport.ann.graph import AnnGraph, Input, Origin
from neuroport.ann.torch_program import ops
from neuroport.ann.torch_program.calls import (
    Activation,
    Batch,
    Call,
    Fixed,
    Several,
    Size,
    Unread,
    Value,
    is_in_place,
    modules_of,
    origin_of,
    packet,
    unsupported,
)
from neuroport.ann.torch_program.views import shape_arithmetic, spread
from neuroport.ann.writer import GraphWriter
from neuroport.errors import InvalidNetworkError, UnsupportedOperatorError

# Modules that are refused by their own name: the operators they are made of say little.
_WHOLE_MODULES = {
    **{
        f"torch.nn.modules.rnn.{name}": f"nn.{name}"
        for name in ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell")
    },
    "torch.nn.modules.activation.MultiheadAttention": "nn.MultiheadAttention",
}

_NO_GRAD = "wrap_with_set_grad_enabled"


class ProgramReader:
    """Reads one exported program."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        self.program = program
        self.write = GraphWriter()
        self.values: dict[fx.Node, Value] = {}
        self.memory: dict[fx.Node, fx.Node] = {}  # for each tensor, the one whose memory it may share
        self.state: set[fx.Node] = set()  # parameters, buffers and constants of the program
        self.overwritten: set[fx.Node] = set()
        self.batch = Batch(1)

    def read(self) -> AnnGraph:
        """The graph."""
        specs = self.program.graph_signature.output_specs
        if any(spec.kind == OutputKind.BUFFER_MUTATION for spec in specs):
            raise UnsupportedOperatorError(
                "the network changes a buffer when it runs, so its answer depends on what it saw before; only "
                "networks without memory are converted"
            )
        self._read_placeholders()
        self._read_nodes(self.program.graph_module)
        results = next(node for node in self.program.graph.nodes if node.op == "output").args[0]
        if not isinstance(results, list | tuple):
            raise InvalidNetworkError("the network returns no tensor; return the class scores")
        wanted = [
            node
            for node, spec in zip(results, specs, strict=True)
            if spec.kind == OutputKind.USER_OUTPUT
            and not (isinstance(spec.arg, ConstantArgument) and spec.arg.value is None)
        ]
        return self._graph(wanted)

    def _graph(self, outputs: Sequence[Any]) -> AnnGraph:
        names = []
        for output in outputs:
            value = self.values.get(output) if isinstance(output, fx.Node) else None
            if isinstance(value, Unread):
                raise value.error
            if output in self.overwritten:
                raise UnsupportedOperatorError(
                    "the network returns memory that an in-place operator has overwritten; return the operator's result"
                )
            if not isinstance(value, Activation) or not self._is_computed(value.name):
                raise InvalidNetworkError(
                    f"the network's output '{output}' does not depend on its input, or is the input itself; return "
                    f"only tensors computed from the input"
                )
            names.append(value.name)
        if not names:
            raise InvalidNetworkError("the network returns no tensor; return the class scores")
        return self.write.graph(names)

    def _is_computed(self, output: str) -> bool:
        """Whether a node is not an input and depends on one."""
        nodes, wanted = self.write.nodes, {output}
        for node in reversed(nodes.values()):
            if node.name in wanted:
                wanted.update(node.inputs)
        return not isinstance(nodes[output].op, Input) and any(isinstance(nodes[name].op, Input) for name in wanted)

    def _read_placeholders(self) -> None:
        placeholders = {n.name: n for n in self.program.graph.nodes if n.op == "placeholder"}
        state: dict[str, Any] = {**self.program.state_dict, **self.program.constants}
        inputs = []
        for spec in self.program.graph_signature.input_specs:
            node = placeholders[spec.arg.name]
            self.memory[node] = node
            if isinstance(spec.arg, ConstantArgument):
                self.values[node] = Fixed(spec.arg.value)
            elif spec.kind == InputKind.USER_INPUT:
                inputs.append(node)
            elif spec.target is not None and isinstance(state.get(spec.target), torch.Tensor):
                self.values[node] = Fixed(state[spec.target].detach(), (spec.target,))
                self.state.add(node)
        if not inputs:
            raise InvalidNetworkError("the network takes no input; one image or feature tensor, or several, are read")
        for node in inputs:
            self._read_input(node, is_first=node is inputs[0])

    def _read_input(self, node: fx.Node, *, is_first: bool) -> None:
        value = node.meta["val"]
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            kind = value.dtype if isinstance(value, torch.Tensor) else type(value).__name__
            raise UnsupportedOperatorError(
                f"the network's input '{node.name}' holds {kind}; images or features as floating-point numbers are "
                f"converted (whole numbers go through an embedding, which is not); convert them before the network"
            )
        shape = tuple(value.shape)
        if is_first and shape:
            self.batch = Batch(shape[0])
        if not self.batch.leads(shape):
            raise InvalidNetworkError(
                f"the network's input '{node.name}' has shape {list(shape)}, without the batch {self.batch.size} as "
                f"its first axis; give every input one row per sample"
            )
        if not all(isinstance(n, int) for n in shape[1:]):
            raise InvalidNetworkError(
                f"the network's input '{node.name}' has shape {list(shape)}: a size other than the batch is free; "
                f"export with only the batch axis free"
            )
        self.values[node] = Activation(self.write.input(shape[1:]))

    # --- calls

    def _read_nodes(self, module: fx.GraphModule) -> None:
        live = _live(module.graph)
        self._refuse_at_once(module.graph, live)
        for node in module.graph.nodes:
            if node.op == "call_function" and node in live:
                self._read_call(node, module)

    def _refuse_at_once(self, graph: fx.Graph, live: set[fx.Node]) -> None:
        """Refuse what has a better name than the first of the operators around it.

        Raises:
            UnsupportedOperatorError: a recurrent or attention layer, control flow, or a number taken out of the data.
        """
        depends = {node for node in graph.nodes if isinstance(self.values.get(node), Activation)}
        for node in graph.nodes:
            if node.op != "call_function" or node not in live:
                continue
            if not depends.isdisjoint(node.all_input_nodes):
                depends.add(node)
            origin = origin_of(node)
            if isinstance(node.target, torch._ops.HigherOrderOperator) and str(node.target) != _NO_GRAD:
                raise UnsupportedOperatorError(
                    f"operator '{node.target}' in {origin} is control flow or a wrapped region, which is not "
                    f"converted; a spiking network computes the same for every sample; write forward() without it"
                )
            if node in depends and packet(node) in ("aten.item", "aten._local_scalar_dense"):
                raise UnsupportedOperatorError(
                    f"operator '{node.target}' in {origin} takes a number out of the data, which is not converted; a "
                    f"spiking network has no numbers beside its spikes; write forward() without it"
                )
            for path, kind in modules_of(node):
                if kind in _WHOLE_MODULES:
                    raise UnsupportedOperatorError(
                        f"operator '{_WHOLE_MODULES[kind]}' ({node.target}) in {Origin(path, origin.source)} is not "
                        f"converted; neuroport converts {ops.CONVERTED}; replace it or leave it out of the "
                        f"exported network"
                    )

    def _read_call(self, node: fx.Node, module: fx.GraphModule) -> None:
        origin = origin_of(node)
        self.memory[node] = node
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            self._read_region(node, module, origin)
            return
        for source in node.all_input_nodes:
            value = self.values.get(source)
            if value is None:
                raise unsupported(node, origin)
            if isinstance(value, Unread):
                raise value.error
            if source in self.overwritten and not ops.is_shape_arithmetic(node):
                raise UnsupportedOperatorError(
                    f"operator '{node.target}' in {origin} reads memory that an in-place operator has overwritten; "
                    f"use the in-place operator's result, or inplace=False"
                )
        self.values[node] = self._value_of(node, origin)
        self._note_memory(node, origin)

    def _value_of(self, node: fx.Node, origin: Origin) -> Value:
        known = [self.values[source] for source in node.all_input_nodes]
        call = Call(node, self.values, self.batch, self.write, origin)
        depends = any(isinstance(value, Activation | Several) for value in known)
        if ops.is_shape_arithmetic(node) and (depends or any(isinstance(v, Size) for v in known)):
            return shape_arithmetic(call)
        if node.target is operator.getitem and isinstance(known[0], Several):
            return self._picked(node, known[0], origin)
        if all(isinstance(value, Fixed) for value in known):
            return self._evaluate(node, origin)
        if packet(node) in ops.FILLS or not depends:
            return Unread(unsupported(node, origin)) if ops.is_random(node) else spread(call)
        translate = ops.TABLE.get(packet(node))
        if translate is None or any(isinstance(value, Several) for value in known):
            raise unsupported(node, origin)
        self.write.place(self._layer_name(node), call.operator, origin, other=node.name)
        made = translate(call)
        self._check(call, made)
        return made

    def _check(self, call: Call, made: Value) -> None:
        """Refuse a result that is not one row per sample, of the shape torch gives it."""
        value = call.node.meta["val"]
        pairs = zip(made.items, value, strict=True) if isinstance(made, Several) else [(made, value)]
        for item, tensor in pairs:
            if not isinstance(item, Activation):
                continue
            shape = tuple(tensor.shape)
            if not self.batch.leads(shape):
                raise call.moved(f"the first axis becomes {list(shape[:1])}, the batch is {self.batch.size}")
            ours = self.write.shape(item.name)
            if len(shape) != len(ours) + 1 or not all(map(_may_be, shape[1:], ours)):
                raise call.refuse(
                    f"a sample becomes {list(shape[1:])} in torch and {list(ours)} here; this use of the operator is "
                    f"not converted"
                )
            if not tensor.is_floating_point():
                raise call.refuse(f"its result holds {tensor.dtype}; only floating-point numbers are converted")

    def _picked(self, node: fx.Node, results: Several, origin: Origin) -> Value:
        number = node.args[1]
        found = results.items[number] if isinstance(number, int) else None
        if found is None:
            return Unread(
                UnsupportedOperatorError(
                    f"operator '{node.target}' in {origin} takes result number {number} of "
                    f"'{node.all_input_nodes[0].target}', which is not converted; its first result is"
                )
            )
        return found

    def _evaluate(self, node: fx.Node, origin: Origin) -> Value:
        """Compute a node that depends on constants alone and is the same at every call."""
        if is_in_place(node) and self.memory[node.all_input_nodes[0]] in self.state:
            raise UnsupportedOperatorError(
                f"operator '{node.target}' in {origin} changes the network's own state; call model.eval() before "
                f"torch.export, and keep no state between calls"
            )
        target = node.target
        if not callable(target) or ops.is_random(node):
            raise unsupported(node, origin)
        parameters: dict[str, None] = {}

        def constant(source: fx.Node) -> Any:
            value = self.values[source]
            if not isinstance(value, Fixed):
                raise unsupported(node, origin)
            parameters.update(dict.fromkeys(value.parameters))
            return value.value

        args, kwargs = fx.node.map_arg((node.args, node.kwargs), constant)
        with torch.no_grad():
            return Fixed(target(*args, **kwargs), tuple(parameters))

    def _read_region(self, node: fx.Node, module: fx.GraphModule, origin: Origin) -> None:
        """A region of torch.no_grad() holds operators like any other."""
        region = getattr(module, str(node.args[1].target)) if isinstance(node.args[1], fx.Node) else None
        if not isinstance(region, fx.GraphModule):
            raise unsupported(node, origin)
        placeholders = [inner for inner in region.graph.nodes if inner.op == "placeholder"]
        for inner, outer in zip(placeholders, node.args[2:], strict=True):
            if not isinstance(outer, fx.Node):
                raise unsupported(node, origin)
            self.values[inner], self.memory[inner] = self.values[outer], self.memory[outer]
            if outer in self.overwritten:
                self.overwritten.add(inner)
        self._read_nodes(region)
        results = next(inner for inner in region.graph.nodes if inner.op == "output").args[0]
        self.values[node] = Several(tuple(self.values.get(inner) for inner in results))
        # Several results, one root: what is written into one of them may be read as another.
        roots = {self.memory[inner] for inner in results if inner in self.memory}
        self.memory.update({other: node for other, root in self.memory.items() if root in roots})
        if roots & self.state:
            self.state.add(node)

    def _note_memory(self, node: fx.Node, origin: Origin) -> None:
        """Remember whose memory a result shares, and which tensors an in-place operator has overwritten."""
        source = next(iter(node.all_input_nodes), None)
        if source is None or not ops.shares_memory(node):
            return
        root = self.memory[source]
        if is_in_place(node) and not isinstance(self.values[node], Fixed):
            if root in self.state:
                raise UnsupportedOperatorError(
                    f"operator '{node.target}' in {origin} changes the network's own state; keep no state between calls"
                )
            self.overwritten.update(other for other, its_root in self.memory.items() if its_root is root)
        self.memory[node] = root

    def _layer_name(self, node: fx.Node) -> str:
        """The name of the layer's own weight ('features.0'), or torch.export's name for the call."""
        for source in node.all_input_nodes:
            value = self.values[source]
            for name in value.parameters if isinstance(value, Fixed) else ():
                plain = re.sub(r"(^|\.)parametrizations\.(\w+)\..*$", r"\1\2", name)
                plain = re.sub(r"\.weight_(g|v|orig)$", ".weight", plain)
                if plain.endswith(".weight"):
                    return plain.removesuffix(".weight")
        return node.name


def _live(graph: fx.Graph) -> set[fx.Node]:
    """The nodes the output depends on, and all that write into memory: torch.export keeps calls nobody reads."""
    live: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        has_effect = node.op == "output" or (is_in_place(node) and not ops.is_checked_only(node))
        if node in live or has_effect:
            live.add(node)
            live.update(node.all_input_nodes)
    return live


def _may_be(size: Any, found: int) -> bool:
    """Whether torch's size is the one found; it calls it u0 where it does not look into a constant mask."""
    return size == found if isinstance(size, int) else re.fullmatch(r"u\d+", str(size)) is not None
