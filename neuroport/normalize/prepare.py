"""What a recipe asks of a network before any scale is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from neuroport.ann.graph import AnnGraph
from neuroport.ann.simplify import simplify
from neuroport.errors import ConversionError
from neuroport.normalize.recipe import Recipe
from neuroport.snn.build import BuildOptions, build_network
from neuroport.snn.encode import rate_options
from neuroport.snn.network import SpikingNetwork


def spiking_network(
    graph: AnnGraph, images: NDArray[np.float32], recipe: Recipe, *, events: bool = False, seed: int = 0
) -> SpikingNetwork:
    """The network the recipe asks for, not normalized, with an input code that can express the images."""
    options: BuildOptions = replace(recipe.build_options, seed=seed)
    if events:
        options = replace(options, encoding="events")
    elif options.encoding in ("rate", "poisson"):
        n_signs, scale = rate_options(images, [node.size for node in graph.inputs])
        options = replace(options, n_signs=n_signs, input_scale=scale)
    return build_network(simplify(graph), options)


def check_clamp(network: SpikingNetwork, recipe: Recipe, n_steps: int) -> None:
    """Refuse a run that ends before the clamp lets an output begin.

    Raises:
        ConversionError: the output, its first step, and the steps there are.
    """
    late = max((network.by_name[head.population] for head in network.outputs), key=lambda p: p.clamp_until)
    if late.clamp_until >= n_steps:
        raise ConversionError(
            f"output '{late.name}' is clamped for {late.clamp_until} steps (recipe '{recipe.name}', clamp: "
            f"{recipe.clamp} per level), and {n_steps} are run; use more steps (--steps), or a recipe without clamp"
        )
