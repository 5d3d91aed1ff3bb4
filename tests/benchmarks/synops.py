"""Synaptic operations of a run: each spike is one for each synapse behind its neuron."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from neuroport.chip.network import IntNetwork
from neuroport.chip.synapses import IntConv2d, IntConvTranspose2d, IntDense, IntSparse, IntSynapse, IntWindow


def fan_out(synapse: IntSynapse, n_in: int) -> NDArray[np.int64]:
    """Synapses of each presynaptic neuron, [n_in]; weights of 0 count, a max-pool gate has none."""
    match synapse:
        case IntDense(mantissa):
            return np.full(n_in, len(mantissa), np.int64)
        case IntSparse():
            return np.bincount(synapse.columns, minlength=n_in)
        case IntConv2d() | IntConvTranspose2d():
            c_in = synapse.geometry.in_shape[0]
            channels = synapse.geometry.out_shape[0] // synapse.geometry.groups
            rows, columns = _uses(synapse, 0), _uses(synapse, 1)
            return np.tile(channels * np.outer(rows, columns).reshape(-1), c_in)
        case IntWindow():
            return np.zeros(math.prod(synapse.in_shape), np.int64)


def _uses(synapse: IntConv2d | IntConvTranspose2d, axis: int) -> NDArray[np.int64]:
    """How many outputs along one axis read each input place."""
    g = synapse.geometry
    n_in, n_out = g.in_shape[axis + 1], g.out_shape[axis + 1]
    taps = np.arange(g.kernel[axis]) * g.dilation[axis] - g.padding[axis]
    if isinstance(synapse, IntConvTranspose2d):
        reached = np.arange(n_in)[:, None] * g.stride[axis] + taps
        return ((reached >= 0) & (reached < n_out)).sum(1)
    read = (np.arange(n_out)[:, None] * g.stride[axis] + taps).reshape(-1)
    return np.bincount(read[(read >= 0) & (read < n_in)], minlength=n_in)


def count_synops(network: IntNetwork, totals: Mapping[str, NDArray[np.integer]]) -> int:
    """Synaptic operations of a run with these spikes per neuron; input currents are none."""
    return sum(
        int(totals[j.pre].reshape(-1).astype(np.int64) @ fan_out(j.synapse, network.by_name[j.pre].n_neurons))
        for j in network.projections
    )
