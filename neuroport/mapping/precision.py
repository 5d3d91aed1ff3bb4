"""Fewer cores by coarser weights: what a budget of cores would take, or why no precision meets it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from neuroport.chip.network import IntNetwork
from neuroport.chip.target import Target, WeightRange
from neuroport.mapping.network import Partition
from neuroport.mapping.partition import binding_of, partition


@dataclass(frozen=True, eq=False)
class Option:
    """A lower precision. n_cores: of the network quantized so; where it was not, with weights as they are but narrower.

    target: the same chip with the weights that these bits hold. Quantize the network for it, then map that network
    onto the chip's own target: it finds the bits from the weights. Accuracy is for the caller to measure.
    """

    weight_bits: int
    n_cores: int
    target: Target


@dataclass(frozen=True, eq=False)
class Budget:
    """A partition beside the cores that are allowed; options: precisions tried, down to the first that is enough."""

    partition: Partition
    max_cores: int
    options: tuple[Option, ...]

    @property
    def fits(self) -> bool:
        """Whether the network needs no more as it is."""
        return len(self.partition.cores) <= self.max_cores

    @property
    def option(self) -> Option | None:
        """The highest precision that is enough, None where there is none."""
        return next((option for option in self.options if option.n_cores <= self.max_cores), None)

    @cached_property
    def binding(self) -> Mapping[str, int]:
        """By resource, the cores of which it is used most; most cores first."""
        return binding_of(self.partition)

    @property
    def summary(self) -> str:
        """In one sentence, whether it fits, and what would make it."""
        n, name = len(self.partition.cores), self.partition.target.name
        if self.fits:
            return f"{n:,} of {self.max_cores:,} cores of {name}"
        resource, n_bound = next(iter(self.binding.items()))
        found = f"{n:,} cores of {name} are needed, {self.max_cores:,} are allowed; on {n_bound:,} {resource} end first"
        if self.option:
            return f"{found}; quantized to {self.option.weight_bits} bits, {self.option.n_cores:,} are enough"
        if not self.options:
            return f"{found}; weights of fewer bits do not change that on {name}"
        least = min(self.options, key=lambda option: option.n_cores)
        return f"{found}; with weights of {least.weight_bits} bits it is still {least.n_cores:,}"


def within(
    network: IntNetwork, target: Target, max_cores: int, quantized: Callable[[Target], IntNetwork] | None = None
) -> Budget:
    """The partition and, where it takes more than max_cores, lower precisions of the weights until one is enough.

    quantized: makes the network for an option's target. It is asked where narrower weights would be few enough, and
    what it makes is counted: another scale may need more bits than the weights as they are. None: they are trusted.

    Raises:
        DoesNotFitError, UsageError: as `partition`, whatever max_cores; what `quantized` raises.
    """
    found = partition(network, target)
    options: list[Option] = []
    widths = sorted(target.geometry.synapse_weight_bits or (), reverse=True)
    for bits in widths[1:]:
        if len(found.cores) <= max_cores or any(option.n_cores <= max_cores for option in options):
            break
        coarse = coarser(target, bits)
        if coarse is not None:
            n_cores = len(partition(network, target, weight_bits=bits).cores)
            if quantized is not None and n_cores <= max_cores:
                n_cores = len(partition(quantized(coarse), target).cores)
            options.append(Option(bits, n_cores, coarse))
    return Budget(found, max_cores, tuple(options))


def coarser(target: Target, weight_bits: int) -> Target | None:
    """The target with the weights that so many bits hold; None where that is no positive weight, or no negative one."""
    sheet, most = target.arithmetic.weights, max(target.geometry.synapse_weight_bits or (weight_bits,))
    modes = {
        name: _coarser(mode, most - weight_bits)
        for name, mode in (("mixed", sheet.mixed), ("excitatory", sheet.excitatory), ("inhibitory", sheet.inhibitory))
    }
    mixed, excitatory, inhibitory = modes.values()
    if 0 in (mixed.minimum, mixed.maximum, excitatory.maximum, inhibitory.minimum):
        return None
    weights = sheet.model_copy(update=modes)
    return target.model_copy(update={"arithmetic": target.arithmetic.model_copy(update={"weights": weights})})


def _coarser(mode: WeightRange, lost: int) -> WeightRange:
    """The range with its lowest bits lost; its ends move towards 0."""
    step = mode.step << lost
    return WeightRange(minimum=-(-mode.minimum // step) * step, maximum=mode.maximum // step * step, step=step)
