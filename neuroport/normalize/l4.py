"""The L4-norm adjustment: first-layer weights scaled so that neurons of unlike variance fire alike.

Under Poisson input a neuron's potential has a standard deviation proportional to the L4 norm of its weights. Of two
neurons with the same mean the one with the larger norm fires more often, although the ANN knows no difference.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from neuroport.ann.graph import FloatArray
from neuroport.normalize.channels import with_gain
from neuroport.snn.encode import input_values
from neuroport.snn.network import Population, SpikingNetwork
from neuroport.snn.operators import Conv2d, Dense, apply
from neuroport.snn.sparse import as_matrix, materialize

_BATCH = 250
_FURTHEST = 4.0  # a threshold moves by no more than this factor: beyond it the linear rule means nothing (ours)


def adjusted(network: SpikingNetwork, images: NDArray[np.float32], alpha: float) -> SpikingNetwork:
    """The network with the adjusted weights of its first layer: the populations that read the input and nothing else.

    A bias goes with its neuron's weights, as both stand for the threshold, which moves the other way.

    Args:
        network: normalized, thresholds of 1.
        images: [N, ...], over which potentials are averaged; the paper takes one batch of the training set.
        alpha: smoothing, at least 0; the larger, the smaller the adjustment.

    Source: Allred & Roy 2021, eq. 4 to 9 and section 4.2 (last paragraph).
    """
    for p in network.populations:
        incoming = network.incoming[p.name]
        if incoming and p.neuron.fires and all(j.pre == network.input.name for j in incoming):
            fourth, absolute = _weights(network, p)
            factor = l4_factors(fourth**0.25, _mean_potential(network, p, images), alpha)
            factor = factor * absolute.mean() / max(float((factor * absolute).mean()), 1e-300)
            network = with_gain(network, p, factor)
    return network


def l4_factors(norms: FloatArray, means: FloatArray, alpha: float = 0.0) -> FloatArray:
    """s [n], by which the weights of each neuron are multiplied, before they get their old mean magnitude back.

    theta' = mu + (theta - mu) norm / mean norm with theta = 1 (eq. 6), s = theta / theta' (eq. 7); norms are drawn to
    their mean first, (norm + alpha mean) / (1 + alpha) (eq. 8), and the factor to 1 at the end (eq. 9).

    Args:
        norms: ||w||_4 of each neuron, [n], at least 0.
        means: mu, the mean input of each neuron in v_th per step, [n].
        alpha: smoothing, at least 0.
    """
    mean_norm = max(float(norms.mean()), 1e-300)
    smoothed = (norms + alpha * mean_norm) / (1.0 + alpha)
    threshold = np.clip(means + (1.0 - means) * smoothed / mean_norm, 1.0 / _FURTHEST, _FURTHEST)
    factors: FloatArray = (1.0 / threshold + alpha) / (1.0 + alpha)
    return factors


def _weights(network: SpikingNetwork, p: Population) -> tuple[FloatArray, FloatArray]:
    """(sum of fourth powers, sum of magnitudes) [C] of the weights of each channel's neurons, away from the border."""
    fourth, absolute = np.zeros(p.shape[0]), np.zeros(p.shape[0])
    for j in network.incoming[p.name]:
        op = materialize(j.operator, p.name)
        if isinstance(op, Dense | Conv2d) and len(op.weight) == p.shape[0]:
            rows = op.weight.reshape(len(op.weight), -1)
            fourth, absolute = fourth + (rows**4).sum(1), absolute + np.abs(rows).sum(1)
            continue
        matrix = as_matrix(op)
        fourth = fourth + np.asarray((matrix**4).sum(1)).reshape(p.shape[0], -1).max(1)
        absolute = absolute + np.asarray(abs(matrix).sum(1)).reshape(p.shape[0], -1).max(1)
    return fourth, absolute


def _mean_potential(network: SpikingNetwork, p: Population, images: NDArray[np.float32]) -> FloatArray:
    """Mean input [C] of a population in v_th per step, over samples and over the places of a channel."""
    total = np.zeros(p.shape[0])
    with torch.no_grad():
        for start in range(0, len(images), _BATCH):
            batch = torch.from_numpy(images[start : start + _BATCH])
            values = input_values(network, batch, clip=True)
            arriving = torch.as_tensor(p.bias, dtype=values.dtype).expand(len(batch), *p.shape)
            for j in network.incoming[p.name]:
                arriving = arriving + apply(j.operator, values).reshape(arriving.shape)
            total += arriving.transpose(0, 1).flatten(1).double().sum(1).numpy()
    return total / (len(images) * (p.n_neurons // p.shape[0]))
