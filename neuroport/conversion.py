"""From a trained network to a chip's integers: the part of the line that deploying and mapping share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from neuroport.ann.load import LoadedAnn
from neuroport.chip.quantize import quantize
from neuroport.chip.recalibrate import Recalibrated, recalibrate
from neuroport.chip.target import Target
from neuroport.data import Dataset
from neuroport.loading import CALIBRATION_SAMPLES, take_samples
from neuroport.normalize.convert import convert
from neuroport.normalize.recipe import Recipe
from neuroport.normalize.scales import Normalized
from neuroport.validation.outputs import TestSet

Stage = Callable[[str], None]


def calibration_set(ann: LoadedAnn, dataset: Dataset, recipe: Recipe, n_steps: int, seed: int) -> TestSet:
    """As many samples of the training part as the recipe asks for."""
    n = recipe.calibration_samples or CALIBRATION_SAMPLES
    return take_samples(ann, dataset, "train", n, seed=seed, n_steps=n_steps)


def to_rates(
    ann: LoadedAnn, dataset: Dataset, calibration: TestSet, recipe: Recipe, n_steps: int, seed: int, stage: Stage
) -> Normalized:
    """The float network."""
    stage(f"normalizing ({recipe.name}) on {len(calibration)} samples")
    normalized = convert(ann.graph, calibration.images, recipe, n_steps, events=dataset.has_events, seed=seed)
    if recipe.search is not None:
        stage(f"the search chose the {normalized.percentile:g}th percentile")
    return normalized


def to_integers(
    normalized: Normalized,
    recipe: Recipe,
    target: Target,
    images: NDArray[np.float32],
    n_steps: int,
    stage: Stage,
) -> Recalibrated:
    """The integer network, with the float network it was rounded from; `images` are those of the calibration."""
    stage(f"quantizing for {target.name}")
    quantized = quantize(normalized.network, target, n_steps, images=images, input_range=normalized.input_range)
    if not recipe.calibrates_biases:
        return Recalibrated(normalized, quantized)
    stage(f"calibrating biases in the integers of {target.name}")
    return recalibrate(normalized, quantized, target, images, n_steps)
