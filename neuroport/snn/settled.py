"""When a class answer can no longer change, whatever the steps that are left may bring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroport.ann.graph import FloatArray
from neuroport.errors import UsageError
from neuroport.snn.network import Neuron, SpikingNetwork
from neuroport.snn.sparse import as_matrix


def counts_settled(counts: NDArray[np.int32], n_left: int) -> bool:
    """Whether no sample's argmax can change: a neuron fires at most once in each of the n_left steps.

    counts: [N, n_out]. Of equal counts the first wins: a neuron before the leader needs to draw level, one behind it
    to overtake.
    """
    leader = counts.argmax(1)[:, None]
    lead = np.take_along_axis(counts, leader, 1) - counts
    place = np.arange(counts.shape[1])[None]
    return bool(((place == leader) | (lead > n_left - (place > leader))).all())


@dataclass(frozen=True, eq=False)
class Drift:
    """What spikes can add to the potentials of a readout that does not fire, in one step.

    least, most: [n_out], the sums of each neuron's negative and of its positive weights, in v_th; n_synapses: the most
    one neuron has; leak: 0 to 1, of the neurons.
    """

    least: FloatArray
    most: FloatArray
    n_synapses: int
    leak: float

    def settled(
        self, potentials: NDArray[np.floating], constant: NDArray[np.floating], n_left: int, precision: float
    ) -> bool:
        """Whether no sample's argmax can change in the n_left steps.

        With d = v_a - v_b for the leader a and any other b, the steps left end in

            leak^n d + sum over k < n of leak^k (c_a - c_b + x_a - x_b),    x_a - x_b >= least_a - most_b,

        where c is what arrives in every step. It stays above 0 if it does so with every x at its bound. The rounding of
        the run to come is granted on top: a sum of n_synapses products and the constant errs by at most half of
        (n_synapses + 2) G precision, with G the largest sum of magnitudes, and the two operations on the potential by
        at most V precision, with V the largest it can be; both happen to a and to b in each of n steps.

        Args:
            potentials: [N, n_out], now.
            constant: [N, n_out], arrives in every step.
            n_left: number of steps in which the population still integrates.
            precision: distance from 1 to the next number of the simulation's type.
        """
        v, c = potentials.astype(np.float64), constant.astype(np.float64)
        leader = v.argmax(1)[:, None]
        kept, total = self.leak**n_left, float(np.sum(self.leak ** np.arange(n_left, dtype=np.float64)))
        change = np.take_along_axis(c, leader, 1) - c + self.least[leader] - self.most
        lead = kept * (np.take_along_axis(v, leader, 1) - v) + total * change
        largest = np.max(self.most - self.least) + np.abs(c).max(initial=0)
        reached = np.abs(v).max(initial=0) + n_left * largest
        rounding = n_left * precision * ((self.n_synapses + 2) * largest + 2 * reached)
        return bool(((np.arange(v.shape[1])[None] == leader) | (lead > rounding)).all())


@dataclass(frozen=True, eq=False)
class Settling:
    """Whether the answers of a network can still change; drift: of a first output that does not fire."""

    drift: Drift | None

    @classmethod
    def of(cls, network: SpikingNetwork) -> Settling:
        """For the first output of a network.

        Raises:
            UsageError: it is a max-pool gate, or read by a spiking softmax.
        """
        neuron = _neuron_of(network)
        if neuron.fires:
            return cls(None)
        p = network.output
        least, most, n_synapses = np.zeros(p.n_neurons), np.zeros(p.n_neurons), 0
        for j in network.incoming[p.name]:
            if network.encoding != "current" or j.pre != network.input.name:
                matrix = as_matrix(j.operator)
                least += matrix.minimum(0).sum(1)
                most += matrix.maximum(0).sum(1)
                n_synapses += int(np.diff(matrix.indptr).max(initial=0)) + 1
        return cls(Drift(least, most, n_synapses, neuron.leak))

    def is_reached(self, scores: NDArray[Any], constant: NDArray[np.floating], n_left: int, precision: float) -> bool:
        """Whether they cannot; scores: counts or potentials [N, n_out], the rest as Drift.settled takes it."""
        if self.drift is None:
            return counts_settled(scores, n_left)
        return self.drift.settled(scores, constant, n_left, precision)


def _neuron_of(network: SpikingNetwork) -> Neuron:
    p, is_sampled = network.output, network.outputs[0].is_sampled
    if is_sampled or not isinstance(p.neuron, Neuron):
        found = "is read by a spiking softmax, which draws at random" if is_sampled else "is a max-pool gate"
        raise UsageError(
            f"output '{p.name}' {found}; stop_when_settled allows outputs that count their own spikes or hold a "
            f"potential (readout: count or membrane); leave it out, or convert with another recipe"
        )
    return p.neuron
