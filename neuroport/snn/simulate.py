"""The float simulator: integrate-and-fire neurons in torch, layer-synchronous, one step after the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from neuroport.snn.encode import rate_spikes
from neuroport.snn.network import Population, SpikingNetwork
from neuroport.snn.operators import apply


@dataclass(frozen=True, eq=False)
class FloatRun:
    """What a simulation returns.

    counts: spikes per neuron, [N, *shape] int32 for each population; readout: [N, n_out] float64, spike counts or
    membrane potentials after the last step; rasters: [N, T, *shape] uint8 of the populations asked for.
    """

    counts: Mapping[str, NDArray[np.int32]]
    readout: NDArray[np.float64]
    rasters: Mapping[str, NDArray[np.uint8]]


def simulate(
    network: SpikingNetwork,
    images: NDArray[np.floating],
    n_steps: int,
    *,
    record: tuple[str, ...] = (),
    dtype: torch.dtype = torch.float32,
) -> FloatRun:
    """Run images [N, ...] for n_steps.

    Within step t a population sees the step-t spikes of its inputs. Spike counts of float32 runs can differ by one
    at the threshold with the order of summation; float64 and dyadic weights make them exact.
    """
    state = _State(network, torch.as_tensor(np.asarray(images), dtype=dtype), n_steps, record)
    with torch.no_grad():
        for t in range(n_steps):
            state.step(t)
    return state.result()


class _State:
    """Potentials, spikes of the current step and counts of one batch."""

    def __init__(self, network: SpikingNetwork, images: torch.Tensor, n_steps: int, record: tuple[str, ...]) -> None:
        self.network, self.n, self.dtype = network, len(images), images.dtype
        self.input_spikes: torch.Tensor | None = None
        images = images.reshape(self.n, *network.input.shape)
        if network.encoding == "rate":
            self.input_spikes = torch.from_numpy(rate_spikes(images.numpy(), n_steps))
        self.v: dict[str, torch.Tensor] = {}
        self.counts: dict[str, torch.Tensor] = {}
        self.spikes: dict[str, torch.Tensor] = {}
        self.constant: dict[str, torch.Tensor] = {}
        self.rasters = {name: np.zeros((self.n, n_steps, *network.by_name[name].shape), np.uint8) for name in record}
        for p in network.populations:
            shape = (self.n, *p.shape)
            self.counts[p.name] = torch.zeros(shape, dtype=torch.int32)
            self.v[p.name] = torch.full(shape, p.neuron.v_init, dtype=self.dtype)
            constant = torch.as_tensor(p.bias, dtype=self.dtype).expand(shape)
            for j in network.incoming[p.name]:
                if self.input_spikes is None and j.pre == network.input.name:
                    constant = constant + apply(j.operator, images)
            self.constant[p.name] = constant

    def step(self, t: int) -> None:
        for p in self.network.populations:
            if p.role == "input":
                if self.input_spikes is not None:
                    self._emit(p, self.input_spikes[:, t].to(self.dtype), t)
                continue
            if t < p.clamp_until:
                self._emit(p, torch.zeros_like(self.v[p.name]), t)
                continue
            current = self.constant[p.name]
            for j in self.network.incoming[p.name]:
                if j.pre in self.spikes:
                    current = current + apply(j.operator, self.spikes[j.pre])
            neuron = p.neuron
            v = self.v[p.name] * neuron.leak + current
            if neuron.fires:
                spikes = (v >= neuron.v_th).to(self.dtype)
                v = v * (1 - spikes) if neuron.reset == "zero" else v - spikes * neuron.v_th
                self._emit(p, spikes, t)
            self.v[p.name] = v

    def _emit(self, p: Population, spikes: torch.Tensor, t: int) -> None:
        self.spikes[p.name] = spikes
        self.counts[p.name] += spikes.to(torch.int32)
        if p.name in self.rasters:
            self.rasters[p.name][:, t] = spikes.to(torch.uint8).numpy()

    def result(self) -> FloatRun:
        out = self.network.output
        readout = self.counts[out.name] if out.neuron.fires else self.v[out.name]
        counts = {name: value.numpy() for name, value in self.counts.items()}
        return FloatRun(counts, readout.reshape(self.n, -1).to(torch.float64).numpy(), self.rasters)
