"""Faults planted in one population of a network, past its checks: what a backend that does so would return.

Each is made here in its own words, on the network that the oracle then runs: nothing is taken from the rules that
the diagnosis tries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np

from neuroport.chip.inputs import IntInputs
from neuroport.chip.network import IntNetwork, IntProjection
from neuroport.chip.oracle import run_population
from neuroport.chip.synapses import IntConv2d, IntWeights
from neuroport.chip.target import Arithmetic
from neuroport.chip.trace import Trace


def unchecked(network: IntNetwork, **changes: Any) -> IntNetwork:
    """The network with some fields changed and nothing checked, as a backend that computes otherwise has it."""
    made = object.__new__(IntNetwork)
    for f in fields(network):
        object.__setattr__(made, f.name, changes.get(f.name, getattr(network, f.name)))
    return made


def with_population(network: IntNetwork, name: str, **changes: Any) -> IntNetwork:
    """One population changed."""
    populations = tuple(replace(p, **changes) if p.name == name else p for p in network.populations)
    return unchecked(network, populations=populations)


def with_weights(network: IntNetwork, name: str, change: Callable[[IntWeights], IntWeights]) -> IntNetwork:
    """All projections into one population changed."""

    def changed(j: IntProjection) -> IntProjection:
        return replace(j, synapse=change(j.synapse)) if j.post == name else j

    return unchecked(network, projections=tuple(changed(j) for j in network.projections))


def run_with(
    network: IntNetwork,
    inputs: IntInputs,
    name: str,
    altered: IntNetwork,
    after: Callable[[Any, int], Any] = lambda x, before: x,
) -> Trace:
    """The run in which one population follows `altered`, and those behind it the network, on what it really sent.

    after: what becomes of its spikes, and of its potentials, on their way out; told what was there before the first.
    """
    spikes: dict[str, Any] = {}
    potentials: dict[str, Any] = {}
    for p in network.populations:
        if p.role == "input":
            spikes[p.name] = inputs.spikes
            continue
        chosen = altered if p.name == name else network
        found = run_population(chosen, chosen.by_name[p.name], spikes, inputs)
        if p.name == name:
            found = after(found[0], 0), after(found[1], p.v_init_int)
        spikes[p.name], potentials[p.name] = found
    return Trace(spikes, potentials)


def one_bit(network: IntNetwork, name: str, rng: np.random.Generator, bits: int = 9) -> IntNetwork:
    """One bit of one weight flipped, in two's complement of so many bits."""
    k = int(rng.choice([i for i, j in enumerate(network.projections) if j.post == name]))
    m = network.projections[k].synapse.mantissa.copy()
    at, bit = int(rng.integers(m.size)), int(rng.integers(bits))
    flipped = (int(m.flat[at]) % (1 << bits)) ^ (1 << bit)
    m.flat[at] = flipped - (1 << bits) if flipped >> (bits - 1) else flipped
    projections = list(network.projections)
    projections[k] = replace(projections[k], synapse=replace(projections[k].synapse, mantissa=m))
    return unchecked(network, projections=tuple(projections))


def floored(synapse: IntWeights) -> IntWeights:
    """Odd weights of mixed signs made even, downwards."""
    m = synapse.mantissa
    is_mixed = m.min() < 0 < m.max()
    return replace(synapse, mantissa=np.where(is_mixed & (m & 1 == 1), m - 1, m).astype(np.int32))


def transposed(synapse: IntWeights) -> IntWeights:
    """The two spatial axes of a kernel swapped."""
    return replace(synapse, mantissa=np.ascontiguousarray(np.transpose(synapse.mantissa, (0, 1, 3, 2))))


def turned(synapse: IntWeights) -> IntWeights:
    """A kernel turned by 180 degrees."""
    return replace(synapse, mantissa=np.ascontiguousarray(np.rot90(synapse.mantissa, 2, (2, 3))))


def other_compare(a: Arithmetic) -> Arithmetic:
    """`>` for `>=`, and `>=` for `>`."""
    there = {">": ">=", ">=": ">"}[a.threshold.compare]
    return a.model_copy(update={"threshold": a.threshold.model_copy(update={"compare": there})})


def other_overflow(a: Arithmetic, register: str) -> Arithmetic:
    """Wrap for saturate in one register, or the other way."""
    r = getattr(a, register)
    there = {"wrap": "saturate", "saturate": "wrap"}[r.overflow]
    return a.model_copy(update={register: r.model_copy(update={"overflow": there})})


def late(x: Any, before: int) -> Any:
    """All of it one step later."""
    return np.concatenate([np.full_like(x[:, :1], before), x[:, :-1]], axis=1)


def no_bias(network: IntNetwork, name: str) -> IntNetwork:
    """Without the biases of one population."""
    return with_population(network, name, bias_mantissa=np.zeros_like(network.by_name[name].bias_mantissa))


def has_conv(network: IntNetwork, name: str) -> bool:
    """Whether a convolution with a square kernel of more than one tap leads there, and nothing else."""
    incoming = [j.synapse for j in network.projections if j.post == name]
    return all(isinstance(s, IntConv2d) and s.geometry.kernel[0] == s.geometry.kernel[1] > 1 for s in incoming)
