"""Activation scales, and the rescaling that turns activations into firing rates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from neuroport.ann.graph import FloatArray
from neuroport.errors import DataError, InvalidNetworkError
from neuroport.normalize.activations import ActivationStatistics, collect_statistics
from neuroport.normalize.recipe import Recipe
from neuroport.snn.encode import check_rate_range
from neuroport.snn.network import SpikingNetwork
from neuroport.snn.operators import merge, scale
from neuroport.snn.rates import forward_rates

_BATCH = 250


@dataclass(frozen=True, eq=False)
class Normalized:
    """A network in units of firing rates, and what was measured to get there.

    scales: activation per unit of rate, [C] for each population; channels that never fire on the calibration data
    keep the scale of their layer and are counted in `n_silent_channels`.
    """

    network: SpikingNetwork
    scales: Mapping[str, FloatArray]
    statistics: Mapping[str, ActivationStatistics]
    n_silent_channels: Mapping[str, int]
    input_range: tuple[float, float]


def normalize(network: SpikingNetwork, images: NDArray[np.float32], recipe: Recipe) -> Normalized:
    """Rescale weights and biases so that the activation lambda becomes a firing rate of 1.

    W <- W lambda_in / lambda_out, b <- b / lambda_out, with lambda the maximum (p = 100) or the p-th percentile of
    the activations over `images` [N, ...]. The readout has one scale for all classes, which moves no decision: the
    largest magnitude of its sums where it accumulates.

    Raises:
        InvalidNetworkError: a population never fires on the calibration data.
        DataError: no calibration data, or images outside [0, 1] for a rate code.

    Source: Rueckauer et al. 2016, sections 3.2.1 (maximum) and 3.2.2 (percentile).
    """
    if not np.issubdtype(images.dtype, np.floating):
        raise DataError(f"calibration images are {images.dtype}; give them as float32, scaled as in training")
    images = images.astype(np.float32, copy=False)
    if not len(images):
        raise DataError("there is no calibration data: the training part of the data set is empty")
    if network.encoding == "rate":
        check_rate_range(images)
    statistics = _measure(network, images, recipe)
    scales: dict[str, FloatArray] = {}
    silent: dict[str, int] = {}
    for population in network.populations:
        n_channels = population.shape[0]
        found = statistics[population.name]
        value = found.percentile if population.neuron.fires else found.maximum
        if population.role == "input":
            value = np.ones(1)
        value = np.where(value > 0, value, found.maximum)  # sparser than 100 - p percent is not silent
        if population.role == "readout":
            value = value.max(keepdims=True)
        if not value.max() > 0:
            raise InvalidNetworkError(
                f"layer '{population.name}': every activation is 0 on {len(images)} calibration samples, so it has no "
                f"scale and would never fire; check the weights, the input scaling (--scale) and the data"
            )
        per_channel = np.broadcast_to(value, (n_channels,)).astype(np.float64)
        silent[population.name] = int((per_channel <= 0).sum())
        scales[population.name] = np.where(per_channel > 0, per_channel, value.max())
    populations = tuple(
        replace(p, bias=p.bias / scales[p.name].reshape(-1, *[1] * (p.bias.ndim - 1))) for p in network.populations
    )
    projections = tuple(
        replace(j, operator=scale(merge(j.operator), lambda_in=scales[j.pre], lambda_out=scales[j.post]))
        for j in network.projections
    )
    normalized = replace(network, populations=populations, projections=projections)
    return Normalized(normalized, scales, statistics, silent, (float(images.min()), float(images.max())))


def _measure(network: SpikingNetwork, images: NDArray[np.float32], recipe: Recipe) -> dict[str, ActivationStatistics]:
    def one_pass() -> Iterable[tuple[str, torch.Tensor]]:
        for start in range(0, len(images), _BATCH):
            batch = torch.from_numpy(images[start : start + _BATCH])
            for name, value in forward_rates(network, batch, clip=False):
                yield name, value.abs() if _is_signed(network, name) else value

    return collect_statistics(one_pass, percentile=recipe.percentile, per_channel=recipe.granularity == "channel")


def _is_signed(network: SpikingNetwork, name: str) -> bool:
    population = network.by_name[name]
    return population.role == "input" or not population.neuron.fires
