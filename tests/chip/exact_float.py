"""An integer network as a float network: the same integers in float64, through the float simulator.

Every number is an integer below 2^53, so the simulation is exact where no register overflows. Only the arithmetic of
one spike differs: the float neuron fires at v >= v_th and subtracts v_th, most chips fire at v > threshold.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from neuroport.chip.inputs import IntInputs
from neuroport.chip.network import IntNetwork, IntPopulation, IntProjection
from neuroport.chip.synapses import IntConv2d, IntDense, IntSparse
from neuroport.snn.network import Head, Neuron, Population, Projection, SpikingNetwork
from neuroport.snn.operators import Conv2d, Dense, Operator, Sparse


def exact_float(network: IntNetwork, inputs: IntInputs) -> tuple[SpikingNetwork, NDArray[np.generic]]:
    """(the network in membrane integers, what it is shown). Without leak, gates or transposed convolutions."""
    populations = [_population(p, network) for p in network.populations]
    projections = [_projection(j, network) for j in network.projections]
    heads = tuple(Head(head.population) for head in network.heads)
    if inputs.spikes is not None:
        return SpikingNetwork(tuple(populations), tuple(projections), "events", heads), inputs.spikes
    ((name, mantissa),) = inputs.currents.items()
    driven = network.by_name[name]
    source = Population("input", driven.shape, np.zeros(driven.shape), Neuron(), "input")
    shown = Projection("input", name, Dense(np.eye(driven.n_neurons), driven.shape, driven.shape))
    currents = mantissa.astype(np.float64) * 2.0**driven.bias_exponent
    return SpikingNetwork((source, *populations), (shown, *projections), "current", heads), currents


def _population(p: IntPopulation, network: IntNetwork) -> Population:
    if p.role == "input":
        return Population(p.name, p.shape, np.zeros(p.shape), Neuron(), "input")
    a = network.arithmetic
    threshold = p.threshold_mantissa << a.threshold.shift
    is_strict = a.threshold.compare == ">"
    reads = {head.population: head.read for head in network.heads}
    v_th, v_init = float(threshold), float(p.v_init_int)
    if reads.get(p.name) != "membrane" and is_strict:
        # v > threshold is v - 1 >= threshold; a reset to 0 is to 0 and not to 1, so there the threshold moves
        v_th, v_init = (v_th, v_init - 1) if p.reset == "subtract" else (v_th + 1, v_init)
    neuron = Neuron(p.reset, v_th, v_init, fires=reads.get(p.name) != "membrane")
    bias = p.bias_mantissa.astype(np.float64) * 2.0**p.bias_exponent
    return Population(p.name, p.shape, bias, neuron, p.role, p.clamp_until)


def _projection(j: IntProjection, network: IntNetwork) -> Projection:
    size = 2.0 ** (j.exponent + network.arithmetic.synaptic_shift)
    pre, post = network.by_name[j.pre], network.by_name[j.post]
    operator: Operator
    match j.synapse:
        case IntDense(mantissa):
            operator = Dense(mantissa * size, pre.shape, post.shape)
        case IntConv2d(mantissa, geometry):
            operator = Conv2d(mantissa * size, geometry)
        case IntSparse(mantissa, columns, row_start):
            matrix = csr_array((mantissa * size, columns, row_start), shape=(post.n_neurons, pre.n_neurons))
            operator = Sparse(matrix, pre.shape, post.shape)
        case _:
            raise TypeError(f"{type(j.synapse).__name__} is not needed here")
    return Projection(j.pre, j.post, operator)
