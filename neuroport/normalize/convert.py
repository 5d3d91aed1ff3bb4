"""The arrow from the trained network to the normalized spiking network, in one call."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from neuroport.ann.graph import AnnGraph
from neuroport.ann.simplify import simplify
from neuroport.normalize.recipe import Recipe
from neuroport.normalize.scales import Normalized, check_images, normalize
from neuroport.snn.build import build_network
from neuroport.snn.encode import rate_options


def convert(graph: AnnGraph, images: NDArray[np.float32], recipe: Recipe, *, events: bool = False) -> Normalized:
    """The spiking network of an ANN graph, normalized on calibration images [N, ...] as the recipe says.

    With `events` the samples will come as spikes; `images` then are their mean rates.

    Raises:
        ConversionError: what cannot be converted, with layer and reason.
    """
    options = recipe.build_options
    images = check_images(images)
    if events:
        options = replace(options, encoding="events")
    elif options.encoding == "rate":
        n_signs, scale = rate_options(images, [node.size for node in graph.inputs])
        options = replace(options, n_signs=n_signs, input_scale=scale)
    return normalize(build_network(simplify(graph), options), images, recipe)
