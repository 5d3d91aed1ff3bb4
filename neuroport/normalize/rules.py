"""Scale rules: which activation becomes a firing rate of 1, one function for each published way to choose it.

Each maker reads what it needs of the calibration data and returns a rule: the scale of one population, [C] or [1],
given the scales of those before it. A rule may return 0 for channels it saw nothing of; scales.py takes care of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from neuroport.ann.graph import FloatArray
from neuroport.normalize.activations import ActivationStatistics
from neuroport.normalize.recipe import Recipe
from neuroport.snn.encode import input_values
from neuroport.snn.network import Neuron, Population, SpikingNetwork
from neuroport.snn.operators import (
    Chain,
    Conv2d,
    ConvTranspose2d,
    Dense,
    Gather,
    Operator,
    Part,
    Resample,
    Scale,
    Sparse,
    apply,
)
from neuroport.snn.rates import forward_rates

Scales = Mapping[str, FloatArray]
Rule = Callable[[Population, Scales], FloatArray]

BATCH = 250
_BINS = 4096  # of the histogram of `mmse`, from 0 to the largest activation
_GRID = 100  # scales that `mmse` tries, from 1/100 of the largest activation to all of it
_BALANCING_PASSES = 40
_BALANCED = 0.01  # largest relative change of a threshold from one pass to the next


@dataclass(frozen=True, eq=False)
class Calibration:
    """What the rules look at. statistics: per channel or layer, as the recipe says; n_steps: the run's."""

    network: SpikingNetwork
    images: NDArray[np.float32]
    recipe: Recipe
    n_steps: int
    statistics: Mapping[str, ActivationStatistics]

    def grouped(self, limits: Scales | None = None) -> Iterable[tuple[Population, torch.Tensor]]:
        """One pass: of each spiking population the activations [n_groups, ...], C groups or one."""
        for name, value in forward_pass(self.network, self.images, limits):
            population = self.network.by_name[name]
            if is_scaled(population):
                by_channel = value.clamp_min(0).transpose(0, 1)  # of a readout that fires sums are below 0, rates not
                yield population, by_channel.flatten(1) if self.by_channel else by_channel.reshape(1, -1)

    @property
    def by_channel(self) -> bool:
        """Whether each channel has a scale of its own."""
        return self.recipe.granularity == "channel"

    def active_steps(self, population: Population) -> int:
        """Steps in which the population runs: all but those it is clamped for."""
        return max(1, self.n_steps - population.clamp_until)


def is_scaled(population: Population) -> bool:
    """Whether a rule chooses its scale: a neuron that fires, no input, no gate that passes spikes as they are."""
    return population.role != "input" and isinstance(population.neuron, Neuron) and population.neuron.fires


def forward_pass(
    network: SpikingNetwork, images: NDArray[np.float32], limits: Scales | None = None
) -> Iterable[tuple[str, torch.Tensor]]:
    """(population, activations [N, *shape]) batch by batch."""
    for start in range(0, len(images), BATCH):
        batch = torch.from_numpy(images[start : start + BATCH])
        yield from forward_rates(network, batch, clip=False, limits=limits)


def scale_rule(calibration: Calibration) -> Rule:
    """The rule the recipe asks for."""
    return _MAKERS[calibration.recipe.scale](calibration)


def by_activation(calibration: Calibration) -> Rule:
    """The percentile of the activations; their maximum where that is 0 (sparser than 100 - p percent is not silent).

    Source: Rueckauer et al. 2016, sections 3.2.1 (maximum) and 3.2.2 (percentile); Mueller et al. 2021, eq. 2.
    """

    def rule(p: Population, _: Scales) -> FloatArray:
        found = calibration.statistics[p.name]
        return np.where(found.percentile > 0, found.percentile, found.maximum)

    return rule


def by_weights(calibration: Calibration) -> Rule:
    """The largest sum a neuron can receive: positive weights times the scales before, plus a positive bias.

    No activation of inputs in the calibration data's range (at least 0 to 1) can be larger: rates never saturate.
    Source: Diehl et al. 2015, algorithm 1 (model-based), here with biases.
    """
    network = calibration.network
    values = input_values(network, torch.from_numpy(calibration.images), clip=True)
    ends = (min(0.0, float(values.min())), max(1.0, float(values.max())))

    def rule(p: Population, scales: Scales) -> FloatArray:
        total = np.maximum(p.bias.astype(np.float64), 0.0)
        for j in network.incoming[p.name]:
            shape = network.by_name[j.pre].shape
            full = np.broadcast_to(scales[j.pre].reshape(-1, *[1] * (len(shape) - 1)), shape)
            low, high = ends if j.pre == network.input.name else (np.zeros(shape), full)
            largest = _largest_sum(j.operator, np.broadcast_to(low, shape), np.broadcast_to(high, shape))
            total = total + largest.reshape(p.shape)
        return _over_groups(np.maximum(total, 0.0), calibration)

    return rule


def by_weight_or_activation(calibration: Calibration) -> Rule:
    """The larger one of the layer's largest weight and its largest activation (the recipe's percentile of them).

    With lambda_in of the layer before, W lambda_in / lambda_out is Diehl's division by scale / previous scale.
    Source: Diehl et al. 2015, algorithm 2 (data-based), as Dong & He replicate it.
    """
    activation = by_activation(calibration)

    def rule(p: Population, scales: Scales) -> FloatArray:
        operators = [j.operator for j in calibration.network.incoming[p.name]]
        return np.maximum(activation(p, scales), max(_largest_weight(op) for op in operators))

    return rule


def by_copy(calibration: Calibration) -> Rule:
    """Weights as they are, under the recipe's threshold: lambda_out = threshold * lambda_in.

    Then W lambda_in / lambda_out is W / threshold, for neurons whose threshold is 1. Biases are divided by lambda_out,
    so that the function stays the ANN's; where inputs differ in scale (behind a sum) the largest one counts. What has
    no weights of its own (a maximum, a relay) keeps the scale of its inputs.
    Source: the baseline of Diehl et al. 2015, as Dong & He replicate it (table 2, "direct", thresholds 1, 4 and 20).
    """
    network, threshold = calibration.network, calibration.recipe.threshold

    def rule(p: Population, scales: Scales) -> FloatArray:
        incoming = network.incoming[p.name]
        lambda_in = max(float(scales[j.pre].max()) for j in incoming)
        has_weights = any(not _is_copy(j.operator) for j in incoming)
        return np.array([lambda_in * (threshold if has_weights else 1.0)])

    return rule


def by_squared_error(calibration: Calibration) -> Rule:
    """The scale with the least squared error between activations and what rates of T steps make of them.

    argmin over lambda of sum (a - lambda / T clip(floor(a T / lambda + v_init), 0, T))^2, lambda on a grid of a
    hundred fractions of the largest activation, T the steps the population runs. The sums run over a histogram of 4096
    steps from 0 to the largest activation, counted exactly, so the order of the data makes no difference.
    Source: Li et al. 2021 ("A free lunch from ANN", MMSE threshold), with v_init = 1/2 their shift by half a threshold.
    """
    maximum = {name: s.maximum for name, s in calibration.statistics.items()}
    counts: dict[str, NDArray[np.int64]] = {}
    for p, values in calibration.grouped():
        largest = torch.from_numpy(maximum[p.name]).clamp_min(1e-37).unsqueeze(1)
        bins = (values.double() * (_BINS / largest)).round().to(torch.int64)
        bins += torch.arange(len(values)).unsqueeze(1) * (_BINS + 1)
        found = torch.bincount(bins.flatten(), minlength=len(values) * (_BINS + 1)).numpy()
        counts[p.name] = counts.get(p.name, np.zeros_like(found)) + found

    def rule(p: Population, _: Scales) -> FloatArray:
        of_group = counts[p.name].reshape(-1, _BINS + 1)
        fraction = _best_fraction(of_group, calibration.active_steps(p), calibration.recipe.v_init)
        return fraction * maximum[p.name]

    return rule


def by_balance(calibration: Calibration) -> Rule:
    """Thresholds that balance what they cut off against what they blur, found in forward passes, no gradient.

    E(theta) = mean of (a - theta)^2 where a >= theta, and of the quantization error theta^2 / (12 T^2) where
    0 < a < theta. Every population descends its own E, all of them in the same pass, on activations that the
    thresholds found so far already cut. Bu et al. step by a fixed rate, theta += 2 mean (a - theta)+, from 0, which
    takes thousands of batches; a Newton step on the same E, over all the data, has no rate and depends on no order:
    theta = sum of a from theta on / (number from theta on + number below / (12 T^2)), from half the maximum until no
    theta moves by more than 1 %. Their rule has no quantization term: it creeps towards the maximum until stopped.
    Source: Bu et al. 2025 (local threshold balancing), as in their code, github.com/putshua/Inference-scale-ANN-SNN,
    layers.py, SpikingNeuron.optimize.
    """
    network = calibration.network
    thetas = {name: s.maximum / 2 for name, s in calibration.statistics.items() if is_scaled(network.by_name[name])}
    for _ in range(_BALANCING_PASSES):
        parts: dict[str, FloatArray] = {}
        for p, values in calibration.grouped(thetas):
            theta = torch.from_numpy(thetas[p.name]).to(values.dtype).unsqueeze(1)
            is_above = values >= theta  # theta itself: a constant activation is its own threshold
            n_below = ((values > 0) & ~is_above).sum(1).double() / (12.0 * calibration.active_steps(p) ** 2)
            found = torch.stack([(values * is_above).sum(1, dtype=torch.float64), is_above.sum(1) + n_below])
            parts[p.name] = parts.get(p.name, np.zeros(1)) + found.numpy()
        before, thetas = thetas, {name: up / np.maximum(down, 1e-12) for name, (up, down) in parts.items()}
        if all((np.abs(thetas[n] - before[n]) <= _BALANCED * before[n]).all() for n in thetas):
            break
    # what is there only because inputs are cut is no activation: a channel silent in the ANN stays silent
    return lambda p, _: np.minimum(thetas[p.name], calibration.statistics[p.name].maximum)


_MAKERS: Mapping[str, Callable[[Calibration], Rule]] = {
    "activation": by_activation,
    "weights": by_weights,
    "diehl": by_weight_or_activation,
    "mmse": by_squared_error,
    "balance": by_balance,
    "none": by_copy,
}


def _over_groups(values: FloatArray, calibration: Calibration) -> FloatArray:
    """The largest value of each channel, or of all, for values of a population's shape."""
    largest: FloatArray = values.reshape(len(values), -1).max(1)
    return largest if calibration.by_channel else largest.max(keepdims=True)


def _best_fraction(counts: NDArray[np.int64], n_steps: int, v_init: float) -> FloatArray:
    """Of each group's histogram [n_groups, bins + 1] the fraction of the maximum with the least squared error."""
    a = np.arange(_BINS + 1) / _BINS
    fractions = np.arange(_GRID, 0, -1) / _GRID  # of equal errors the largest scale is taken
    steps = np.clip(np.floor(a * n_steps / fractions[:, None] + v_init), 0, n_steps)
    squared = np.square(a - fractions[:, None] * steps / n_steps)
    best: FloatArray = fractions[(counts @ squared.T).argmin(1)]
    return best


def _largest_sum(op: Operator, low: FloatArray, high: FloatArray) -> FloatArray:
    """Upper bound of what arrives for inputs between low and high, exact where the operator is one part."""
    middle, radius = (torch.from_numpy(x).unsqueeze(0) for x in ((low + high) / 2, (high - low) / 2))
    for part in op.parts if isinstance(op, Chain) else (op,):
        middle, radius = apply(part, middle), apply(_magnitude(part), radius)
    largest: FloatArray = (middle + radius)[0].numpy()
    return largest


def _magnitude(part: Part) -> Part:
    """The operator with the magnitudes of its weights."""
    match part:
        case Dense() | Conv2d() | ConvTranspose2d():
            return replace(part, weight=np.abs(part.weight))
        case Sparse():
            return replace(part, matrix=abs(part.matrix))
        case Scale():
            return replace(part, gain=np.abs(part.gain))
        case Resample():
            return replace(part, rows=np.abs(part.rows), cols=np.abs(part.cols))
    return part


def _weights(op: Operator) -> list[FloatArray]:
    found: list[FloatArray] = []
    for part in op.parts if isinstance(op, Chain) else (op,):
        match part:
            case Dense(weight) | Conv2d(weight) | ConvTranspose2d(weight):
                found.append(weight)
            case Sparse(matrix):
                found.append(matrix.data)
            case Scale(gain):
                found.append(gain)
            case Resample(rows, cols):
                found += [rows, cols]
            case Gather():
                pass
    return found


def _largest_weight(op: Operator) -> float:
    """The largest weight above 0; of operators in a row the product."""
    return math.prod(max(0.0, float(w.max(initial=0.0))) for w in _weights(op))


def _is_copy(op: Operator) -> bool:
    """Whether every weight is -1, 0 or 1."""
    return all(bool(np.isin(w, (-1.0, 0.0, 1.0)).all()) for w in _weights(op))
