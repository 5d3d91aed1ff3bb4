"""The network in rates: what its neurons would do with infinitely many steps, as a plain forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from neuroport.ann.graph import FloatArray, ReLU
from neuroport.ann.interpret import rectify
from neuroport.snn.encode import input_values
from neuroport.snn.network import Population, SpikingNetwork
from neuroport.snn.operators import apply


def forward_rates(
    network: SpikingNetwork, images: torch.Tensor, *, clip: bool, limits: Mapping[str, FloatArray] | None = None
) -> Iterator[tuple[str, torch.Tensor]]:
    """Activation [N, *shape] of each population after its ReLU, in order; the readout's are its plain sums.

    images: [N, ...]; of event data the mean over the steps. With `clip`, rates end at 1 as spikes do (one per neuron
    and step at most): the ReLU1 network, which predicts the accuracy of the spiking one. Without, the ANN's own
    activations, trained ceilings and levels included, as normalization measures them. `limits`, [C] or [1] for a
    population, end what it hands on; what is yielded is what it was before.
    Source: Mueller et al. 2021, section IV-C (ReLU1).
    """
    values: dict[str, torch.Tensor] = {}
    last_use = {j.pre: j.post for p in network.populations for j in network.incoming[p.name]}
    with torch.no_grad():
        for population in network.populations:
            if population.role == "input":
                value = input_values(network, images, clip=clip)
            else:
                shape = (len(images), *population.shape)
                value = torch.as_tensor(population.bias, dtype=images.dtype).expand(shape)
                for projection in network.incoming[population.name]:
                    arriving = apply(projection.operator, values[projection.pre]).reshape(shape)
                    value = value + arriving
                value = _fired(population, value, clip=clip)
            values[population.name] = value
            if limits and population.name in limits:
                limit = torch.as_tensor(limits[population.name], dtype=value.dtype)
                values[population.name] = torch.minimum(value, limit.reshape(-1, *[1] * (value.ndim - 2)))
            yield population.name, value
            for projection in network.incoming[population.name]:
                if last_use[projection.pre] == population.name:
                    values.pop(projection.pre, None)


def _fired(population: Population, value: torch.Tensor, *, clip: bool) -> torch.Tensor:
    if not population.neuron.fires or (population.is_linear and not clip):
        return value
    if clip:
        return value.clamp(0, 1)
    trained = population.saturation
    if trained is None:
        return value.clamp_min(0)
    ceiling = torch.as_tensor(trained.ceiling, dtype=value.dtype).reshape(-1, *[1] * (value.ndim - 2))
    return ceiling * rectify(ReLU(1.0, trained.levels), value / ceiling)
