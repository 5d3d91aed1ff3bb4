"""The network in rates: what its neurons would do with infinitely many steps, as a plain forward pass."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from neuroport.snn.network import SpikingNetwork
from neuroport.snn.operators import apply


def forward_rates(network: SpikingNetwork, images: torch.Tensor, *, clip: bool) -> Iterator[tuple[str, torch.Tensor]]:
    """Activation [N, *shape] of each population after its ReLU, in order; the readout's are its plain sums.

    With `clip`, rates end at 1 as spikes do (one per neuron and step at most): the ReLU1 network, which predicts the
    accuracy of the spiking one. Without, the ANN's own activations, as normalization measures them.
    Source: Mueller et al. 2021, section IV-C (ReLU1).
    """
    values: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        for population in network.populations:
            if population.role == "input":
                value = images.reshape(len(images), *population.shape)
                if network.encoding == "rate" and clip:
                    value = value.clamp(0, 1)
            else:
                value = torch.as_tensor(population.bias, dtype=images.dtype).expand(len(images), *population.shape)
                for projection in network.incoming[population.name]:
                    value = value + apply(projection.operator, values[projection.pre])
                if population.neuron.fires:
                    value = value.clamp(0, 1) if clip else value.clamp_min(0)
            values[population.name] = value
            yield population.name, value
