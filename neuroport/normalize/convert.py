"""The arrow from the trained network to the normalized spiking network, in one call."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from neuroport.ann.graph import AnnGraph
from neuroport.normalize.correct import corrected
from neuroport.normalize.prepare import check_clamp, spiking_network
from neuroport.normalize.recipe import Recipe
from neuroport.normalize.scales import Normalized, check_images, normalize
from neuroport.normalize.search import choose_percentile


def convert(
    graph: AnnGraph,
    images: NDArray[np.float32],
    recipe: Recipe,
    n_steps: int | None = None,
    *,
    events: bool = False,
    seed: int = 0,
) -> Normalized:
    """The spiking network of an ANN graph, normalized on calibration images [N, ...] as the recipe says.

    A search of the recipe comes first, then the network is built and normalized, then corrected. n_steps: of the runs
    it is made for, the recipe's if None. With `events` the samples will come as spikes; `images` then are their mean
    rates. seed: of Poisson inputs and of a search's noise.

    Raises:
        ConversionError: what cannot be converted, with layer and reason; fewer steps than the clamp holds the answer.
    """
    images = check_images(images)
    steps = n_steps or recipe.steps
    network = spiking_network(graph, images, recipe, events=events, seed=seed)
    check_clamp(network, recipe, steps)
    if recipe.search is not None:
        value_range = (float(images.min()), float(images.max()))
        found = choose_percentile(graph, recipe, graph.input_shape, value_range, steps, seed)
        recipe = recipe.model_copy(update={"percentile": found.percentile, "search": None})
    normalized = normalize(network, images, recipe, steps)
    return corrected(normalized, images, recipe, steps)
