"""Calibration of a spiking network on its own spikes: constants of each channel that make rates follow activations.

Normalization looks at the ANN alone. What neurons lose in the steps they are given, to late inhibition, and at a reset
to zero, shows in their spikes only. Populations are corrected front to back, each on what those before it, corrected,
really send, without labels or gradients: one simulation of the calibration samples, in which each population is
integrated a few times.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from neuroport.ann.graph import FloatArray
from neuroport.normalize.channels import feeds_gate, with_gain, with_offset, with_spike_size
from neuroport.normalize.l4 import adjusted
from neuroport.normalize.recipe import BiasCorrection, L4Adjustment, Recipe, ResetCorrection
from neuroport.normalize.scales import Normalized
from neuroport.snn.encode import input_values, rate_spikes
from neuroport.snn.layerwise import Drive, Layerwise
from neuroport.snn.network import Gate, Population, SpikingNetwork
from neuroport.snn.rates import forward_rates

_PRIOR = 0.02  # weight of the layer's size of a spike in that of a channel, as a fraction of the mean squared rate
_RESET_RATE = 0.6
_FULL_GAIN_STEPS = 24  # for which the gain is 1 half way through the network; it falls as the root of the steps
_GAIN_RATIO = 0.5  # of the gain at the output to that at the input
_SMALLEST_GAIN, _LARGEST_GAIN = 0.25, 1.5


@dataclass(frozen=True, eq=False)
class Change:
    """Constants of the channels [C] of one population.

    gain: factor on all that arrives; offset: then added to the biases, in v_th per step; size: target rate that one
    spike per step stands for.
    """

    gain: FloatArray
    offset: FloatArray
    size: FloatArray


Sizes = Literal["channel", "layer", "none"]
# offset [C] -> mean rate of each neuron, [N, C, ...], over the steps its population runs
Trial = Callable[[FloatArray], torch.Tensor]


def corrected(normalized: Normalized, images: NDArray[np.float32], recipe: Recipe, n_steps: int) -> Normalized:
    """The network with the recipe's corrections, in their order, calibrated on images [N, ...] for runs of n_steps.

    The targets are the rates of the network as normalized, clipped to [0, 1] (ReLU1); it is kept as `uncorrected`.
    Without corrections `normalized` comes back as it is. Event data are represented by regular spikes of their rates.
    """
    for correction in recipe.corrections:
        chosen = spread(images, correction.samples)
        if isinstance(correction, L4Adjustment):
            network = adjusted(normalized.network, chosen, correction.alpha)
            normalized = replace(normalized, network=network, uncorrected=normalized.exact)
        else:
            normalized = _front_to_back(normalized, chosen, correction.steps or n_steps, correction)
    return normalized


def spread(images: NDArray[np.float32], n: int) -> NDArray[np.float32]:
    """n of the images, all if there are fewer, evenly over them: they may lie in the order of their classes."""
    return images[np.linspace(0, len(images) - 1, min(n, len(images))).round().astype(np.int64)]


def samples_of(network: SpikingNetwork, images: NDArray[np.float32], n_steps: int) -> NDArray[np.generic]:
    """What a simulation is shown for calibration images: regular spikes of their rates where they stand for events."""
    if network.encoding != "events":
        return images
    return rate_spikes(input_values(network, torch.from_numpy(images), clip=True).numpy(), n_steps)


def _front_to_back(
    normalized: Normalized, images: NDArray[np.float32], n_steps: int, correction: BiasCorrection | ResetCorrection
) -> Normalized:
    """The network with each population corrected, those before it being corrected already."""
    scales = dict(normalized.scales)
    run = Layerwise(normalized.network, samples_of(normalized.network, images, n_steps), n_steps)
    for name, target in forward_rates(normalized.exact.network, torch.from_numpy(images), clip=True):
        p = run.network.by_name[name]
        if isinstance(p.neuron, Gate):
            (j,) = run.network.incoming[name]
            scales[name] = scales[name] * (scales[j.pre] / normalized.scales[j.pre])[0]
            run.fire(p, run.gate(p))
        elif p.role != "input" and p.neuron.fires:
            drive = run.drive(p)
            if p.clamp_until >= n_steps:
                run.fire(p, run.integrate(p, drive, np.ones(p.shape[0]), np.zeros(p.shape[0])))
                continue
            target = target * over(normalized.exact.scales[name] / normalized.scales[name], target)
            change = _change(run, p, drive, target, correction)
            run.fire(p, run.integrate(p, drive, change.gain, change.offset))
            run.network = with_gain(run.network, p, change.gain)
            run.network = with_offset(run.network, run.network.by_name[name], change.offset)
            run.network = with_spike_size(run.network, p, change.size)
            scales[name] = scales[name] * change.size
    return replace(normalized, network=run.network, scales=scales, uncorrected=normalized.exact)


def _change(
    run: Layerwise, p: Population, drive: Drive, target: torch.Tensor, correction: BiasCorrection | ResetCorrection
) -> Change:
    """What one population needs."""
    sizes: Sizes = "none" if p.role == "readout" else "layer" if feeds_gate(run.network, p) else "channel"
    n_steps, gain, rate = run.n_steps - p.clamp_until, 1.0, _RESET_RATE
    if isinstance(correction, BiasCorrection):
        rate = correction.rate
    elif sizes != "none":
        names = list(run.network.by_name)
        gain = reset_gain(run.n_steps, names.index(p.name) / (len(names) - 1))
    gains = np.full(p.shape[0], gain)

    def trial(offset: FloatArray) -> torch.Tensor:
        return run.integrate(p, drive, gains, offset).sum(0, dtype=torch.float32) / n_steps

    return find_change(trial, target, gains, correction.rounds, rate, sizes)


def find_change(trial: Trial, target: torch.Tensor, gain: FloatArray, rounds: int, rate: float, sizes: Sizes) -> Change:
    """Sizes with which rates come nearest to their targets in the least-squares sense, offsets with which means agree.

    A round measures the rates, takes the slope of target on rate as the size, and adds `rate` times what is missing to
    the offset. Of all rounds each channel keeps the one whose mean is nearest, its old bias among them.

    Args:
        trial: rates for an offset, with that gain.
        target: [N, C, ...].
        gain: [C], handed on.
        rounds: number of offsets tried beyond none.
        rate: fraction of the missing mean rate that an offset grows by.
        sizes: one for each channel; for the layer (a gate behind it compares rates); or 1 (the host counts spikes).
    """
    n_channels = target.shape[1]
    offset = np.zeros(n_channels)
    best = Change(gain, offset, np.ones(n_channels))
    nearest = np.full(n_channels, np.inf)
    size: FloatArray | None = None
    for _ in range(rounds + 1):
        found = trial(offset)
        if size is None or sizes == "channel":  # channels keep their best rounds, so one size for all must not change
            size = spike_size(found, target, sizes)
        missing = channel_means(target - found * over(size, found))
        is_better = np.abs(missing) < nearest
        nearest = np.where(is_better, np.abs(missing), nearest)
        best = Change(gain, np.where(is_better, offset, best.offset), np.where(is_better, size, best.size))
        offset = offset + rate * missing / size
    return best


def spike_size(rate: torch.Tensor, target: torch.Tensor, sizes: Sizes) -> FloatArray:
    """Least-squares slope [C] of target on rate through 0; a channel that hardly fires has that of the layer."""
    product, square = channel_means(rate * target), channel_means(rate * rate)
    if sizes == "none" or not square.mean() > 0 or not product.mean() > 0:
        return np.ones(len(square))
    own = float(sizes == "channel")
    slope: FloatArray = (own * product + _PRIOR * product.mean()) / (own * square + _PRIOR * square.mean())
    return slope


def reset_gain(n_steps: int, depth: float) -> float:
    """Factor on the input of neurons that are reset to zero, from the depth, 0 for the input and 1 for the output.

    A spike throws away what was above the threshold: less of it where thresholds are high against the input, but then
    there are fewer spikes to tell the rate by, which matters less the longer a run is. And what was above is the less
    the smaller the spikes are that arrive: gains that fall from layer to layer let each layer's spikes be smaller than
    those it causes. The numbers are ours, measured on ResNet-20: the error of the class scores is smallest there.
    """
    gain = (_FULL_GAIN_STEPS / n_steps) ** 0.5 * _GAIN_RATIO ** (depth - 0.5)
    return float(np.clip(gain, _SMALLEST_GAIN, _LARGEST_GAIN))


def channel_means(values: torch.Tensor) -> FloatArray:
    """Means [C] of [N, C, ...]."""
    means: FloatArray = values.transpose(0, 1).flatten(1).double().mean(1).numpy()
    return means


def over(per_channel: FloatArray, like: torch.Tensor) -> torch.Tensor:
    """Values [C] to multiply [N, C, ...] by."""
    return torch.as_tensor(per_channel, dtype=like.dtype).reshape(-1, *[1] * (like.ndim - 2))
