"""Spikes and potentials of a run, of whatever ran it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Trace:
    """Everything that happened: spikes [S, T, *shape] uint8 and potentials after reset [S, T, *shape] int64.

    The core and the oracle give potentials of every population, a vendor's simulator those of the readouts.
    """

    spikes: Mapping[str, NDArray[np.uint8]]
    potentials: Mapping[str, NDArray[np.int64]]


def join_traces(traces: Sequence[Trace]) -> Trace:
    """Traces of several runs over the same populations, one after the other along the sample axis."""
    first = traces[0]
    return Trace(
        {name: np.concatenate([t.spikes[name] for t in traces]) for name in first.spikes},
        {name: np.concatenate([t.potentials[name] for t in traces]) for name in first.potentials},
    )
