"""Synaptic operations of a run: each spike is one for each synapse behind its neuron, weights of 0 included."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from neuroport.chip.network import IntNetwork
from neuroport.chip.synapses import IntDense, IntSparse, IntSynapse
from neuroport.mapping import activity


def fan_out(synapse: IntSynapse, n_in: int) -> NDArray[np.int64]:
    """Synapses of each presynaptic neuron, [n_in]; weights of 0 count, a max-pool gate has none."""
    match synapse:
        case IntDense(mantissa):
            return np.full(n_in, len(mantissa), np.int64)
        case IntSparse():
            return np.bincount(synapse.columns, minlength=n_in)
        case _:
            return activity.fan_out(synapse, n_in)


def count_synops(network: IntNetwork, totals: Mapping[str, NDArray[np.integer]]) -> int:
    """Synaptic operations of a run with these spikes per neuron; input currents are none."""
    return sum(
        int(totals[j.pre].reshape(-1).astype(np.int64) @ fan_out(j.synapse, network.by_name[j.pre].n_neurons))
        for j in network.projections
    )
