"""Input encodings: how a sample becomes current or spikes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from neuroport.ann.graph import FloatArray
from neuroport.errors import DataError
from neuroport.snn.network import SpikingNetwork


def encode_spikes(network: SpikingNetwork, samples: NDArray[np.generic], n_steps: int) -> NDArray[np.uint8]:
    """Spikes [N, T, *shape] of the input population under rate, Poisson or event encoding.

    samples: values [N, ...] for a rate code; the spikes themselves [N, T, ...] for events, where T must be n_steps.
    The same network gives the same sample the same spikes, wherever it stands in a batch.

    Raises:
        DataError: a value that no rate can express, or events of another length, shape or value.
    """
    if network.encoding == "events":
        return _checked_events(network, samples, n_steps)
    values = torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float64))
    if is_plain_rate(network):
        check_rate_range(samples)
    rates = input_values(network, values, clip=True).numpy()
    if network.encoding == "poisson":
        return poisson_spikes(rates, n_steps, network.seed)
    return rate_spikes(rates, n_steps)


def input_values(network: SpikingNetwork, images: torch.Tensor, *, clip: bool) -> torch.Tensor:
    """What the input population stands for, [N, *shape]: the analog values, or rates of its channels.

    A rate is |x| / input_scale, positive values in the first half of the channels and negative ones in the second
    where there are two signs; with `clip` it ends at 1, one spike per step.
    """
    shape = network.input.shape
    if network.encoding == "current":
        return images.reshape(len(images), *shape)
    scale = network.input_scale
    if scale.size > 1:
        images = images.reshape(len(images), -1)
    values = images / torch.as_tensor(scale if scale.size > 1 else scale.item(), dtype=images.dtype)
    if network.n_signs > 1:
        values = values.reshape(len(images), shape[0] // network.n_signs, *shape[1:])
        values = torch.cat([values.clamp_min(0), (-values).clamp_min(0)], 1)
    values = values.reshape(len(images), *shape)
    return values.clamp(0, 1) if clip else values


def rate_spikes(rates: NDArray[np.floating], n_steps: int) -> NDArray[np.uint8]:
    """Spikes [N, T, *shape] of a deterministic encoder: neuron i fires round(T * x_i) times, evenly spread.

    rates: [N, *shape] in [0, 1]. Spike number k comes at the first step t with t * x + 1/2 >= k: the spike times of
    an integrate-and-fire neuron with constant input x, threshold 1, reset by subtraction and v_init = 1/2, computed
    in closed form in float64, so that every backend gets the same bits.

    Raises:
        DataError: a value outside [0, 1].
    """
    check_rate_range(rates)
    x = rates.astype(np.float64)[:, None]
    steps = np.arange(n_steps + 1, dtype=np.float64).reshape(1, -1, *[1] * (rates.ndim - 1))
    count = np.floor(x * steps + 0.5)
    return np.diff(count, axis=1).astype(np.uint8)


def poisson_spikes(rates: NDArray[np.floating], n_steps: int, seed: int) -> NDArray[np.uint8]:
    """Spikes [N, T, *shape], each drawn on its own with the rate as its probability.

    rates: [N, *shape] in [0, 1]. The generator of a sample starts from the seed and the sample's own numbers, so that
    float simulator, core and backend see the same spikes in any batch, and fewer steps are the first ones of more.
    Source: Rueckauer et al. 2016, section 3.4 (what analog input replaces).

    Raises:
        DataError: a value outside [0, 1].
    """
    check_rate_range(rates)
    spikes = np.empty((len(rates), n_steps, *rates.shape[1:]), np.uint8)
    for k, rate in enumerate(np.ascontiguousarray(rates, dtype=np.float64)):
        content = int.from_bytes(hashlib.blake2b(rate.tobytes(), digest_size=16).digest(), "little")
        random = np.random.default_rng([seed, content]).random((n_steps, *rate.shape))
        spikes[k] = random < rate
    return spikes


def check_rate_range(images: NDArray[np.generic]) -> None:
    """Refuse what a firing rate cannot express.

    Raises:
        DataError: a value outside [0, 1].
    """
    if images.size and not (images.min() >= 0 and images.max() <= 1):  # NaN is neither
        raise DataError(
            f"rate coding needs inputs between 0 and 1 (a rate in spikes per step), found {images.min():.4g} to "
            f"{images.max():.4g}; use --scale, or a recipe with constant current input, which takes any number"
        )


def is_plain_rate(network: SpikingNetwork) -> bool:
    """Whether inputs between 0 and 1 are the rates themselves."""
    return network.is_rate_coded and network.n_signs == 1 and bool((network.input_scale == 1).all())


def rate_options(images: NDArray[np.float32], input_sizes: Sequence[int] = ()) -> tuple[int, FloatArray]:
    """(n_signs, input_scale) with which a rate code can express the calibration images.

    Values between 0 and 1 are rates as they are. Negative ones need a second set of channels (on and off); a
    magnitude above 1 needs a scale: the largest magnitude then is one spike per step. Several inputs, joined in the
    images [N, n] with these sizes, have a scale each.
    """
    flat = np.abs(images.reshape(len(images), -1))
    sizes = list(input_sizes) if len(input_sizes) > 1 else [flat.shape[1]]
    ends = np.cumsum(sizes)
    largest = [float(flat[:, end - n : end].max(initial=0.0)) for n, end in zip(sizes, ends, strict=True)]
    scales = np.array([max(x, 1.0) for x in largest])
    n_signs = 2 if images.size and images.min() < 0 else 1
    return n_signs, (scales if len(sizes) == 1 else np.repeat(scales, sizes))


def _checked_events(network: SpikingNetwork, samples: NDArray[np.generic], n_steps: int) -> NDArray[np.uint8]:
    shape = network.input.shape
    flat = (int(np.prod(shape)),)
    if samples.ndim < 2 or samples.shape[1] != n_steps or samples.shape[2:] not in (shape, flat):
        raise DataError(
            f"event data have shape {list(samples.shape)}, {n_steps} steps of {list(shape)} are read; give spikes as "
            f"[N, T, {', '.join(map(str, shape))}], and --steps {samples.shape[1] if samples.ndim > 1 else 'T'}"
        )
    if samples.size and not np.isin(np.unique(samples), (0, 1)).all():
        raise DataError(f"event data hold values up to {samples.max()}; a spike is 1, no spike is 0; bin them again")
    return samples.reshape(len(samples), n_steps, *shape).astype(np.uint8)
