"""Histograms of weights before and after rounding, over the same bins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from neuroport.chip.network import IntNetwork
from neuroport.chip.synapses import IntWindow
from neuroport.normalize.scales import Normalized
from neuroport.snn.operators import Conv2d, ConvTranspose2d, Dense, Sparse
from neuroport.snn.sparse import materialize

N_BINS = 41  # odd: weights around 0 have one of their own


@dataclass(frozen=True)
class WeightHistogram:
    """All weights into one population, in v_th per spike: `before` rounding, and `after`, over bins from low to high.

    levels: different values they have on the chip.
    """

    low: float
    high: float
    before: tuple[int, ...]
    after: tuple[int, ...]
    levels: int


def weight_histograms(normalized: Normalized, network: IntNetwork) -> dict[str, WeightHistogram]:
    """By population; of those without synapses on the chip none."""
    found = {}
    for p in network.populations:
        exact, rounded = [], []
        floats = {j.pre: j for j in normalized.network.incoming[p.name]}
        for j in network.incoming[p.name]:
            if isinstance(j.synapse, IntWindow):
                continue
            op = materialize(floats[j.pre].operator, p.name)
            if isinstance(op, Dense | Conv2d | ConvTranspose2d | Sparse):
                exact.append((op.matrix.data if isinstance(op, Sparse) else op.weight).reshape(-1))
                shift = j.exponent + network.arithmetic.synaptic_shift
                rounded.append(np.ldexp(j.synapse.mantissa.reshape(-1), shift) / network.input_unit(p))
        if exact:
            before, after = np.concatenate(exact), np.concatenate(rounded)
            high = float(max(np.abs(before).max(), np.abs(after).max(), 1e-12))
            bins = np.linspace(-high, high, N_BINS + 1)
            counts = [tuple(np.histogram(x, bins)[0].tolist()) for x in (before, after)]
            found[p.name] = WeightHistogram(-high, high, counts[0], counts[1], len(np.unique(after)))
    return found
