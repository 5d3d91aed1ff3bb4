"""Reading class scores from potentials over time: the spiking softmax.

Output neurons only accumulate. A Poisson generator outside triggers output spikes, and a softmax over the potentials at
that moment says which neuron each one comes from.

Source: Rueckauer et al. 2016, section 3.5, after Nessler et al. 2009.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RATE = 1.0  # expected output spikes per step


def softmax_counts(
    potentials: NDArray[np.floating], seed: int, *, first_sample: int = 0, rate: float = RATE
) -> NDArray[np.int64]:
    """Output spikes per class, [N, n_out], of potentials [N, T, n_out] in the units the softmax is taken in.

    Sample k draws from its own generator, seeded by (seed, first_sample + k), so results do not depend on batches.
    """
    counts: NDArray[np.int64] = _drawn(potentials, seed, first_sample, rate).sum(1)
    return counts


def softmax_counts_over_time(
    potentials: NDArray[np.floating], seed: int, *, first_sample: int = 0, rate: float = RATE
) -> NDArray[np.int64]:
    """Output spikes per class up to every step, [N, T, n_out]; see softmax_counts."""
    return _drawn(potentials, seed, first_sample, rate).cumsum(1)


def _drawn(potentials: NDArray[np.floating], seed: int, first_sample: int, rate: float) -> NDArray[np.int64]:
    n_samples, n_steps, n_out = potentials.shape
    counts = np.zeros((n_samples, n_steps, n_out), np.int64)
    shifted = potentials - potentials.max(2, keepdims=True)
    weights = np.exp(shifted)
    edges = np.cumsum(weights, 2) / weights.sum(2, keepdims=True)
    for k in range(n_samples):
        generator = np.random.default_rng([seed, first_sample + k])
        arriving: NDArray[np.int64] = np.asarray(generator.poisson(rate, n_steps))
        for t, n_spikes in enumerate(arriving):
            drawn = np.searchsorted(edges[k, t], generator.random(n_spikes), side="right")
            np.add.at(counts[k, t], np.minimum(drawn, n_out - 1), 1)
    return counts
