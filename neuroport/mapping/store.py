"""Bits of synaptic memory that weights take on a core: the vendor's formula, axon by axon."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, reduce
from operator import or_

import numpy as np
from numpy.typing import NDArray

from neuroport.chip.network import IntNetwork, IntProjection
from neuroport.chip.synapses import IntWindow
from neuroport.chip.target import Geometry, WeightSheet

_PART = 1 << 22


@dataclass(frozen=True)
class SynapseStore:
    """How a core holds synapses. None of its numbers is None: see `store_of`."""

    word: int
    header: int
    group: int
    weight_bits: tuple[int, ...]
    index_bits: tuple[int, ...]

    def bits(self, n_synapses: int, bits_each: int) -> int:
        """Of one axon with n synapses: groups, each with a header and rounded up to words.

        Source: NL/block.py l.516-539, bits_per_axon.
        """
        full, rest = divmod(n_synapses, self.group)
        return full * self._rounded(self.group, bits_each) + (self._rounded(rest, bits_each) if rest else 0)

    def _rounded(self, n: int, bits_each: int) -> int:
        return -(-(n * bits_each + self.header) // self.word) * self.word

    def index_width(self, last: int) -> int:
        """Bits of an index that reaches from compartment 0 to `last`; more than the most where none does."""
        needed = last.bit_length()
        return next((b for b in self.index_bits if b >= needed), needed)


@dataclass(frozen=True)
class Format:
    """How the synapses of one projection are stored. weight_bits: 0 where they have no weights.

    sign: 'mixed', 'excitatory', 'inhibitory', or 'gate'. delay: steps beyond the one that every synapse takes.
    """

    weight_bits: int
    sign: str
    exponent: int
    delay: int

    @cached_property
    def bits(self) -> int:
        """Of a synapse without its index."""
        return self.weight_bits + self.delay.bit_length()


def store_of(geometry: Geometry) -> SynapseStore | None:
    """The core's synaptic memory; None where the datasheet does not know all of it."""
    word, header, group = geometry.synapse_word_bits, geometry.synapse_header_bits, geometry.synapses_per_group
    weight_bits, index_bits = geometry.synapse_weight_bits, geometry.synapse_index_bits
    if word is None or header is None or group is None or weight_bits is None or index_bits is None:
        return None
    return SynapseStore(word, header, group, tuple(sorted(weight_bits)), tuple(sorted(index_bits)))


def format_of(
    network: IntNetwork, projection: IntProjection, sheet: WeightSheet, weight_bits: tuple[int, ...]
) -> Format:
    """The narrowest format that holds the projection's weights.

    A weight of b bits is a multiple of step << (most bits - b), with the chip's step of its sign mode: the bits that
    are left out are the lowest (LAVA/proc/dense/models.py l.204-247; NL/block.py l.509-514, shift_bits).
    """
    delay = network.depth[projection.post] - network.depth[projection.pre] - 1
    if isinstance(projection.synapse, IntWindow):
        return Format(0, "gate", 0, delay)
    m = projection.synapse.mantissa
    sign = "excitatory" if m.min(initial=0) >= 0 else "inhibitory" if m.max(initial=0) <= 0 else "mixed"
    most = max(weight_bits)
    spare = _low_zeros(m, step_of(sheet, sign))
    enough = next(b for b in sorted(weight_bits) if b >= max(1, most - spare))
    return Format(enough, sign, projection.exponent, delay)


def _low_zeros(mantissa: NDArray[np.integer], step: int) -> int:
    """Lowest bits that are 0 in every mantissa / step; by parts, as the largest layers hold 10^8 weights."""
    flat = mantissa.reshape(-1)
    parts = (flat[k : k + _PART] // step for k in range(0, flat.size, _PART))
    together = reduce(or_, (int(np.bitwise_or.reduce(part)) for part in parts), 0)
    return (together & -together).bit_length() - 1 if together else 0


def step_of(sheet: WeightSheet, sign: str) -> int:
    """Distance of neighbouring weights of that sign mode at the most bits."""
    return {"mixed": sheet.mixed, "excitatory": sheet.excitatory, "inhibitory": sheet.inhibitory}[sign].step
