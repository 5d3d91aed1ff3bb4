"""From the folded ANN graph to populations and projections: each ReLU is a population, linear layers are synapses."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch

from neuroport.ann.graph import (
    AnnGraph,
    AvgPool2d,
    BatchNorm,
    Conv2d,
    FloatArray,
    Input,
    Linear,
    Node,
    ReLU,
    Reshape,
)
from neuroport.errors import ConversionError, InvalidNetworkError
from neuroport.snn import operators
from neuroport.snn.network import Encoding, Neuron, Population, Projection, Reset, SpikingNetwork
from neuroport.snn.operators import Chain, Dense, Operator, Pool, apply, conv_geometry, merge


@dataclass(frozen=True)
class BuildOptions:
    """What the recipe decides before weights are normalized.

    `pool`: average pools fold into the next layer ('fold') or are spiking populations of their own ('spiking', as in
    Diehl 2015 and Rueckauer 2016). `readout`: the last linear layer accumulates ('membrane') or spikes ('count').
    """

    reset: Reset = "subtract"
    v_init: float = 0.0
    leak: float = 1.0
    encoding: Encoding = "current"
    readout: str = "membrane"
    pool: str = "fold"


def build_network(graph: AnnGraph, options: BuildOptions) -> SpikingNetwork:
    """The spiking network of a simplified graph, not normalized yet: thresholds of 1, the ANN's own weights.

    Raises:
        ConversionError: batch norm is left, or linear layers in a row cannot be merged.
        InvalidNetworkError: the network has no layer with weights.
    """
    return _Builder(graph, options).build()


@dataclass
class _Pending:
    """Linear operators since the last population, and the bias they have gathered, one value per neuron."""

    pre: str
    parts: tuple[Dense | operators.Conv2d | Pool, ...] = ()
    bias: FloatArray | None = None


@dataclass
class _Builder:
    graph: AnnGraph
    options: BuildOptions
    populations: list[Population] = field(default_factory=list)
    projections: list[Projection] = field(default_factory=list)
    pending: dict[str, _Pending] = field(default_factory=dict)

    def build(self) -> SpikingNetwork:
        for node in self.graph:
            self.pending[node.name] = self._step(node)
        last = self.pending[self.graph.output]
        if last.parts:
            fires = self.options.readout == "count"
            self._populate(self.graph.by_name[self.graph.output], last, role="readout", fires=fires)
        else:
            self._read_from(last.pre)
        return SpikingNetwork(tuple(self.populations), tuple(self.projections), self.options.encoding)

    def _read_from(self, name: str) -> None:
        """Make a ReLU population the readout: its spikes are counted."""
        k = next(k for k, p in enumerate(self.populations) if p.name == name)
        if self.populations[k].role == "input":
            raise InvalidNetworkError("the network has no layer with weights: there is nothing to convert")
        self.populations[k] = replace(self.populations[k], role="readout")

    def _step(self, node: Node) -> _Pending:
        if isinstance(node.op, Input):
            neuron = Neuron(reset="subtract", v_init=0.5)
            self.populations.append(Population("input", node.shape, np.zeros(node.shape), neuron, role="input"))
            return _Pending("input")
        before = self.pending[node.inputs[0]]
        in_shape = self.graph.by_name[node.inputs[0]].shape
        match node.op:
            case ReLU():
                if not before.parts:  # ReLU of spikes or of another ReLU: spikes are never negative
                    return before if before.pre != "input" else self._relu_of_input(node)
                return _Pending(self._populate(node, before, role="hidden", fires=True))
            case Conv2d(weight, bias, stride, padding, dilation, groups):
                geometry = conv_geometry(in_shape, weight.shape, stride, padding, dilation, groups)
                added = np.broadcast_to(bias[:, None, None], node.shape)
                return self._extend(node, before, operators.Conv2d(weight, geometry), added)
            case Linear(weight, bias):
                return self._extend(node, before, Dense(weight, in_shape, node.shape), bias)
            case AvgPool2d():
                grown = self._extend(node, before, Pool(node.op, in_shape, node.shape), np.zeros(node.shape))
                if self.options.pool == "spiking" and not before.parts and before.pre != "input":
                    return _Pending(self._populate(node, grown, role="hidden", fires=True))
                return grown
            case Reshape():
                return before
            case BatchNorm():
                raise ConversionError(f"layer '{node.name}' is batch norm: call simplify() before build_network()")

    def _relu_of_input(self, node: Node) -> _Pending:
        n = int(np.prod(node.shape))
        grown = self._extend(node, _Pending("input"), Dense(np.eye(n), node.shape, node.shape), np.zeros(node.shape))
        return _Pending(self._populate(node, grown, role="hidden", fires=True))

    def _extend(self, node: Node, before: _Pending, op: Dense | operators.Conv2d | Pool, bias: FloatArray) -> _Pending:
        total = np.array(bias, dtype=np.float64).reshape(node.shape)
        if before.bias is not None and before.bias.any():
            carried = apply(op, torch.as_tensor(before.bias, dtype=torch.float64)[None])[0].numpy()
            total = total + carried.reshape(node.shape)
        return _Pending(before.pre, (*before.parts, op), total)

    def _populate(self, node: Node, pending: _Pending, *, role: str, fires: bool) -> str:
        options = self.options
        shape = pending.parts[-1].out_shape
        op: Operator = merge(pending.parts[0] if len(pending.parts) == 1 else Chain(pending.parts))
        name = self._name(node)
        bias = np.zeros(shape) if pending.bias is None else pending.bias.reshape(shape)
        neuron = (
            Neuron(options.reset, v_init=options.v_init, leak=options.leak)
            if fires
            else Neuron("subtract", fires=False)
        )
        self.populations.append(
            Population(name, shape, bias, neuron, role="readout" if role == "readout" else "hidden")
        )
        self.projections.append(Projection(pending.pre, name, op))
        return name

    def _name(self, node: Node) -> str:
        """The weight layer's own name for a ReLU behind it, so that reports speak of 'conv1', not of 'relu_3'."""
        before = self.graph.by_name[node.inputs[0]] if isinstance(node.op, ReLU) else node
        while isinstance(before.op, Reshape):
            before = self.graph.by_name[before.inputs[0]]
        name = before.name if isinstance(before.op, Conv2d | Linear) else node.name
        taken = {p.name for p in self.populations}
        return name if name not in taken else f"{name}.{node.name}"
