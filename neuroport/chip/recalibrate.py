"""Biases calibrated once more, on the integer network: what rounding does to mean rates, its own constants undo.

Rounded weights, biases and thresholds move the mean rate of every channel a little, always the same way, and the moves
add up over the layers. The core runs the calibration samples in the chip's arithmetic; where a channel fires less than
it does in the float simulation its bias grows, and the network is rounded again.

Source: Li et al. 2021, light calibration (the bias of each channel), here on the numbers of the chip.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from neuroport.ann.graph import FloatArray
from neuroport.chip.core import run_core
from neuroport.chip.inputs import EncodedInputs
from neuroport.chip.quantize import Quantized, quantize
from neuroport.chip.target import Target
from neuroport.errors import DoesNotFitError
from neuroport.normalize.channels import with_offset
from neuroport.normalize.correct import samples_of, spread
from neuroport.normalize.rules import is_scaled
from neuroport.normalize.scales import Normalized
from neuroport.snn.network import SpikingNetwork
from neuroport.snn.simulate import simulate

SAMPLES = 64
_ROUNDS = 3
_RATE = 0.5  # of what is missing that a round adds: all populations are corrected at once, each sees the others' steps

Means = Mapping[str, FloatArray]


@dataclass(frozen=True, eq=False)
class Recalibrated:
    """The integer network with calibrated biases, and the float one it was rounded from.

    rate_errors: root mean square over all channels of the mean rates' difference from the float simulation's, in spikes
    per step; output_errors: that of the outputs, relative to the outputs themselves; of the network as it was and after
    each round. The network is that of the smallest output error, so it may be the one there was.
    """

    normalized: Normalized
    quantized: Quantized
    rate_errors: tuple[float, ...] = ()
    output_errors: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class _Shown:
    """What the calibration samples gave: mean rate [C] of populations, and each output [N, n_out] in v_th or spikes."""

    rates: Means
    outputs: FloatArray


def recalibrate(
    normalized: Normalized,
    quantized: Quantized,
    target: Target,
    images: NDArray[np.float32],
    n_steps: int,
    *,
    n_samples: int = SAMPLES,
) -> Recalibrated:
    """The quantized network with biases that bring each channel's mean rate back to that of the float simulation.

    A bias that grows out of the chip's range ends the search.

    Args:
        normalized: the float network `quantized` was made of.
        quantized: for `target`.
        target: the chip.
        images: calibration samples [N, ...], of which n_samples are run, evenly chosen.
        n_steps: per sample.
        n_samples: run in each round.
    """
    network = normalized.network
    samples = samples_of(network, spread(images, n_samples), n_steps)
    run = simulate(network, samples, n_steps)
    totals = {name: counts.sum(0, dtype=np.int64) for name, counts in run.counts.items()}
    wanted = _Shown(_means(network, totals, len(samples), n_steps), np.concatenate(list(run.readouts.values()), 1))
    trial, tried = (normalized, quantized), [(normalized, quantized)]
    rate_errors, output_errors = [], []
    while True:
        found = _on_core(*trial, samples, n_steps)
        missing = {name: wanted.rates[name] - found.rates[name] for name in wanted.rates}
        rate_errors.append(_root_mean_square(*missing.values()))
        size = max(_root_mean_square(wanted.outputs), 1e-12)
        output_errors.append(_root_mean_square(found.outputs - wanted.outputs) / size)
        if len(tried) > _ROUNDS or not rate_errors[-1] > 0:
            break
        changed = replace(trial[0], network=_with_offsets(trial[0].network, missing))
        try:
            rounded = quantize(changed.network, target, n_steps, images=images, input_range=normalized.input_range)
        except DoesNotFitError:  # of networks that fit, the best one found so far
            break
        trial = (changed, rounded)
        tried.append(trial)
    return Recalibrated(*tried[int(np.argmin(output_errors))], tuple(rate_errors), tuple(output_errors))


def _with_offsets(network: SpikingNetwork, missing: Means) -> SpikingNetwork:
    for name, difference in missing.items():
        network = with_offset(network, network.by_name[name], _RATE * difference)
    return network


def _on_core(normalized: Normalized, quantized: Quantized, samples: NDArray[np.generic], n_steps: int) -> _Shown:
    network = quantized.network
    run = run_core(network, EncodedInputs(normalized.network, network, samples, n_steps))
    outputs = {
        head.population: run.readouts[head.population]
        / (network.by_name[head.population].unit if head.read == "membrane" else 1)
        for head in network.heads
    }
    means = _means(normalized.network, run.totals, len(samples), n_steps)
    return _Shown(means, np.concatenate(list(outputs.values()), 1))


def _means(network: SpikingNetwork, totals: Mapping[str, NDArray[np.int64]], n_samples: int, n_steps: int) -> Means:
    """Mean rate [C] of the channels of every population of neurons that fires, over the steps it runs."""
    chosen = [p for p in network.populations if is_scaled(p) and p.clamp_until < n_steps]
    return {
        p.name: totals[p.name].reshape(p.shape[0], -1).mean(1) / (n_samples * (n_steps - p.clamp_until)) for p in chosen
    }


def _root_mean_square(*values: FloatArray) -> float:
    every = np.concatenate([x.reshape(-1) for x in values]) if values else np.zeros(1)
    return float(np.sqrt(np.square(every).mean()))
