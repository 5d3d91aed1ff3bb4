"""The embedded digits network on a chip, with faults planted in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from neuroport.chip.network import IntNetwork, IntPopulation, IntProjection
from neuroport.chip.quantize import quantize
from neuroport.chip.suit import suited
from neuroport.chip.synapses import IntConv2d
from neuroport.chip.target import load_target
from neuroport.normalize.channels import with_gain, with_spike_size
from neuroport.normalize.convert import convert
from neuroport.normalize.recipe import load_recipe
from neuroport.normalize.scales import Normalized
from neuroport.validation.outputs import Scores, TestSet
from neuroport.verbs.loading import Source, load_source, take_samples

N_STEPS = 32


@dataclass(frozen=True, eq=False)
class Made:
    """A network on its way to a chip, and what it is tried with. reference: the ANN's scores of the tests."""

    normalized: Normalized
    network: IntNetwork
    tests: TestSet
    reference: Scores


@cache
def digits(n: int = 300, target: str = "loihi-sim", recipe: str = "robust", clip: str = "") -> Made:
    """n test images of the embedded digits; `clip`: a layer whose scale is a twentieth of what it should be."""
    source = Source()
    ann, data = load_source(source, N_STEPS)
    images = take_samples(ann, data, "train", 300, seed=0, n_steps=N_STEPS).images
    tests = take_samples(ann, data, "test", n, seed=0, n_steps=N_STEPS)
    name, _, neuron = target.partition("/")
    chip = load_target(name).with_neuron(neuron) if neuron else load_target(name)
    normalized = convert(ann.graph, images, suited(load_recipe(recipe), chip), N_STEPS)
    if clip:
        normalized = with_scale(normalized, clip, 0.05)
    made = quantize(normalized.network, chip, N_STEPS, images=images, input_range=normalized.input_range)
    reference = ann.run_outputs(tests.images)[0].astype(np.float64).reshape(len(tests), -1)
    return Made(normalized, made.network, tests, reference)


def with_scale(normalized: Normalized, name: str, factor: float) -> Normalized:
    """The same function in unclipped rates, one population's activations measured in other units."""
    size = np.full(normalized.network.by_name[name].shape[0], factor)
    network = with_gain(normalized.network, normalized.network.by_name[name], 1 / size)
    network = with_spike_size(network, network.by_name[name], size)
    return replace(normalized, network=network, scales={**normalized.scales, name: normalized.scales[name] * factor})


def with_population(network: IntNetwork, name: str, change: Callable[[IntPopulation], IntPopulation]) -> IntNetwork:
    """The network with one population changed."""
    return replace(network, populations=tuple(change(p) if p.name == name else p for p in network.populations))


def with_projection(network: IntNetwork, post: str, change: Callable[[IntProjection], IntProjection]) -> IntNetwork:
    """The network with the projections into one population changed."""
    return replace(network, projections=tuple(change(j) if j.post == post else j for j in network.projections))


def swapped_axes(network: IntNetwork, post: str) -> IntNetwork:
    """Kernels with rows and columns exchanged."""

    def change(j: IntProjection) -> IntProjection:
        if not isinstance(j.synapse, IntConv2d):
            raise TypeError(f"{post} is no convolution")
        mantissa = np.ascontiguousarray(j.synapse.mantissa.swapaxes(2, 3))
        return replace(j, synapse=IntConv2d(mantissa, j.synapse.geometry))

    return with_projection(network, post, change)
