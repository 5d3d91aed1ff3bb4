"""Activation scales, and the rescaling that turns activations into firing rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from neuroport.ann.graph import FloatArray
from neuroport.errors import DataError, InvalidNetworkError, UnsupportedOperatorError
from neuroport.normalize.activations import ActivationStatistics, Pass, collect_percentiles
from neuroport.normalize.channels import along
from neuroport.normalize.recipe import Recipe
from neuroport.normalize.rules import Calibration, Rule, forward_pass, scale_rule
from neuroport.snn.encode import check_rate_range, is_plain_rate
from neuroport.snn.merge import scale
from neuroport.snn.network import Gate, Population, Projection, SpikingNetwork
from neuroport.snn.operators import Operator, Shape

_NOISE = 1e-6  # of the inputs' scale, or the layer's: an activation below it is the rounding of a sum that should be 0
# of the layer's largest scale: a channel that hardly fires would need weights so large that the others, which share a
# chip's unit with it, are left without bits; above it nothing but its own rates get lower
_SMALLEST = 1 / 32


@dataclass(frozen=True, eq=False)
class Normalized:
    """A network in units of firing rates, and what was measured to get there.

    scales: activation per unit of rate, [C] for each population; channels that never fire on the calibration data
    keep the scale of their layer and are counted in `n_silent_channels`; percentile: of the activations; uncorrected:
    what it was before corrections that change the network's function (correct.py), None if there were none.
    """

    network: SpikingNetwork
    scales: Mapping[str, FloatArray]
    statistics: Mapping[str, ActivationStatistics]
    n_silent_channels: Mapping[str, int]
    input_range: tuple[float, float]
    percentile: float = 100.0
    uncorrected: Normalized | None = None

    @property
    def exact(self) -> Normalized:
        """The one whose unclipped rates, times its scales, are the ANN's activations."""
        return self.uncorrected or self


def normalize(
    network: SpikingNetwork, images: NDArray[np.float32], recipe: Recipe, n_steps: int | None = None
) -> Normalized:
    """Rescale weights and biases so that the activation lambda becomes a firing rate of 1.

    W <- W lambda_in / lambda_out, b <- b / lambda_out, with lambda chosen by the recipe's scale rule (rules.py) over
    `images` [N, ...], for runs of n_steps (the recipe's if None). The readout has one scale for all classes, which
    moves no decision: the largest magnitude of its sums where it accumulates. Inputs of one population share its
    scale: both branches of a residual block are normalized with the activations after the addition.

    Raises:
        InvalidNetworkError: populations never fire on the calibration data and cut the answer off.
        DataError: no calibration data, or images outside [0, 1] for a plain rate code.

    Source: Rueckauer et al. 2016, section 3.2.1; Mueller et al. 2021, eq. 2 and section IV-A (residual blocks).
    """
    images = check_images(images)
    return normalize_each(network, images, (recipe,), n_steps)[0]


def normalize_each(
    network: SpikingNetwork, images: NDArray[np.float32], recipes: Sequence[Recipe], n_steps: int | None = None
) -> list[Normalized]:
    """The network normalized by each of several recipes that differ in nothing but their percentile.

    The activations are measured for all of them in the same passes.
    """
    images = check_images(images)
    if is_plain_rate(network):
        check_rate_range(images)
    per_channel = recipes[0].granularity == "channel"
    percentiles = [r.percentile if r.reads_percentile else 100.0 for r in recipes]
    measured = collect_percentiles(_magnitudes(network, images), percentiles, per_channel=per_channel)
    return [
        _normalized(Calibration(network, images, recipe, n_steps or recipe.steps, statistics))
        for recipe, statistics in zip(recipes, measured, strict=True)
    ]


def _normalized(calibration: Calibration) -> Normalized:
    network, images, recipe = calibration.network, calibration.images, calibration.recipe
    rule = scale_rule(calibration)
    scales: dict[str, FloatArray] = {}
    silent: dict[str, int] = {}
    for population in network.populations:
        found = calibration.statistics[population.name]
        source = max((float(scales[j.pre].max()) for j in network.incoming[population.name]), default=1.0)
        silent[population.name] = _n_silent(population, found, _NOISE * source)
        value = _scale_of(population, found, rule, scales, calibration)
        if not value.max() > _NOISE * source:  # whatever it is, it has to be a number above 0
            value = np.array([source])
        per_channel = np.broadcast_to(value, (population.shape[0],)).astype(np.float64)
        raised = np.maximum(per_channel, _SMALLEST * value.max())
        scales[population.name] = np.where(per_channel > _NOISE * value.max(), raised, value.max())
    _check_alive(network, silent, len(images))
    populations = tuple(_rescaled(p, scales[p.name]) for p in network.populations)
    projections = tuple(
        j if isinstance(network.by_name[j.post].neuron, Gate) else replace(j, operator=_scaled(j, network, scales))
        for j in network.projections
    )
    normalized = replace(network, populations=populations, projections=projections)
    input_range = (float(images.min()), float(images.max()))
    return Normalized(normalized, scales, calibration.statistics, silent, input_range, recipe.percentile)


def check_images(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """The calibration images as float32.

    Raises:
        DataError: none, or images that are not scaled to floating point numbers.
    """
    if not np.issubdtype(images.dtype, np.floating):
        raise DataError(f"calibration images are {images.dtype}; give them as float32, scaled as in training")
    if not len(images):
        raise DataError("there is no calibration data: the training part of the data set is empty")
    return images.astype(np.float32, copy=False)


def _n_silent(population: Population, found: ActivationStatistics, noise: float) -> int:
    """Channels without any activation on the calibration data; of a layer measured as a whole, all or none."""
    if population.role == "input":
        return 0
    if not found.maximum.max() > noise:
        return population.shape[0]
    is_one = found.maximum.size == 1 or isinstance(population.neuron, Gate) or not population.neuron.fires
    return 0 if is_one else int((found.maximum <= _NOISE * found.maximum.max()).sum())


def _scale_of(
    population: Population,
    found: ActivationStatistics,
    rule: Rule,
    scales: Mapping[str, FloatArray],
    calibration: Calibration,
) -> FloatArray:
    """Activation that becomes a rate of 1: per channel, or one for the layer; 0 where nothing was seen."""
    if population.role == "input":
        return np.ones(1)
    if isinstance(population.neuron, Gate):
        return _scale_of_gate(population, calibration.network, scales)
    if not population.neuron.fires:
        return np.array([found.maximum.max()])  # one for all classes, which moves no decision
    if population.saturation is not None and calibration.recipe.ceiling == "threshold":
        return population.saturation.ceiling if found.maximum.max() > 0 else np.zeros(1)
    value = rule(population, scales)
    one_for_all: FloatArray = value.max(keepdims=True)
    return one_for_all if population.role == "readout" else value


def _scale_of_gate(gate: Population, network: SpikingNetwork, scales: Mapping[str, FloatArray]) -> FloatArray:
    """Spikes pass a gate as they are, so its scale is that of the population before it.

    Raises:
        UnsupportedOperatorError: the windows compare rates of channels with different scales.
    """
    (j,) = network.incoming[gate.name]
    before = along(scales[j.pre], network.by_name[j.pre].shape, j.operator.in_shape)
    if before.size == 1:
        return before
    channels = np.broadcast_to(_as_axes(before, j.operator.in_shape), j.operator.in_shape).reshape(gate.shape[0], -1)
    if channels.shape[0] != j.operator.in_shape[0] or (channels != channels[:, :1]).any():
        raise UnsupportedOperatorError(
            f"max-pool gate '{gate.name}' compares the rates of channels that have different scales; use a recipe with "
            f"granularity: layer, or with max_pool: expand"
        )
    return channels[:, 0].copy()


def _as_axes(values: FloatArray, shape: Shape) -> FloatArray:
    return values.reshape(-1, *[1] * (len(shape) - 1)) if values.ndim == 1 else values


def _rescaled(population: Population, scale: FloatArray) -> Population:
    bias = population.bias / scale.reshape(-1, *[1] * (population.bias.ndim - 1))
    trained = population.saturation
    if trained is not None:
        trained = replace(trained, ceiling=trained.ceiling / scale)
    return replace(population, bias=bias, saturation=trained)


def _scaled(j: Projection, network: SpikingNetwork, scales: Mapping[str, FloatArray]) -> Operator:
    """The operator in units of rates; per-channel scales go along with the populations' own shapes."""
    lambda_in = along(scales[j.pre], network.by_name[j.pre].shape, j.operator.in_shape)
    lambda_out = along(scales[j.post], network.by_name[j.post].shape, j.operator.out_shape)
    return scale(j.operator, lambda_in=lambda_in, lambda_out=lambda_out)


def _check_alive(network: SpikingNetwork, silent: Mapping[str, int], n_samples: int) -> None:
    """Refuse a network whose answer no spike can reach: every way to it leads through layers that never fire.

    Raises:
        InvalidNetworkError: the first layer that never fires is named.
    """
    dead = {p.name for p in network.populations if p.role != "input" and silent[p.name] == p.shape[0]}
    reached = {network.input.name}
    for p in network.populations:
        if p.name not in dead and any(j.pre in reached for j in network.incoming[p.name]):
            reached.add(p.name)
    if network.output.name in reached:
        return
    first = next((p.name for p in network.populations if p.name in dead), network.output.name)
    raise InvalidNetworkError(
        f"layer '{first}': every activation is 0 on {n_samples} calibration samples, so it has no scale and would "
        f"never fire, and the answer hangs on it; check the weights, the input scaling (--scale) and the data"
    )


def _magnitudes(network: SpikingNetwork, images: NDArray[np.float32]) -> Pass:
    return lambda: (
        (name, value.abs() if _is_signed(network, name) else value.clamp_min(0))
        for name, value in forward_pass(network, images)
    )


def _is_signed(network: SpikingNetwork, name: str) -> bool:
    population = network.by_name[name]
    return population.role == "input" or not population.neuron.fires
