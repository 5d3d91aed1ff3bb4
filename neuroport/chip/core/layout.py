"""Populations ready for the core's kernels: storage order, stamps, and number types that hold every sum exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from neuroport.chip.core.dense import Products, is_exact_in_bytes, is_exact_in_floats
from neuroport.chip.core.stamps import Joined, Parts, join, stamps_of
from neuroport.chip.core.storage import Storage, storage_of
from neuroport.chip.core.work import Neurons
from neuroport.chip.inputs import IntInputs
from neuroport.chip.network import IntNetwork, IntPopulation, IntProjection
from neuroport.chip.synapses import IntDense, IntWeights, IntWindow, sum_bound
from neuroport.chip.target import Arithmetic
from neuroport.snn.gate import window_index
from neuroport.snn.operators import Window

# Measured with AVX512-VNNI, for bytes. In float32 the products never were: at 0.9 spikes per neuron and step they took
# 1.2 times (64 channels) to 7 times (3 channels) as long as the sums.
_DENSE_FROM = 0.22
_NO_FLOOR = -(2**62)
Signed = type[np.signedinteger]


@dataclass(frozen=True, eq=False)
class Layer:
    """A population ready to run.

    pres: whose spikes each of the stamps' projections reads; n_in: neurons of each population `incoming` reads; bound:
    largest |sum| of weights that one step can bring, which chose `total_dtype`; power: factor 2^power of all weights,
    left out of the stamps; inhibitory: how far behind the others the sums of inhibitory synapses stand, 0 where one sum
    holds both; floor: where potentials end; gate: index [n_out, k] of the inputs of a max-pool gate's windows; made:
    products by device.
    """

    population: IntPopulation
    arithmetic: Arithmetic
    storage: Storage
    pres: tuple[str, ...] = ()
    incoming: tuple[IntProjection, ...] = ()
    n_in: tuple[int, ...] = ()
    synapses: Joined = field(default_factory=lambda: join((), np.int16))
    bound: int = 0
    power: int = 0
    total_dtype: Signed = np.int16
    inhibitory: int = 0
    floor: int | None = None
    gate: NDArray[np.int64] | None = None
    made: dict[str, Products] = field(default_factory=dict, repr=False)

    @property
    def n_sums(self) -> int:
        """Numbers that hold the sums of one step."""
        return self.storage.n_sums + self.inhibitory

    def products(self, device: str = "cpu") -> Products:
        """The sums as matrix products, of spikes in C order."""
        if device not in self.made:
            sizes = {j.pre: n for j, n in zip(self.incoming, self.n_in, strict=True)}
            self.made[device] = Products(self.incoming, sizes, self.bound, is_split=self.inhibitory > 0, device=device)
        return self.made[device]

    @cached_property
    def byte_weights(self) -> torch.Tensor | None:
        """[places of all inputs, places] int8, where all synapses are dense and bytes hold their weights."""
        stamps = self.synapses.stamps
        if self.inhibitory or not self.incoming or stamps.weight.dtype != np.int8:
            return None
        if not all(isinstance(j.synapse, IntDense) for j in self.incoming):
            return None
        size = self.storage.size
        rows = stamps.weight[: len(stamps.weight) // size * size].reshape(-1, size)
        return torch.from_numpy(rows[(stamps.weight_at // np.uint64(size)).astype(np.int64)])

    @property
    def dense_from(self) -> float:
        """Spikes per neuron and step from which matrix products are faster than sums over spikes, if any."""
        return _DENSE_FROM if self.byte_weights is not None and is_exact_in_bytes() else math.inf

    @property
    def can_be_dense(self) -> bool:
        """Whether matrix products give the same sums here."""
        return bool(self.incoming) and not self.inhibitory and self.total_dtype != np.int64 and is_exact_in_floats()

    def biases(self, inputs: IntInputs) -> tuple[NDArray[np.signedinteger], bool]:
        """(bias [samples or 1, size] in storage order, whether it and the potentials are held in 32 bits)."""
        if not self.population.driven:
            wide, narrow, largest = self._constant_bias
            is_narrow = self.is_narrow(inputs.n_steps, largest)
            return (narrow if is_narrow else wide), is_narrow
        wide = self._bias(inputs.currents[self.population.name])
        is_narrow = self.is_narrow(inputs.n_steps, int(np.abs(wide).max(initial=0)))
        return (wide.astype(np.int32) if is_narrow else wide), is_narrow

    def _bias(self, mantissa: NDArray[np.int32]) -> NDArray[np.int64]:
        """[samples, size] in membrane integers, of mantissas [samples, *shape]."""
        made = np.zeros((len(mantissa), self.storage.size), np.int64)
        flat = mantissa.reshape(len(mantissa), -1).astype(np.int64)
        made[:, self.storage.place] = flat << self.population.bias_exponent
        return made

    @cached_property
    def _constant_bias(self) -> tuple[NDArray[np.int64], NDArray[np.int32], int]:
        """The population's own bias in 64 and in 32 bits (where those hold it), and its largest magnitude."""
        wide = self._bias(self.population.bias_mantissa[None])
        return wide, wide.astype(np.int32), int(np.abs(wide).max(initial=0))

    def is_narrow(self, n_steps: int, largest_bias: int) -> bool:
        """Whether 32 bits hold every potential, no current leaves its register or stays, and nothing leaks but 2^-k.

        Potentials stay within |v_init| + T * the largest input of a step; where they would end at a register before
        that, the register's end plus one step counts. Those that end at a floor and are reset to 0 stay within the
        threshold and one step; those that move towards what arrives never pass it.
        """
        p, a = self.population, self.arithmetic
        arriving, threshold = self.bound << a.synaptic_shift, p.threshold_mantissa << a.threshold.shift
        if self.inhibitory or arriving > a.current.limit or self.total_dtype == np.int64:
            return False
        if p.current_decay is not None and p.current_decay < 1 << a.decay_bits:
            return False
        step, ends = arriving + largest_bias, max(abs(p.v_init_int), abs(self.floor or 0))
        if a.leak == "closed-form":
            reach = max(ends, step)
            is_power = p.decay > 0 and p.decay & (p.decay - 1) == 0
            return is_power and reach <= a.membrane.limit and max(reach + step, threshold) < 2**31 - 1
        if p.decay:
            return False
        reach = ends + n_steps * step
        if self.floor is not None and p.reset == "zero":
            reach = min(reach, max(ends, threshold) + step)
        if reach >= a.membrane.limit:
            if a.membrane.overflow == "wrap":
                return False
            reach = max(ends, a.membrane.limit) + step
        return max(reach, threshold) < 2**31 - 1

    def neurons(self, n_steps: int, *, is_narrow: bool) -> Neurons:
        """What the kernels need to know of the neurons."""
        p, a = self.population, self.arithmetic
        half, threshold = 1 << (a.membrane.bits - 1), p.threshold_mantissa << a.threshold.shift
        return Neurons(
            n_steps=n_steps,
            lead=self.storage.lead,
            clamp_until=p.clamp_until,
            v_init=p.v_init_int,
            shift=a.synaptic_shift + self.power,
            fires_at=threshold + (a.threshold.compare == ">"),
            threshold=threshold,
            subtract=p.reset == "subtract",
            membrane_half=min(half, 2**31) if is_narrow else half,
            membrane_wraps=a.membrane.overflow == "wrap",
            current_half=1 << (a.current.bits - 1),
            current_wraps=a.current.overflow == "wrap",
            decay=p.decay,
            creeps=a.leak == "closed-form",
            creep=a.decay_bits + 1 - p.decay.bit_length() if a.leak == "closed-form" else 0,
            keep=(1 << a.decay_bits) - p.decay,
            current_keep=0 if p.current_decay is None else (1 << a.decay_bits) - p.current_decay,
            decay_bits=a.decay_bits,
            floor=(-(2**31) if is_narrow else _NO_FLOOR) if self.floor is None else self.floor,
            inhibitory=self.inhibitory,
            sum_limit=a.accumulator_limit,
        )


@dataclass(frozen=True, eq=False)
class Layout:
    """A network ready to run: storage of every population, and layers in order.

    last_use: the last population that reads each.
    """

    storages: dict[str, Storage]
    layers: tuple[Layer, ...]
    last_use: dict[str, str]


_KNOWN: WeakKeyDictionary[IntNetwork, Layout] = WeakKeyDictionary()


def layout_of(network: IntNetwork) -> Layout:
    """The network as the kernels need it; made once."""
    found = _KNOWN.get(network)
    if found is None:
        storages = {p.name: storage_of(network, p) for p in network.populations}
        layers = tuple(_layer(network, p, storages) for p in network.populations if p.role != "input")
        last_use = {name: layer.population.name for layer in layers for name in layer.pres}
        found = _KNOWN[network] = Layout(storages, layers, last_use)
    return found


def _layer(network: IntNetwork, population: IntPopulation, storages: dict[str, Storage]) -> Layer:
    incoming = network.incoming[population.name]
    storage, a = storages[population.name], network.arithmetic
    pres = tuple(j.pre for j in incoming)
    weights: list[tuple[IntProjection, IntWeights]] = []
    for j in incoming:
        if isinstance(j.synapse, IntWindow):
            window = Window(j.synapse.op, j.synapse.in_shape, j.synapse.out_shape)
            return Layer(population, a, storage, pres, gate=window_index(window))
        weights.append((j, j.synapse))
    bound = sum(sum_bound(synapse) << j.exponent for j, synapse in weights)
    is_split = a.accumulators == "split" and bound > a.accumulator_limit  # one of the two may reach its end
    power = 0 if is_split or not bound else min((j.exponent + _power(synapse) for j, synapse in weights), default=0)
    dtype = _dtype(bound >> power)
    low = min((int(s.mantissa.min(initial=0)) << j.exponent for j, s in weights), default=0) >> power
    high = max((int(s.mantissa.max(initial=0)) << j.exponent for j, s in weights), default=0) >> power
    is_byte = dtype != np.int64 and -128 + is_split <= low and high <= 127
    held = np.int8 if is_byte else dtype
    parts = [stamps_of(synapse, j.exponent - power, held, storages[j.pre], storage) for j, synapse in weights]
    inhibitory = storage.n_sums if is_split else 0
    if is_split:
        parts = [half for p in parts for half in _halves(p, inhibitory)]
        pres = tuple(name for name in pres for _ in (0, 1))
    n_in = tuple(network.by_name[j.pre].n_neurons for j in incoming)
    synapses, floor = join(parts, held), network.floor_of(population)
    return Layer(population, a, storage, pres, incoming, n_in, synapses, bound, power, dtype, inhibitory, floor)


def _dtype(bound: int) -> Signed:
    """The narrowest type that holds every sum."""
    return np.int16 if bound < 2**15 else np.int32 if bound < 2**31 else np.int64


def _power(synapse: IntWeights) -> int:
    """The largest n with 2^n in every weight."""
    every = int(np.bitwise_or.reduce(synapse.mantissa, axis=None))
    return (every & -every).bit_length() - 1 if every else 0


def _halves(parts: Parts, inhibitory: int) -> tuple[Parts, Parts]:
    """Excitatory weights, and the magnitudes of inhibitory ones with their sums further on."""
    further = parts.place + inhibitory
    return (
        replace(parts, weight=np.maximum(parts.weight, 0)),
        replace(parts, weight=-np.minimum(parts.weight, 0), place=further, start=parts.start + inhibitory),
    )
