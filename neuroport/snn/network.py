"""The float spiking network: populations of neurons and the linear projections between them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np

from neuroport.ann.graph import FloatArray, Node
from neuroport.errors import InvalidNetworkError
from neuroport.snn.operators import Operator, Shape, Window

Reset = Literal["zero", "subtract"]
Encoding = Literal["current", "rate", "poisson", "events"]
Role = Literal["input", "hidden", "readout"]


@dataclass(frozen=True)
class Neuron:
    """Integrate-and-fire neuron in units of its threshold.

    v <- leak * v + input + bias, not below floor if there is one; spike where v >= v_th; then v = 0 (zero) or v - v_th
    (subtract). A neuron that does not fire only accumulates, without a floor (a membrane readout).
    Source: Rueckauer et al. 2016, eq. 1 to 4.
    """

    reset: Reset = "subtract"
    v_th: float = 1.0
    v_init: float = 0.0
    leak: float = 1.0
    fires: bool = True
    floor: float | None = None


@dataclass(frozen=True)
class Gate:
    """Max-pool gate: passes the spikes of that input of its window whose estimated rate is highest (see snn/gate.py).

    Source: Rueckauer et al. 2016, section 3.6.
    """

    fires: bool = True


@dataclass(frozen=True, eq=False)
class Saturation:
    """The trained activation ends at `ceiling` ([C] or [1], in activation units), in `levels` equal steps if given."""

    ceiling: FloatArray
    levels: int | None = None


@dataclass(frozen=True, eq=False)
class Population:
    """Neurons of one layer, in v_th and v_th per step. shape: [C, H, W], [C, L], [N] or more axes; bias: the same.

    `clamp_until`: the population holds v_init and emits nothing before this step (Mueller et al. 2021, IV-A).
    `is_helper`: made by the conversion (half of a linear relay, part of a max-pool), not a layer of the ANN.
    `is_linear`: spikes stand for a layer without ReLU, whose sums below 0 they cannot express (a counted readout).
    """

    name: str
    shape: Shape
    bias: FloatArray
    neuron: Neuron | Gate
    role: Role = "hidden"
    clamp_until: int = 0
    saturation: Saturation | None = None
    is_helper: bool = False
    is_linear: bool = False

    @property
    def n_neurons(self) -> int:
        """Number of neurons."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Projection:
    """Synapses from population `pre` to population `post`."""

    pre: str
    post: str
    operator: Operator


@dataclass(frozen=True, eq=False)
class Head:
    """One output: the readout population, and what the host does with its numbers.

    shape: the numbers' shape; tail: operators behind it (softmax, reshape), in order; is_sampled: the potentials are
    read by a spiking softmax (snn/readout.py), not at the end.
    """

    population: str
    shape: Shape = ()
    tail: tuple[Node, ...] = ()
    is_sampled: bool = False


@dataclass(frozen=True, eq=False)
class SpikingNetwork:
    """Populations in topological order, the first being the input, their projections, and the outputs.

    `encoding` says what the input population hands on: its analog values at every step (current), spikes of a
    deterministic rate encoder (rate), spikes drawn with the rate as their probability from `seed` (poisson), or the
    recorded spikes of the sample (events). With `n_signs` 2 the encoder has one channel for positive and one for
    negative values (on, off), at rate |x| / input_scale, which is [1], or has a number for each of the input's.

    Raises:
        InvalidNetworkError: a projection runs backwards, joins shapes that differ, or a population has no input.
    """

    populations: tuple[Population, ...]
    projections: tuple[Projection, ...]
    encoding: Encoding = "current"
    heads: tuple[Head, ...] = ()
    n_signs: int = 1
    input_scale: FloatArray = field(default_factory=lambda: np.ones(1))
    seed: int = 0

    def __post_init__(self) -> None:
        """Check order and shapes."""
        order = {p.name: k for k, p in enumerate(self.populations)}
        if len(order) < len(self.populations):
            raise InvalidNetworkError("two populations share a name")
        for projection in self.projections:
            pre, post = self.by_name.get(projection.pre), self.by_name.get(projection.post)
            if pre is None or post is None or order[pre.name] >= order[post.name]:
                raise InvalidNetworkError(f"projection {projection.pre} -> {projection.post} does not run forward")
            sizes = (math.prod(projection.operator.in_shape), math.prod(projection.operator.out_shape))
            if sizes != (pre.n_neurons, post.n_neurons):
                raise InvalidNetworkError(
                    f"projection {pre.name} -> {post.name} maps {sizes[0]} to {sizes[1]} neurons; the populations "
                    f"have {pre.n_neurons} and {post.n_neurons}"
                )
        if not any(p.role == "readout" for p in self.populations):
            raise InvalidNetworkError("no population is the readout")
        for population in self.populations:
            incoming = self.incoming[population.name]
            if population.role != "input" and not incoming:
                raise InvalidNetworkError(f"population '{population.name}' receives nothing")
            if isinstance(population.neuron, Gate) and [type(j.operator) for j in incoming] != [Window]:
                raise InvalidNetworkError(f"gate '{population.name}' must read the windows of one population")
        for head in self.outputs:
            if head.population not in order or self.by_name[head.population].role != "readout":
                raise InvalidNetworkError(f"output '{head.population}' is not a readout population")

    @cached_property
    def by_name(self) -> Mapping[str, Population]:
        """Populations by name."""
        return {p.name: p for p in self.populations}

    @cached_property
    def incoming(self) -> Mapping[str, tuple[Projection, ...]]:
        """Projections into each population."""
        found: dict[str, list[Projection]] = {p.name: [] for p in self.populations}
        for j in self.projections:
            found[j.post].append(j)
        return {name: tuple(projections) for name, projections in found.items()}

    @property
    def is_rate_coded(self) -> bool:
        """Whether an encoder turns numbers into spikes."""
        return self.encoding in ("rate", "poisson")

    @property
    def input(self) -> Population:
        """The input population."""
        return next(p for p in self.populations if p.role == "input")

    @property
    def outputs(self) -> tuple[Head, ...]:
        """The outputs, the class scores first; where none is named, the last readout population."""
        return self.heads or tuple(Head(p.name) for p in self.populations if p.role == "readout")[-1:]

    @property
    def output(self) -> Population:
        """The population the class scores are read from."""
        return self.by_name[self.outputs[0].population]
