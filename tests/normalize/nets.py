"""Recipes, and small networks whose activations can be worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroport.ann.graph import Add, AnnGraph, Input, Linear, Node, ReLU
from neuroport.normalize.recipe import Recipe
from neuroport.snn.network import Neuron, Population, Projection, SpikingNetwork
from neuroport.snn.operators import Dense

Images = NDArray[np.float32]


def recipe(**options: Any) -> Recipe:
    return Recipe(name="test", summary="", source="", **options)


def linear(name: str, before: str, weight: Any, bias: Any) -> Node:
    w, b = np.array(weight, np.float64), np.array(bias, np.float64)
    return Node(name, Linear(w, b), (before,), b.shape)


def rectified(name: str, before: str, n: int) -> Node:
    return Node(name, ReLU(), (before,), (n,))


def source(n: int) -> Node:
    return Node("input", Input(), (), (n,))


def dense(*layers: tuple[Any, Any]) -> AnnGraph:
    """Linear layers (weight, bias) named l0, l1, ... with ReLU between them."""
    nodes = [source(len(layers[0][0][0]))]
    for k, (weight, bias) in enumerate(layers):
        nodes.append(linear(f"l{k}", nodes[-1].name, weight, bias))
        if k < len(layers) - 1:
            nodes.append(rectified(f"relu{k}", f"l{k}", len(bias)))
    return AnnGraph(tuple(nodes), (nodes[-1].name,))


# Activations of the residual block on the images 1, 0 and 1/2, by hand:
#   a = relu(2x, x)         (2, 1) (0, 0) (1, 1/2)
#   b = relu(a0 - a1)       1, 0, 1/2
#   c = relu((3b, -b) + a)  (5, 0) (0, 0) (5/2, 0), before its ReLU channel 1 is -b + a1 = 0
#   d = c0 - 4              1, -4, -3/2
RESIDUAL_IMAGES = np.array([[1.0], [0.0], [0.5]], np.float32)


def residual_by_hand() -> AnnGraph:
    """d = c0 - 4 with c = relu(main(b) + a), b = relu(a0 - a1), a = relu(2x, x): the shortcut is the identity."""
    nodes = (
        source(1),
        linear("a", "input", [[2.0], [1.0]], [0.0, 0.0]),
        rectified("relu_a", "a", 2),
        linear("b", "relu_a", [[1.0, -1.0]], [0.0]),
        rectified("relu_b", "b", 1),
        linear("main", "relu_b", [[3.0], [-1.0]], [0.0, 0.0]),
        Node("sum", Add((1, 1)), ("main", "relu_a"), (2,)),
        Node("c", ReLU(), ("sum",), (2,)),
        linear("d", "c", [[1.0, 0.0]], [-4.0]),
    )
    return AnnGraph(nodes, ("d",))


def layers_of(network: SpikingNetwork) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """(weight, bias) of a network of dense layers one behind the other."""
    found = []
    for population, projection in zip(network.populations[1:], network.projections, strict=True):
        assert isinstance(projection.operator, Dense)
        found.append((projection.operator.weight, population.bias))
    return found


def population(name: str, shape: tuple[int, ...], **fields: Any) -> Population:
    return Population(name, shape, **({"bias": np.zeros(shape), "neuron": Neuron()} | fields))


def between(pre: Population, post: Population, weight: Any) -> Projection:
    return Projection(pre.name, post.name, Dense(np.array(weight, np.float64), pre.shape, post.shape))
