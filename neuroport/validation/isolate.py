"""One population alone, driven by given spikes: where "the core's rule on the backend's own inputs" is asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from neuroport.chip.core.dense import Products, exact_products
from neuroport.chip.inputs import IntInputs
from neuroport.chip.network import IntNetwork, IntPopulation, IntProjection
from neuroport.chip.oracle import integrate, limit, pass_gate
from neuroport.chip.synapses import IntWeights, IntWindow, sum_bound
from neuroport.chip.target import Arithmetic, Register
from neuroport.snn.operators import Shape

Int64 = NDArray[np.int64]
Spikes = NDArray[np.uint8]

_AT_WORK = 1 << 24  # spikes of one population before the synapses, and sums behind them, held at a time


@dataclass(frozen=True, eq=False)
class Arrival:
    """What one projection brings.

    spikes: [S, T, N] as they arrive; shape: of the population before; from_source: whether that is the spike source;
    sums: [S, T, *shape] of each accumulator, exponent included; empty for the windows of a gate.
    """

    projection: IntProjection
    spikes: Spikes
    shape: Shape
    from_source: bool
    sums: tuple[Int64, ...] = ()


@dataclass(frozen=True, eq=False)
class Site:
    """A population, its arithmetic, and what arrives. Rules change one of these; `run` says what then happens.

    bias: [S or 1, T or 1, *shape] in membrane units. accumulator: where weight sums end, None for nowhere. late: steps
    by which all of it is late. places: the neuron whose spikes each neuron seems to have, None for its own. n_unknown:
    steps at the end of which a change leaves open what arrives.
    """

    arithmetic: Arithmetic
    population: IntPopulation
    arrivals: tuple[Arrival, ...]
    bias: Int64
    n_samples: int
    n_steps: int
    accumulator: Register | None = None
    late: int = 0
    places: NDArray[np.intp] | None = None
    n_unknown: int = 0

    def run(self) -> tuple[Spikes, Int64]:
        """Spikes and potentials [S, T, *shape]."""
        p, shape = self.population, (self.n_samples, self.n_steps, *self.population.shape)
        if p.gate:
            (arrival,) = self.arrivals
            spikes, v = pass_gate(p, arrival.projection, arrival.spikes), np.zeros(shape, np.int64)
        else:
            spikes, v = integrate(self.arithmetic, p, self.total, self.bias)
        if self.late:
            spikes, v = _later(spikes, self.late, 0), _later(v, self.late, p.v_init_int)
        if self.places is not None:
            spikes = spikes.reshape(*shape[:2], -1)[..., self.places].reshape(shape)
            v = v.reshape(*shape[:2], -1)[..., self.places].reshape(shape)
        return spikes, v

    @property
    def total(self) -> Int64:
        """[S, T, *shape]: what all arrivals add up to, the accumulators subtracted."""
        a, shape = self.arithmetic, (self.n_samples, self.n_steps, *self.population.shape)
        sums = [
            sum((arrival.sums[k] for arrival in self.arrivals if arrival.sums), np.zeros(shape, np.int64))
            for k in range(2 if a.accumulators == "split" else 1)
        ]
        if len(sums) > 1:
            held = [np.minimum(x, a.accumulator_limit) for x in sums]
            return held[0] - held[1]
        return sums[0] if self.accumulator is None else limit(sums[0], self.accumulator)

    def rewired(
        self, k: int, *, synapse: IntWeights | None = None, exponent: int | None = None, spikes: Spikes | None = None
    ) -> Site:
        """The same with another synapse, exponent or arriving spikes in the k-th arrival."""
        old, arrivals = self.arrivals[k], list(self.arrivals)
        j = old.projection
        j = replace(
            j,
            synapse=j.synapse if synapse is None else synapse,
            exponent=j.exponent if exponent is None else exponent,
        )
        new = replace(old, projection=j, spikes=old.spikes if spikes is None else spikes)
        arrivals[k] = weighed(new, self.arithmetic, self.population.shape)
        return replace(self, arrivals=tuple(arrivals))


def site_of(
    network: IntNetwork, p: IntPopulation, spikes: Mapping[str, Spikes], inputs: IntInputs, samples: NDArray[np.intp]
) -> Site:
    """The population p in the samples of these numbers; spikes: [S, T, *shape] of every population it reads."""
    a, arrivals = network.arithmetic_of(p), []
    n = len(samples)
    for j in network.incoming[p.name]:
        pre = network.by_name[j.pre]
        flat = (spikes[j.pre][samples] != 0).astype(np.uint8).reshape(n, inputs.n_steps, -1)
        arrivals.append(weighed(Arrival(j, flat, pre.shape, pre.role == "input"), a, p.shape))
    mantissa = inputs.currents[p.name][samples] if p.driven else p.bias_mantissa[None]
    bias = mantissa[:, None].astype(np.int64) << p.bias_exponent
    return Site(a, p, tuple(arrivals), bias, n, inputs.n_steps)


def sources_of(network: IntNetwork, spikes: Mapping[str, Spikes], inputs: IntInputs) -> Mapping[str, Spikes]:
    """The spikes of a trace with those of the spike source, which nobody returns."""
    if network.input is None or inputs.spikes is None:
        return spikes
    return {**spikes, network.input.name: inputs.spikes}


def _chunks(n_rows: int, n_per_row: int) -> Iterator[slice]:
    """Slices of rows, each of no more neurons than are held at a time."""
    size = max(1, _AT_WORK // max(1, n_per_row))
    for start in range(0, n_rows, size):
        yield slice(start, min(start + size, n_rows))


def weighed(arrival: Arrival, a: Arithmetic, shape: Shape) -> Arrival:
    """The arrival with its exact weight sums."""
    j = arrival.projection
    if isinstance(j.synapse, IntWindow):
        return arrival
    rows = arrival.spikes.reshape(-1, arrival.spikes.shape[-1])
    bound = sum_bound(j.synapse) << j.exponent
    products = Products([j], {j.pre: rows.shape[1]}, bound, is_split=a.accumulators == "split")
    parts: list[list[Int64]] = []
    with exact_products():
        for part in _chunks(len(rows), rows.shape[1]):
            sums = products.sums({j.pre: torch.from_numpy(np.ascontiguousarray(rows[part]))})
            parts.append([x.double().numpy().astype(np.int64) for x in sums])
    shape = (*arrival.spikes.shape[:2], *shape)
    return replace(arrival, sums=tuple(np.concatenate(pieces).reshape(shape) for pieces in zip(*parts, strict=True)))


def _later(x: NDArray[Any], n_steps: int, before: int) -> NDArray[Any]:
    """[S, T, ...] shifted to later steps; what is there before them."""
    out = np.full_like(x, before)
    out[:, n_steps:] = x[:, :-n_steps]
    return out
