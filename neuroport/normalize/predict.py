"""What a spiking network will reach, before any spike: the accuracy of the normalized ANN clipped to [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from neuroport.ann.graph import AnnGraph
from neuroport.errors import DataError
from neuroport.normalize.prepare import spiking_network
from neuroport.normalize.recipe import Recipe
from neuroport.normalize.scales import check_images, normalize_each
from neuroport.snn.rates import forward_rates

_BATCH = 250


def predict_relu1(
    graph: AnnGraph,
    calibration_images: NDArray[np.float32],
    test_images: NDArray[np.float32],
    labels: NDArray[np.integer],
    percentiles: Sequence[float],
    recipe: Recipe,
) -> list[tuple[float, float]]:
    """(percentile, accuracy) of the network in rates, clipped to [0, 1], for each percentile.

    What is lost here is lost to clipping, at any number of steps; what a spiking network loses beyond it, to too few
    steps. The cost is that of the ANN: three passes over the calibration images for all percentiles together (one if
    only 100 is asked for), and one pass over the test images for each.

    Args:
        graph: the trained network.
        calibration_images: [N, ...] float32, from which the percentiles are taken.
        test_images: [M, ...] float32.
        labels: [M], classes.
        percentiles: above 0, at most 100.
        recipe: granularity and the rest; its own percentile, and a search for one, do not matter.

    Raises:
        DataError: no test images, or not one label for each.
        UnsupportedOperatorError: what cannot be converted.

    Source: Mueller et al. 2021, section IV-A and table I (ReLU1).
    """
    if not len(test_images):
        raise DataError("there are no test images, so no accuracy can be predicted; give at least one, with its label")
    calibration_images, test_images = check_images(calibration_images), check_images(test_images)
    if len(labels) != len(test_images):
        raise DataError(f"{len(test_images)} test images have {len(labels)} labels; give one label for each image")
    changes = [{"percentile": float(p), "search": None, "scale": "activation", "threshold": 1.0} for p in percentiles]
    recipes = [recipe.model_copy(update=change) for change in changes]
    network = spiking_network(graph, calibration_images, recipe)
    output = network.output.name
    found = []
    for chosen, normalized in zip(recipes, normalize_each(network, calibration_images, recipes), strict=True):
        n_correct = 0
        for start in range(0, len(test_images), _BATCH):
            batch = torch.from_numpy(test_images[start : start + _BATCH])
            rates = forward_rates(normalized.network, batch, clip=True)
            scores = next(value for name, value in rates if name == output).flatten(1)
            n_correct += int((scores.argmax(1).numpy() == labels[start : start + _BATCH]).sum())
        found.append((chosen.percentile, n_correct / len(test_images)))
    return found
