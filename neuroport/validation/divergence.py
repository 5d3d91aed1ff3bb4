"""The exact comparison: every spike of every population at every step, and the potentials of every readout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroport.chip.core import run_core
from neuroport.chip.inputs import IntInputs
from neuroport.chip.network import IntNetwork, IntPopulation
from neuroport.chip.trace import Trace

AnyInt = NDArray[Any]


@dataclass(frozen=True)
class Mismatch:
    """The first place where a backend and the core differ.

    what: 'spike' or 'potential'; neuron: index within the population's shape; step and sample count from 0; core_v:
    the core's potentials after the steps around it.
    """

    population: str
    sample: int
    step: int
    neuron: tuple[int, ...]
    what: str
    core: int
    backend: int
    core_v: tuple[int, ...]

    def __str__(self) -> str:
        """One sentence."""
        return (
            f"population '{self.population}', neuron {list(self.neuron)}, sample {self.sample}, step {self.step}: "
            f"{self.what} is {self.backend} on the backend, {self.core} in the core (v around it: {list(self.core_v)})"
        )


@dataclass(frozen=True)
class Comparison:
    """What was compared and what differed.

    compared_spikes: spikes the core fired in all compared populations; compared_values: neuron-steps and potentials
    looked at, silent ones included; mismatches: those that differ.
    """

    samples: int
    populations: int
    compared_spikes: int
    compared_values: int
    mismatches: int
    first_mismatch: Mismatch | None

    def as_json(self) -> dict[str, Any]:
        """Plain data for report.json."""
        return asdict(self)


def compare(network: IntNetwork, inputs: IntInputs, core: Trace, backend: Trace) -> Comparison:
    """Compare a backend's trace with the core's, bit for bit: spikes of all populations, potentials of all readouts.

    A population the backend did not return, or returned in another shape, counts as wrong at every step.
    """
    n_spikes = n_values = n_wrong = 0
    first: tuple[IntPopulation, str, tuple[int, ...], int, int] | None = None
    populations = [p for p in network.populations if p.role != "input"]
    for p in populations:
        n_spikes += int(core.spikes[p.name].sum())
        for what, ours, theirs in _pairs(p, core, backend):
            n_values += ours.size
            different = np.ones(ours.shape, bool) if theirs is None else ours != theirs
            n_wrong += int(different.sum())
            if not different.any():
                continue
            at = tuple(int(i) for i in np.argwhere(different)[0])
            if first is None or at[:2] < first[2][:2]:
                first = (p, what, at, int(ours[at]), -1 if theirs is None else int(theirs[at]))
    mismatch = None if first is None else _explain(network, inputs, *first)
    return Comparison(inputs.n_samples, len(populations), n_spikes, n_values, n_wrong, mismatch)


def joined(parts: Sequence[Comparison]) -> Comparison:
    """The comparison of samples that were compared part by part, one after the other."""
    found, n_before = None, 0
    for part in parts:
        if found is None and part.first_mismatch is not None:
            found = replace(part.first_mismatch, sample=part.first_mismatch.sample + n_before)
        n_before += part.samples
    return replace(
        parts[0],
        samples=n_before,
        compared_spikes=sum(part.compared_spikes for part in parts),
        compared_values=sum(part.compared_values for part in parts),
        mismatches=sum(part.mismatches for part in parts),
        first_mismatch=found,
    )


def _pairs(p: IntPopulation, core: Trace, backend: Trace) -> Iterator[tuple[str, AnyInt, AnyInt | None]]:
    """(what, the core's values, the backend's or None where they are missing or of another shape)."""
    pairs: list[tuple[str, AnyInt, AnyInt | None]] = [("spike", core.spikes[p.name], backend.spikes.get(p.name))]
    if p.role == "readout":
        pairs.append(("potential", core.potentials[p.name], backend.potentials.get(p.name)))
    for what, ours, theirs in pairs:
        yield what, ours, theirs if theirs is not None and theirs.shape == ours.shape else None


def _explain(
    network: IntNetwork, inputs: IntInputs, p: IntPopulation, what: str, at: tuple[int, ...], ours: int, theirs: int
) -> Mismatch:
    """The difference with the core's potentials around it: that sample is run again with everything recorded."""
    sample, step, neuron = at[0], at[1], at[2:]
    v = run_core(network, inputs.sample(sample), record="all").trace.potentials[p.name][0]
    around = tuple(int(x[neuron]) for x in v[max(0, step - 1) : step + 2])
    return Mismatch(p.name, sample, step, neuron, what, ours, theirs, around)
