"""A float spiking network from a feed-forward NIR graph: its nodes in order, each a linear part or a population."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from pydantic import TypeAdapter

from neuroport.ann.graph import FloatArray
from neuroport.backends.nir.borders import BORDER_ERROR
from neuroport.backends.nir.file import KEY, NEURONS, same_fields
from neuroport.backends.nir.linear import Signal, behind, total
from neuroport.backends.nir.neurons import Read, read_neuron
from neuroport.backends.nir.write_float import neuron_node
from neuroport.errors import InvalidNetworkError, ModelFileError, UnsupportedOperatorError
from neuroport.snn.merge import identity, is_zero, merge
from neuroport.snn.network import Encoding, Head, Neuron, Population, Projection, Reset, Role, SpikingNetwork
from neuroport.snn.operators import Chain, Operator, Part, Scale, Shape

_NEURON = TypeAdapter(Neuron)
_ENCODING: TypeAdapter[Encoding] = TypeAdapter(Encoding)
_ROLE: TypeAdapter[Role] = TypeAdapter(Role)
_SIGNS = TypeAdapter(Literal[1, 2])
_SEED = TypeAdapter(int)


def float_network(
    name: str, graph: Any, described: Mapping[str, Any] | None, *, reset: Reset, dt_s: float
) -> SpikingNetwork:
    """The network of a graph; `described`: our own metadata of it, if there are any; `name` is the file's.

    Raises:
        ConversionError: a node, a value or a structure that neuroport does not have, with what to do.
        ModelFileError: our metadata belong to another graph.
    """
    walk = _Walk(graph, {}, reset, dt_s)
    try:
        if described is None:
            return walk.run().network()
        walk.known = {row["node"]: row for row in described["populations"]}
        return _as_described(walk.run(), described)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"({type(error).__name__}: {error})"
        if described is None:
            raise ModelFileError(f"'{name}' holds nodes that NIR does not allow {what}; write it again") from error
        raise ModelFileError(
            f"'{name}' was changed after neuroport wrote it, its description does not fit {what}; write it again, or "
            f"take the key '{KEY}' out of its metadata"
        ) from error


def _as_described(walk: _Walk, described: Mapping[str, Any]) -> SpikingNetwork:
    """In the order and with the input code that were written."""
    if gone := walk.known.keys() - walk.graph.nodes.keys():
        raise ValueError(f"it tells of nodes that are not there: {', '.join(map(str, gone))}")
    by_name = {p.name: p for p in walk.populations}
    roles: dict[str, Role] = {row["name"]: _ROLE.validate_python(row["role"]) for row in described["populations"]}
    heads = tuple(Head(head["population"]) for head in described["heads"])
    return SpikingNetwork(
        tuple(replace(by_name[name], role=role) for name, role in roles.items()),
        tuple(walk.projections),
        _ENCODING.validate_python(described["encoding"]),
        heads,
        _SIGNS.validate_python(described["n_signs"]),
        np.asarray(described["input_scale"], np.float64),
        _SEED.validate_python(described["seed"], strict=True),
    )


@dataclass(eq=False)
class _Walk:
    """A graph as it is read, node by node. known: what our metadata say of nodes of neurons."""

    graph: Any
    known: Mapping[str, Mapping[str, Any]]
    reset: Reset
    dt_s: float
    populations: list[Population] = field(default_factory=list)
    projections: list[Projection] = field(default_factory=list)
    heads: list[Head] = field(default_factory=list)
    signals: dict[str, Signal] = field(default_factory=dict)
    analog: dict[str, str] = field(default_factory=dict)

    def run(self) -> _Walk:
        """Itself, with every node read."""
        _check_inputs(self.graph)
        before: dict[str, list[str]] = {name: [] for name in self.graph.nodes}
        for pre, post in self.graph.edges:
            _check_edge(self.graph.nodes, before, pre, post)
            before[post].append(pre)
        for name in _in_order(before):
            self._read(name, self.graph.nodes[name], before[name])
        return self

    def network(self) -> SpikingNetwork:
        """What was read, its outputs in the file's order."""
        if not self.heads:
            raise InvalidNetworkError("the graph has no Output, so nothing says what its answer is; add one")
        names = {head.population for head in self.heads}
        populations = [replace(p, role="readout") if p.name in names else p for p in self.populations]
        heads = {head.population: head for head in self.heads}
        return SpikingNetwork(tuple(populations), tuple(self.projections), heads=tuple(heads.values()))

    def _read(self, name: str, node: Any, before: list[str]) -> None:
        kind = type(node).__name__
        if kind == "Input":
            shape = _shape_of(name, node)
            row = self.known.get(name, {"name": name, "shape": shape, "neuron": {}})
            own = tuple(row["shape"])
            self.populations.append(
                Population(row["name"], own, np.zeros(own), _NEURON.validate_python(row["neuron"]), "input")
            )
            self.signals[name] = Signal(shape, ((row["name"], ()),))
            return
        if not before:
            raise InvalidNetworkError(f"node '{name}' ({kind}) receives nothing; connect it, or take it out")
        for pre in before:
            if pre in self.analog and kind != "Output":
                raise UnsupportedOperatorError(
                    f"node '{name}' reads the potential of '{self.analog[pre]}', which does not fire; neuroport passes "
                    f"spikes on, and potentials to an Output only; put a neuron that fires between them"
                )
        arriving = total(name, [self.signals[pre] for pre in before])
        if kind in NEURONS:
            self._add(name, node, arriving)
        elif kind == "Output":
            self._end(name, arriving)
        else:
            self.signals[name] = behind(name, node, arriving)

    def _add(self, name: str, node: Any, x: Signal) -> None:
        row = self.known.get(name)
        if row is None:
            read = read_neuron(name, node, x.shape, self.reset, self.dt_s)
            title, shape, helper, linear = name, x.shape, False, False
        else:
            one = np.ones((1,) * len(x.shape))
            read = Read(_NEURON.validate_python(row["neuron"]), one, one * 0)
            if wrong := same_fields(neuron_node(read.neuron, x.shape), node):
                raise ValueError(f"node '{name}' has another {wrong}")
            title, shape = row["name"], tuple(row["shape"])
            helper, linear = row["is_helper"], row["is_linear"]
        made = Population(title, shape, np.zeros(0), read.neuron, is_helper=helper, is_linear=linear)
        self._populate(made, x, read, node.metadata.get(KEY, {}).get("bias") if row else None)
        self.signals[name] = Signal(x.shape, ((title, ()),))
        if not read.neuron.fires:
            self.analog[name] = name

    def _populate(self, p: Population, x: Signal, read: Read, exact: FloatArray | None = None) -> None:
        """Add a population with its bias, and what leads to it; exact: the bias before a kernel stood for it."""
        bias = np.broadcast_to(read.bias, x.shape)
        if x.constant is not None:
            bias = bias + x.constant * read.gain
        if exact is not None:
            if not np.abs(bias.reshape(p.shape) - exact).max() <= BORDER_ERROR * np.abs(exact).max():
                raise ValueError(f"node '{p.name}' has another bias")
            bias = exact
        self.populations.append(replace(p, bias=np.array(bias).reshape(p.shape)))
        # what writes nothing but zeros brought a constant, which the bias has
        heard = [term for term in x.terms if not any(is_zero(part) for part in term[1])]
        for pre, parts in heard or x.terms:
            self.projections.append(Projection(pre, p.name, _operator(parts, x.shape, read.gain)))

    def _end(self, name: str, x: Signal) -> None:
        (pre, parts), *more = x.terms
        if not more and not parts and x.constant is None and pre != self.populations[0].name:
            self.heads.append(Head(pre))
            return
        # the answer of a bare linear layer: what it writes, added up over the steps
        one = np.ones((1,) * len(x.shape))
        read = Read(Neuron(fires=False), one, one * 0)
        self._populate(Population(name, x.shape, np.zeros(0), read.neuron), x, read)
        self.heads.append(Head(name))


def _check_inputs(graph: Any) -> None:
    inputs = [name for name, node in graph.nodes.items() if type(node).__name__ == "Input"]
    if len(inputs) != 1:
        raise UnsupportedOperatorError(
            f"the graph has {len(inputs)} inputs ({', '.join(inputs) or 'none'}), neuroport reads graphs with one; "
            f"join them"
        )


def _check_edge(nodes: Mapping[str, Any], before: Mapping[str, list[str]], pre: str, post: str) -> None:
    edge = f"edge '{pre}' -> '{post}'"
    if pre not in before or post not in before:
        raise InvalidNetworkError(f"{edge} leads to no node; write the file again")
    if pre in before[post]:
        raise InvalidNetworkError(f"{edge} is there twice, NIR's are there once; take one out, or add a Scale of 2")
    if type(nodes[pre]).__name__ == "Output":
        raise InvalidNetworkError(f"{edge} leaves an Output, where a graph ends; start it at the node before '{pre}'")


def _shape_of(name: str, node: Any) -> Shape:
    found = node.input_type["input"]
    if found is None or not len(found) or min(found) < 1 or any(n % 1 for n in found):
        raise InvalidNetworkError(f"input '{name}' has no shape; write the file again, with the shape of a sample")
    return tuple(int(n) for n in found)


def _in_order(before: Mapping[str, list[str]]) -> list[str]:
    """Every node behind those that lead to it.

    Raises:
        UnsupportedOperatorError: a circle.
    """
    order: list[str] = []
    left = dict.fromkeys(before)
    while left:
        ready = [name for name in left if all(pre not in left for pre in before[name])]
        if not ready:
            raise UnsupportedOperatorError(
                f"nodes {', '.join(repr(name) for name in left)} are, or read, a circle; neuroport's networks run "
                f"forward; take the recurrent connections out"
            )
        order += ready
        for name in ready:
            del left[name]
    return order


def _operator(parts: tuple[Part, ...], shape: Shape, gain: FloatArray) -> Operator:
    """The parts as one operator, times the gain of the neurons behind them."""
    if not parts:
        parts = (identity(shape),)
    if (gain != 1).any():
        out = parts[-1].out_shape
        parts = (*parts, Scale(_as_read(gain, shape, out), out))
    return parts[0] if len(parts) == 1 else merge(Chain(parts))


def _as_read(gain: FloatArray, shape: Shape, out: Shape) -> FloatArray:
    """A gain of the neurons' shape for the same neurons under another one."""
    if gain.size == 1:
        return gain.reshape((1,) * len(out))
    if gain.size == out[0] == shape[0]:
        return gain.reshape(-1, *(1,) * (len(out) - 1))
    return np.broadcast_to(gain, shape).reshape(out)
