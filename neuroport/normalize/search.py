"""The percentile chosen on noise: no data of the user, and no labels but the network's own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from neuroport.ann.graph import AnnGraph, FloatArray
from neuroport.ann.interpret import run_graph
from neuroport.errors import ConversionError, InvalidNetworkError, UsageError
from neuroport.normalize.prepare import check_clamp, spiking_network
from neuroport.normalize.recipe import Recipe
from neuroport.normalize.scales import Normalized, normalize_each
from neuroport.snn.network import Neuron
from neuroport.snn.over_time import scores_over_time

_BATCH = 100


@dataclass(frozen=True, eq=False)
class SearchResult:
    """What a search found.

    percentile: the chosen one; percentiles: those tried, in the recipe's order; loss: [n_percentiles, T], fraction of
    the noise whose class after step t is not the ANN's.
    """

    percentile: float
    percentiles: tuple[float, ...]
    loss: FloatArray
    n_samples: int
    seed: int

    @property
    def mean_loss(self) -> FloatArray:
        """Loss averaged over the steps, [n_percentiles]: what is minimized."""
        averaged: FloatArray = self.loss.mean(1)
        return averaged


def choose_percentile(
    graph: AnnGraph,
    recipe: Recipe,
    input_shape: tuple[int, ...],
    value_range: tuple[float, float],
    n_steps: int,
    seed: int,
) -> SearchResult:
    """The percentile of recipe.search with the smallest conversion loss on noise, averaged over the steps.

    The average is the area under the loss over time: it is small where the network converges fast (percentiles too
    high fire too rarely) and to little loss (those too low clip). Of equal percentiles the largest is taken.

    Labels are the ANN's classes after its mean score on the noise is taken off every class, in the spiking network as
    in the ANN. Plain classes would do where noise falls into all of them evenly, as the paper has it; but most trained
    networks put it into one or two classes, often with such a margin that no conversion could miss them. Activations
    are measured on the same noise. Corrections of the recipe do not take part.

    Args:
        graph: the ANN, simplified or not.
        recipe: with a search: its percentiles, and how many noise inputs (1 % of a usual test set is 100).
        input_shape: of one sample.
        value_range: the noise is uniform between the two, as the network's inputs are.
        n_steps: over which the loss is averaged, those of the later runs.
        seed: of the noise and of Poisson inputs.

    Raises:
        UsageError: the recipe has no search, or the range is empty.
        ConversionError: the network cannot be converted, or cannot tell one noise from another.

    Source: Mueller et al. 2021b.
    """
    if recipe.search is None:
        raise UsageError(
            f"recipe '{recipe.name}' has no percentiles to choose from; give it search: {{kind: noise, percentiles: "
            f"[99, 99.9, 99.99, 100]}}"
        )
    low, high = value_range
    if not -np.inf < low < high < np.inf:
        raise UsageError(f"noise needs a range of input values from low to high, got {low} to {high}")
    n_samples, percentiles = recipe.search.samples, recipe.search.percentiles
    drawn = np.random.default_rng(seed).uniform(low, high, (n_samples, *input_shape))
    noise = drawn.astype(np.float32)
    trained = _ann_scores(graph, noise)
    mean = trained.mean(0)
    labels = (trained - mean).argmax(1)
    if len(np.unique(labels)) < 2:
        raise ConversionError(
            f"recipe '{recipe.name}': the network gives {n_samples} noise inputs between {low:.4g} and {high:.4g} the "
            f"same scores, so no percentile can be told from another; use a recipe with a percentile of its own"
        )
    loss = np.zeros((len(percentiles), n_steps))
    for k, normalized in enumerate(_normalized(graph, recipe, noise, n_steps, seed)):
        for start in range(0, n_samples, _BATCH):
            part = slice(start, start + _BATCH)
            classes = (_scores(normalized, noise[part], n_steps) - mean).argmax(2)
            loss[k] += (classes != labels[part, None]).sum(0)
    loss /= n_samples
    best = max(range(len(percentiles)), key=lambda k: (-loss[k].sum(), percentiles[k]))
    return SearchResult(percentiles[best], percentiles, loss, n_samples, seed)


def _normalized(
    graph: AnnGraph, recipe: Recipe, noise: NDArray[np.float32], n_steps: int, seed: int
) -> list[Normalized]:
    """The spiking network normalized on the noise, once for every percentile."""
    percentiles = recipe.search.percentiles if recipe.search else ()
    recipes = [recipe.model_copy(update={"percentile": p, "search": None, "corrections": ()}) for p in percentiles]
    network = spiking_network(graph, noise, recipe, seed=seed)
    check_clamp(network, recipe, n_steps)
    try:
        return normalize_each(network, noise, recipes, n_steps)
    except InvalidNetworkError as error:
        raise InvalidNetworkError(
            f"recipe '{recipe.name}' searches its percentile on noise: {error}; or use a recipe without search"
        ) from error


def _ann_scores(graph: AnnGraph, images: NDArray[np.float32]) -> FloatArray:
    """Class scores [N, n_out]."""
    parts = [run_graph(graph, torch.from_numpy(images[k : k + _BATCH])) for k in range(0, len(images), _BATCH)]
    scores: FloatArray = torch.cat(parts).double().numpy()
    return scores.reshape(len(images), -1)


def _scores(normalized: Normalized, images: NDArray[np.float32], n_steps: int) -> FloatArray:
    """Class scores in the ANN's units after every step, [N, T, n_out]."""
    network = normalized.network
    found, output = scores_over_time(network, images, n_steps), network.output
    scale = normalized.scales[output.name].reshape(-1, *[1] * (len(output.shape) - 1))
    steps = np.arange(1, n_steps + 1)
    if isinstance(output.neuron, Neuron):
        running = np.maximum(steps - output.clamp_until, 0)
        weights = np.where(running > 0, output.neuron.leak ** (running - 1.0), 0.0)  # of what came so many steps ago
        shown, received = found["membrane"], np.maximum(weights.cumsum(), 1e-12)
    else:
        shown, received = found["count"], steps.astype(np.float64)
    scores: FloatArray = shown / received[:, None] * np.broadcast_to(scale, output.shape).reshape(-1)
    return scores
