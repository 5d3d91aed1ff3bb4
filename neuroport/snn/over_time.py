"""Accuracy after every step, from one simulation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from neuroport.snn.network import SpikingNetwork
from neuroport.snn.readout import softmax_counts_over_time
from neuroport.snn.simulate import simulate

_BATCH = 100
_MAX_NUMBERS = 1 << 25  # readouts held at a time


def scores_over_time(
    network: SpikingNetwork, samples: NDArray[np.generic], n_steps: int, *, seed: int = 0, first_sample: int = 0
) -> dict[str, NDArray[np.number]]:
    """Class scores [N, T, n_out] of the first output after every step, by readout, the network's own one first.

    `count`: spikes so far, where the output fires. `membrane`: its potential, of a firing output the one it would have
    if it did not fire. `softmax`: output spikes so far, where the potentials are read by a spiking softmax.

    Args:
        network: normalized.
        samples: images [N, ...] or event data [N, T, ...].
        n_steps: simulated per sample.
        seed: of the spiking softmax, with the number of the sample, which is first_sample for the first of them.
    """
    shown = simulate(network, samples, n_steps, over_time=True).over_time
    found: dict[str, NDArray[np.number]] = {}
    if shown is None:
        return found
    if network.outputs[0].is_sampled and shown.potentials is not None:
        found["softmax"] = softmax_counts_over_time(
            shown.potentials.astype(np.float64), seed, first_sample=first_sample
        )
    if shown.counts is not None:
        found["count"] = shown.counts
    if shown.potentials is not None:
        found["membrane"] = shown.potentials
    return found


def accuracy_over_time(
    network: SpikingNetwork,
    samples: NDArray[np.generic],
    labels: NDArray[np.int64],
    n_steps: int,
    *,
    seed: int = 0,
    on_samples: Callable[[int], None] = lambda _: None,
) -> dict[str, NDArray[np.float64]]:
    """Accuracy [T] after every step, by readout (see scores_over_time), the network's own one first.

    The largest score counts, of equal ones the first class: before a spike has arrived that is class 0.

    Args:
        network: normalized.
        samples: images [N, ...] or event data [N, T, ...], N at least 1.
        labels: [N].
        n_steps: simulated per sample.
        seed: of the spiking softmax.
        on_samples: told how many samples are done.
    """
    correct: dict[str, NDArray[np.int64]] = {}
    size = max(1, min(_BATCH, _MAX_NUMBERS // (n_steps * network.output.n_neurons)))
    for start in range(0, len(labels), size):
        k = slice(start, start + size)
        scores = scores_over_time(network, samples[k], n_steps, seed=seed, first_sample=start)
        for readout, values in scores.items():
            is_right = values.argmax(2) == labels[k, None]
            correct[readout] = correct.get(readout, np.zeros(n_steps, np.int64)) + is_right.sum(0)
        on_samples(min(start + size, len(labels)))
    return {readout: n / len(labels) for readout, n in correct.items()}


def first_step_within(accuracy: NDArray[np.float64], reference: float, tolerance: float) -> int | None:
    """First step, counted from 1, from which accuracy [T] stays at least reference - tolerance to the end.

    None if it is below at the last step. A billionth is granted to the rounding of fractions.
    """
    below = np.flatnonzero(accuracy < reference - tolerance - 1e-9)
    first = int(below[-1]) + 2 if len(below) else 1
    return first if first <= len(accuracy) else None
