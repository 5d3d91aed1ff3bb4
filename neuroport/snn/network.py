"""The float spiking network: populations of neurons and the linear projections between them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from neuroport.ann.graph import FloatArray
from neuroport.errors import InvalidNetworkError
from neuroport.snn.operators import Operator, Shape

Reset = Literal["zero", "subtract"]
Encoding = Literal["current", "rate"]
Role = Literal["input", "hidden", "readout"]


@dataclass(frozen=True)
class Neuron:
    """Integrate-and-fire neuron in units of its threshold.

    v <- leak * v + input + bias; spike where v >= v_th; then v = 0 (zero) or v - v_th (subtract).
    A neuron that does not fire only accumulates (a membrane readout).
    Source: Rueckauer et al. 2016, eq. 1 to 4.
    """

    reset: Reset = "subtract"
    v_th: float = 1.0
    v_init: float = 0.0
    leak: float = 1.0
    fires: bool = True


@dataclass(frozen=True, eq=False)
class Population:
    """Neurons of one layer. shape: [C, H, W] or [N]; bias: the same shape, in v_th per step.

    `clamp_until`: the population holds v_init and emits nothing before this step (Mueller et al. 2021, IV-A).
    """

    name: str
    shape: Shape
    bias: FloatArray
    neuron: Neuron
    role: Role = "hidden"
    clamp_until: int = 0

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
class SpikingNetwork:
    """Populations in topological order, the first being the input, and their projections.

    `encoding` says what the input population hands on: its analog values at every step (current), or spikes of a
    deterministic rate encoder (rate).

    Raises:
        InvalidNetworkError: a projection runs backwards, joins shapes that differ, or a population has no input.
    """

    populations: tuple[Population, ...]
    projections: tuple[Projection, ...]
    encoding: Encoding = "current"

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
            if population.role != "input" and not self.incoming[population.name]:
                raise InvalidNetworkError(f"population '{population.name}' receives nothing")

    @cached_property
    def by_name(self) -> Mapping[str, Population]:
        """Populations by name."""
        return {p.name: p for p in self.populations}

    @cached_property
    def incoming(self) -> Mapping[str, tuple[Projection, ...]]:
        """Projections into each population."""
        return {p.name: tuple(j for j in self.projections if j.post == p.name) for p in self.populations}

    @property
    def input(self) -> Population:
        """The input population."""
        return next(p for p in self.populations if p.role == "input")

    @property
    def output(self) -> Population:
        """The population the answer is read from."""
        return next(p for p in reversed(self.populations) if p.role == "readout")
