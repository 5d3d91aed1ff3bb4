"""The PyTorch front end: an exported program becomes an ANN graph, or is refused by operator, module and line.

`torch.export` (the only tracer used) resolves modules, functional style and in-place operators to ATen operators, so
what is converted is what runs. Whatever computes from constants alone is evaluated once; every other operator stands
in the table of `torch_ops` or is refused.
"""

from __future__ import annotations

import contextlib
import io
import logging
import operator
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import torch
from torch import fx
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument

from neuroport.ann import torch_ops
from neuroport.ann.graph import AnnGraph, Input, Node, Origin
from neuroport.errors import ConversionError, InvalidNetworkError, UnsupportedOperatorError


def graph_from_exported(program: torch.export.ExportedProgram) -> AnnGraph:
    """The ANN graph of an exported program with one input [N, ...] and one output [N, n_out].

    Raises:
        UnsupportedOperatorError: an operator outside the table, with its module path and source line.
        InvalidNetworkError: NaN weights, several inputs or outputs, a batch axis that does not stay first.
    """
    return _Reader(program).read()


def export_module(module: torch.nn.Module, example: torch.Tensor) -> torch.export.ExportedProgram:
    """The module in inference mode, exported with a free batch axis. example: [N, ...] with N >= 2.

    Raises:
        ConversionError: torch.export cannot trace the module (data-dependent control flow, for instance).
    """
    was_training = [m for m in module.modules() if m.training]
    module.eval()
    try:
        batch = torch.export.Dim("batch", min=1)
        with silence():
            return torch.export.export(module, (example.clone(),), dynamic_shapes=({0: batch},))
    except Exception as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ConversionError(
            f"torch.export cannot trace {type(module).__name__}: {reason.strip()}; networks with control flow that "
            f"depends on the data, or with a fixed batch size, cannot be converted; rewrite forward() without it"
        ) from error
    finally:
        for m in was_training:
            m.training = True


@contextmanager
def silence() -> Iterator[None]:
    """Keep torch's own logs, graphs and warnings off the terminal: what matters comes as one error."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            yield
    finally:
        logging.disable(before)


@dataclass
class _Reader:
    """Walks the nodes of one exported program in their order."""

    program: torch.export.ExportedProgram

    def read(self) -> AnnGraph:
        self.constants: dict[str, torch.Tensor] = {}
        self.parameter_name: dict[str, str] = {}
        self.nodes: dict[str, Node] = {}
        self.rename: dict[str, str] = {}
        self.memory: dict[str, str] = {}  # for each tensor, the one whose memory it may share
        self.overwritten: set[str] = set()
        self.batch: Any = None
        outputs = [s for s in self.program.graph_signature.output_specs if s.kind == OutputKind.USER_OUTPUT]
        if len(outputs) != 1 or not isinstance(outputs[0].arg, TensorArgument):
            raise InvalidNetworkError(f"the network returns {len(outputs)} values; one tensor of class scores is read")
        if any(s.kind == OutputKind.BUFFER_MUTATION for s in self.program.graph_signature.output_specs):
            raise UnsupportedOperatorError(
                "the network changes a buffer when it runs, so its answer depends on what it saw before; only "
                "networks without memory are converted"
            )
        self._read_placeholders()
        for node in self.program.graph.nodes:
            if node.op == "call_function":
                self._read_call(node)
        name = outputs[0].arg.name
        if name not in self.rename:
            raise InvalidNetworkError("the network's output does not depend on its input")
        if name in self.overwritten:
            raise UnsupportedOperatorError(
                "the network returns memory that an in-place operator has overwritten; return the operator's result"
            )
        return AnnGraph(self._reachable(self.rename[name]), self.rename[name])

    def _reachable(self, output: str) -> tuple[Node, ...]:
        """The nodes the output depends on, in order: torch.export keeps calls whose result nobody reads."""
        wanted = {output, "input"}
        for node in reversed(self.nodes.values()):
            if node.name in wanted:
                wanted.update(node.inputs)
        return tuple(node for node in self.nodes.values() if node.name in wanted)

    def _read_placeholders(self) -> None:
        placeholders = {n.name: n for n in self.program.graph.nodes if n.op == "placeholder"}
        state: dict[str, Any] = {**self.program.state_dict, **self.program.constants}
        user_inputs = []
        for spec in self.program.graph_signature.input_specs:
            if isinstance(spec.arg, ConstantArgument):
                continue
            if spec.kind == InputKind.USER_INPUT:
                user_inputs.append(spec.arg.name)
            elif spec.target is not None and isinstance(state.get(spec.target), torch.Tensor):
                self.constants[spec.arg.name] = state[spec.target].detach()
                self.parameter_name[spec.arg.name] = spec.target
        if len(user_inputs) != 1:
            raise InvalidNetworkError(
                f"the network takes {len(user_inputs)} inputs; one image or feature tensor is read"
            )
        x = placeholders[user_inputs[0]]
        shape = tuple(x.meta["val"].shape)
        self.batch = shape[0]
        self.nodes["input"] = Node("input", Input(), (), tuple(int(n) for n in shape[1:]))
        self.rename[x.name] = "input"
        self.memory[x.name] = x.name

    def _read_call(self, node: fx.Node) -> None:
        inputs = [n for n in node.all_input_nodes if n.name in self.rename]
        origin = _origin(node)
        if _is_shape_arithmetic(node):  # view() and reshape() are read by the shape they return
            return
        if not inputs and all(n.name in self.constants for n in node.all_input_nodes):
            self._evaluate(node)
            return
        if not inputs:  # computed from the batch size: refused where the input meets it
            return
        context = torch_ops.Call(node, self.constants, origin)
        translate = torch_ops.TABLE.get(context.operator)
        if translate is None or len(inputs) > 1 or context.value is None:
            raise unsupported(node, origin)
        op = translate(context)
        source = self.rename[inputs[0].name]
        self._note_memory(node, inputs[0])
        if op is None:
            self.rename[node.name] = source
            return
        shape = tuple(context.value.shape)
        if not shape or str(shape[0]) != str(self.batch):
            raise InvalidNetworkError(
                f"operator '{context.operator}' in {origin} moves or merges the batch axis: the first axis becomes "
                f"{shape[:1]}, the batch is {self.batch}; keep the samples on the first axis"
            )
        name = self._unique(self._layer_name(node))
        self.nodes[name] = Node(name, op, (source,), tuple(int(n) for n in shape[1:]), origin)
        self.rename[node.name] = name

    def _note_memory(self, node: fx.Node, source: fx.Node) -> None:
        """Refuse what reads an older view of memory that an in-place operator has overwritten since."""
        if source.name in self.overwritten:
            raise UnsupportedOperatorError(
                f"operator '{node.target}' in {_origin(node)} reads memory that an in-place operator has overwritten; "
                f"use the in-place operator's result, or inplace=False"
            )
        in_place = torch_ops.is_in_place(node)
        if in_place:
            root = self.memory[source.name]
            self.overwritten.update(name for name, other in self.memory.items() if other == root)
        shares = in_place or torch_ops.shares_memory(node)
        self.memory[node.name] = self.memory[source.name] if shares else node.name

    def _evaluate(self, node: fx.Node) -> None:
        """Compute a node that depends on constants alone and is the same at every call."""
        target = node.target
        fixed = isinstance(target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded not in target.tags
        if torch_ops.is_in_place(node):
            raise UnsupportedOperatorError(
                f"operator '{target}' in {_origin(node)} changes the network's own state; call model.eval() before "
                f"torch.export, and keep no state between calls"
            )
        if not callable(target) or not (fixed or target is operator.getitem):
            raise unsupported(node, _origin(node))
        lookup = fx.node.map_arg((node.args, node.kwargs), lambda n: self.constants[n.name])
        with torch.no_grad():
            self.constants[node.name] = target(*lookup[0], **lookup[1])

    def _layer_name(self, node: fx.Node) -> str:
        """The name of the layer's own weight ('features.0'), or torch.export's name for the call."""
        named = [self.parameter_name[n.name] for n in node.all_input_nodes if n.name in self.parameter_name]
        weights = [name.removesuffix(".weight") for name in named if name.endswith(".weight")]
        return weights[0] if weights else node.name

    def _unique(self, name: str) -> str:
        candidate, n = name, 1
        while candidate in self.nodes:
            n += 1
            candidate = f"{name}_{n}"
        return candidate


def unsupported(node: fx.Node, origin: Origin) -> UnsupportedOperatorError:
    """The refusal of an operator, by name, place and remedy."""
    return UnsupportedOperatorError(
        f"operator '{node.target}' in {origin} is not converted; neuroport converts {torch_ops.CONVERTED}; "
        f"replace it or leave it out of the exported network"
    )


def _is_shape_arithmetic(node: fx.Node) -> bool:
    builtin = getattr(node.target, "__module__", "") == "_operator" and node.target is not operator.getitem
    return str(node.target) == "aten.sym_size.int" or builtin


def _origin(node: fx.Node) -> Origin:
    stack = node.meta.get("nn_module_stack") or {}
    paths = [str(entry[0]) for entry in stack.values()]
    module = next((path for path in reversed(paths) if path and not path.startswith("_")), "")
    frames = re.findall(r'File "([^"]+)", line (\d+)', node.meta.get("stack_trace") or "")
    own = [frame for frame in frames if "torch" not in PurePath(frame[0]).parts]
    file, line = (own or frames or [("", "")])[-1]
    return Origin(module, f"{PurePath(file).name}:{line}" if file else "")
