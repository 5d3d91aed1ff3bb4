"""What the outputs of a network say, on every rung in the ANN's own units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from neuroport.chip.network import IntNetwork
from neuroport.chip.trace import Trace
from neuroport.normalize.scales import Normalized
from neuroport.snn.heads import read_out
from neuroport.snn.network import Head
from neuroport.snn.readout import softmax_counts
from neuroport.snn.simulate import FloatRun

Scores = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TestSet:
    """Samples and what is known of them.

    images: [N, ...] float32, of event data their mean over the steps; spikes: [N, T, ...] uint8 of event data, else
    None; labels: [N]. numbers: [N], which samples of the data set they are, from 0, where that is known.
    """

    __test__ = False  # no test of pytest's

    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    spikes: NDArray[np.uint8] | None = None
    numbers: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.images)

    def first(self, n: int) -> TestSet:
        """The first n samples."""
        return TestSet(self.images[:n], self.labels[:n], None if self.spikes is None else self.spikes[:n])

    def samples(self, chosen: slice) -> NDArray[np.generic]:
        """What the spiking network is shown: spikes where there are any, else the images."""
        return self.images[chosen] if self.spikes is None else self.spikes[chosen]


@dataclass(frozen=True, eq=False)
class Answer:
    """One batch's answer: class scores [N, n_out] of the first output, and each output [N, ...] in the ANN's units."""

    scores: Scores
    outputs: tuple[Scores, ...]


@dataclass(frozen=True)
class Reading:
    """How the outputs of a spiking network are read. seed: of the spiking softmax; n_steps: per sample."""

    normalized: Normalized
    n_steps: int
    seed: int = 0

    @property
    def heads(self) -> tuple[Head, ...]:
        """The outputs, the class scores first."""
        return self.normalized.network.outputs

    def rates(self, values: Mapping[str, torch.Tensor]) -> Answer:
        """Of the network in rates: values by population."""
        found = {h.population: values[h.population].double().numpy() for h in self.heads}
        return self._answer({name: v.reshape(len(v), -1) for name, v in found.items()}, {}, 0)

    def float_run(self, run: FloatRun, first_sample: int) -> Answer:
        """Of the float simulation of a batch that begins at a sample of the test set."""
        rates = {name: value / self._steps(name) for name, value in run.readouts.items()}
        return self._answer(rates, run.potentials, first_sample)

    def integers(
        self,
        network: IntNetwork,
        readouts: Mapping[str, NDArray[np.integer]],
        potentials: Mapping[str, NDArray[np.integer]],
        first_sample: int,
    ) -> Answer:
        """Of the integer network.

        readouts: [N, n_out] by population, spike counts or potentials after the last step; potentials: [N, T, ...] of
        those a spiking softmax reads.
        """
        values: dict[str, Scores] = {}
        over_time: dict[str, Scores] = {}
        for read in network.heads:
            unit = network.by_name[read.population].unit if read.read == "membrane" else 1
            values[read.population] = readouts[read.population] / (unit * self._steps(read.population))
        for head in self.heads:
            if head.is_sampled:
                v = potentials[head.population]
                over_time[head.population] = v.reshape(*v.shape[:2], -1) / network.by_name[head.population].unit
        return self._answer(values, over_time, first_sample)

    def _answer(self, rates: Mapping[str, Scores], potentials: Mapping[str, Scores], first: int) -> Answer:
        outputs = tuple(
            read_out(head, torch.from_numpy(rates[head.population] * self._scale(head))).numpy() for head in self.heads
        )
        first_head = self.heads[0]
        if first_head.is_sampled and first_head.population in potentials:
            drawn = softmax_counts(potentials[first_head.population], self.seed, first_sample=first)
            return Answer(drawn.astype(np.float64), outputs)
        return Answer(outputs[0].reshape(len(outputs[0]), -1), outputs)

    def _steps(self, name: str) -> int:
        """Steps in which an output runs: all but those it is clamped for."""
        return max(1, self.n_steps - self.normalized.network.by_name[name].clamp_until)

    def _scale(self, head: Head) -> Scores:
        """Activation per unit of rate of every neuron, [n_out]."""
        population = self.normalized.network.by_name[head.population]
        scale = self.normalized.scales[head.population].reshape(-1, *[1] * (len(population.shape) - 1))
        return np.broadcast_to(scale, population.shape).reshape(-1)


def answer_of(network: IntNetwork, trace: Trace, reading: Reading, first_sample: int) -> Answer:
    """What the outputs of a backend's trace say, of samples that begin at a sample of the test set."""
    readouts: dict[str, NDArray[np.int64]] = {}
    for head in network.heads:
        if head.read == "count":
            spikes = trace.spikes[head.population]
            readouts[head.population] = spikes.sum(1, dtype=np.int64).reshape(len(spikes), -1)
        else:
            v = trace.potentials[head.population]
            readouts[head.population] = v[:, -1].reshape(len(v), -1)
    return reading.integers(network, readouts, trace.potentials, first_sample)
