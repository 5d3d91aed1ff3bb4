"""What the compiled kernels of the core are handed, and what they write."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Signed = NDArray[np.signedinteger]
Words = NDArray[np.uint64]
Events = NDArray[np.uint32]


class Spikes(NamedTuple):
    """What arrives: the events of P projections one after the other, each a neuron's place in its storage order.

    start: [P, rows + 1], where a row's events begin; key: [P], where each projection begins in the stamps' arrays;
    unit: [P], weights that are added at a time, or POINTS or DENSE; at, width: [P], where a dense one's sums begin, and
    how many they are.
    """

    events: Events
    start: NDArray[np.int64]
    key: NDArray[np.uint64]
    unit: NDArray[np.int64]
    at: NDArray[np.int64]
    width: NDArray[np.int64]


MERGED, POINTS, DENSE = 1000, -1, 0


class Stamps(NamedTuple):
    """The synapses of a population: what each presynaptic neuron k adds, and where (stamps.py).

    A neuron of kind c adds `unit` weights, from weight_at[k] on, at place[k] + at[r] for each r from first[c] to
    first[c + 1], one after the other. POINTS: one weight at place[k]; DENSE: weight_at alone is read. All unsigned: a
    signed index might be meant from the end, which costs as much as the addition.
    """

    place: NDArray[np.uint32]
    kind: NDArray[np.uint32]
    weight_at: NDArray[np.uint64]
    first: NDArray[np.uint64]
    at: NDArray[np.uint32]
    weight: Signed


class Neurons(NamedTuple):
    """The arithmetic of a population in membrane integers: it fires at v >= fires_at.

    subtract: a reset by `threshold`, else to 0. lead: where the sums of its first neuron stand; inhibitory: how far
    behind them those of inhibitory synapses, 0 where both are added up together. Registers hold 2^(bits - 1) = half.
    keep, current_keep: what of 2^decay_bits a step leaves of potential and current; nothing of the current: 0.
    creeps: the leak is in closed form, by 2^-creep of the way where it is a power of two.
    """

    n_steps: int
    lead: int
    clamp_until: int
    v_init: int
    shift: int
    fires_at: int
    threshold: int
    subtract: bool
    membrane_half: int
    membrane_wraps: bool
    current_half: int
    current_wraps: bool
    decay: int
    creeps: bool
    creep: int
    keep: int
    current_keep: int
    decay_bits: int
    floor: int
    inhibitory: int
    sum_limit: int


class Run(NamedTuple):
    """What is written: words [rows, n / 64] of spikes, potentials [rows, len(watch)] of neurons `watch`.

    last: [samples, n] potentials after the last step, or [0, 0]; lost: [2] neuron-steps in which a register could not
    hold its value: [0] currents, and potentials at the upper end or wrapped; [1] potentials held at the lower end (a
    neuron far from firing, which changes little). valid: bits that are neurons; stop: ends the run where not 0.
    """

    words: Words
    valid: Words
    watch: NDArray[np.int64]
    potentials: NDArray[np.int64]
    last: NDArray[np.int64]
    lost: NDArray[np.int64]
    stop: NDArray[np.uint8]
