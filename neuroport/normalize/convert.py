"""The arrow from the trained network to the normalized spiking network, in one call."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from neuroport.ann.graph import AnnGraph
from neuroport.ann.simplify import simplify
from neuroport.normalize.recipe import Recipe
from neuroport.normalize.scales import Normalized, normalize
from neuroport.snn.build import build_network


def convert(graph: AnnGraph, images: NDArray[np.float32], recipe: Recipe) -> Normalized:
    """The spiking network of an ANN graph, normalized on calibration images [N, ...] as the recipe says.

    Raises:
        ConversionError: what cannot be converted, with layer and reason.
    """
    return normalize(build_network(simplify(graph), recipe.build_options), images, recipe)
