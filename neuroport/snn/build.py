"""From the folded ANN graph to populations and projections: each ReLU is a population, linear layers are synapses."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import prod
from typing import Literal

import numpy as np
import torch

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
    ReLU,
    Resample,
    Reshape,
    Squash,
)
from neuroport.ann.interpret import rectify
from neuroport.errors import InvalidNetworkError, UnsupportedOperatorError
from neuroport.snn import operators, parts
from neuroport.snn.heads import base_of, tail_nodes, tail_of
from neuroport.snn.max_pool import expand_max_pools
from neuroport.snn.merge import is_zero
from neuroport.snn.network import (
    Encoding,
    Gate,
    Head,
    Neuron,
    Population,
    Projection,
    Reset,
    Role,
    Saturation,
    SpikingNetwork,
)
from neuroport.snn.operators import Chain, Window
from neuroport.snn.signals import Signal, Term, add_signals, apply_part, is_nonnegative, negated, synapses
from neuroport.snn.sparse import n_connections

MaxPool = Literal["expand", "gated", "refuse"]
_MAX_CONDENSED = 1 << 24


@dataclass(frozen=True)
class BuildOptions:
    """What the recipe decides before weights are normalized.

    `pool`: average pools fold into the next layer ('fold') or are spiking populations of their own ('spiking', as in
    Diehl 2015 and Rueckauer 2016). `readout`: the last linear layer accumulates ('membrane', or 'softmax' where a
    spiking softmax reads it) or spikes ('count'). `max_pool`: rectifiers ('expand'), gates ('gated', Rueckauer 2016,
    section 3.6) or none ('refuse'). `n_signs`, `input_scale`, `seed`: see SpikingNetwork. `max_condensed`: synapses
    that linear layers in a row may be condensed to; beyond it they are relayed by a pair of populations. `clamp`: steps
    that each level of populations waits longer than the one before (Mueller et al. 2021, III). `floor`: of the
    potentials of neurons that fire. `leaky_readout`: those that only accumulate have the leak, too.
    """

    reset: Reset = "subtract"
    v_init: float = 0.0
    leak: float = 1.0
    encoding: Encoding = "current"
    readout: str = "membrane"
    pool: str = "fold"
    max_pool: MaxPool = "expand"
    n_signs: int = 1
    input_scale: FloatArray = field(default_factory=lambda: np.ones(1))
    max_condensed: int = _MAX_CONDENSED
    clamp: float = 0.0
    floor: float | None = None
    leaky_readout: bool = False
    seed: int = 0


def build_network(graph: AnnGraph, options: BuildOptions) -> SpikingNetwork:
    """The spiking network of a simplified graph, not normalized yet: thresholds of 1, the ANN's own weights.

    Raises:
        UnsupportedOperatorError: an operator that no spiking neuron does stands before the last layer, or a max-pool
            where the recipe refuses them.
        InvalidNetworkError: the network has no layer with weights.
    """
    _check_max_pools(graph, options)
    helpers: frozenset[str] = frozenset()
    if options.max_pool == "expand":
        graph, helpers = expand_max_pools(graph)
    return _Builder(graph, options, helpers).build()


def _check_max_pools(graph: AnnGraph, options: BuildOptions) -> None:
    pools = [node for node in graph if isinstance(node.op, MaxPool2d)]
    if pools and options.max_pool == "refuse":
        raise UnsupportedOperatorError(
            f"max-pool '{pools[0].name}' in {pools[0].origin}: the recipe refuses max-pools; set max_pool: "
            f"expand, which writes max(a, b) = relu(a - b) + b with three extra neurons for each output of a 2x2 pool"
        )


@dataclass
class _Builder:
    graph: AnnGraph
    options: BuildOptions
    helpers: frozenset[str]
    populations: dict[str, Population] = field(default_factory=dict)
    projections: list[Projection] = field(default_factory=list)
    signals: dict[str, Signal] = field(default_factory=dict)

    def build(self) -> SpikingNetwork:
        o, graph = self.options, self.graph
        neuron = Neuron(reset="subtract", v_init=0.5)
        shape = graph.input_shape
        if o.n_signs > 1:
            shape = (o.n_signs * shape[0], *shape[1:])
        self.populations["input"] = Population("input", shape, np.zeros(shape), neuron, role="input")
        tail = tail_nodes(graph)
        for node in graph:
            if node.name not in tail:
                self.signals[node.name] = self._step(node)
        heads = tuple(self._head(name) for name in graph.outputs)
        populations = self._clamped()
        return SpikingNetwork(populations, tuple(self.projections), o.encoding, heads, o.n_signs, o.input_scale, o.seed)

    def _clamped(self) -> tuple[Population, ...]:
        """The populations, each held for `clamp` steps per level, the longest path from the input.

        Constant currents are there at once: then the populations that read them wait for nothing. A gate adds no level.
        """
        level = {"input": -1 if self.options.encoding == "current" else 0}
        found = []
        for p in self.populations.values():
            is_neuron = isinstance(p.neuron, Neuron)
            if p.role != "input":
                level[p.name] = max(level[j.pre] for j in self.projections if j.post == p.name) + is_neuron
            waits = int(self.options.clamp * max(level[p.name], 0)) if is_neuron else 0
            found.append(replace(p, clamp_until=waits))
        return tuple(found)

    # --- outputs

    def _head(self, output: str) -> Head:
        """The readout population of one output."""
        node = base_of(self.graph, output)
        signal = self.signals[node.name]
        name = signal.population
        if name == "input":
            raise InvalidNetworkError("the network has no layer with weights: there is nothing to convert")
        if name is None:
            fires = self.options.readout == "count"
            name = self._populate(node, signal, role="readout", neuron=self._neuron() if fires else self._accumulator())
            self.signals[node.name] = replace(signal, terms=(Term(name),), bias=None)
        else:
            self.populations[name] = replace(self.populations[name], role="readout")
        is_sampled = self.options.readout == "softmax" and not self.populations[name].neuron.fires
        return Head(name, node.shape, tail_of(self.graph, output), is_sampled)

    # --- nodes

    def _step(self, node: Node) -> Signal:
        inputs = [self.signals[name] for name in node.inputs]
        match node.op:
            case Input(offset):
                return self._input(node, offset)
            case Constant(value):
                return Signal(node.shape, (), value)
            case Conv2d() | ConvTranspose2d() | Linear() | Affine() | Resample() | Gather():
                return self._linear(node, inputs[0])
            case AvgPool2d():
                return self._average(node, inputs[0])
            case Reshape():
                return inputs[0].reshaped(node.shape)
            case Add(signs):
                return add_signals(inputs, signs, node.shape)
            case Concat(axis):
                return self._concat(node, inputs, axis)
            case ReLU():
                return self._rectified(node, node.op, inputs[0])
            case LeakyReLU(slope):
                return self._leaky(node, inputs[0], slope)
            case MaxPool2d():
                return self._gate(node, node.op, inputs[0])
        name = node.op.function if isinstance(node.op, Squash) else type(node.op).__name__.lower()
        raise UnsupportedOperatorError(
            f"operator '{name}' in {node.origin} ('{node.name}') stands in the middle of the "
            f"network: no integrate-and-fire neuron computes it; it is converted only behind the last layer; replace "
            f"it by ReLU or a clamp and train again"
        )

    def _input(self, node: Node, offset: int) -> Signal:
        o = self.options
        whole = Signal(self.graph.input_shape, (Term("input"),))
        if o.n_signs > 1 or (o.input_scale != 1).any():
            part = parts.joined_signs(self.graph.input_shape, o.n_signs, o.input_scale)
            whole = apply_part(whole, part, self.graph.input_shape, None, is_plain=False)
        if node.size == int(np.prod(self.graph.input_shape)):
            return whole.reshaped(node.shape)
        index = np.arange(offset, offset + node.size)
        return apply_part(whole, operators.Gather(index, whole.shape, node.shape), node.shape, None, is_plain=True)

    def _linear(self, node: Node, before: Signal) -> Signal:
        part, added, is_plain = parts.of_node(node, before.shape)
        grown = apply_part(before, part, node.shape, added, is_plain=is_plain)
        if is_plain or not self._is_too_large(before, grown):
            return grown
        relayed = self._relay(node, before)
        return apply_part(relayed, part, node.shape, added, is_plain=is_plain)

    def _average(self, node: Node, before: Signal) -> Signal:
        part, _, _ = parts.of_node(node, before.shape)
        grown = apply_part(before, part, node.shape, None, is_plain=True)
        if self.options.pool == "spiking" and before.population not in (None, "input"):
            return self._fired(node, grown)
        return grown

    def _concat(self, node: Node, inputs: list[Signal], axis: int) -> Signal:
        ends = np.cumsum([s.shape[axis] for s in inputs])
        placed = []
        for signal, end in zip(inputs, ends, strict=True):
            part = parts.placed(signal.shape, node.shape, axis, int(end) - signal.shape[axis])
            placed.append(apply_part(signal, part, node.shape, None, is_plain=True))
        return add_signals(placed, (1,) * len(placed), node.shape)

    def _rectified(self, node: Node, op: ReLU, before: Signal) -> Signal:
        """A population, unless spikes that are never negative stay as they are."""
        is_input = any(term.pre == "input" for term in before.terms)
        if op.ceiling is None and before.terms and not is_input and is_nonnegative(before):
            return before
        saturation = None if op.ceiling is None else Saturation(np.array([op.ceiling]), op.levels)
        return self._fired(node, before, saturation=saturation)

    def _leaky(self, node: Node, before: Signal, slope: FloatArray) -> Signal:
        """relu(x) - slope relu(-x): one population for each sign."""
        above = self._fired(node, before)
        below = self._fired(node, negated(before), suffix=".negative")
        falling = Affine(-slope, np.zeros((1,) * len(node.shape)))
        part, _, _ = parts.of_node(replace(node, op=falling), node.shape)
        return add_signals([above, apply_part(below, part, node.shape, None, is_plain=False)], (1, 1), node.shape)

    def _relay(self, node: Node, signal: Signal) -> Signal:
        """The signal handed on by two populations, one for each sign: x = relu(x) - relu(-x)."""
        on = self._fired(node, signal, suffix=".on")
        off = self._fired(node, negated(signal), suffix=".off")
        relayed = add_signals([on, off], (1, -1), signal.shape)
        self.signals[node.inputs[0]] = relayed.reshaped(self.signals[node.inputs[0]].shape)
        return relayed

    def _is_too_large(self, before: Signal, grown: Signal) -> bool:
        if all(term.operator is None for term in before.terms):
            return False
        on_chip = [t for t in grown.terms if not (t.pre == "input" and self.options.encoding == "current")]
        limit = self.options.max_condensed
        chains = [t.operator for t in on_chip if isinstance(t.operator, Chain)]
        large = [op for op in chains if prod(op.in_shape) * prod(op.out_shape) > limit]
        return any(n_connections(op) > limit for op in large)

    def _gate(self, node: Node, op: MaxPool2d, before: Signal) -> Signal:
        pre = before.population
        if pre is None or pre == "input":
            raise UnsupportedOperatorError(
                f"max-pool '{node.name}' in {node.origin}: a gate passes spikes, and what it reads is no population of "
                f"spikes but a sum; use a recipe with max_pool: expand"
            )
        name = self._name(node)
        window = Window(op, before.shape, node.shape)
        self.populations[name] = Population(name, node.shape, np.zeros(node.shape), Gate())
        self.projections.append(Projection(pre, name, window))
        return Signal(node.shape, (Term(name),))

    # --- populations

    def _neuron(self) -> Neuron:
        return Neuron(self.options.reset, v_init=self.options.v_init, leak=self.options.leak, floor=self.options.floor)

    def _accumulator(self) -> Neuron:
        return Neuron("subtract", leak=self.options.leak if self.options.leaky_readout else 1.0, fires=False)

    def _fired(self, node: Node, signal: Signal, *, suffix: str = "", saturation: Saturation | None = None) -> Signal:
        """What a new spiking population makes of the signal; of a constant, the constant it makes of it."""
        if all(is_zero(op) for _, op in synapses(signal)):
            bias = np.zeros(signal.shape) if signal.bias is None else signal.bias
            trained = ReLU() if saturation is None else ReLU(float(saturation.ceiling[0]), saturation.levels)
            return Signal(signal.shape, (), rectify(trained, torch.from_numpy(bias)).numpy())
        name = self._populate(node, signal, role="hidden", neuron=self._neuron(), suffix=suffix, saturation=saturation)
        return Signal(signal.shape, (Term(name),))

    def _populate(
        self,
        node: Node,
        signal: Signal,
        *,
        role: Role,
        neuron: Neuron,
        suffix: str = "",
        saturation: Saturation | None = None,
    ) -> str:
        if not signal.terms:
            raise InvalidNetworkError(
                f"layer '{node.name}' in {node.origin} does not depend on the input: it is the same for every sample; "
                f"leave it out of the network"
            )
        name = self._name(node, suffix)
        shape = signal.shape or (1,)
        bias = np.zeros(shape) if signal.bias is None else signal.bias.reshape(shape)
        helper = node.name in self.helpers or bool(suffix)
        linear = role == "readout" and neuron.fires
        self.populations[name] = Population(name, shape, bias, neuron, role, 0, saturation, helper, linear)
        self.projections.extend(Projection(pre, name, op) for pre, op in synapses(signal))
        return name

    def _name(self, node: Node, suffix: str = "") -> str:
        """The weight layer's own name for a ReLU behind it, so that reports speak of 'conv1', not of 'relu_3'."""
        before = self.graph.by_name[node.inputs[0]] if isinstance(node.op, ReLU | LeakyReLU) else node
        while isinstance(before.op, Reshape | Affine):
            before = self.graph.by_name[before.inputs[0]]
        is_layer = isinstance(before.op, Conv2d | ConvTranspose2d | Linear)
        name = before.name if is_layer else node.origin.module or node.name
        if name + suffix in self.populations:
            name = node.name if node.name.startswith(name) else f"{name}.{node.name}"
        candidate, n = name + suffix, 1
        while candidate in self.populations:
            n += 1
            candidate = f"{name}{suffix}.{n}"
        return candidate
