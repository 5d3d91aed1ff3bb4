"""Constants of a population's channels, [C], as changes of a network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from neuroport.ann.graph import FloatArray
from neuroport.snn.merge import scale
from neuroport.snn.network import Population, Projection, SpikingNetwork
from neuroport.snn.operators import Shape, Window


def with_offset(network: SpikingNetwork, p: Population, offset: FloatArray) -> SpikingNetwork:
    """The network with `offset` [C], in v_th per step, added to the biases of a population."""
    bias = p.bias + offset.reshape(-1, *[1] * (len(p.shape) - 1))
    return replace(network, populations=tuple(replace(q, bias=bias) if q is p else q for q in network.populations))


def with_gain(network: SpikingNetwork, p: Population, gain: FloatArray) -> SpikingNetwork:
    """The network in which everything that arrives at a population, its bias included, is `gain` [C] times as large."""
    bias = p.bias * gain.reshape(-1, *[1] * (len(p.shape) - 1))

    def changed(j: Projection) -> Projection:
        lambda_out = along(1.0 / gain, p.shape, j.operator.out_shape)
        return replace(j, operator=scale(j.operator, lambda_in=np.ones(1), lambda_out=lambda_out))

    return replace(
        network,
        populations=tuple(replace(q, bias=bias) if q is p else q for q in network.populations),
        projections=tuple(changed(j) if j.post == p.name else j for j in network.projections),
    )


def with_spike_size(network: SpikingNetwork, p: Population, size: FloatArray) -> SpikingNetwork:
    """The network in which a spike of a population counts `size` [C] times as much wherever weights receive it.

    A max-pool gate has no weights and hands spikes on as they are; before one, all sizes must be the same.
    """
    found = network
    for j in network.projections:
        if j.pre != p.name:
            continue
        if isinstance(j.operator, Window):
            gate = network.by_name[j.post]
            found = with_spike_size(found, gate, np.full(gate.shape[0], size[0]))
            continue
        lambda_in = along(size, p.shape, j.operator.in_shape)
        changed = replace(j, operator=scale(j.operator, lambda_in=lambda_in, lambda_out=np.ones(1)))
        found = replace(found, projections=tuple(changed if k is j else k for k in found.projections))
    return found


def feeds_gate(network: SpikingNetwork, p: Population) -> bool:
    """Whether a max-pool gate compares the population's rates."""
    return any(j.pre == p.name and isinstance(j.operator, Window) for j in network.projections)


def along(per_channel: FloatArray, shape: Shape, read_as: Shape) -> FloatArray:
    """Values of a population's channels for an operator that reads or writes it under another shape."""
    if (per_channel == per_channel[0]).all():
        return per_channel[:1]
    if shape[0] == read_as[0]:
        return per_channel
    full = np.broadcast_to(per_channel.reshape(-1, *[1] * (len(shape) - 1)), shape)
    return np.ascontiguousarray(full).reshape(read_as)
